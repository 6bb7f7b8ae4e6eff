//! Events from Python data.

use std::sync::Arc;

use aios_core::event::Event;
use pyo3::prelude::*;

use super::{errors::ErrorInfo, json};

/// Builds an event from its type and Python data. The data is converted here, so that an error is
/// raised where the code passes it.
pub(crate) fn build_event(
    data: &Bound<'_, PyAny>,
    event_type: &str,
    source: Arc<str>,
) -> PyResult<Event> {
    let written = json::write(data)?;
    let event = event_type.parse().and_then(|event_type| Event::new(event_type, source, &written));
    event.map_err(|error| ErrorInfo::from(error).into_error(data.py()))
}
