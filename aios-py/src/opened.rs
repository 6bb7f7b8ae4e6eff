//! What is open between `Core.open` and `Core.shutdown`.

use std::{sync::Arc, time::Duration};

use aios_agents::{Runtime, RuntimeBuilder, agent::Caller};
use aios_core::{
    agent::Segment,
    broker::Broker,
    clock::SystemClock,
    store::{PageRequest, Store},
};
use aios_store::AnyStore;
use pyo3::Python;
use tokio::sync::Mutex;

use crate::{
    calls::{Calls, closed},
    fault::Fault,
    workflow::PyWorkflow,
};

pub(crate) struct Opened {
    pub(crate) runtime: Runtime,
    pub(crate) broker: Arc<dyn Broker>,
    store: Option<AnyStore>,
    caller: Option<Caller>,
    source: Arc<str>,
}

/// Where it is kept.
pub(crate) type Place = Arc<tokio::sync::RwLock<Option<Opened>>>;

/// Closes what is open, once, whoever asks for it first.
#[derive(Clone)]
pub(crate) struct Closing {
    place: Place,
    calls: Arc<Calls>,
    /// Held while it is being closed: why that went wrong, if nobody was told yet.
    untold: Arc<Mutex<Option<Fault>>>,
}

impl Closing {
    pub(crate) fn new(place: &Place, calls: &Arc<Calls>) -> Self {
        Self { place: Arc::clone(place), calls: Arc::clone(calls), untold: Arc::default() }
    }

    /// Closes it, or waits until that is done. Tasks that run may end within `deadline`.
    pub(crate) async fn close(&self, deadline: Duration) -> Result<(), Fault> {
        let mut untold = self.untold.lock().await;
        match untold.take() {
            Some(fault) => Err(fault),
            None => self.close_now(deadline).await,
        }
    }

    /// Closes it for somebody who can't be told of a failure; whoever asks next is told.
    pub(crate) async fn close_unheard(&self, deadline: Duration) -> Result<(), Fault> {
        let mut untold = self.untold.lock().await;
        let closed = self.close_now(deadline).await;
        *untold = closed.clone().err();
        closed
    }

    async fn close_now(&self, deadline: Duration) -> Result<(), Fault> {
        let Some(opened) = self.place.write().await.take() else { return Ok(()) };
        self.calls.release_events();
        opened.close(deadline).await
    }
}

/// What is open, or why nothing is.
pub(crate) fn open(opened: Option<&Opened>) -> Result<&Opened, Fault> {
    opened.ok_or_else(closed)
}

impl Opened {
    pub(crate) async fn connect(
        builder: RuntimeBuilder,
        store: Option<String>,
        broker: String,
        source: Arc<str>,
    ) -> Result<Self, Fault> {
        let broker = aios_broker::connect(&broker).await?;
        let store = match store {
            Some(url) => Some(AnyStore::connect(&url).await?),
            None => None,
        };
        let mut builder = builder.broker(Arc::clone(&broker)).source(Arc::clone(&source));
        if let Some(store) = &store {
            builder = builder.store(store.store());
        }
        Ok(Self { runtime: builder.start().await?, broker, store, caller: None, source })
    }

    pub(crate) fn store(&self) -> Result<Arc<dyn Store>, Fault> {
        Ok(self.any_store()?.store())
    }

    /// The store with what only adapters can do.
    pub(crate) fn any_store(&self) -> Result<&AnyStore, Fault> {
        self.store.as_ref().ok_or_else(|| {
            Fault::new("runtime", "INVALID_RUNTIME_CONFIGURATION", "there is no store to read")
        })
    }

    /// Stops it: tasks that run may end within `deadline`.
    pub(crate) async fn close(self, deadline: Duration) -> Result<(), Fault> {
        let stopped = self.runtime.shutdown(deadline).await;
        // Until here its mailbox took the answers of tasks that nobody waits for any more.
        drop(self.caller);
        let closed = self.broker.close(deadline).await;
        stopped?;
        Ok(closed?)
    }

    /// The version of a workflow that is not registered here: the one that was said, or the latest
    /// that a process registered in the store.
    pub(crate) async fn version_of(
        &self,
        workflow: &str,
        version: Option<u32>,
    ) -> Result<u32, Fault> {
        if let Some(version) = version {
            return Ok(version);
        }
        let (mut page, mut known, mut latest) = (PageRequest::default(), Vec::new(), None);
        loop {
            let found = self.store()?.workflows(&page).await?;
            for row in found.rows {
                if row.name == workflow {
                    latest = latest.max(Some(row.version));
                }
                known.push(row.name);
            }
            match found.next {
                Some(next) => page = next,
                None => break,
            }
        }
        latest.ok_or_else(|| unknown_workflow(workflow, known))
    }

    /// A runtime that only knows the name of a workflow, to start runs that this process does not
    /// advance.
    pub(crate) async fn knowing(&self, workflow: &str, version: u32) -> Result<Runtime, Fault> {
        let known = Runtime::builder().broker(Arc::clone(&self.broker)).store(self.store()?);
        let name = Segment::new(workflow)?;
        let begin = Python::attach(|py| py.None());
        let named = Arc::new(PyWorkflow { name, version, begin, places: None });
        let known = known.source(Arc::clone(&self.source)).dyn_workflow(named).without_engine();
        Ok(known.start().await?)
    }
}

/// That no process has registered a workflow, and which ones there are.
fn unknown_workflow(workflow: &str, mut known: Vec<String>) -> Fault {
    known.sort_unstable();
    known.dedup();
    let listed = match known.is_empty() {
        true => "no workflow is".to_owned(),
        false => format!("{} are", known.join(", ")),
    };
    let message = format!(
        "no workflow {workflow:?} is registered in this store, {listed}; pass `version=` if a \
         process that has it is to be started later"
    );
    Fault::new("runtime", "WORKFLOW_NOT_FOUND", message)
}

/// The caller of a runtime, made when it is first needed.
pub(crate) async fn caller(place: &Place) -> Result<Caller, Fault> {
    if let Some(caller) = &open(place.read().await.as_ref())?.caller {
        return Ok(caller.clone());
    }
    Box::pin(make_caller(place)).await
}

async fn make_caller(place: &Place) -> Result<Caller, Fault> {
    let mut guard = place.write().await;
    let opened = guard.as_mut().ok_or_else(closed)?;
    if let Some(caller) = &opened.caller {
        return Ok(caller.clone());
    }
    let clock = Arc::new(SystemClock);
    let made = Caller::new(Arc::clone(&opened.broker), clock, Arc::clone(&opened.source)).await?;
    opened.caller = Some(made.clone());
    Ok(made)
}
