//! Output streams of runs: readers, and the writers of tasks.
//!
//! A reader hands over pages: it waits for the first item, and adds those that are ready without
//! waiting. Text that a model produces token by token so costs one crossing of the border for
//! several tokens when Python is slower than the model, and none is delayed when it is faster.
//!
//! Writing needs no call: an item is queued on the thread that writes it, and the native threads
//! send it.

use std::sync::{Arc, atomic::Ordering};

use aios_agents::{
    RunHandle,
    output::{OutputContent, OutputItem, OutputReader, OutputStream},
};
use aios_core::event::Payload;
use futures_util::FutureExt;
use pyo3::prelude::*;

use super::{Answer, Calls};
use crate::convert::{errors::ErrorInfo, json};

/// Maximum number of items that Python receives at once.
const PAGE: usize = 500;

/// A reader that one call at a time uses.
pub(super) type SharedOutput = tokio::sync::Mutex<OutputReader>;

/// The native part of a reader of an output stream.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeOutputStream {
    calls: Arc<Calls>,
    key: u64,
}

impl NativeOutputStream {
    /// Opens a reader after an offset. The client owns the reader.
    pub(super) fn open(calls: &Arc<Calls>, handle: &RunHandle, name: &str, after: u64) -> Self {
        let reader = Arc::new(SharedOutput::new(handle.stream(name).read_from(after)));
        let key = calls.pending.serial.fetch_add(1, Ordering::Relaxed);
        calls.outputs.lock().insert(key, reader);
        Self { calls: Arc::clone(calls), key }
    }
}

impl Drop for NativeOutputStream {
    fn drop(&mut self) {
        if self.calls.is_own_process() {
            self.calls.outputs.lock().remove(&self.key);
        }
    }
}

#[pymethods]
impl NativeOutputStream {
    /// The next items, as `[offset, writer, is_item, value]`: waits for the first, and adds those that
    /// are ready. `None` at the end.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = self.calls.outputs.lock().get(&self.key).cloned();
        self.calls.call(py, async move {
            let reader = reader.ok_or_else(ErrorInfo::closed)?;
            let mut reader = reader.lock().await;
            let Some(first) = reader.next().await else { return Ok(Answer::Nothing) };
            let mut page = vec![row(first?)];
            while page.len() < PAGE
                && let Some(Some(Ok(item))) = reader.next().now_or_never()
            {
                page.push(row(item));
            }
            Ok::<_, ErrorInfo>(Answer::Json(Payload::encode(&page)?))
        })
    }
}

/// An item as Python takes it. A reset, after which a writer begins again, has no value.
fn row(item: OutputItem) -> (u64, Arc<str>, bool, Option<Payload>) {
    match item.content {
        OutputContent::Item(value) => (item.offset, item.writer, true, Some(value)),
        _ => (item.offset, item.writer, false, None),
    }
}

/// The native part of `aios.OutputStream`: writes to an output stream.
#[pyclass(frozen, module = "aios._aios", name = "NativeOutputWriter")]
pub(crate) struct OutputWriter(pub(crate) OutputStream);

#[pymethods]
impl OutputWriter {
    fn write(&self, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let written = self.0.write_payload(json::write(item)?);
        written.map_err(|error| ErrorInfo::from(error).into_error(item.py()))
    }

    fn end(&self, py: Python<'_>) -> PyResult<()> {
        self.0.end().map_err(|error| ErrorInfo::from(error).into_error(py))
    }
}
