//! How the agents of one type are created and run in a process.
//!
//! A definition is plain data until the host starts. Setters cannot fail, so the first error is
//! kept and reported by `validate`, which the host calls before it does anything else. The factory
//! hides the difference between an instance, a function, an async function and a function of
//! another language: all of them are functions from a config to an object-safe agent.

use std::{fmt, future::Future, sync::Arc};

use aios_core::{
    BoxFuture,
    agent::{DynAgent, Name, TaskError},
    catalog::agent::TypeRegistered,
    event::{EventId, Payload},
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{AgentError, IntoDynAgent, Pulse, names::mailbox_of, validation::decode};
use crate::middleware::{Layer, Middleware};
use crate::schema::schema_of;

/// Creates an agent from its config.
pub(super) type Factory =
    Arc<dyn Fn(Payload) -> BoxFuture<'static, Result<Arc<dyn DynAgent>, TaskError>> + Send + Sync>;

/// One agent: a row of `agents`.
///
/// # Examples
///
/// ```
/// use aios_agents::{agent::{AgentDefinition, RegisteredAgent}, prelude::*};
///
/// # struct Upper;
/// # impl Agent for Upper {
/// #     type Parameters = String;
/// #     type Output = String;
/// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
/// #         Ok(text.to_uppercase())
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Payload::encode("gpu")?;
/// let agent = RegisteredAgent::new("renderer", "Rack 7", config).with_id("rack-7");
/// // A workflow reaches exactly this agent with `context.task(("renderer", "rack-7"), …)`.
/// let renderers = AgentDefinition::factory("renderer", |_: String| Ok::<_, TaskError>(Upper))
///     .register_agent(agent);
/// # drop(renderers);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredAgent {
    /// Id of the agent. It is part of its mailbox's name, so it consists of `[A-Za-z0-9._-]`. It is
    /// unique among the agents of all types.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Input of its factory.
    pub config: Payload,
}

impl RegisteredAgent {
    /// Creates a registration whose id derives from type and name, so that it is the same after a
    /// restart and in every replica.
    #[must_use]
    pub fn new(agent_type: &str, name: impl Into<String>, config: Payload) -> Self {
        let name = name.into();
        let id = EventId::derive(&format!("agents/{agent_type}/{name}")).to_string();
        Self { id, name, config }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }
}

/// How agents of one type are created and run.
///
/// # Examples
///
/// Two agents of one type, each with its own config and limits that they share:
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::{agent::AgentDefinition, middleware::RateLimit, prelude::*};
/// use aios_core::clock::SystemClock;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Config {
///     region: String,
/// }
///
/// struct Deployer {
///     region: String,
/// }
///
/// impl Agent for Deployer {
///     type Parameters = String;
///     type Output = String;
///
///     async fn process_task(&self, _: &TaskContext, image: String) -> Result<String, TaskError> {
///         Ok(format!("{image} in {}", self.region))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let make = |config: Config| Ok::<_, TaskError>(Deployer { region: config.region });
/// let deployers = AgentDefinition::factory("deployer", make)
///     .register("north", &serde_json::json!({"region": "eu-north"}))
///     .register("south", &serde_json::json!({"region": "eu-south"}))
///     .with_concurrency(4)
///     .with_layer(RateLimit::new(Arc::new(SystemClock), 10, Duration::from_secs(1))?);
///
/// # let runtime = Runtime::builder()
/// #     .store(aios_store::connect("memory://").await?)
/// #     .broker(aios_broker::connect("memory://").await?)
/// #     .agents(deployers)
/// #     .start()
/// #     .await?;
/// # let run = runtime.task("deployer", "web:7").await?;
/// # assert!(run.result::<String>().await?.starts_with("web:7 in eu-"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AgentDefinition {
    /// As given; `validate` checks it.
    pub(super) agent_type: String,
    /// Called once per agent, and again after each failure that is retryable.
    pub(super) factory: Factory,
    /// Slots of the type in this process, shared by all of its agents.
    pub(super) concurrency: u16,
    /// In the order in which they were added; the first is the outermost.
    pub(super) layers: Vec<Arc<dyn Layer>>,
    /// Registered in code. Agents that are resources are not listed here.
    pub(super) agents: Vec<RegisteredAgent>,
    /// Where the code runs, if that is not the runtime of the host.
    pub(super) pulse: Option<Arc<dyn Pulse>>,
    /// JSON Schema of the config, if agents of this type can be created as resources.
    pub(super) config_schema: Option<Value>,
    /// JSON Schemas of parameters and output, if they are known before an agent is created.
    pub(super) task_schemas: Option<(Value, Value)>,
    /// The last error of a setter.
    error: Option<AgentError>,
}

impl AgentDefinition {
    /// Default number of tasks that the agents of a type run concurrently in this process.
    pub const DEFAULT_CONCURRENCY: u16 = 256;

    /// Defines a type with one existing agent, registered under the name of the type.
    #[must_use]
    pub fn instance<M>(agent_type: impl Into<String>, agent: impl IntoDynAgent<M>) -> Self {
        let agent_type = agent_type.into();
        let registered = RegisteredAgent::new(&agent_type, agent_type.clone(), Payload::null());
        let agents = vec![registered];
        match agent.into_dyn() {
            Ok(agent) => {
                let schemas = (agent.parameters_schema().clone(), agent.output_schema().clone());
                let factory = Arc::new(move |_| ready(Ok(Arc::clone(&agent))));
                let task_schemas = Some(schemas);
                Self { agents, task_schemas, ..Self::with_factory(agent_type, factory) }
            }
            Err(error) => {
                let factory = Self::with_factory(agent_type, Arc::new(refuse));
                Self { agents, error: Some(error), ..factory }
            }
        }
    }

    /// Defines a type whose agents `make` creates from their configs, one for each
    /// [`register`](Self::register).
    ///
    /// A failed `make` is retried with back-off until it succeeds. A
    /// [terminal](TaskError::terminal) failure, or a config that does not decode to `C`, ends the
    /// attempts.
    #[must_use]
    pub fn factory<C, A, E, M>(
        agent_type: impl Into<String>,
        make: impl Fn(C) -> Result<A, E> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned,
        A: IntoDynAgent<M>,
        E: Into<TaskError>,
    {
        let create = move |config: &Payload| {
            make(decode(config)?).map_err(Into::into)?.into_dyn().map_err(terminal)
        };
        Self::with_factory(agent_type.into(), Arc::new(move |config| ready(create(&config))))
    }

    /// Like [`factory`](Self::factory), with an async `make`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::{agent::AgentDefinition, prelude::*};
    ///
    /// # struct Upper;
    /// # impl Agent for Upper {
    /// #     type Parameters = String;
    /// #     type Output = String;
    /// #     async fn process_task(&self, _: &TaskContext, text: String) -> Result<String, TaskError> {
    /// #         Ok(text.to_uppercase())
    /// #     }
    /// # }
    /// /// Connects to a server. A failure is retried until it succeeds.
    /// async fn connect(url: String) -> Result<Upper, TaskError> {
    ///     println!("connecting to {url}");
    ///     Ok(Upper)
    /// }
    ///
    /// let definition = AgentDefinition::async_factory("upper", connect)
    ///     .register("north", "https://north.example")
    ///     .register("south", "https://south.example");
    /// # drop(definition);
    /// ```
    #[must_use]
    pub fn async_factory<C, A, E, M, F>(
        agent_type: impl Into<String>,
        make: impl Fn(C) -> F + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned + Send + 'static,
        A: IntoDynAgent<M> + Send,
        E: Into<TaskError>,
        F: Future<Output = Result<A, E>> + Send + 'static,
    {
        let start = move |config: &Payload| Ok::<_, TaskError>(make(decode(config)?));
        let factory: Factory = Arc::new(move |config| {
            let started = start(&config);
            Box::pin(
                async move { started?.await.map_err(Into::into)?.into_dyn().map_err(terminal) },
            )
        });
        Self::with_factory(agent_type.into(), factory)
    }

    /// Like [`factory`](Self::factory), and agents of this type can also be created, replaced, deleted
    /// and restarted as resources: with [`ManagedAgents`](super::ManagedAgents) or over the HTTP API.
    /// Every process with such a factory hosts all of them, even after a restart, and even if it has no
    /// store. The type needs no [`register`](Self::register).
    ///
    /// A config that does not match the JSON Schema of `C` is refused when the agent is created.
    #[must_use]
    pub fn managed<C, A, E, M>(
        agent_type: impl Into<String>,
        make: impl Fn(C) -> Result<A, E> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned + JsonSchema,
        A: IntoDynAgent<M>,
        E: Into<TaskError>,
    {
        let config_schema = Some(schema_of::<C>());
        Self { config_schema, ..Self::factory(agent_type, make) }
    }

    /// Like [`managed`](Self::managed), for agents that are not written in Rust: with the JSON Schemas
    /// of their configs, and of the parameters and the output of their tasks.
    #[must_use]
    pub fn managed_dyn<F>(
        agent_type: impl Into<String>,
        config_schema: Value,
        task_schemas: (Value, Value),
        make: impl Fn(Payload) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Arc<dyn DynAgent>, TaskError>> + Send + 'static,
    {
        let factory: Factory = Arc::new(move |config| Box::pin(make(config)));
        let config_schema = Some(config_schema);
        let task_schemas = Some(task_schemas);
        Self { config_schema, task_schemas, ..Self::with_factory(agent_type.into(), factory) }
    }

    /// A definition with the defaults and no agents.
    fn with_factory(agent_type: String, factory: Factory) -> Self {
        let concurrency = Self::DEFAULT_CONCURRENCY;
        Self {
            agent_type,
            factory,
            concurrency,
            layers: Vec::new(),
            agents: Vec::new(),
            pulse: None,
            config_schema: None,
            task_schemas: None,
            error: None,
        }
    }

    /// Registers an agent of this type with its name and the input of its factory.
    #[must_use]
    pub fn register<C: Serialize + ?Sized>(mut self, name: impl Into<String>, config: &C) -> Self {
        let name = name.into();
        match Payload::encode(config) {
            Ok(config) => self.agents.push(RegisteredAgent::new(&self.agent_type, name, config)),
            Err(source) => self.error = Some(AgentError::InvalidConfig { name, source }),
        }
        self
    }

    /// Registers an agent of this type under a chosen id.
    #[must_use]
    pub fn register_agent(mut self, agent: RegisteredAgent) -> Self {
        self.agents.push(agent);
        self
    }

    /// Sets how many tasks the agents of this type run concurrently in this process, 1 to 65,535. The
    /// default is 256.
    #[must_use]
    pub fn with_concurrency(mut self, tasks: u16) -> Self {
        self.concurrency = tasks;
        self
    }

    /// Wraps every agent of this type. The layer that was added first is the outermost.
    #[must_use]
    pub fn with_layer(mut self, layer: impl Middleware) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Declares that the code of these agents runs outside the host's runtime, for example on the
    /// event loop of another language. Agents that share the same `Arc` of a pulse run in the same
    /// place.
    #[must_use]
    pub fn with_pulse(mut self, pulse: Arc<dyn Pulse>) -> Self {
        self.pulse = Some(pulse);
        self
    }

    /// The schemas of the type, for other processes.
    ///
    /// An instance knows its schemas at once; a typed factory knows those of tasks only after it
    /// has created an agent, so they are absent then.
    pub(super) fn registered(&self) -> Result<TypeRegistered, AgentError> {
        let encode = |schema: Option<&Value>| schema.map(Payload::encode).transpose();
        let tasks = self.task_schemas.as_ref();
        Ok(TypeRegistered::new(
            encode(self.config_schema.as_ref())?,
            encode(tasks.map(|schemas| &schemas.0))?,
            encode(tasks.map(|schemas| &schemas.1))?,
        ))
    }

    /// Checks the arguments of the setters.
    ///
    /// Errors of setters come first, then those of layers, the name, the concurrency and the ids. A
    /// type without registered agents is an error unless its agents are resources, because it would
    /// take no task.
    pub(super) fn validate(&self) -> Result<Name, AgentError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        self.layers.iter().try_for_each(|layer| layer.check())?;
        let agent_type = Name::new(&self.agent_type)?;
        let reason = match (self.concurrency, self.agents.is_empty()) {
            (0, _) => "has a concurrency of 0, so that it would never run a task",
            (_, true) if self.config_schema.is_none() => "has no registered agent",
            _ => {
                for agent in &self.agents {
                    mailbox_of(&agent_type, &agent.id).map_err(|invalid| invalid.0)?;
                }
                return Ok(agent_type);
            }
        };
        Err(AgentError::InvalidConfiguration {
            reason: format!("agent type {agent_type} {reason}"),
        })
    }
}

impl fmt::Debug for AgentDefinition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AgentDefinition")
            .field("agent_type", &self.agent_type)
            .field("concurrency", &self.concurrency)
            .field("agents", &self.agents)
            .finish_non_exhaustive()
    }
}

/// A future that is ready, for factories that do not wait.
fn ready<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

/// The factory of an instance that is not an agent. `validate` reports the error before anything
/// calls it.
fn refuse(_: Payload) -> BoxFuture<'static, Result<Arc<dyn DynAgent>, TaskError>> {
    ready(Err(terminal(AgentError::InvalidConfiguration { reason: "no agent".to_owned() })))
}

/// Creating the agent again would fail in the same way.
fn terminal(error: AgentError) -> TaskError {
    TaskError::from(error).with_retryable(false)
}
