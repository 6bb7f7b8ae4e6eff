//! The session of a client: exists between `NativeClient.open` and `NativeClient.shutdown`.
//!
//! A client is created once, with its threads and its event loop. What it connects to is in the
//! [`Session`], in a slot that calls read-lock: a call takes what it needs from the session, such
//! as the store or the runtime, and fails with `RUNTIME_CLOSED` if the slot is empty. Opening fills
//! the slot, and closing takes the session out, for both of which the lock is a write lock.
//!
//! # The order of the end
//!
//! First, servers with a delay serve requests until it is over, while readiness fails. Then each part
//! ends before those that it uses:
//!
//! 1. HTTP requests of the API end, within half of the deadline. Waiting ones and streams end at
//!    once.
//! 2. Traces that are left are sent, while the store can still be read.
//! 3. The exporter of metrics stops reading the state of the runtime.
//! 4. The runtime shuts down with the rest of the deadline: running tasks may end, then leases are
//!    released.
//! 5. The caller is dropped. Until here its mailbox receives the answers of calls that are being
//!    cancelled.
//! 6. The broker closes, then the store.
//! 7. The last values of the metrics are sent.
//!
//! An error does not stop the sequence. The first one is reported: that of the runtime, of the
//! broker, or of the store.
//!
//! # Two who close
//!
//! Python's `shutdown` and the [`Terminator`](crate::terminator::Terminator) may both close the
//! session. The [`SessionCloser`] lets the first one do it and the second one wait for the same
//! end.

use std::{sync::Arc, time::Duration};

use aios_agents::{Runtime, RuntimeBuilder, RuntimeError, agent::TaskClient};
use aios_core::{
    agent::Name,
    broker::Broker,
    catalog::codes,
    clock::SystemClock,
    store::{PageRequest, Store},
};
#[cfg(feature = "service")]
use aios_service::telemetry::otlp::Collector;
use aios_store::AnyStore;
use tokio::sync::{Mutex, RwLock};

#[cfg(feature = "service")]
use crate::service::MetricsExport;
use crate::{
    calls::Calls,
    client::measured,
    convert::{CollectorsArg, errors::ErrorInfo},
    llm::PreparedAgent,
    python::LoopPulse,
    workflow::PyWorkflow,
};

/// The open runtime, with its store and broker.
pub(crate) struct Session {
    /// The runtime. Shared with the routers of the API, which release it before it is shut down.
    pub(crate) runtime: Arc<Runtime>,
    /// The requests of the API in progress.
    #[cfg(feature = "service")]
    pub(crate) requests: crate::service::Requests,
    /// Sends the spans of runs, if a collector is configured.
    #[cfg(feature = "service")]
    traces: Option<crate::service::Traces>,
    /// Sends the metrics of the process, if a collector is configured.
    #[cfg(feature = "service")]
    metrics: Option<MetricsExport>,
    /// The broker, to publish and to subscribe.
    pub(crate) broker: Arc<dyn Broker>,
    /// The store; `None` for a process that only executes tasks.
    store: Option<AnyStore>,
    /// Calls agents without a journal. Created by the first call, because it needs a mailbox.
    caller: Option<TaskClient>,
    /// The source of the events that this client publishes.
    source: Arc<str>,
}

/// The workflow of tasks outside of workflows, which no caller starts by its name.
const SINGLE_TASK: &str = "single_task";

/// Why a runtime is dropped instead of shut down.
const STILL_REFERRED: &str = "an HTTP request still uses the runtime, which therefore ends without \
                              releasing its tasks and shards; others take them over";

/// Holds the session while it is open.
pub(crate) type SessionSlot = Arc<RwLock<Option<Session>>>;

/// Closes the session once, on the first request.
#[derive(Clone)]
pub(crate) struct SessionCloser {
    /// The session to close.
    slot: SessionSlot,
    calls: Arc<Calls>,
    /// Locked while the session is being closed. Holds an error that no caller has received yet.
    unreported: Arc<Mutex<Option<ErrorInfo>>>,
}

impl SessionCloser {
    pub(crate) fn new(slot: &SessionSlot, calls: &Arc<Calls>) -> Self {
        Self { slot: Arc::clone(slot), calls: Arc::clone(calls), unreported: Arc::default() }
    }

    /// Closes the session, or waits until it is closed. Running tasks may end within `deadline`.
    pub(crate) async fn close(&self, deadline: Duration) -> Result<(), ErrorInfo> {
        let mut unreported = self.unreported.lock().await;
        match unreported.take() {
            Some(error) => Err(error),
            None => self.close_now(deadline).await,
        }
    }

    /// Same as [`close`](Self::close), and reports the error to the next caller of `close` too. For
    /// the terminator, which closes the session while Python may call `shutdown` later.
    pub(crate) async fn close_in_background(&self, deadline: Duration) -> Result<(), ErrorInfo> {
        let mut unreported = self.unreported.lock().await;
        let closed = self.close_now(deadline).await;
        *unreported = closed.clone().err();
        closed
    }

    /// Takes the session out of the slot and closes it. Deliveries that Python has not acknowledged
    /// are released first: the broker would wait for them.
    async fn close_now(&self, deadline: Duration) -> Result<(), ErrorInfo> {
        #[cfg(feature = "service")]
        self.serve_until_the_end().await;
        let Some(session) = self.slot.write().await.take() else { return Ok(()) };
        self.calls.release_deliveries();
        session.close(deadline).await
    }

    /// Serves requests while the servers still accept connections.
    #[cfg(feature = "service")]
    async fn serve_until_the_end(&self) {
        use aios_core::clock::Clock;

        let delay = self.slot.read().await.as_ref().map(|session| session.requests.begin_end());
        if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
            SystemClock.sleep(delay).await;
        }
    }
}

/// The open session, or the error that it is closed.
pub(crate) fn open_session(session: Option<&Session>) -> Result<&Session, ErrorInfo> {
    session.ok_or_else(ErrorInfo::closed)
}

impl Session {
    /// Connects to the broker and the store, adds the agents that need a store, and starts the
    /// runtime and the exporters. The collectors are checked before anything is connected.
    pub(crate) async fn connect(
        builder: RuntimeBuilder,
        llm_agents: Vec<PreparedAgent>,
        store: Option<String>,
        broker: String,
        source: Arc<str>,
        collectors: CollectorsArg,
    ) -> Result<Self, ErrorInfo> {
        #[cfg(not(feature = "service"))]
        refuse(&collectors)?;
        #[cfg(feature = "service")]
        let (collector, mut metrics) = checked(collectors)?;
        let broker = aios_broker::connect(&broker).await?;
        let store = match store {
            Some(url) => Some(AnyStore::connect(&url).await?),
            None => None,
        };
        let mut builder = builder.broker(Arc::clone(&broker)).source(Arc::clone(&source));
        if let Some(store) = &store {
            builder = builder.store(store.store());
        }
        for agent in llm_agents {
            builder = add(builder, agent, store.as_ref())?;
        }
        let runtime = Arc::new(builder.start().await?);
        #[cfg(feature = "service")]
        let traces = match collector {
            Some(collector) => Some(crate::service::Traces::start(&runtime, collector).await?),
            None => None,
        };
        #[cfg(feature = "service")]
        if let Some(metrics) = &mut metrics {
            metrics.start(&runtime)?;
        }
        Ok(Self {
            runtime,
            #[cfg(feature = "service")]
            requests: crate::service::Requests::new(
                traces.as_ref().map(crate::service::Traces::requests),
            ),
            #[cfg(feature = "service")]
            traces,
            #[cfg(feature = "service")]
            metrics,
            broker,
            store,
            caller: None,
            source,
        })
    }

    /// The store, or the error that the client has none.
    pub(crate) fn store(&self) -> Result<Arc<dyn Store>, ErrorInfo> {
        Ok(self.any_store()?.store())
    }

    /// The store with the operations of its adapter.
    pub(crate) fn any_store(&self) -> Result<&AnyStore, ErrorInfo> {
        self.store.as_ref().ok_or_else(|| {
            let message = "the client has no store";
            ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message)
        })
    }

    /// Ends all parts in order; see the module.
    async fn close(self, deadline: Duration) -> Result<(), ErrorInfo> {
        #[cfg(feature = "service")]
        let (deadline, flush_timeout) = {
            use aios_core::clock::Clock;

            let begun = SystemClock.elapsed();
            self.requests.close(deadline / 2).await;
            drop(self.requests);
            let flush_timeout = crate::service::end_traces(self.traces, deadline).await;
            if let Some(metrics) = &self.metrics {
                metrics.detach();
            }
            let deadline = deadline.saturating_sub(SystemClock.elapsed().saturating_sub(begun));
            (deadline, flush_timeout)
        };
        let stopped = match Arc::into_inner(self.runtime) {
            Some(runtime) => runtime.shutdown(deadline).await.map_err(ErrorInfo::from),
            None => Err(ErrorInfo::new("runtime", codes::SHUTDOWN_TIMEOUT, STILL_REFERRED)),
        };
        // The caller's mailbox receives answers of cancelled calls until the agents have stopped.
        drop(self.caller);
        let closed = self.broker.close(deadline).await;
        let released = match &self.store {
            Some(store) => store.store().close().await,
            None => Ok(()),
        };
        #[cfg(feature = "service")]
        if let Some(metrics) = self.metrics {
            metrics.end(deadline.min(flush_timeout)).await;
        }
        stopped?;
        closed?;
        Ok(released?)
    }

    /// The version of a workflow that is not registered here: the requested one, or the latest that a
    /// process registered in the store.
    pub(crate) async fn version_of(
        &self,
        workflow: &str,
        version: Option<u32>,
    ) -> Result<u32, ErrorInfo> {
        if let Some(version) = version {
            return Ok(version);
        }
        let mut page = PageRequest::default();
        let mut known = Vec::new();
        let mut latest = None;
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

    /// A runtime that knows only the name of a workflow, to start runs that other processes execute.
    pub(crate) async fn runtime_for_unregistered(
        &self,
        workflow: &str,
        version: u32,
    ) -> Result<Runtime, ErrorInfo> {
        let builder = Runtime::builder().broker(Arc::clone(&self.broker)).store(self.store()?);
        let name = Name::new(workflow)?;
        // Made without the interpreter, for which a native thread would have to wait.
        let (begin, executors) = (None, None);
        let workflow = Arc::new(PyWorkflow { name, version, looks_ahead: false, begin, executors });
        let builder = builder.source(Arc::clone(&self.source)).workflow_dyn(workflow);
        Ok(builder.client_only().start().await?)
    }
}

/// Checks the collectors.
#[cfg(feature = "service")]
fn checked(
    (traces, metrics): CollectorsArg,
) -> Result<(Option<Collector>, Option<MetricsExport>), ErrorInfo> {
    let traces = traces.map(|it| crate::service::collector(it, "traces")).transpose()?;
    Ok((traces, metrics.map(MetricsExport::of).transpose()?))
}

/// Refuses collectors, which need the feature `service`.
#[cfg(not(feature = "service"))]
fn refuse(collectors: &CollectorsArg) -> Result<(), ErrorInfo> {
    match collectors {
        (None, None) => Ok(()),
        _ => {
            let message = "this build of aios sends neither traces nor metrics: it lacks the feature `service`";
            Err(ErrorInfo::new("runtime", codes::INVALID_RUNTIME_CONFIGURATION, message))
        }
    }
}

/// Adds an agent over a language model. A process without a store has no workflows, and only makes
/// its model calls and tool calls.
fn add(
    builder: RuntimeBuilder,
    prepared: PreparedAgent,
    store: Option<&AnyStore>,
) -> Result<RuntimeBuilder, ErrorInfo> {
    let name = prepared.name.clone();
    let pulse = prepared.pulse.clone();
    let is_workflow_only = prepared.is_workflow_only;
    let opened = store.map(AnyStore::store);
    let built = prepared.open(opened.as_ref()).build(&name)?;
    let agents = if is_workflow_only { Vec::new() } else { built.agents() };
    let builder = agents.into_iter().map(measured).fold(builder, |builder, definition| {
        builder.agents(match &pulse {
            Some(pulse) => definition.with_pulse(Arc::<LoopPulse>::clone(pulse)),
            None => definition,
        })
    });
    match store {
        Some(_) if is_workflow_only => Ok(builder.workflow_dyn(built.workflow()?)),
        Some(_) => Ok(builder.workflow_dyn(built.workflow()?).workflow_agent(name)),
        None => Ok(builder),
    }
}

/// The error for a workflow that no process has registered. Lists the registered ones.
fn unknown_workflow(workflow: &str, mut known: Vec<String>) -> ErrorInfo {
    known.sort_unstable();
    known.dedup();
    known.retain(|name| name != SINGLE_TASK);
    let unknown =
        RuntimeError::UnknownWorkflow { workflow: workflow.to_owned(), registered: known };
    let message = format!("{unknown}; pass `version=` if a process that has it starts later");
    ErrorInfo::new("runtime", codes::WORKFLOW_NOT_FOUND, message)
}

/// The caller of a session, created on first use.
pub(crate) async fn caller(slot: &SessionSlot) -> Result<TaskClient, ErrorInfo> {
    if let Some(caller) = &open_session(slot.read().await.as_ref())?.caller {
        return Ok(caller.clone());
    }
    Box::pin(create_caller(slot)).await
}

/// Creates the caller, unless another call did so while this one waited for the lock.
async fn create_caller(slot: &SessionSlot) -> Result<TaskClient, ErrorInfo> {
    let mut guard = slot.write().await;
    let session = guard.as_mut().ok_or_else(ErrorInfo::closed)?;
    if let Some(caller) = &session.caller {
        return Ok(caller.clone());
    }
    let clock = Arc::new(SystemClock);
    let broker = Arc::clone(&session.broker);
    let caller = TaskClient::new(broker, clock, Arc::clone(&session.source)).await?;
    session.caller = Some(caller.clone());
    Ok(caller)
}
