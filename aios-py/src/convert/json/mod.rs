//! Conversion between JSON text and Python values, without Python's `json`.
//!
//! Both directions connect serde_json with Python objects directly, without a tree of values
//! between them. Values that one of the two can't represent go through `aios._convert` in Python:
//!
//! | from | value | converted by |
//! |---|---|---|
//! | JSON | text with 19 or more digits in a row, numbers beyond the range of a double, deep nesting | `aios._convert.loads` |
//! | Python | integers beyond 64 bits | `aios._convert.digits` |
//! | Python | objects that are not JSON types | `aios._convert.to_plain` |
//!
//! A value that can't be converted to JSON is an error with the path of the value as a JSON
//! pointer.

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
