//! The options of a host, their defaults and limits.

use std::time::Duration;

use aios_core::retry::Backoff;

use crate::{
    agent::AgentError,
    options::{check_backoff, check_span},
};

/// Options of an [`AgentHost`](super::AgentHost).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::agent::HostOptions;
///
/// let options = HostOptions::new()
///     .with_heartbeat_interval(Duration::from_secs(5))
///     .with_early_ack_after(None);
/// assert_eq!(options.heartbeat_interval, Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostOptions {
    /// Heartbeat interval of running tasks. Default: 10 s.
    pub heartbeat_interval: Duration,
    /// The time after which a running task is acknowledged to the broker, so that the broker's
    /// consumer timeout does not cause a redelivery. From then on only heartbeats show that the
    /// task is alive. `None`: never. Default: 10 min, a third of RabbitMQ's default consumer
    /// timeout.
    pub early_ack_after: Option<Duration>,
    /// How often running agents are announced. An agent that was not seen for three intervals is
    /// missing. Default: 30 s.
    pub announce_interval: Duration,
    /// How long the code of a cancelled task may still run before its future is dropped. Default:
    /// 1 s.
    pub cancel_grace: Duration,
    /// How long a factory may take to create an agent. Default: 30 s.
    pub create_timeout: Duration,
    /// How long publishing an answer is retried while its mailbox is missing, or while the broker
    /// rejects it, for example because a queue is full. Then the task fails, or becomes a dead
    /// letter if the broker does not accept the failure either. Default: 60 s.
    pub answer_patience: Duration,
    /// The time without a response after which the thread or event loop that runs agent code counts
    /// as blocked; `None`: never. Must be longer than agent code ever blocks its thread. Default:
    /// 5 s.
    pub blocked_after: Option<Duration>,
    /// Whether an attempt that was delivered before, or is older than its timeout, begins only after
    /// the engine has confirmed that it is still open. While no engine answers, such a task waits,
    /// and is released to the broker after 60 s. Default: true.
    pub confirm_redelivered: bool,
    /// Delays between attempts to create an agent, to subscribe and to publish. Up to half of each
    /// delay is randomised. Default: 0.2 s, doubling up to 30 s.
    pub backoff: Backoff,
}

impl HostOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(10),
            early_ack_after: Some(Duration::from_secs(600)),
            announce_interval: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(1),
            create_timeout: Duration::from_secs(30),
            answer_patience: Duration::from_secs(60),
            blocked_after: Some(Duration::from_secs(5)),
            confirm_redelivered: true,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
        }
    }

    /// Sets the heartbeat interval of running tasks.
    #[must_use]
    pub fn with_heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// Sets the time after which a running task is acknowledged early; `None` means never.
    #[must_use]
    pub fn with_early_ack_after(mut self, time: Option<Duration>) -> Self {
        self.early_ack_after = time;
        self
    }

    /// Sets how often running agents are announced.
    #[must_use]
    pub fn with_announce_interval(mut self, interval: Duration) -> Self {
        self.announce_interval = interval;
        self
    }

    /// Sets how long the code of a cancelled task may still run.
    #[must_use]
    pub fn with_cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// Sets how long a factory may take.
    #[must_use]
    pub fn with_create_timeout(mut self, timeout: Duration) -> Self {
        self.create_timeout = timeout;
        self
    }

    /// Sets how long publishing an answer is retried; see
    /// [`answer_patience`](Self::answer_patience).
    #[must_use]
    pub fn with_answer_patience(mut self, patience: Duration) -> Self {
        self.answer_patience = patience;
        self
    }

    /// Sets the time without a response after which agent code counts as blocking its thread;
    /// `None` means never.
    #[must_use]
    pub fn with_blocked_after(mut self, time: Option<Duration>) -> Self {
        self.blocked_after = time;
        self
    }

    /// Sets whether an attempt that was delivered before begins only after the engine has confirmed it.
    #[must_use]
    pub fn with_confirm_redelivered(mut self, confirm: bool) -> Self {
        self.confirm_redelivered = confirm;
        self
    }

    /// Sets the delays between attempts.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Rejects intervals that are too short or too long.
    pub(super) fn validate(&self) -> Result<(), AgentError> {
        self.check().map_err(|reason| AgentError::InvalidConfiguration { reason })
    }

    fn check(&self) -> Result<(), String> {
        let minimum = Duration::from_millis(1);
        check_span("heartbeat_interval", self.heartbeat_interval, minimum)?;
        check_span("announce_interval", self.announce_interval, minimum)?;
        check_span("cancel_grace", self.cancel_grace, Duration::ZERO)?;
        check_span("create_timeout", self.create_timeout, minimum)?;
        check_span("answer_patience", self.answer_patience, Duration::ZERO)?;
        let early = self.early_ack_after.unwrap_or_default();
        check_span("early_ack_after", early, Duration::ZERO)?;
        check_span("blocked_after", self.blocked_after.unwrap_or(minimum * 10), minimum * 10)?;
        check_backoff("backoff", self.backoff)
    }
}

impl Default for HostOptions {
    fn default() -> Self {
        Self::new()
    }
}
