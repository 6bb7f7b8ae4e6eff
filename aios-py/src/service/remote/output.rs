//! Output streams of runs of a service.

use std::sync::Arc;

use aios_core::event::Payload;
use aios_service::client::{OutputItem, OutputStream};
use futures_util::FutureExt;
use pyo3::prelude::*;

use crate::{
    calls::{Answer, Calls},
    convert::errors::ErrorInfo,
};

/// Maximum number of items that Python receives at once.
const PAGE: usize = 500;

/// The native part of a reader of an output stream of a remote client.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct RemoteOutputStream {
    calls: Arc<Calls>,
    stream: Arc<tokio::sync::Mutex<OutputStream>>,
}

impl RemoteOutputStream {
    /// A reader of the stream.
    pub(super) fn new(calls: &Arc<Calls>, stream: OutputStream) -> Self {
        Self { calls: Arc::clone(calls), stream: Arc::new(tokio::sync::Mutex::new(stream)) }
    }
}

#[pymethods]
impl RemoteOutputStream {
    /// The next items, as `[offset, writer, is_item, value]`; see `NativeOutputStream.next`.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stream = Arc::clone(&self.stream);
        self.calls.call(py, async move {
            let mut stream = stream.lock().await;
            let Some(first) = stream.next().await else { return Ok(Answer::Nothing) };
            let mut page = vec![row(first?)];
            while page.len() < PAGE
                && let Some(Some(Ok(item))) = stream.next().now_or_never()
            {
                page.push(row(item));
            }
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&page)?))
        })
    }
}

/// An item as Python takes it, in the form of a client of a store.
fn row(item: OutputItem) -> (u64, String, bool, Option<Payload>) {
    let OutputItem { offset, writer, item, .. } = item;
    (offset, writer, item.is_some(), item)
}
