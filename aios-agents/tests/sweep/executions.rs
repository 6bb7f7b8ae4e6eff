//! A record of what the code of a trial has executed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// The steps and attempts that were executed, in order, each with its run or task.
#[derive(Clone, Default)]
pub(super) struct Executions(Arc<Mutex<Vec<(String, String)>>>);

impl Executions {
    pub(super) fn note(&self, of: &str, what: &str) {
        self.0.lock().unwrap().push((of.to_owned(), what.to_owned()));
    }

    pub(super) fn all(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap().clone()
    }
}

#[allow(clippy::disallowed_methods, reason = "a step of a test takes a moment")]
pub(super) async fn moment() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
