use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aios_core::{event::Payload, failure::Failure, store::RunStatus};
use tokio::sync::oneshot;

/// How a run ended, or why it stands still.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) status: RunStatus,
    pub(crate) result: Option<Payload>,
    pub(crate) failure: Option<Failure>,
    pub(crate) continued_as: Option<Arc<str>>,
}

/// Who waits in this process for which run to end.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<HashMap<Arc<str>, Vec<oneshot::Sender<Ended>>>>);

impl Waiters {
    pub(crate) fn wait(&self, run_id: &Arc<str>) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_run = waiters.entry(Arc::clone(run_id)).or_default();
        of_run.retain(|waiter| !waiter.is_closed());
        of_run.push(sender);
        receiver
    }

    pub(crate) fn notify(&self, run_id: &str, ended: &Ended) {
        let waiting = {
            let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.remove(run_id).unwrap_or_default()
        };
        for waiter in waiting {
            // A waiter that is gone does not want to know.
            let _ = waiter.send(ended.clone());
        }
    }
}
