//! Description of a run, for lines of the log that its code writes in Python.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aios_agents::workflow::RunInfo;
use pyo3::{prelude::*, types::PyDict};

/// Describes a run to the log. It is in a context variable, which Python may keep for longer than the
/// run, so it refers to no other part of the run.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct RunScope {
    info: RunInfo,
    /// Whether lines of the workflow are left out.
    is_silent: Arc<AtomicBool>,
}

impl RunScope {
    /// The scope of a coroutine.
    pub(super) fn new(info: RunInfo, is_silent: Arc<AtomicBool>) -> Self {
        Self { info, is_silent }
    }
}

#[pymethods]
impl RunScope {
    /// Whether the coroutine repeats what it has done before, or leaves memory.
    #[getter]
    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Acquire)
    }

    /// The fields of a line, under the names that lines of Rust have.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(py);
        fields.set_item("run_id", &*self.info.run_id)?;
        fields.set_item("workflow", self.info.workflow.as_str())?;
        fields.set_item("version", self.info.version)?;
        if let Some(correlation_id) = &self.info.correlation_id {
            fields.set_item("correlation_id", &**correlation_id)?;
        }
        Ok(fields)
    }
}
