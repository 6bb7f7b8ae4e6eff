//! Subscriptions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aios_core::{
    broker::{Broker, Deliveries, Delivery, Group, Subscription},
    event::{EventId, Pattern, Payload},
};
use pyo3::prelude::*;

use crate::{
    calls::{Answer, Calls},
    fault::Fault,
    json,
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
    let deliveries = broker.subscribe(subscription).await?.into();
    let reader = Arc::new(Reader { deliveries, last: Mutex::default() });
    calls.keep_reader(&reader);
    let events = Events { calls, reader };
    Ok(Answer::Made(Box::new(move |py| Ok(Py::new(py, events)?.into_any()))))
}

/// A subscription, and the delivery that Python works on.
pub(crate) struct Reader {
    deliveries: tokio::sync::Mutex<Deliveries>,
    last: Mutex<Option<Delivery>>,
}

impl Reader {
    fn last(&self) -> MutexGuard<'_, Option<Delivery>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the delivery that Python works on back.
    pub(crate) fn release(&self) {
        let last = self.last().take();
        drop(last);
    }

    async fn ack(&self) -> Result<(), Fault> {
        let last = self.last().take();
        match last {
            Some(last) => Ok(last.ack().await?),
            None => Ok(()),
        }
    }

    /// The delivery counts as taken where Python gets it: a wait that was cancelled takes none.
    async fn next(self: Arc<Self>) -> Result<Answer, Fault> {
        let mut deliveries = self.deliveries.lock().await;
        self.ack().await?;
        let Some(delivery) = deliveries.next().await else {
            return Ok(Answer::Nothing);
        };
        drop(deliveries);
        let delivery = delivery?;
        let row = Payload::encode(&(delivery.attempt, &delivery.event))?;
        Ok(Answer::Made(Box::new(move |py| {
            let row = json::read(py, row.as_str())?;
            *self.last() = Some(delivery);
            Ok(row.unbind())
        })))
    }
}

/// What `async for event in client.events(…)` asks.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct Events {
    calls: Arc<Calls>,
    reader: Arc<Reader>,
}

#[pymethods]
impl Events {
    /// Acknowledges the event before, and waits for the next: `[attempt, envelope]`, or `None` once
    /// the broker is closed.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move { reader.next().await })
    }

    /// Acknowledges the event before.
    fn ack<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move {
            reader.ack().await?;
            Ok(Answer::Nothing)
        })
    }
}
