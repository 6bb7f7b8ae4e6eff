//! Builds a runtime from its parts, and starts them.
//!
//! The order of the start: check the options, define the agent types of workflows, start the host, record
//! the workflows, answer processes without a store, start the engine. Agents take tasks before the engine
//! assigns any. If a step fails, the runtime that is half built is dropped, which stops what has begun.

use std::{fmt, future::Future, sync::Arc};

use aios_core::{
    agent::TaskError,
    broker::Broker,
    catalog::workflow,
    clock::{Clock, SystemClock},
    event::{Event, EventId, EventType},
    store::{Append, EventStore, Store, StreamId},
};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    EngineOptions, RunExecutor, Runtime, RuntimeError, single_task,
    workflow_agent::{self, LateEngine},
};
use crate::{
    agent::{AgentDefinition, AgentHost, AgentSet, HostOptions, IntoDynAgent, managed},
    counting_store::CountingStore,
    declared::WorkflowName,
    projection::Running,
    task::JoinSet,
    workflow::{
        FnWorkflow, Registry, Workflow, WorkflowContext, WorkflowError, engine::Engine,
        journal::Journals,
    },
};

/// Builds a [`Runtime`]. Setters never fail; [`start`](Self::start) checks their arguments.
///
/// # Examples
///
/// Each process picks its roles. Agents need no store, and a client needs no engine:
///
/// ```
/// use aios_agents::{RuntimeError, prelude::*};
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// # async fn order(_: WorkflowContext, (): ()) -> Result<(), WorkflowError> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = aios_store::connect("memory://").await?; // or postgres://…
/// let broker = aios_broker::connect("memory://").await?; // or amqp://…
///
/// let agents = Runtime::builder().broker(broker.clone()).agent("upper", Upper).start().await?;
/// let engine = Runtime::builder()
///     .store(store.clone())
///     .broker(broker.clone())
///     .source("orders")
///     .workflow("order", order)
///     .start()
///     .await?;
/// let client = Runtime::builder().store(store).broker(broker).client_only().start().await?;
///
/// let run = client.task("upper", "hello").await?;
/// assert_eq!(run.result::<String>().await?, "HELLO");
/// # drop((agents, engine));
///
/// // Mistakes are reported by `start`.
/// let error = Runtime::builder().workflow("order", order).start().await.unwrap_err();
/// assert!(matches!(error, RuntimeError::InvalidConfiguration { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct RuntimeBuilder {
    /// Required for workflows, and for a client.
    store: Option<Arc<dyn Store>>,
    /// Required.
    broker: Option<Arc<dyn Broker>>,
    /// The system clock if `None`.
    clock: Option<Arc<dyn Clock>>,
    /// `aios` if `None`.
    source: Option<Arc<str>>,
    agents: AgentSet,
    /// An invalid name is kept as an error, because setters cannot fail.
    workflows: Vec<Result<Arc<dyn Workflow>, RuntimeError>>,
    /// Names of workflows that are agent types, too.
    workflow_agents: Vec<String>,
    engine: EngineOptions,
    /// The threads of the runtime if `None`.
    executor: Option<Arc<dyn RunExecutor>>,
    host: HostOptions,
    /// Set by `client_only`.
    no_engine: bool,
}

impl RuntimeBuilder {
    /// Sets the store of runs and events.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the broker of tasks and events.
    #[must_use]
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Sets the clock. The default is the system clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets the name of this service, which is the source of its events: 1 to 255 bytes. The default is
    /// `aios`.
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

    /// Adds agents of a type from a full definition.
    #[must_use]
    pub fn agents(mut self, definition: AgentDefinition) -> Self {
        self.agents = self.agents.definition(definition);
        self
    }

    /// Adds an agent type whose agents are resources: they are created, replaced, deleted and restarted
    /// with [`Runtime::managed_agents`] or over the HTTP API, and `make` creates them from their configs;
    /// see [`AgentDefinition::managed`].
    #[must_use]
    pub fn agent_factory<C, A, E, M>(
        mut self,
        agent_type: impl Into<String>,
        make: impl Fn(C) -> Result<A, E> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned + JsonSchema,
        A: IntoDynAgent<M>,
        E: Into<TaskError>,
    {
        self.agents = self.agents.agent_factory(agent_type, make);
        self
    }

    /// Adds an async function as version 1 of a workflow.
    ///
    /// The input is decoded from JSON and must be owned: `String`, not `&str`. With a
    /// [`WorkflowRef`](crate::WorkflowRef) as the name, the compiler checks the types of the
    /// function.
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

    /// Adds an async function as a version of a workflow. New runs get the highest version;
    /// existing runs keep theirs.
    ///
    /// # Examples
    ///
    /// The code of version 1 stays until its last run has ended:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn order_v1(context: WorkflowContext, item: String) -> Result<u32, WorkflowError> {
    ///     context.task("prices", &item).await
    /// }
    ///
    /// async fn order_v2(context: WorkflowContext, item: String) -> Result<u32, WorkflowError> {
    ///     context.task::<()>("stock", &item).await?;
    ///     context.task("prices", &item).await
    /// }
    ///
    /// let builder = Runtime::builder()
    ///     .workflow_version("order", 1, order_v1)
    ///     .workflow_version("order", 2, order_v2);
    /// # drop(builder);
    /// ```
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

    /// Adds an implementation of [`Workflow`].
    #[must_use]
    pub fn workflow_dyn(mut self, workflow: Arc<dyn Workflow>) -> Self {
        self.workflows.push(Ok(workflow));
        self
    }

    /// Makes a workflow of this runtime an agent type of the same name, too: each task is a run of its
    /// latest version, with the parameters as input and the result as output.
    ///
    /// Each task starts one run. If the task is delivered or assigned again, the new attempt waits for the
    /// same run. If the task is cancelled or an attempt times out, the run is cancelled, and a further
    /// attempt fails with `RUN_CANCELLED`. If the process dies and the task is cancelled before another
    /// process receives it, the run continues. The progress of the task contains the id of the run as
    /// `run_id`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn review(context: WorkflowContext, text: String) -> Result<String, WorkflowError> {
    ///     context.run("count", || async { format!("{} words", text.split(' ').count()) }).await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = Runtime::builder()
    ///     .store(aios_store::connect("memory://").await?)
    ///     .broker(aios_broker::connect("memory://").await?)
    ///     .workflow("review", review)
    ///     .workflow_agent("review")
    ///     .start()
    ///     .await?;
    /// let task = runtime.task("review", "short and clear").await?;
    /// assert_eq!(task.result::<String>().await?, "3 words");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn workflow_agent(mut self, workflow: impl Into<String>) -> Self {
        self.workflow_agents.push(workflow.into());
        self
    }

    /// Sets the options of the engine.
    #[must_use]
    pub fn engine_options(mut self, options: EngineOptions) -> Self {
        self.engine = options;
        self
    }

    /// Sets the executor that polls the runs. The default is the threads of the runtime.
    #[must_use]
    pub fn executor(mut self, executor: Arc<dyn RunExecutor>) -> Self {
        self.executor = Some(executor);
        self
    }

    /// Sets the options of the agent host.
    #[must_use]
    pub fn host_options(mut self, options: HostOptions) -> Self {
        self.host = options;
        self
    }

    /// Starts no engine: this runtime can start and handle runs, and engines of other processes
    /// advance them. Register the workflows that it starts, so that a run begins with the right version;
    /// their code does not run here.
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.no_engine = true;
        self
    }

    /// Starts the runtime: agents take tasks, and unfinished runs resume.
    ///
    /// # Errors
    ///
    /// - [`RuntimeError::InvalidConfiguration`] without a broker, for workflows without a store, for a
    ///   version of a workflow that is added twice, and for an option out of range
    /// - [`RuntimeError::InvalidWorkflow`] if a workflow has an invalid name
    /// - [`RuntimeError::UnknownWorkflow`] if a name passed to [`workflow_agent`](Self::workflow_agent) is
    ///   not a workflow of this runtime
    /// - [`RuntimeError::Agents`] if the definition of an agent is invalid
    /// - errors of the store and the broker
    ///
    /// # Cancel safety
    ///
    /// A cancelled start leaves nothing running.
    pub async fn start(self) -> Result<Runtime, RuntimeError> {
        self.engine.validate().map_err(|reason| invalid(&format!("engine options: {reason}")))?;
        let broker = self.broker.ok_or_else(|| invalid("a runtime needs a broker"))?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let source = self.source.unwrap_or_else(|| "aios".into());
        Event::check_source(&source).map_err(|error| invalid(&error.to_string()))?;
        let has_workflows = !(self.workflows.is_empty() && self.workflow_agents.is_empty());
        if self.store.is_none() && has_workflows {
            return Err(invalid("workflows need a store"));
        }
        let registry = registry_of(self.workflows, &source)?;
        let journals = self.store.as_ref().map(|store| {
            let store = CountingStore::new(Arc::clone(store), Arc::clone(&clock));
            Journals::new(store, registry, Arc::clone(&clock), Arc::clone(&source))
        });
        let mut runtime = Runtime {
            broker: Arc::clone(&broker),
            store: self.store.clone(),
            journals: journals.clone(),
            ends: Arc::default(),
            engine: None,
            host: None,
            projections: Running::default(),
            helpers: JoinSet::new(),
        };
        let late_engine = LateEngine::default();
        let mut agents = self.agents;
        for name in &self.workflow_agents {
            agents = agents.definition(runtime.workflow_agent(name, &late_engine)?);
        }
        let agent_types = agents.types();
        if !agents.is_empty() {
            let host = AgentHost::builder(agents).options(self.host).clock(clock);
            let host = host.broker(Arc::clone(&broker)).source(source);
            // Counted, so that the announcements of agents do not look like appends of other
            // processes.
            let counted = journals.as_ref().map(|journals| Arc::clone(&journals.store));
            let host = match counted {
                Some(store) => host.store(store),
                None => host,
            };
            runtime.host = Some(host.start().await?);
        }
        if let Some(journals) = journals.filter(|_| !self.no_engine) {
            register(&journals).await?;
            runtime.helpers.spawn(managed::serve(managed::Server {
                broker: Arc::clone(&broker),
                store: Arc::<CountingStore>::clone(&journals.store),
                clock: Arc::clone(&journals.clock),
                source: Arc::clone(&journals.source),
                in_use: Mutex::default(),
            }));
            let engine = Engine::start(journals, broker, agent_types, self.engine, self.executor);
            let running = engine.await?;
            // Set once: each start has a cell of its own.
            let _ = late_engine.set(Arc::downgrade(&running.engine));
            runtime.engine = Some(running);
        }
        Ok(runtime)
    }
}

impl Runtime {
    /// The agent type of a workflow.
    fn workflow_agent(
        &self,
        name: &str,
        engine: &LateEngine,
    ) -> Result<AgentDefinition, RuntimeError> {
        let client = self.client()?;
        let registry = &client.journals.registry;
        let registered = registry.latest(name).ok_or_else(|| RuntimeError::UnknownWorkflow {
            workflow: name.to_owned(),
            registered: registry.names(),
        })?;
        let workflow = Arc::clone(&registered.workflow);
        Ok(workflow_agent::definition(&*workflow, client, Arc::clone(engine)))
    }
}

/// The workflows of a runtime, and the one that runs single tasks.
fn registry_of(
    workflows: Vec<Result<Arc<dyn Workflow>, RuntimeError>>,
    source: &Arc<str>,
) -> Result<Registry, RuntimeError> {
    let mut registry = Registry::default();
    for workflow in workflows {
        add(&mut registry, workflow?, source)?;
    }
    add(&mut registry, single_task::workflow()?, source)?;
    Ok(registry)
}

/// Adds a workflow. The same version of a workflow twice is an error, because it would be unclear
/// which code a run gets.
fn add(
    registry: &mut Registry,
    workflow: Arc<dyn Workflow>,
    source: &Arc<str>,
) -> Result<(), RuntimeError> {
    let name = workflow.name().clone();
    let version = workflow.version();
    match registry.add(workflow, source)? {
        true => Ok(()),
        false => Err(invalid(&format!("version {version} of workflow {name} is added twice"))),
    }
}

/// Records the registered workflows in the log, once per version.
async fn register(journals: &Journals) -> Result<(), RuntimeError> {
    let mut appends = Vec::new();
    for registered in journals.registry.iter() {
        let name = registered.workflow.name();
        let version = registered.workflow.version();
        let event_type = EventType::new(workflow::DOMAIN, name.as_str(), workflow::REGISTERED)?;
        let source = Arc::clone(&journals.source);
        let event = Event::new(event_type, source, &workflow::Registered::new(version))?
            .with_timestamp(journals.clock.now())
            // The id derives from name and version, so the store recognises a repeated start.
            .with_id(EventId::derive(&format!("workflows/{name}@{version}/registered")));
        appends.push(Append::new(StreamId::new(format!("workflows/{name}"))?, vec![event]));
    }
    for result in journals.store.append(appends).await {
        result?;
    }
    Ok(())
}

/// The error of an invalid option.
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
