use std::{fmt, future::Future, sync::Arc};

use aios_core::{
    broker::Broker,
    catalog::workflow,
    clock::{Clock, SystemClock},
    event::{Event, EventId, EventType},
    store::{Append, EventStore, Store, StreamId},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{EngineOptions, Runtime, RuntimeError, single_task};
use crate::{
    agent::{AgentDefinition, AgentHost, AgentSet, HostOptions, IntoDynAgent},
    counted::CountedStore,
    declared::WorkflowName,
    projection::Running,
    workflow::{
        FnWorkflow, Workflow, WorkflowContext, WorkflowError,
        engine::{Engine, Registry},
        journal::Journals,
    },
};

/// Describes a [`Runtime`]. Setters can't fail; [`start`](Self::start) checks.
#[derive(Default)]
pub struct RuntimeBuilder {
    store: Option<Arc<dyn Store>>,
    broker: Option<Arc<dyn Broker>>,
    clock: Option<Arc<dyn Clock>>,
    source: Option<Arc<str>>,
    agents: AgentSet,
    workflows: Vec<Result<Arc<dyn Workflow>, RuntimeError>>,
    engine: EngineOptions,
    host: HostOptions,
    no_engine: bool,
}

impl RuntimeBuilder {
    /// Sets where runs are kept.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets what moves tasks and events.
    #[must_use]
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Sets the clock; the system's is the default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets the name of this service, the source of the events it makes; `aios` is the default.
    #[must_use]
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds one agent of a type; see [`AgentDefinition::instance`].
    #[must_use]
    pub fn agent<M>(mut self, agent_type: impl Into<String>, agent: impl IntoDynAgent<M>) -> Self {
        self.agents = self.agents.agent(agent_type, agent);
        self
    }

    /// Adds agents of a type, with everything that can be said of them.
    #[must_use]
    pub fn agents(mut self, definition: AgentDefinition) -> Self {
        self.agents = self.agents.definition(definition);
        self
    }

    /// Adds an async function as version 1 of a workflow.
    ///
    /// The input is decoded from JSON and has to be owned: `String`, not `&str`. With a
    /// [`WorkflowRef`](crate::WorkflowRef) as its name, the compiler checks that the function fits.
    #[must_use]
    pub fn workflow<F, I, O, Fut>(self, name: impl WorkflowName<I, O>, function: F) -> Self
    where
        F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        self.workflow_version(name, 1, function)
    }

    /// Adds an async function as a version of a workflow. New runs get the highest version; older
    /// runs go on with theirs.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "a name is a text or a declaration")]
    pub fn workflow_version<F, I, O, Fut>(
        mut self,
        name: impl WorkflowName<I, O>,
        version: u32,
        function: F,
    ) -> Self
    where
        F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        let named = FnWorkflow::new(name.into_name(), function).map_err(RuntimeError::from);
        self.workflows.push(
            named.map(|workflow| -> Arc<dyn Workflow> { Arc::new(workflow.with_version(version)) }),
        );
        self
    }

    /// Adds anything that can be run as a workflow.
    #[must_use]
    pub fn workflow_dyn(mut self, workflow: Arc<dyn Workflow>) -> Self {
        self.workflows.push(Ok(workflow));
        self
    }

    /// Sets how the engine behaves.
    #[must_use]
    pub fn engine_options(mut self, options: EngineOptions) -> Self {
        self.engine = options;
        self
    }

    /// Sets how agents are hosted.
    #[must_use]
    pub fn host_options(mut self, options: HostOptions) -> Self {
        self.host = options;
        self
    }

    /// Starts and handles runs, but leaves advancing them to the engines of other processes.
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.no_engine = true;
        self
    }

    /// Starts everything: agents take tasks, unfinished runs go on.
    ///
    /// # Errors
    ///
    /// What is wrong with what the builder was given; what broker and store refuse.
    ///
    /// # Cancel safety
    ///
    /// A cancelled start leaves nothing running.
    pub async fn start(self) -> Result<Runtime, RuntimeError> {
        self.engine.validate().map_err(|reason| invalid(&format!("engine options: {reason}")))?;
        let broker = self.broker.ok_or_else(|| invalid("a runtime needs a broker"))?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let source = self.source.unwrap_or_else(|| "aios".into());
        if self.store.is_none() && !self.workflows.is_empty() {
            return Err(invalid("workflows need a store"));
        }
        let mut registry = Registry::default();
        for workflow in self.workflows {
            add(&mut registry, workflow?, &source)?;
        }
        add(&mut registry, single_task::workflow()?, &source)?;
        let journals = self.store.as_ref().map(|store| Journals {
            store: Arc::new(CountedStore::new(Arc::clone(store))),
            clock: Arc::clone(&clock),
            registry: Arc::new(registry),
            source: Arc::clone(&source),
        });
        let mut runtime = Runtime {
            broker: Arc::clone(&broker),
            store: self.store.clone(),
            journals: journals.clone(),
            ends: Arc::default(),
            engine: None,
            host: None,
            projections: Running::default(),
        };
        let agent_types = self.agents.types();
        if !self.agents.is_empty() {
            let broker = Arc::clone(&broker);
            // Counted, so that what agents announce does not look as if others had appended it.
            let store = journals
                .as_ref()
                .map(|journals| -> Arc<dyn Store> { Arc::<CountedStore>::clone(&journals.store) });
            let host =
                AgentHost::start(broker, clock, store, source, self.agents, self.host).await?;
            runtime.host = Some(host);
        }
        if let Some(journals) = journals.filter(|_| !self.no_engine) {
            register(&journals).await?;
            runtime.engine = Some(Engine::start(journals, broker, agent_types, self.engine).await?);
        }
        Ok(runtime)
    }
}

fn add(
    registry: &mut Registry,
    workflow: Arc<dyn Workflow>,
    source: &Arc<str>,
) -> Result<(), RuntimeError> {
    let (name, version) = (workflow.name().clone(), workflow.version());
    match registry.add(workflow, source)? {
        true => Ok(()),
        false => Err(invalid(&format!("version {version} of workflow {name} is added twice"))),
    }
}

/// Notes in the log which workflows there are, once for each version.
async fn register(journals: &Journals) -> Result<(), RuntimeError> {
    let mut appends = Vec::new();
    for registered in journals.registry.iter() {
        let (name, version) = (registered.workflow.name(), registered.workflow.version());
        let event_type = EventType::new(workflow::DOMAIN, name.as_str(), workflow::REGISTERED)?;
        let source = Arc::clone(&journals.source);
        let event = Event::new(event_type, source, &workflow::Registered { version })?
            .with_timestamp(journals.clock.now())
            .with_id(EventId::derive(&format!("workflows/{name}@{version}/registered")));
        appends.push(Append::new(StreamId::new(format!("workflows/{name}"))?, vec![event]));
    }
    for result in journals.store.append(appends).await {
        result?;
    }
    Ok(())
}

fn invalid(reason: &str) -> RuntimeError {
    RuntimeError::InvalidConfiguration { reason: reason.to_owned() }
}

impl fmt::Debug for RuntimeBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RuntimeBuilder")
            .field("agents", &self.agents)
            .finish_non_exhaustive()
    }
}
