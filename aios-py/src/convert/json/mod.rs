//! Conversion between JSON text and Python values, without Python's `json`.

mod read;
mod write;

pub(crate) use self::{
    read::read,
    write::{write, write_as},
};

use pyo3::prelude::*;

/// Serialises a value to JSON text.
#[pyfunction]
pub(crate) fn dumps(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(write(value)?.as_str().to_owned())
}

/// Parses JSON text.
#[pyfunction]
pub(crate) fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    read(py, text)
}
