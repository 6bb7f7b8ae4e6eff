//! JSON text to Python values.

use std::fmt;

use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyList},
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Number of consecutive digits from which a number may exceed 64 bits.
const LONG_NUMBER: usize = 19;

/// Parses JSON text to `None`, `bool`, `int`, `float`, `str`, `list` and `dict`; a number beyond the
/// range of `float` is a `Decimal`.
pub(crate) fn read<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    if !has_long_number(text) {
        let mut json = serde_json::Deserializer::from_str(text);
        if let Ok(value) = Seed(py).deserialize(&mut json) {
            return Ok(value);
        }
    }
    // Numbers beyond 64 bits or the range of a double, and deep nesting.
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let loads = LOADS.get_or_try_init(py, || {
        PyResult::Ok(py.import("aios._types.convert")?.getattr("loads")?.unbind())
    })?;
    loads.bind(py).call1((text,))
}

/// Whether a number may exceed what serde_json represents exactly; Python integers are unbounded.
fn has_long_number(text: &str) -> bool {
    let mut digits = 0;
    text.bytes().any(|byte| {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        digits >= LONG_NUMBER
    })
}

/// Builds the Python value of the next JSON value. Also the visitor, because it has no state but
/// the interpreter.
#[derive(Clone, Copy)]
struct Seed<'py>(Python<'py>);

impl<'de, 'py> DeserializeSeed<'de> for Seed<'py> {
    type Value = Bound<'py, PyAny>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'py> Seed<'py> {
    /// A Python value of a scalar.
    fn convert<T: IntoPyObject<'py>, E: Error>(self, value: T) -> Result<Bound<'py, PyAny>, E> {
        let object = value.into_pyobject(self.0).map_err(|error| E::custom(error.into()))?;
        Ok(pyo3::BoundObject::into_bound(object).into_any())
    }
}

impl<'de, 'py> Visitor<'de> for Seed<'py> {
    type Value = Bound<'py, PyAny>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(self.0.None().into_bound(self.0))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.convert(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.convert(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.convert(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.convert(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        self.convert(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let list = PyList::empty(self.0);
        while let Some(item) = items.next_element_seed(self)? {
            list.append(item).map_err(A::Error::custom)?;
        }
        Ok(list.into_any())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let dict = PyDict::new(self.0);
        while let Some(key) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            let value = fields.next_value_seed(self)?;
            dict.set_item(&*key, value).map_err(A::Error::custom)?;
        }
        Ok(dict.into_any())
    }
}
