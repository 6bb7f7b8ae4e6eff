//! A whole service from settings: store, broker, runtime, API, health and shutdown.

mod connect;
mod error;
mod health_check;
mod metrics;
mod reload;
mod running;
mod start;
mod traces;

use std::{fmt, future::Future, sync::Arc};

use aios_agents::{
    Runtime, RuntimeBuilder,
    agent::{AgentDefinition, IntoDynAgent},
    declared::WorkflowName,
    middleware::{self, Timeout},
    workflow::{Workflow, WorkflowContext, WorkflowError},
};
use aios_core::{
    broker::{Broker, BrokerError},
    clock::{Clock, SystemClock},
    store::{Store, StoreError},
};
use axum::Router;
use serde::{Serialize, de::DeserializeOwned};

use self::connect::Part;
pub use self::{
    connect::Connect,
    error::ServiceError,
    health_check::{HealthCheckError, check_health},
    running::RunningService,
};
use crate::{
    auth::Authenticator,
    config::{Role, Settings},
    http::{ApiOptions, ServeOptions, Shutdown},
    telemetry::{LogControl, Metrics, Telemetry},
};

/// Makes the routes of the program, once the runtime has started.
type Routes = Box<dyn FnOnce(Arc<Runtime>) -> Router + Send>;
/// Changes the runtime before it starts.
type Configure = Box<dyn FnOnce(RuntimeBuilder) -> RuntimeBuilder + Send>;

/// A service made from [`Settings`]: it connects to its store and broker, starts the runtime, serves
/// the HTTP API, health and your own routes, and ends in an orderly way at SIGTERM or Ctrl-C. Every
/// part can be replaced.
///
/// ```no_run
/// use aios_agents::prelude::*;
/// use aios_service::{Service, config::Settings};
///
/// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     Ok(format!("Hello, {name}!"))
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     Service::from_settings(&Settings::load()?) // AIOS_DATABASE_URL, AIOS_BROKER_URL, AIOS_HTTP_LISTEN …
///         .connect_store(aios_store::connect)
///         .connect_broker(aios_broker::connect)
///         .workflow("welcome", welcome)
///         .run()
///         .await?;
///     Ok(())
/// }
/// ```
///
/// # Parts
///
/// | part | comes from | replaced by |
/// |---|---|---|
/// | store | `database.url` and [`connect_store`](Self::connect_store) | [`store`](Self::store) |
/// | broker | `broker.url` and [`connect_broker`](Self::connect_broker) | [`broker`](Self::broker) |
/// | runtime | [`workflow`](Self::workflow), [`agent`](Self::agent), `agent.timeout` | [`runtime`](Self::runtime) |
/// | API | `http.request_timeout`, `http.max_body_bytes`, `http.rate_limit` | [`api_options`](Self::api_options), [`without_api`](Self::without_api) |
/// | logs | the section `log` | [`telemetry`](Self::telemetry), [`without_telemetry`](Self::without_telemetry), a subscriber of the program |
/// | server | `http.listen` | [`serve_options`](Self::serve_options) |
/// | traces | `telemetry.traces.endpoint`, with the feature `otlp` | |
/// | metrics | `metrics.enabled`, and the route `/metrics` | [`metrics`](Self::metrics), a recorder of the program |
/// | export of metrics | `telemetry.metrics.endpoint`, with the feature `otlp` | |
/// | roles | `process.roles` | |
/// | own routes | [`routes`](Self::routes) | |
/// | shutdown | SIGTERM and Ctrl-C, `shutdown.accept_delay`, `shutdown.deadline` | [`shutdown`](Self::shutdown) |
///
/// A service without a store hosts agents only.
///
/// # Roles
///
/// `process.roles` says which parts a process runs, so that one program is deployed as engines, as API
/// servers and as hosts of agents:
///
/// | role | without it |
/// |---|---|
/// | `engine` | the process starts no engine; engines of other processes advance the runs |
/// | `api` | the process serves health, metrics and your own routes, and no API |
/// | `agents` | agents that are added with [`agent`](Self::agent) and [`agents`](Self::agents) are not hosted |
///
/// A process that has only the role `agents` leaves out what [`workflow`](Self::workflow) adds, and
/// opens the store only if `database.url` is set. Agents added in [`runtime`](Self::runtime) are hosted,
/// and workflows registered, regardless of the roles, but the engine starts only with the role `engine`.
///
/// # Reload
///
/// At SIGHUP the settings are read again: files, and mounted secrets. New values of `log.level`,
/// `log.targets`, `http.request_timeout`, `http.max_body_bytes` and `http.rate_limit` are applied; other
/// changes need a restart. The log shows every change with its old and new value and its origin. If the
/// configuration has a fault, the report is logged, and no value is changed.
///
/// # Shutdown
///
/// First `/health/ready` answers 503 for `shutdown.accept_delay`, while connections are still
/// accepted. Then no more connections are accepted, and requests in progress end. Then the runtime
/// accepts no more tasks, and those in progress have `shutdown.deadline` to end. A failure of the
/// runtime, such as a store that is newer than the program, begins the same shutdown, and
/// [`run`](Self::run) returns the failure.
#[must_use]
pub struct Service {
    /// The settings at the start; a reload compares with them.
    settings: Settings,
    store: Option<Part<dyn Store, StoreError>>,
    broker: Option<Part<dyn Broker, BrokerError>>,
    runtime: RuntimeBuilder,
    /// Called in this order.
    configure: Vec<Configure>,
    /// Without the limits of the settings, which are applied at the start.
    options: ApiOptions,
    /// Whether the API is served.
    has_api: bool,
    routes: Vec<Routes>,
    serving: ServeOptions,
    shutdown: Option<Shutdown>,
    telemetry: Option<Telemetry>,
    log_control: Option<LogControl>,
    metrics: Option<Metrics>,
}

impl Service {
    /// Begins a service with these settings.
    pub fn from_settings(settings: &Settings) -> Self {
        let process = settings.process();
        let runtime = Runtime::builder();
        Self {
            settings: settings.clone(),
            store: None,
            broker: None,
            runtime: if process.has(Role::Engine) { runtime } else { runtime.client_only() },
            configure: Vec::new(),
            options: ApiOptions::new(),
            has_api: process.has(Role::Api),
            routes: Vec::new(),
            serving: ServeOptions::new(),
            shutdown: None,
            telemetry: Some(Telemetry::from_settings(settings)),
            log_control: None,
            metrics: None,
        }
    }

    /// Whether a part of this process works only with a store.
    fn needs_store(&self) -> bool {
        let process = self.settings.process();
        process.has(Role::Engine) || process.has(Role::Api)
    }

    /// Sets the function that opens the store of `database.url`, such as `aios_store::connect`. The
    /// URL must then be set.
    ///
    /// # Examples
    ///
    /// A function of the program, for options that a URL cannot express:
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use aios_core::store::{Store, StoreError};
    /// use aios_service::{Service, config::Settings};
    /// use aios_store::sqlite::{SqliteOptions, SqliteStore};
    ///
    /// async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    ///     let options = url.parse::<SqliteOptions>()?.with_readers(16);
    ///     Ok(Arc::new(SqliteStore::connect_with(options).await?))
    /// }
    ///
    /// fn service(settings: &Settings) -> Service {
    ///     Service::from_settings(settings).connect_store(open).connect_broker(aios_broker::connect)
    /// }
    /// # let _ = service;
    /// ```
    pub fn connect_store<F>(mut self, connect: F) -> Self
    where
        F: for<'u> Connect<'u, Arc<dyn Store>, StoreError> + Send + 'static,
    {
        self.store = Some(Part::connect(connect));
        self
    }

    /// Sets the store, instead of the one of `database.url`. It is not closed when the service ends.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(Part::Ready(store));
        self
    }

    /// Sets the function that connects to the broker of `broker.url`, such as
    /// `aios_broker::connect`. The URL must then be set.
    pub fn connect_broker<F>(mut self, connect: F) -> Self
    where
        F: for<'u> Connect<'u, Arc<dyn Broker>, BrokerError> + Send + 'static,
    {
        self.broker = Some(Part::connect(connect));
        self
    }

    /// Sets the broker, instead of the one of `broker.url`. It is not closed when the service ends.
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(Part::Ready(broker));
        self
    }

    /// Adds an async function as version 1 of a workflow; see [`RuntimeBuilder::workflow`].
    ///
    /// Left out in a process that only hosts agents. Further versions are added with
    /// [`runtime`](Self::runtime).
    pub fn workflow<F, I, O, Fut>(mut self, name: impl WorkflowName<I, O>, function: F) -> Self
    where
        F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, WorkflowError>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        if self.needs_store() {
            self.runtime = self.runtime.workflow(name, function);
        }
        self
    }

    /// Adds a workflow as a value, such as one with schemas; see [`RuntimeBuilder::workflow_dyn`]. Left
    /// out in a process that only hosts agents.
    pub fn workflow_dyn(mut self, workflow: Arc<dyn Workflow>) -> Self {
        if self.needs_store() {
            self.runtime = self.runtime.workflow_dyn(workflow);
        }
        self
    }

    /// Adds one agent of a type, whose attempts end after `agent.timeout`; see
    /// [`RuntimeBuilder::agent`].
    pub fn agent<M>(self, agent_type: impl Into<String>, agent: impl IntoDynAgent<M>) -> Self {
        self.agents(AgentDefinition::instance(agent_type, agent))
    }

    /// Adds agents of a type, whose attempts end after `agent.timeout`; see
    /// [`RuntimeBuilder::agents`].
    pub fn agents(mut self, mut definition: AgentDefinition) -> Self {
        if !self.settings.process().has(Role::Agents) {
            return self;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        definition = definition.with_layer(middleware::Metrics::new(Arc::clone(&clock)));
        if let Some(timeout) = self.settings.agent().timeout {
            definition = definition.with_layer(Timeout::new(clock, timeout.get()));
        }
        self.runtime = self.runtime.agents(definition);
        self
    }

    /// Changes the runtime before it starts: options of the engine and the hosts, further versions of
    /// workflows, the source of events. Called after the store and the broker are set.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// use aios_service::{Service, config::Settings};
    ///
    /// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    ///     Ok(format!("Welcome, {name}!"))
    /// }
    ///
    /// fn service(settings: &Settings) -> Service {
    ///     Service::from_settings(settings).runtime(|runtime| {
    ///         runtime.source("shop").workflow_version("welcome", 2, welcome)
    ///     })
    /// }
    /// # let _ = service;
    /// ```
    pub fn runtime(
        mut self,
        configure: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder + Send + 'static,
    ) -> Self {
        self.configure.push(Box::new(configure));
        self
    }

    /// Adds an authenticator of the API. Without any, only callers on this machine are admitted.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::{
    ///     Service,
    ///     auth::{FileKeys, JwtIssuer, JwtTokens},
    ///     config::Settings,
    /// };
    ///
    /// fn service(settings: &Settings) -> Service {
    ///     let keys = FileKeys::new("/etc/aios/keys.json");
    ///     let issuer = JwtIssuer::new("https://id.example.com", "shop", keys);
    ///     Service::from_settings(settings).authenticator(JwtTokens::new([issuer]))
    /// }
    /// # let _ = service;
    /// ```
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.options = self.options.with_authenticator(authenticator);
        self
    }

    /// Replaces the options of the API, and with them the authenticators that were added before. The
    /// limits of the settings override those of the options.
    pub fn api_options(mut self, options: ApiOptions) -> Self {
        self.options = options;
        self
    }

    /// Serves no API: only health and your own routes.
    pub fn without_api(mut self) -> Self {
        self.has_api = false;
        self
    }

    /// Adds routes of your own at the root, beside `/api/v1` and `/health`. The function is called once
    /// the runtime has started. A clone of the runtime that outlives the router delays the shutdown.
    ///
    /// # Panics
    ///
    /// [`start`](Self::start) panics if a route exists already, as every router of axum does.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use aios_agents::Runtime;
    /// use aios_service::{Service, config::Settings};
    /// use axum::{Router, extract::{Path, State}, http::StatusCode, routing::post};
    ///
    /// /// Accepts an order of the shop, in the shop's own terms.
    /// async fn order(State(runtime): State<Arc<Runtime>>, Path(item): Path<String>) -> StatusCode {
    ///     match runtime.start("order", &item).await {
    ///         Ok(_) => StatusCode::ACCEPTED,
    ///         Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    ///     }
    /// }
    ///
    /// fn with_orders(settings: &Settings) -> Service {
    ///     let routes = |runtime| Router::new().route("/orders/{item}", post(order)).with_state(runtime);
    ///     Service::from_settings(settings).routes(routes)
    /// }
    /// # let _ = with_orders;
    /// ```
    pub fn routes(mut self, routes: impl FnOnce(Arc<Runtime>) -> Router + Send + 'static) -> Self {
        self.routes.push(Box::new(routes));
        self
    }

    /// Sets the options of the server, such as its limits and TLS.
    pub fn serve_options(mut self, options: ServeOptions) -> Self {
        self.serving = options;
        self
    }

    /// Sets the shutdown, instead of one that begins at SIGTERM or Ctrl-C.
    ///
    /// SIGHUP then does not reload the settings; call [`RunningService::reload`] instead.
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Sets the telemetry, instead of the one of the settings.
    pub fn telemetry(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// Starts no telemetry.
    pub fn without_telemetry(mut self) -> Self {
        self.telemetry = None;
        self
    }

    /// Starts no telemetry, and changes this log when the settings are reloaded.
    pub fn log_control(mut self, control: LogControl) -> Self {
        self.telemetry = None;
        self.log_control = Some(control);
        self
    }

    /// Answers `/metrics` with these metrics, which the program has installed or will, instead of new
    /// ones that the service installs if `metrics.enabled` is true and the program has no recorder.
    ///
    /// # Examples
    ///
    /// Metrics of a program that records values before the service starts:
    ///
    /// ```
    /// use aios_service::{Service, config::Settings, telemetry::Metrics};
    ///
    /// fn service(settings: &Settings) -> Service {
    ///     let metrics = Metrics::new();
    ///     metrics.install();
    ///     metrics::counter!("shop_starts_total").increment(1);
    ///     Service::from_settings(settings).metrics(metrics)
    /// }
    /// # let _ = service;
    /// ```
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Starts the service and waits until it has ended.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start) and of [`RunningService::stopped`].
    ///
    /// # Cancel safety
    ///
    /// See [`start`](Self::start) and [`RunningService::stopped`].
    pub async fn run(self) -> Result<(), ServiceError> {
        self.start().await?.stopped().await
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Service")
            .field("settings", &self.settings)
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}
