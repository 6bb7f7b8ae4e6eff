use std::{sync::Arc, time::Duration};

use super::RunExecutor;
use crate::options::check_span;

/// How an engine behaves.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Lifetime of a lease: how long it takes to replace an engine that died. At least 100 ms; use
    /// some seconds, because an engine whose process is paused for longer loses its runs.
    pub lease_time: Duration,
    /// A run whose next timer is due within this time stays in memory.
    pub eviction_delay: Duration,
    /// Pause after an error of the store or broker: the first one, and the longest.
    pub backoff: (Duration, Duration),
    /// How often a run that waits for a child checks whether it missed the child's end.
    pub child_poll_interval: Duration,
    /// How long an agent that has begun a task may go without a heartbeat before the task is
    /// assigned to another agent.
    pub heartbeat_timeout: Duration,
    /// How long after a task's timeout the engine waits for the agent's own report before it counts
    /// the attempt as failed.
    pub task_grace: Duration,
    /// How to treat an answer that does not name the assignment of its task.
    pub anonymous_answers: AnonymousAnswers,
    /// How soon the engine looks for an unclaimed task among the dead letters of its agents. The
    /// interval doubles after each check, up to 5 minutes.
    pub dead_letter_check: Duration,
    /// How long a task may wait for an agent to begin it before it counts as unclaimed: the log,
    /// the run's status and the metric `aios_tasks_unclaimed` report it.
    pub unclaimed_after: Duration,
    /// How long after its last dispatch or report an unclaimed task is dispatched again if its
    /// message seems to be lost: the broker has no tasks in its queue, or agents of its type began
    /// later ones, and no process reports within a second plus [`task_grace`](Self::task_grace)
    /// that it has taken the task. The pause doubles each time, up to an hour. A process recognises
    /// a repeated message of a task that it has.
    ///
    /// When the broker is connected again after a lost connection, or when a queue is gone, a task
    /// that seems to be lost is dispatched again without this pause.
    ///
    /// An engine that takes a run over does the same for the tasks that its predecessor dispatched.
    ///
    /// Agents that are not built with aios and send no heartbeats may receive such a task again
    /// while they work on it, unless this is `None`. If it is `None`, an engine that takes a run over
    /// dispatches all of its open tasks again, because the predecessor may not have dispatched them.
    pub redispatch_after: Option<Duration>,
    /// Whether lifecycle events of the log are published to the broker.
    pub relay: bool,
    /// How long the relay retries an event that the broker rejects, for example because a group is
    /// full, before the event counts as refused. No later event is published in that time.
    pub relay_patience: Duration,
    /// How to treat an event that the broker refuses permanently.
    pub refused_events: RefusedEvents,
    /// How long the code of a run may take to return when it is polled before the log, the metric
    /// `aios_runs_blocking` and [`Runtime::blocking_runs`](crate::runtime::Runtime::blocking_runs)
    /// report it. It blocks its thread or event loop, and every run that shares it: in Python, all
    /// runs of the process. `None` switches the check off.
    pub blocked_after: Option<Duration>,
    /// Polls the runs; the threads of the runtime do so if `None`.
    pub executor: Option<Arc<dyn RunExecutor>>,
}

/// How the engine treats an answer that comes from the right agent type but does not name the event
/// that assigned the task as its cause. Agents that are built with aios always name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnonymousAnswers {
    /// It is accepted, unless an agent that names the assignment is heard of within
    /// [`task_grace`](EngineOptions::task_grace). This lets agents answer that are not built with
    /// aios.
    #[default]
    AcceptAfterGrace,
    /// It becomes a dead letter.
    Refuse,
}

/// How the relay treats an event of the log that can't be read, or that the broker refuses
/// permanently because it is too large or was rejected for as long as
/// [`relay_patience`](EngineOptions::relay_patience).
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
    /// Rejects options that would spin, never take effect, or contradict each other.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let moment = Duration::from_millis(1);
        let (first, most) = self.backoff;
        check_span("lease_time", self.lease_time, Duration::from_millis(100))?;
        check_span("eviction_delay", self.eviction_delay, Duration::ZERO)?;
        check_span("backoff.0", first, moment)?;
        check_span("backoff.1", most, moment)?;
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
        check_span("relay_patience", self.relay_patience, Duration::ZERO)?;
        if first > most {
            return Err(format!("backoff begins with {first:?}, above its maximum of {most:?}"));
        }
        Ok(())
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            lease_time: Duration::from_secs(10),
            eviction_delay: Duration::from_secs(1),
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
            child_poll_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(30),
            task_grace: Duration::from_secs(2),
            dead_letter_check: Duration::from_secs(5),
            unclaimed_after: Duration::from_secs(30),
            redispatch_after: Some(Duration::from_secs(60)),
            anonymous_answers: AnonymousAnswers::default(),
            relay: true,
            relay_patience: Duration::from_secs(300),
            refused_events: RefusedEvents::default(),
            blocked_after: Some(Duration::from_secs(5)),
            executor: None,
        }
    }
}
