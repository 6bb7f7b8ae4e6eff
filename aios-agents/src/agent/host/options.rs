use std::time::Duration;

use aios_core::retry::RetryPolicy;

use crate::{
    agent::AgentError,
    options::{check_retry, check_span},
};

/// How an [`AgentHost`](super::AgentHost) treats its agents and tasks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HostOptions {
    /// How often a running task shows a sign of life. 10 s.
    pub heartbeat_interval: Duration,
    /// After which time a task that still runs is acknowledged to the broker, so that no consumer
    /// timeout repeats it; from then on only its heartbeats tell that it lives. `None`: never.
    /// 10 min, a third of RabbitMQ's default consumer timeout.
    pub early_ack_after: Option<Duration>,
    /// How often agents say that they are there. 30 s. An agent that was not seen for three of
    /// these is missing.
    pub announce_interval: Duration,
    /// How long the code of a cancelled task may still run before its future is dropped. 1 s.
    pub cancel_grace: Duration,
    /// How long a factory may take to make an agent. 30 s.
    pub create_timeout: Duration,
    /// How long an answer waits for its mailbox if that is missing, or for a broker that rejects it, for
    /// example because a queue is full. 60 s. Then the task becomes a dead letter, or a failure if the
    /// broker takes that.
    pub answer_patience: Duration,
    /// After which time without a sign of life what runs the code of agents counts as blocked; `None`:
    /// never. 5 s. More than the longest time for which their code keeps a thread to itself.
    pub blocked_after: Option<Duration>,
    /// How long to wait between attempts to make an agent, to subscribe and to publish. These
    /// never end, so the number of attempts is not looked at. 0.2 s, doubling up to 30 s.
    pub backoff: RetryPolicy,
}

impl HostOptions {
    /// The defaults.
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
            backoff: RetryPolicy::new()
                .with_delays(Duration::from_millis(200), Duration::from_secs(30)),
        }
    }

    /// Sets how often a running task shows a sign of life.
    #[must_use]
    pub fn with_heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// Sets after which time a running task is acknowledged early; `None` means never.
    #[must_use]
    pub fn with_early_ack_after(mut self, time: Option<Duration>) -> Self {
        self.early_ack_after = time;
        self
    }

    /// Sets how often agents say that they are there.
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

    /// Sets how long an answer waits for its mailbox.
    #[must_use]
    pub fn with_answer_patience(mut self, patience: Duration) -> Self {
        self.answer_patience = patience;
        self
    }

    /// Sets after which time without a sign of life what runs agents counts as blocked; `None` means
    /// never.
    #[must_use]
    pub fn with_blocked_after(mut self, time: Option<Duration>) -> Self {
        self.blocked_after = time;
        self
    }

    /// Sets how long to wait between attempts.
    #[must_use]
    pub fn with_backoff(mut self, backoff: RetryPolicy) -> Self {
        self.backoff = backoff;
        self
    }

    /// Refuses what would spin or never happen.
    pub(super) fn validate(&self) -> Result<(), AgentError> {
        self.check().map_err(|reason| AgentError::InvalidConfiguration { reason })
    }

    fn check(&self) -> Result<(), String> {
        let moment = Duration::from_millis(1);
        check_span("heartbeat_interval", self.heartbeat_interval, moment)?;
        check_span("announce_interval", self.announce_interval, moment)?;
        check_span("cancel_grace", self.cancel_grace, Duration::ZERO)?;
        check_span("create_timeout", self.create_timeout, moment)?;
        check_span("answer_patience", self.answer_patience, Duration::ZERO)?;
        let early = self.early_ack_after.unwrap_or_default();
        check_span("early_ack_after", early, Duration::ZERO)?;
        check_span("blocked_after", self.blocked_after.unwrap_or(moment * 10), moment * 10)?;
        check_retry("backoff", &self.backoff.clone().with_max_attempts(0))
    }
}

impl Default for HostOptions {
    fn default() -> Self {
        Self::new()
    }
}
