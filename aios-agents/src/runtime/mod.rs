//! The runtime: agents and workflows of one process, on a store and a broker.

mod builder;
mod ends;
mod error;
mod handle;
mod run_events;
mod single_task;
mod start;

use std::{sync::Arc, time::Duration};

use aios_core::{broker::Broker, failure::Failure, store::Store};
use futures_util::future::join;
use serde::Serialize;

use self::ends::Ends;
pub(crate) use self::single_task::NAME as SINGLE_TASK;
pub use self::{
    builder::RuntimeBuilder,
    error::{RunError, RuntimeError},
    handle::RunHandle,
    run_events::RunEvents,
    single_task::StartTask,
    start::StartRun,
};
pub use crate::workflow::engine::{AnonymousAnswers, EngineOptions, RefusedEvents, RunExecutor};
use crate::{
    agent::AgentHost,
    declared::{StartAgentTask, StartWorkflow},
    projection::{Projection, ProjectionHandle, Running, StartProjection},
    workflow::{
        engine::{Engine, Message, RunningEngine},
        journal::Journals,
        run_id,
    },
};

/// Agents and workflows that run in this process.
///
/// It needs a broker. With a store it also starts and advances runs; without one it only hosts
/// agents. What is dropped without [`shutdown`](Self::shutdown) goes on after the next start.
#[derive(Debug)]
pub struct Runtime {
    broker: Arc<dyn Broker>,
    store: Option<Arc<dyn Store>>,
    journals: Option<Journals>,
    ends: Arc<Ends>,
    engine: Option<RunningEngine>,
    host: Option<AgentHost>,
    projections: Running,
}

impl Runtime {
    /// Begins to describe a runtime.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Starts a run of a workflow's latest version; await it to get a [`RunHandle`], or a
    /// [`TypedRun`](crate::TypedRun) if the workflow is named by a [`WorkflowRef`](crate::WorkflowRef).
    pub fn start<W, T>(&self, workflow: W, input: &T) -> W::Start
    where
        W: StartWorkflow<T>,
        T: Serialize + ?Sized,
    {
        workflow.into_start(|name| StartRun::new(self.client(), name, input))
    }

    /// Sends a signal to a run, and starts the run first if there is none with this id: both at once,
    /// so that no run is started without its signal. Await it to get a [`RunHandle`]; see
    /// [`StartRun::with_signal`].
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
        self.start(workflow, input).with_id(run_id).with_signal(signal, payload)
    }

    /// Gives a task to an agent, as a run of one step; await it to get a [`RunHandle`], or a
    /// [`TypedRun`](crate::TypedRun) if the agents are named by an [`AgentRef`](crate::AgentRef).
    pub fn task<A, T>(&self, agent: A, parameters: &T) -> A::Start
    where
        A: StartAgentTask<T>,
        T: Serialize + ?Sized,
    {
        agent.into_start(|target| StartTask::new(self.client(), target, parameters))
    }

    /// Starts a projection: reads the log from where it is, and hands over what its patterns match;
    /// see [`projection`](crate::projection). Await it to get a [`ProjectionHandle`]; the projection
    /// then runs until the runtime stops. It needs a store.
    ///
    /// `name` is `[a-z][a-z0-9_]*`. One process at a time runs the projection of a name.
    pub fn projection<P: Projection>(&self, name: &str, projection: P) -> StartProjection<'_, P> {
        let journals = self.client().map(|client| client.journals);
        StartProjection::new(journals, &self.projections, name, projection)
    }

    /// A handle for a projection that runs here or elsewhere.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::InvalidConfiguration`] if the runtime has no store.
    pub fn projection_handle(&self, name: &str) -> Result<ProjectionHandle, RuntimeError> {
        ProjectionHandle::new(self.client()?.journals, name)
    }

    /// A handle for a run that was started before, here or elsewhere.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownRun`] if there is none; [`RuntimeError::InvalidRunId`] if none can have
    /// this id; what the store reports.
    pub async fn handle(&self, run_id: &str) -> Result<RunHandle, RuntimeError> {
        let client = self.client()?;
        run_id::check_existing(run_id)?;
        client.journals.row(run_id).await?;
        Ok(RunHandle::new(client, run_id.into()))
    }

    /// The broker that it was given.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The store that it was given.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        self.store.as_ref()
    }

    /// Takes no more tasks, and lets tasks and steps that run end within `deadline`. A shard passes to
    /// another engine as soon as no step of its runs runs. Broker and store stay open; they are the
    /// caller's.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Agents`] if tasks still ran after `deadline`. They were given up and are
    /// given again. [`RuntimeError::EngineStopped`], [`RuntimeError::Agents`] or
    /// [`RuntimeError::ProjectionStopped`] if the engine, the agents or a projection had stopped before,
    /// by themselves. The runtime has stopped all the same.
    ///
    /// # Cancel safety
    ///
    /// A cancelled shutdown gives up what runs.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), RuntimeError> {
        let (host, engine) = (self.host.take(), self.engine.take());
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

    /// Why a part of this runtime stopped by itself, if one did: an error of the store or the broker
    /// that will not pass, or a panic of the engine. If it was the engine, it has handed its shards
    /// over; starting runs fails from then on, and so does waiting for their results. If it was the
    /// agents, they take no tasks from a subscription any more, hear of no cancellations, or are not
    /// announced; see [`AgentHost::failure`](crate::agent::AgentHost::failure). If it was a projection,
    /// nothing more is applied here. Whatever did not stop goes on.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        let engine = self.engine.as_ref().and_then(|running| running.engine.failure());
        let agents = || self.host.as_ref().and_then(AgentHost::failure);
        engine.or_else(agents).or_else(|| self.projections.failure())
    }

    /// Completes when a part of this runtime stops by itself. See [`failure`](Self::failure).
    ///
    /// # Cancel safety
    ///
    /// It can be called again.
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

    fn client(&self) -> Result<Client, RuntimeError> {
        let journals = self.journals.clone().ok_or_else(|| RuntimeError::InvalidConfiguration {
            reason: "a runtime without a store has no runs".to_owned(),
        })?;
        let engine = self.engine.as_ref().map(|running| Arc::clone(&running.engine));
        Ok(Client { journals, engine, ends: Arc::clone(&self.ends) })
    }
}

/// What starting and handling runs needs.
#[derive(Clone, Debug)]
struct Client {
    journals: Journals,
    /// The engine of this process, which is told at once what others find by polling.
    engine: Option<Arc<Engine>>,
    ends: Arc<Ends>,
}

impl Client {
    /// Fails once the engine of this process has stopped by itself.
    fn check(&self) -> Result<(), RuntimeError> {
        match self.engine.as_ref().and_then(|engine| engine.failure()) {
            Some(failure) => Err(RuntimeError::EngineStopped { failure }),
            None => Ok(()),
        }
    }

    /// Tells a run that something was appended to its journal.
    fn nudge(&self, run_id: String) {
        if let Some(engine) = &self.engine {
            engine.send(&run_id.into(), Message::Wake);
        }
    }
}
