//! Python values from JSON text and back, without a detour over Python's `json`.

mod read;
mod write;

pub(crate) use self::{
    read::read,
    write::{write, write_as},
};

use pyo3::prelude::*;

/// JSON text of a value.
#[pyfunction]
pub(crate) fn dumps(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(write(value)?.as_str().to_owned())
}

/// The value that JSON text says.
#[pyfunction]
pub(crate) fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    read(py, text)
}
