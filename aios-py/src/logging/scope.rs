//! The spans around a call of a Python function, for lines of the log that the function writes.

use pyo3::prelude::*;
use serde_json::Value;
use tracing::Span;
use tracing_subscriber::{Registry, registry::LookupSpan};

use super::{
    fields::{Fields, TRACE_PARENT},
    layer::add_spans,
};
use crate::convert::json;

/// Describes the task for which a function is called to the log. It is in a context variable, which
/// Python may keep for longer than the task, so it refers to no other part of it.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct CallScope {
    /// The fields of a line, without those of the trace.
    fields: Value,
    traceparent: Option<String>,
}

impl CallScope {
    /// The scope of the span in which this thread is.
    pub(crate) fn current() -> Self {
        let mut fields = Fields::default();
        let mut traceparent = None;
        Span::current().with_subscriber(|(id, dispatch)| {
            let Some(registry) = dispatch.downcast_ref::<Registry>() else { return };
            traceparent = registry.span(id).and_then(|span| {
                let mut around = span.scope();
                around.find_map(|span| span.extensions().get::<Fields>()?.text(TRACE_PARENT))
            });
            add_spans(&mut fields, registry.span(id).as_ref());
        });
        // The code has the ids of its current trace, which it may change.
        for name in ["trace_id", "span_id"] {
            fields.values.remove(name);
        }
        Self { fields: Value::Object(fields.values), traceparent }
    }
}

#[pymethods]
impl CallScope {
    #[getter]
    fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// The fields of a line, under the names that lines of Rust have.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::read(py, &self.fields.to_string())
    }
}
