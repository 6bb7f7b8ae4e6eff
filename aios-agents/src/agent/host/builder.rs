//! The builder of a host. Nothing is checked or done before `start`.

use std::{fmt, sync::Arc};

use aios_core::{
    broker::Broker,
    clock::{Clock, SystemClock},
    event::Event,
    store::Store,
};

use super::{AgentHost, HostOptions, Parts};
use crate::agent::{AgentError, AgentSet};

/// Builds an [`AgentHost`]. Setters never fail; [`start`](Self::start) checks their arguments.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_agents::agent::{AgentHost, AgentSet, HostOptions};
///
/// # async fn example(agents: AgentSet) -> Result<(), Box<dyn std::error::Error>> {
/// let host = AgentHost::builder(agents)
///     .broker(aios_broker::connect("amqp://localhost").await?)
///     .source("renderers")
///     .options(HostOptions::new().with_early_ack_after(Some(Duration::from_secs(300))))
///     .start()
///     .await?;
/// # drop(host);
/// # Ok(())
/// # }
/// ```
#[must_use = "agents run only after start"]
pub struct AgentHostBuilder {
    agents: AgentSet,
    broker: Option<Arc<dyn Broker>>,
    clock: Option<Arc<dyn Clock>>,
    store: Option<Arc<dyn Store>>,
    source: Option<Arc<str>>,
    options: HostOptions,
}

impl AgentHostBuilder {
    pub(super) fn new(agents: AgentSet) -> Self {
        Self {
            agents,
            broker: None,
            clock: None,
            store: None,
            source: None,
            options: HostOptions::new(),
        }
    }

    /// Sets the broker of tasks and events, which is required.
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Sets the clock. The default is the system clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets the store in which agents are recorded. Without one, agents are not listed, and missing
    /// ones not detected.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the source of the events that the host publishes: 1 to 255 bytes. The default is `aios`.
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Sets the options of the host.
    pub fn options(mut self, options: HostOptions) -> Self {
        self.options = options;
        self
    }

    /// Creates the agents and begins to take their tasks.
    ///
    /// Returns after every factory was called once and every created agent is subscribed. Failed
    /// factories and transient failures of subscriptions are retried in the background.
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidConfiguration`] without a broker, or for an invalid source. Otherwise returns
    /// an error if a definition or option is invalid, if broker or store refuse permanently, or if they
    /// fail while the agents are recorded.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call drops the agents and subscriptions that it has created. Agents that are
    /// recorded in the store stay recorded.
    pub async fn start(self) -> Result<AgentHost, AgentError> {
        let broker = self.broker.ok_or_else(|| AgentError::InvalidConfiguration {
            reason: "an agent host needs a broker".to_owned(),
        })?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let source = self.source.unwrap_or_else(|| "aios".into());
        Event::check_source(&source)
            .map_err(|error| AgentError::InvalidConfiguration { reason: error.to_string() })?;
        let parts = Parts { broker, clock, store: self.store, source };
        AgentHost::start(parts, self.agents, self.options).await
    }
}

impl fmt::Debug for AgentHostBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AgentHostBuilder")
            .field("agents", &self.agents)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
