//! The options of an engine, with their defaults and limits.

use std::time::Duration;

use aios_core::retry::Backoff;

use crate::options::{check_backoff, check_span};

/// Options of the engine of a [`Runtime`](crate::Runtime).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::runtime::EngineOptions;
///
/// let options = EngineOptions::new()
///     .with_lease_time(Duration::from_secs(5))
///     .with_heartbeat_timeout(Duration::from_secs(60));
/// assert_eq!(options.lease_time, Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Lifetime of a lease: how long it takes to replace an engine that died. At least 100 ms; use
    /// some seconds, because an engine whose process is paused for longer loses its runs. Default: 10 s.
    pub lease_time: Duration,
    /// A run whose next timer is due within this time stays in memory. Default: 1 s.
    pub eviction_delay: Duration,
    /// Pauses after consecutive errors of the store or broker. Default: 50 ms, doubling up to 5 s.
    pub backoff: Backoff,
    /// How often a run that waits for a child checks whether it missed the child's end. Default: 30 s.
    pub child_poll_interval: Duration,
    /// How long an agent that has begun a task may go without a heartbeat before the task is
    /// assigned to another agent. Default: 30 s.
    pub heartbeat_timeout: Duration,
    /// How long after a task's timeout the engine waits for the agent's own report before it counts
    /// the attempt as failed. Default: 2 s.
    pub task_grace: Duration,
    /// How to treat an answer that does not name the assignment of its task. Default:
    /// [`AnonymousAnswers::AcceptAfterGrace`].
    pub anonymous_answers: AnonymousAnswers,
    /// How soon the engine looks for an unclaimed task among the dead letters of its agents. The
    /// interval doubles after each check, up to 5 minutes. Default: 5 s.
    pub dead_letter_check: Duration,
    /// How long a task may wait for an agent to begin it before it counts as unclaimed: the log,
    /// the run's status and the metric `aios_tasks_unclaimed` report it. Default: 30 s.
    pub unclaimed_after: Duration,
    /// How long after its last dispatch or report an unclaimed task is dispatched again if its
    /// delivery seems to be lost: the broker has no tasks in its queue, or agents of its type began
    /// later ones, and no process reports within a second plus [`task_grace`](Self::task_grace)
    /// that it has taken the task. The pause doubles each time, up to an hour. A process recognises
    /// a repeated delivery of a task that it has.
    ///
    /// When the broker is connected again after a lost connection, or when a queue is gone, a task
    /// that seems to be lost is dispatched again without this pause.
    ///
    /// An engine that takes a run over does the same for the tasks that its predecessor dispatched.
    ///
    /// Agents that are not built with aios and send no heartbeats may receive such a task again
    /// while they work on it, unless this is `None`. If it is `None`, an engine that takes a run over
    /// dispatches all of its open tasks again, because the predecessor may not have dispatched them. Default: 60 s.
    pub redispatch_after: Option<Duration>,
    /// Whether lifecycle events of the log are published to the broker. Default: true.
    pub relay: bool,
    /// How long the relay retries an event that the broker rejects, for example because a group is
    /// full, before the event counts as refused. No later event is published in that time. Default: 300 s.
    pub relay_patience: Duration,
    /// How to treat an event that the broker refuses permanently. Default:
    /// [`RefusedEvents::Skip`].
    pub refused_events: RefusedEvents,
    /// How long the code of a run may take to return when it is polled before the log, the metric
    /// `aios_runs_blocking` and [`Runtime::blocking_runs`](crate::runtime::Runtime::blocking_runs)
    /// report it. It blocks its thread or event loop, and every run that shares it: in Python, all
    /// runs of the process. On Linux, Python code that then computes for as long again is interrupted, and its run
    /// is blocked with `WORKFLOW_BUSY`. `None` switches the check off. Default: 5 s.
    pub blocked_after: Option<Duration>,
}

/// How the engine treats an answer that comes from the right agent type but does not name the event
/// that assigned the task as its cause. Agents that are built with aios always name it.
///
/// # Examples
///
/// Agents that are all built with aios always name the assignment, so nothing else need be accepted:
///
/// ```
/// use aios_agents::runtime::{AnonymousAnswers, EngineOptions};
///
/// let options = EngineOptions::new().with_anonymous_answers(AnonymousAnswers::Refuse);
/// assert_eq!(options.anonymous_answers, AnonymousAnswers::Refuse);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnonymousAnswers {
    /// It is accepted, unless an agent that names the assignment is heard of within
    /// [`task_grace`](EngineOptions::task_grace). This lets agents answer that are not built with
    /// aios. While the run is blocked, or the task waits for its dispatch, as in a paused run, there is no
    /// grace.
    #[default]
    AcceptAfterGrace,
    /// It becomes a dead letter.
    Refuse,
}

/// How the relay treats an event of the log that can't be read, or that the broker refuses
/// permanently because it is too large or was rejected for as long as
/// [`relay_patience`](EngineOptions::relay_patience).
///
/// # Examples
///
/// Consumers that must not miss an event need a person when one is refused:
///
/// ```
/// use aios_agents::runtime::{EngineOptions, RefusedEvents};
///
/// let options = EngineOptions::new().with_refused_events(RefusedEvents::Stop);
/// assert_eq!(options.refused_events, RefusedEvents::Stop);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedEvents {
    /// It is logged as an error, counted in `aios_relay_skipped_total` and not published. It stays
    /// in the log.
    #[default]
    Skip,
    /// The engine stops. The next relay begins with this event.
    Stop,
}

impl EngineOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lease_time: Duration::from_secs(10),
            eviction_delay: Duration::from_secs(1),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            child_poll_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(30),
            task_grace: Duration::from_secs(2),
            anonymous_answers: AnonymousAnswers::default(),
            dead_letter_check: Duration::from_secs(5),
            unclaimed_after: Duration::from_secs(30),
            redispatch_after: Some(Duration::from_secs(60)),
            relay: true,
            relay_patience: Duration::from_secs(300),
            refused_events: RefusedEvents::default(),
            blocked_after: Some(Duration::from_secs(5)),
        }
    }

    /// Sets the lifetime of a lease; see [`lease_time`](Self::lease_time).
    #[must_use]
    pub fn with_lease_time(mut self, time: Duration) -> Self {
        self.lease_time = time;
        self
    }

    /// Sets how soon the next timer of a run must be due for the run to stay in memory.
    #[must_use]
    pub fn with_eviction_delay(mut self, delay: Duration) -> Self {
        self.eviction_delay = delay;
        self
    }

    /// Sets the pauses after consecutive errors of the store or broker.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how often a run that waits for a child checks whether it missed the child's end.
    #[must_use]
    pub fn with_child_poll_interval(mut self, interval: Duration) -> Self {
        self.child_poll_interval = interval;
        self
    }

    /// Sets how long an agent may go without a heartbeat before its task is assigned to another.
    #[must_use]
    pub fn with_heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = timeout;
        self
    }

    /// Sets how long after a task's timeout the engine waits for the agent's own report.
    #[must_use]
    pub fn with_task_grace(mut self, grace: Duration) -> Self {
        self.task_grace = grace;
        self
    }

    /// Sets how to treat an answer that does not name the assignment of its task.
    #[must_use]
    pub fn with_anonymous_answers(mut self, policy: AnonymousAnswers) -> Self {
        self.anonymous_answers = policy;
        self
    }

    /// Sets how soon the engine looks for an unclaimed task among the dead letters.
    #[must_use]
    pub fn with_dead_letter_check(mut self, interval: Duration) -> Self {
        self.dead_letter_check = interval;
        self
    }

    /// Sets how long a task may wait for an agent before it counts as unclaimed.
    #[must_use]
    pub fn with_unclaimed_after(mut self, time: Duration) -> Self {
        self.unclaimed_after = time;
        self
    }

    /// Sets when a lost task is dispatched again; see
    /// [`redispatch_after`](Self::redispatch_after) for what `None` means.
    #[must_use]
    pub fn with_redispatch_after(mut self, time: Option<Duration>) -> Self {
        self.redispatch_after = time;
        self
    }

    /// Sets whether lifecycle events of the log are published to the broker.
    #[must_use]
    pub fn with_relay(mut self, relay: bool) -> Self {
        self.relay = relay;
        self
    }

    /// Sets how long the relay retries an event that the broker rejects.
    #[must_use]
    pub fn with_relay_patience(mut self, patience: Duration) -> Self {
        self.relay_patience = patience;
        self
    }

    /// Sets how to treat an event that the broker refuses permanently.
    #[must_use]
    pub fn with_refused_events(mut self, policy: RefusedEvents) -> Self {
        self.refused_events = policy;
        self
    }

    /// Sets how long a poll of a run may take before it is reported; `None` means never.
    #[must_use]
    pub fn with_blocked_after(mut self, time: Option<Duration>) -> Self {
        self.blocked_after = time;
        self
    }

    /// Rejects options that would spin, never take effect, or contradict each other.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let moment = Duration::from_millis(1);
        check_span("lease_time", self.lease_time, Duration::from_millis(100))?;
        check_span("eviction_delay", self.eviction_delay, Duration::ZERO)?;
        check_backoff("backoff", self.backoff)?;
        check_span("child_poll_interval", self.child_poll_interval, moment)?;
        check_span("heartbeat_timeout", self.heartbeat_timeout, moment)?;
        check_span("task_grace", self.task_grace, Duration::ZERO)?;
        check_span("dead_letter_check", self.dead_letter_check, moment)?;
        check_span("unclaimed_after", self.unclaimed_after, moment)?;
        if let Some(after) = self.redispatch_after {
            check_span("redispatch_after", after, moment)?;
        }
        if let Some(after) = self.blocked_after {
            check_span("blocked_after", after, moment * 10)?;
        }
        check_span("relay_patience", self.relay_patience, Duration::ZERO)
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self::new()
    }
}
