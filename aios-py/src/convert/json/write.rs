//! Python values to JSON text.

use std::{cell::Cell, fmt};

use aios_core::{catalog::codes, event::Payload};
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType},
};
use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

use crate::{convert::errors::ErrorInfo, python::ends_process};

/// Maximum nesting, which serde_json can read back. A deeper value probably contains itself.
const DEPTH: usize = 120;

/// Serialises a Python value. `aios._types.convert.to_plain` converts values that are not JSON types.
pub(crate) fn write(value: &Bound<'_, PyAny>) -> PyResult<Payload> {
    write_as(value, || "the value".to_owned())
}

/// Same as [`write`]; errors name the value.
pub(crate) fn write_as(
    value: &Bound<'_, PyAny>,
    name: impl FnOnce() -> String,
) -> PyResult<Payload> {
    let exit = Cell::new(None);
    let encoded = Payload::encode(&Plain { value, depth: 0, path: &Path::Root, exit: &exit });
    encoded.map_err(|error| {
        if let Some(exit) = exit.take() {
            return exit;
        }
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let message =
            format!("{} cannot be serialised to JSON: {}", name(), cause.unwrap_or_default());
        ErrorInfo::new("event", codes::INVALID_DATA, message).into_error(value.py())
    })
}

/// A Python value while it is serialised. The interpreter is attached, and the value is not copied.
struct Plain<'a, 'py> {
    /// The value.
    value: &'a Bound<'py, PyAny>,
    /// How many values it is in.
    depth: usize,
    /// Where it is, for errors.
    path: &'a Path<'a>,
    /// Gets an exception that ends the process: the value is not at fault.
    exit: &'a Cell<Option<PyErr>>,
}

/// The location of a value, displayed as a JSON pointer. A list on the stack: it costs nothing
/// unless there is an error.
enum Path<'a> {
    /// The value itself.
    Root,
    /// A field of an object.
    Field(&'a Self, &'a str),
    /// An item of an array.
    Item(&'a Self, usize),
}

impl Path<'_> {
    /// An error that begins with the location.
    fn error<E: Error>(&self, message: impl fmt::Display) -> E {
        match self {
            Self::Root => E::custom(message),
            _ => E::custom(format_args!("{self}: {message}")),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(parent, name) => {
                write!(formatter, "{parent}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
            Self::Item(parent, index) => write!(formatter, "{parent}/{index}"),
        }
    }
}

impl Serialize for Plain<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = self.value;
        if self.depth > DEPTH {
            return Err(S::Error::custom("nested too deeply, or containing itself"));
        }
        if is_member(value) {
            return self.converted(serializer);
        }
        if let Ok(text) = value.cast::<PyString>() {
            return serializer
                .serialize_str(&text.to_cow().map_err(|error| self.path.error(error))?);
        }
        if let Ok(dict) = value.cast::<PyDict>() {
            return self.dict(dict, serializer);
        }
        if value.is_none() {
            return serializer.serialize_unit();
        }
        if let Ok(flag) = value.cast::<PyBool>() {
            return serializer.serialize_bool(flag.is_true());
        }
        if value.is_instance_of::<PyInt>() {
            return integer(value, self.path, serializer);
        }
        if let Ok(number) = value.cast::<PyFloat>() {
            return float(number.value(), self.path, serializer);
        }
        if let Ok(list) = value.cast::<PyList>() {
            return self.sequence(list.len(), list.iter(), serializer);
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return self.sequence(tuple.len(), tuple.iter(), serializer);
        }
        self.converted(serializer)
    }
}

impl<'py> Plain<'_, 'py> {
    /// Serialises a value that Python code converts.
    fn converted<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let plain = self.plain_of(self.value, self.path)?;
        self.inner(&plain, self.path).serialize(to)
    }

    /// The plain value that Python code makes of a value or a key.
    fn plain_of<E: Error>(
        &self,
        value: &Bound<'py, PyAny>,
        path: &Path<'_>,
    ) -> Result<Bound<'py, PyAny>, E> {
        to_plain(value).map_err(|error| {
            let described = path.error(message(value.py(), &error));
            if ends_process(value.py(), &error) {
                self.exit.set(Some(error));
            }
            described
        })
    }

    /// A value in this one.
    fn inner<'a>(&'a self, value: &'a Bound<'py, PyAny>, path: &'a Path<'a>) -> Plain<'a, 'py> {
        Plain { value, depth: self.depth + 1, path, exit: self.exit }
    }

    /// Serialises a `dict`, whose keys must be strings.
    fn dict<S: Serializer>(&self, dict: &Bound<'py, PyDict>, to: S) -> Result<S::Ok, S::Error> {
        // A copy, because values are converted by Python code, which may change the dict.
        let dict = dict.copy().map_err(|error| self.path.error(error))?;
        let mut map = to.serialize_map(Some(dict.len()))?;
        for (key, value) in dict.iter() {
            let key = match is_member(&key) {
                true => self.plain_of(&key, self.path)?,
                false => key,
            };
            let key = key.cast::<PyString>().map_err(|_| {
                let kind = type_name(&key);
                self.path.error(format_args!("object keys must be strings, not {kind}"))
            })?;
            let key = key.to_cow().map_err(|error| self.path.error(error))?;
            let path = &Path::Field(self.path, &key);
            map.serialize_entry(&*key, &self.inner(&value, path))?;
        }
        map.end()
    }

    /// Serialises a list or a tuple.
    fn sequence<S: Serializer>(
        &self,
        length: usize,
        items: impl Iterator<Item = Bound<'py, PyAny>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let mut sequence = to.serialize_seq(Some(length))?;
        for (index, value) in items.enumerate() {
            let path = &Path::Item(self.path, index);
            sequence.serialize_element(&self.inner(&value, path))?;
        }
        sequence.end()
    }
}

/// Serialises an integer. One beyond 64 bits is written by its digits.
fn integer<S: Serializer>(
    value: &Bound<'_, PyAny>,
    path: &Path<'_>,
    to: S,
) -> Result<S::Ok, S::Error> {
    if let Ok(number) = value.extract::<i64>() {
        return to.serialize_i64(number);
    }
    static DIGITS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let digits = DIGITS.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._types.convert")?.getattr("digits")?.unbind())
    });
    let digits = digits.and_then(|digits| digits.bind(py).call1((value,))?.extract::<String>());
    let digits = digits.map_err(|error| path.error(error))?;
    RawValue::from_string(digits).map_err(S::Error::custom)?.serialize(to)
}

/// Serialises a float. JSON has no infinity and no NaN.
fn float<S: Serializer>(number: f64, path: &Path<'_>, to: S) -> Result<S::Ok, S::Error> {
    match number.is_finite() {
        true => to.serialize_f64(number),
        false => Err(path.error(format_args!("{number} is not valid JSON"))),
    }
}

/// The message of an exception; without its type for a `TypeError`, which `to_plain` raises.
fn message(py: Python<'_>, error: &PyErr) -> String {
    match error.is_instance_of::<PyTypeError>(py) {
        true => error.value(py).to_string(),
        false => error.to_string(),
    }
}

/// Whether a value is a member of an enum. Its value may be another one than the string or number that the
/// member itself is.
fn is_member(value: &Bound<'_, PyAny>) -> bool {
    static ENUM: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = value.get_type();
    // Decides most values: a metaclass makes the classes of enums.
    if class.is_exact_instance_of::<PyType>() {
        return false;
    }
    let py = value.py();
    ENUM.import(py, "enum", "Enum").is_ok_and(|base| class.is_subclass(base).unwrap_or_default())
}

/// The name of the type of a value, for errors.
fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().qualname().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

/// A value of JSON types for another one.
fn to_plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static TO_PLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let to_plain = TO_PLAIN.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._types.convert")?.getattr("to_plain")?.unbind())
    })?;
    to_plain.bind(py).call1((value,))
}
