//! The runtime: runs the agents and workflows of a process on a store and a broker.
//!
//! | module | contents |
//! |---|---|
//! | `builder` | options, and the order in which the parts start |
//! | `start`, `single_task`, `send` | starting runs and single tasks, with signals |
//! | `handle`, `fork`, `run_events` | runs that exist: results, commands, copies, events |
//! | `client`, `ends` | waiting for the end of a run, with and without an engine |
//! | `workflow_agent` | workflows as agent types |
//! | `workflow_schemas` | the schemas of registered workflows |
//! | `error` | errors of all of these |
//!
//! The runtime owns its parts, and its handles only refer to them: a handle keeps working on the
//! store after the runtime has shut down.

mod builder;
mod client;
mod ends;
mod error;
mod fork;
mod handle;
mod run_events;
mod send;
mod single_task;
mod start;
mod workflow_agent;
mod workflow_schemas;

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::Name,
    broker::Broker,
    failure::Failure,
    store::{RunRecord, Store},
};
use futures_util::future::join;
use serde::Serialize;

pub use self::{
    builder::RuntimeBuilder,
    error::{RunError, RuntimeError},
    handle::RunHandle,
    run_events::RunEvents,
    single_task::StartTask,
    start::{StartRun, StartWorkflow},
    workflow_schemas::WorkflowSchemas,
};
use self::{client::Client, ends::Ends};
pub use crate::workflow::engine::{AnonymousAnswers, EngineOptions, RefusedEvents, RunExecutor};
use crate::{
    agent::{AgentHost, ManagedAgents},
    declared::StartAgentTask,
    projection::{Projection, ProjectionHandle, Running, StartProjection},
    task::JoinSet,
    workflow::{engine::RunningEngine, journal::Journals, run_id},
};

/// Runs agents and workflows in this process.
///
/// A runtime needs a broker. With a store it also starts and advances runs; without one it only
/// hosts agents. Runs in progress when the runtime is dropped without [`shutdown`](Self::shutdown)
/// resume on the next start.
///
/// # Examples
///
/// Start a run, find it again after a restart, and stop cleanly:
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::prelude::*;
///
/// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     Ok(format!("Welcome, {name}!"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .workflow("welcome", welcome)
///     .start()
///     .await?;
/// runtime.start("welcome", "Ada").id("welcome-ada").await?;
///
/// // The id is all that another process needs.
/// let run = runtime.handle("welcome-ada").await?;
/// assert_eq!(run.result::<String>().await?, "Welcome, Ada!");
/// runtime.shutdown(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Runtime {
    /// Of the caller; not closed by the runtime.
    broker: Arc<dyn Broker>,
    /// Of the caller; not closed by the runtime.
    store: Option<Arc<dyn Store>>,
    /// The same store, through which this process counts its appends.
    journals: Option<Journals>,
    /// Used if there is no engine.
    ends: Arc<Ends>,
    /// `None` for a client, and without a store.
    engine: Option<RunningEngine>,
    /// `None` without agents.
    host: Option<AgentHost>,
    /// Empty until the first is started.
    projections: Running,
    /// Aborted when the runtime is dropped.
    helpers: JoinSet<()>,
}

impl Runtime {
    /// Returns a builder.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Starts a run of the latest version of a workflow. Await it to get a [`RunHandle`], or a
    /// [`TypedRun`](crate::TypedRun) if the workflow is named by a
    /// [`WorkflowRef`](crate::WorkflowRef).
    pub fn start<W, T>(&self, workflow: W, input: &T) -> W::Start
    where
        W: StartWorkflow<T>,
        T: Serialize + ?Sized,
    {
        workflow.into_start(|name| StartRun::new(self.client(), name, input))
    }

    /// Sends a signal to a run, and starts the run first if none has this id. Start and signal are
    /// one atomic append, so no run is started without its signal. Await it to get a [`RunHandle`];
    /// see [`StartRun::signal`].
    ///
    /// # Examples
    ///
    /// One run per shopping cart, whichever item comes first:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn cart(context: WorkflowContext, _customer: String) -> Result<Vec<String>, WorkflowError> {
    ///     let mut items = Vec::new();
    ///     while items.len() < 2 {
    ///         items.push(context.signal("item").await?);
    ///     }
    ///     Ok(items)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .store(aios_store::connect("memory://").await?)
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .workflow("cart", cart)
    /// #     .start()
    /// #     .await?;
    /// runtime.signal_with_start("cart", "cart-7", "Ada", "item", "tea").await?; // starts the run
    /// let run = runtime.signal_with_start("cart", "cart-7", "Ada", "item", "milk").await?;
    /// assert_eq!(run.result::<Vec<String>>().await?, ["tea", "milk"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal_with_start<T, P>(
        &self,
        workflow: &str,
        run_id: impl Into<String>,
        input: &T,
        signal: impl Into<Box<str>>,
        payload: &P,
    ) -> StartRun
    where
        T: Serialize + ?Sized,
        P: Serialize + ?Sized,
    {
        self.start(workflow, input).id(run_id).signal(signal, payload)
    }

    /// Sends a task to an agent, as a run with a single task. Await it to get a [`RunHandle`], or a
    /// [`TypedRun`](crate::TypedRun) if the agents are named by an [`AgentRef`](crate::AgentRef).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    ///
    /// # struct Upper;
    /// # impl Agent for Upper {
    /// #     type Parameters = String;
    /// #     type Output = String;
    /// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
    /// #         Ok(text.to_uppercase())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .store(aios_store::connect("memory://").await?)
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .agent("upper", Upper)
    /// #     .start()
    /// #     .await?;
    /// // The id makes the request safe to repeat: the task is assigned once.
    /// let run = runtime.task("upper", "hello").id("request-81").timeout(Duration::from_secs(60)).await?;
    /// assert_eq!(run.result::<String>().await?, "HELLO");
    /// # Ok(())
    /// # }
    /// ```
    pub fn task<A, T>(&self, agent: A, parameters: &T) -> A::Start
    where
        A: StartAgentTask<T>,
        T: Serialize + ?Sized,
    {
        agent.into_start(|target| StartTask::new(self.client(), target, parameters))
    }

    /// Starts a projection: reads the log from the projection's position and passes on the events
    /// that match its patterns; see [`projection`](crate::projection). Await it to get a
    /// [`ProjectionHandle`]; the projection then runs until the runtime stops. Needs a store.
    ///
    /// `name` matches `[a-z][a-z0-9_]*`. Only one process at a time runs the projection with a
    /// name.
    pub fn projection<P: Projection>(&self, name: &str, projection: P) -> StartProjection<'_, P> {
        let journals = self.client().map(|client| client.journals);
        StartProjection::new(journals, &self.projections, name, projection)
    }

    /// Returns a handle for a projection that runs here or elsewhere.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidConfiguration`] if the runtime has no store.
    pub fn projection_handle(&self, name: &str) -> Result<ProjectionHandle, RuntimeError> {
        ProjectionHandle::new(self.client()?.journals, name)
    }

    /// Returns a handle for an existing run, started here or elsewhere. While the store is unavailable, it
    /// is asked again for 30 s.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownRun`] if there is none; [`RuntimeError::InvalidRunId`] if the id is
    /// invalid; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn handle(&self, run_id: &str) -> Result<RunHandle, RuntimeError> {
        let client = self.client()?;
        run_id::check_existing(run_id)?;
        client.patiently(|| async { Ok(client.journals.row(run_id).await?) }).await?;
        Ok(RunHandle::new(client, run_id.into()))
    }

    /// Returns a handle for a run without looking it up, which saves a read. If there is no such run,
    /// signals and commands fail with [`RuntimeError::UnknownRun`], and waiting for its end fails too.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidRunId`] if the id is invalid; [`RuntimeError::InvalidConfiguration`] if
    /// the runtime has no store.
    pub fn handle_unchecked(&self, run_id: &str) -> Result<RunHandle, RuntimeError> {
        let client = self.client()?;
        run_id::check_existing(run_id)?;
        Ok(RunHandle::new(client, run_id.into()))
    }

    /// Something that a run waits for and that does not progress ([`RunRecord::waits_for`]); `None` if
    /// nothing is known. Rows that are read from the store do not have it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidConfiguration`] if the runtime has no store; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn waits_for(&self, run: &RunRecord) -> Result<Option<String>, RuntimeError> {
        self.client()?.waits_for(run).await
    }

    /// The agents that are resources: create, replace, delete and restart them here, and every process
    /// with a [factory](RuntimeBuilder::agent_factory) of their type hosts them.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidConfiguration`] if the runtime has no store.
    pub fn managed_agents(&self) -> Result<ManagedAgents, RuntimeError> {
        let Journals { store, clock, source, .. } = self.client()?.journals;
        let local = self.host.as_ref().map(AgentHost::registered_types).transpose()?;
        Ok(ManagedAgents::new(store, clock, source, local.unwrap_or_default()))
    }

    /// The schemas of the workflows of this runtime, of the highest version of each, by name.
    #[must_use]
    pub fn workflow_schemas(&self) -> Vec<WorkflowSchemas> {
        let registry = self.journals.iter().flat_map(|journals| journals.registry.all_latest());
        registry.map(|workflow| WorkflowSchemas::of(&**workflow)).collect()
    }

    /// The broker of this runtime.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The store of this runtime, if it has one.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        self.store.as_ref()
    }

    /// Shuts the runtime down: accepts no more tasks, and lets running tasks and steps end within
    /// `deadline`. A shard is handed over to another engine as soon as none of its steps is
    /// running. Broker and store stay open; they belong to the caller. No part of the engine holds the
    /// store any more.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Agents`] if tasks were still running after `deadline`. They were abandoned
    /// and are reassigned. [`RuntimeError::EngineStopped`], [`RuntimeError::Agents`] or
    /// [`RuntimeError::ProjectionStopped`] if the engine, the agents or a projection had failed
    /// before. The runtime has stopped in all cases.
    ///
    /// # Cancel safety
    ///
    /// A cancelled shutdown abandons running tasks and steps.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), RuntimeError> {
        let host = self.host.take();
        let engine = self.engine.take();
        // Agents and engine stop at the same time: running tasks may need the engine for their
        // answers.
        let draining = async {
            match host {
                Some(host) => host.shutdown(deadline).await,
                None => Ok(()),
            }
        };
        let leaving = async {
            if let Some(engine) = &engine {
                engine.leave(deadline).await;
            }
        };
        let (drained, ()) = join(draining, leaving).await;
        self.helpers.shutdown().await;
        if let Some(journals) = &self.journals {
            self.projections.stop(&*journals.clock, deadline).await;
        }
        let failure = match engine {
            Some(engine) => engine.stop().await,
            None => None,
        };
        drained?;
        if let Some(failure) = failure {
            return Err(RuntimeError::EngineStopped { failure });
        }
        self.projections
            .failure()
            .map_or(Ok(()), |failure| Err(RuntimeError::ProjectionStopped { failure }))
    }

    /// The reason why part of this runtime stopped, if it did: a permanent error of store or
    /// broker, or a panic of the engine.
    ///
    /// An engine that stopped has handed over its shards; starting runs and waiting for their
    /// results then fails. Agents that failed no longer take tasks from a subscription, no longer
    /// receive cancellations, or are not announced; see
    /// [`AgentHost::failure`](crate::agent::AgentHost::failure). A projection that stopped applies
    /// no more events here. All other parts continue to work.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        let engine = self.engine.as_ref().and_then(|running| running.engine.failure());
        let agents = || self.host.as_ref().and_then(AgentHost::failure);
        engine.or_else(agents).or_else(|| self.projections.failure())
    }

    /// Completes when part of this runtime fails; see [`failure`](Self::failure).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Examples
    ///
    /// A service that ends when it can no longer work, so that its supervisor starts it again:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::{Runtime, RuntimeError};
    ///
    /// async fn serve(runtime: Runtime, stop: impl Future<Output = ()>) -> Result<(), RuntimeError> {
    ///     tokio::select! {
    ///         failure = runtime.failed() => eprintln!("stopping: {failure}"),
    ///         () = stop => {}
    ///     }
    ///     runtime.shutdown(Duration::from_secs(30)).await
    /// }
    /// # let _ = |runtime| serve(runtime, std::future::ready(()));
    /// ```
    pub async fn failed(&self) -> Failure {
        let engine = async {
            match &self.engine {
                Some(running) => running.engine.failed().await,
                None => std::future::pending().await,
            }
        };
        let agents = async {
            match &self.host {
                Some(host) => host.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            failure = engine => failure,
            failure = agents => failure,
            failure = self.projections.failed() => failure,
        }
    }

    /// The types of agents whose code blocks the thread or event loop it runs on at the moment. They
    /// take no tasks until it resumes; see [`AgentHost::blocked_types`].
    #[must_use]
    pub fn blocked_agent_types(&self) -> Vec<Name> {
        self.host.as_ref().map(AgentHost::blocked_types).unwrap_or_default()
    }

    /// The ids of the runs whose code blocks the thread or event loop where it runs at the moment; see
    /// [`EngineOptions::blocked_after`].
    #[must_use]
    pub fn blocking_runs(&self) -> Vec<Arc<str>> {
        self.engine.as_ref().map(|running| running.engine.blocking_runs()).unwrap_or_default()
    }

    /// The parts that a handle of a run needs. An error without a store.
    fn client(&self) -> Result<Client, RuntimeError> {
        let journals = self.journals.clone().ok_or_else(|| RuntimeError::InvalidConfiguration {
            reason: "a runtime without a store has no runs".to_owned(),
        })?;
        let engine = self.engine.as_ref().map(|running| Arc::clone(&running.engine));
        Ok(Client { journals, engine, ends: Arc::clone(&self.ends) })
    }
}
