//! Sums of the budgets of subjects.

use aios_core::event::{Payload, Timestamp};
use aios_llm::budget::{Limits, SubjectBudget};
use pyo3::prelude::*;

use super::NativeClient;
use crate::{calls::Answer, convert::seconds, session::open_session};

/// The sums of a subject in the present window of `window` seconds.
#[pyfunction]
pub(crate) fn subject_spent<'py>(
    py: Python<'py>,
    client: &NativeClient,
    window: f64,
    subject: String,
) -> PyResult<Bound<'py, PyAny>> {
    let window = seconds(py, "window", window)?;
    client.with(py, move |slot, _| async move {
        let store = open_session(slot.read().await.as_ref())?.store()?;
        let budget = SubjectBudget::new(store, window, Limits::default());
        let spent = budget.spent(&subject, Timestamp::now()).await?;
        Ok(Answer::Json(Payload::encode(&spent)?))
    })
}
