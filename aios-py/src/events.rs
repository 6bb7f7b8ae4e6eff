//! Subscriptions.

use std::sync::Arc;

use aios_core::{
    broker::{Broker, Deliveries, Delivery, Group, Subscription},
    event::{EventId, Pattern, Payload},
};
use pyo3::prelude::*;

use crate::{
    calls::{Answer, Calls},
    fault::Fault,
};

/// Subscribes to events; without a group the subscription is this client's own.
pub(crate) async fn subscribe(
    broker: Arc<dyn Broker>,
    patterns: Vec<String>,
    group: Option<String>,
    calls: Arc<Calls>,
) -> Result<Answer, Fault> {
    let patterns: Vec<Pattern> =
        patterns.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let subscription = match group {
        Some(group) => Subscription::group(Group::new(group)?, patterns),
        None => {
            let name = format!("clients.{}", EventId::generate());
            Subscription::group(Group::new(name)?, patterns).temporary()
        }
    };
    let deliveries = broker.subscribe(subscription).await?;
    let reader = Arc::new(tokio::sync::Mutex::new(Reader { deliveries, last: None }));
    let events = Events { calls, reader };
    Ok(Answer::Made(Box::new(move |py| Ok(Py::new(py, events)?.into_any()))))
}

/// A subscription, and the delivery that Python works on.
struct Reader {
    deliveries: Deliveries,
    last: Option<Delivery>,
}

/// What `async for event in client.events(…)` asks.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Events {
    calls: Arc<Calls>,
    reader: Arc<tokio::sync::Mutex<Reader>>,
}

#[pymethods]
impl Events {
    /// Acknowledges the event before, and waits for the next: `[attempt, envelope]`, or `None` once
    /// the broker is closed.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move {
            let mut reader = reader.lock().await;
            if let Some(last) = reader.last.take() {
                last.ack().await?;
            }
            let Some(delivery) = reader.deliveries.next().await else {
                return Ok(Answer::Nothing);
            };
            let delivery = delivery?;
            let answer = Payload::encode(&(delivery.attempt, &delivery.event))?;
            reader.last = Some(delivery);
            Ok(Answer::Json(answer))
        })
    }
}
