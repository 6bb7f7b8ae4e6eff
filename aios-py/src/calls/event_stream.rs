//! Subscriptions of a client.
//!
//! Python handles one event at a time: asking for the next one acknowledges the one before. The
//! delivery that Python is handling is kept here until then, so that the broker delivers it again
//! if the process ends.
//!
//! A wait for the next event may be cancelled at any point, by `asyncio.wait_for` for example. A
//! delivery therefore becomes the current one in the job that hands its event to Python, and not
//! when the broker delivers it: if the wait was cancelled before, the delivery is dropped, and the
//! broker delivers the event again.

use std::sync::Arc;

use aios_core::{
    Chain,
    broker::{Broker, BrokerError, Deliveries, Delivery, Group, Subscription},
    event::{EventId, Pattern, Payload},
};
use parking_lot::Mutex;
use pyo3::prelude::*;
use tracing::warn;

use super::{Answer, Calls};
use crate::convert::{errors::ErrorInfo, json};

/// A subscription, and the delivery that Python is handling.
pub(crate) struct Reader {
    /// Locked while a call waits for the next delivery.
    deliveries: tokio::sync::Mutex<Deliveries>,
    /// The delivery that Python is handling. Never locked across an `await`.
    unacknowledged: Mutex<Option<Delivery>>,
}

impl Reader {
    /// Releases the unacknowledged delivery. Dropping it lets the broker deliver the event again.
    pub(crate) fn release(&self) {
        let delivery = self.unacknowledged.lock().take();
        drop(delivery);
    }

    /// Acknowledges the delivery that Python was handling, if there is one.
    async fn ack(&self) -> Result<(), BrokerError> {
        let delivery = self.unacknowledged.lock().take();
        match delivery {
            Some(delivery) => delivery.ack().await,
            None => Ok(()),
        }
    }

    /// Acknowledges the previous delivery. One whose acknowledgement is lost with the connection is
    /// delivered again, so that the subscription continues.
    async fn ack_before_next(&self) -> Result<(), BrokerError> {
        match self.ack().await {
            Err(error) if error.is_retryable() => {
                warn!(
                    code = error.code(), error = %Chain(&error),
                    "could not acknowledge an event; the broker delivers it again"
                );
                Ok(())
            }
            result => result,
        }
    }

    /// A delivery counts as received once Python has it: a cancelled wait does not lose one.
    async fn next(self: Arc<Self>) -> Result<Answer, ErrorInfo> {
        let mut deliveries = self.deliveries.lock().await;
        self.ack_before_next().await?;
        let Some(delivery) = deliveries.next().await else {
            return Ok(Answer::Nothing);
        };
        drop(deliveries);
        let delivery = delivery?;
        let row = Payload::encode(&(delivery.attempt, &delivery.event))?;
        Ok(Answer::Object(Box::new(move |py| {
            let row = json::read(py, row.as_str())?;
            *self.unacknowledged.lock() = Some(delivery);
            Ok(row.unbind())
        })))
    }
}

/// The native part of `aios.EventStream`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeEventStream {
    calls: Arc<Calls>,
    reader: Arc<Reader>,
}

impl NativeEventStream {
    /// Subscribes to events. Without a group, the subscription belongs to this client.
    pub(crate) async fn subscribe(
        broker: Arc<dyn Broker>,
        patterns: Vec<String>,
        group: Option<String>,
        calls: Arc<Calls>,
    ) -> Result<Answer, ErrorInfo> {
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
        let reader = Arc::new(Reader { deliveries, unacknowledged: Mutex::default() });
        calls.track_reader(&reader);
        let stream = Self { calls, reader };
        Ok(Answer::Object(Box::new(move |py| Ok(Py::new(py, stream)?.into_any()))))
    }
}

impl Drop for NativeEventStream {
    fn drop(&mut self) {
        if !self.calls.is_own_process() {
            std::mem::forget(Arc::clone(&self.reader));
        }
    }
}

#[pymethods]
impl NativeEventStream {
    /// Acknowledges the previous event and waits for the next: `[attempt, envelope]`, or `None` once the
    /// broker is closed.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move { reader.next().await })
    }

    /// Acknowledges the previous event.
    fn ack<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move {
            reader.ack().await?;
            Ok(Answer::Nothing)
        })
    }
}
