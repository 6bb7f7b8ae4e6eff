//! A circuit breaker for agents.
//!
//! ```text
//! Closed ──threshold of failures──► Open ──open_for──► Probing
//!    ▲                               ▲                   │
//!    │                               └──────failure──────┤
//!    └──────────────────success──────────────────────────┘
//! ```
//!
//! The state is behind one lock that is held for the decision only, not during a task. Tasks that
//! were admitted while the circuit was closed do not count any more once it is open. The outcome is
//! counted when a permit is dropped, so that a task that is cancelled or times out can't leave the
//! circuit in the state `Probing`.

use std::{sync::Arc, time::Duration};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    catalog::codes,
    clock::Clock,
    event::Payload,
    failure::Failure,
};
use parking_lot::Mutex;

use super::Middleware;
use crate::{agent::AgentError, options::check_span};

/// Rejects tasks for some time after several consecutive failures, with
/// [`CIRCUIT_OPEN`](codes::CIRCUIT_OPEN), which is retryable. Then lets one task through as a probe
/// (the pattern is described by Nygard, "Release It!", 2007).
///
/// Only retryable failures count: a terminal one says nothing about the health of the agent's
/// dependencies.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::middleware::CircuitBreaker;
/// use aios_core::clock::SystemClock;
///
/// let breaker = CircuitBreaker::new(Arc::new(SystemClock))
///     .with_threshold(3)
///     .with_open_for(Duration::from_secs(10));
/// # drop(breaker);
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    /// Decides when the circuit may be probed. Only its monotonic time is used.
    clock: Arc<dyn Clock>,
    threshold: u32,
    open_for: Duration,
    /// Shared by all clones.
    circuit: Arc<Mutex<Circuit>>,
}

/// The state of the circuit.
#[derive(Debug)]
enum Circuit {
    /// Tasks are admitted.
    Closed {
        /// Consecutive failures so far.
        failures: u32,
    },
    /// Tasks are rejected.
    Open {
        /// The first task from then on is the probe.
        until: Duration,
    },
    /// One task is running as a probe.
    Probing,
}

impl CircuitBreaker {
    /// Opens for 30 s after 5 consecutive failures.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let circuit = Arc::new(Mutex::new(Circuit::Closed { failures: 0 }));
        Self { clock, threshold: 5, open_for: Duration::from_secs(30), circuit }
    }

    /// Sets the number of consecutive failures after which it opens; 0 counts as 1. The
    /// default is 5.
    #[must_use]
    pub fn with_threshold(mut self, failures: u32) -> Self {
        self.threshold = failures.max(1);
        self
    }

    /// Sets how long it rejects tasks. The default is 30 s.
    #[must_use]
    pub fn with_open_for(mut self, time: Duration) -> Self {
        self.open_for = time;
        self
    }

    /// Admits a task, or returns how long the circuit stays open; `None` if a probe decides that.
    fn acquire<'a>(&'a self, context: &'a TaskContext) -> Result<Permit<'a>, Option<Duration>> {
        let now = self.clock.elapsed();
        let mut circuit = self.circuit.lock();
        let is_probe = match *circuit {
            Circuit::Closed { .. } => false,
            Circuit::Open { until } if now >= until => true,
            Circuit::Open { until } => return Err(Some(until.saturating_sub(now))),
            Circuit::Probing => return Err(None),
        };
        if is_probe {
            *circuit = Circuit::Probing;
        }
        Ok(Permit { breaker: self, context, is_probe, verdict: None })
    }
}

/// An admitted task. Its outcome is counted when this is dropped.
struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    context: &'a TaskContext,
    /// Whether the outcome decides if the circuit closes.
    is_probe: bool,
    /// `None` until the agent's code has ended.
    verdict: Option<Verdict>,
}

/// How the outcome of a task counts.
#[derive(Clone, Copy)]
enum Verdict {
    /// The agent answered.
    Success,
    /// A retryable failure, or a timeout.
    Failure,
    /// A terminal failure, or a cancellation: nothing about the health of a dependency.
    Ignored,
}

impl Verdict {
    /// The verdict about a task that ended by itself.
    fn of(result: &Result<Payload, TaskError>) -> Self {
        match result {
            Ok(_) => Self::Success,
            Err(error) if error.retryable => Self::Failure,
            Err(_) => Self::Ignored,
        }
    }
}

impl Circuit {
    /// Counts the outcome of a task that was admitted while the circuit was closed.
    fn count(&mut self, verdict: Verdict, threshold: u32, until: Duration) {
        let Self::Closed { failures } = self else { return };
        match verdict {
            Verdict::Success => *failures = 0,
            Verdict::Failure if failures.saturating_add(1) >= threshold => {
                *self = Self::Open { until };
            }
            Verdict::Failure => *failures = failures.saturating_add(1),
            Verdict::Ignored => {}
        }
    }

    /// Opens or closes the circuit after a probe. If its outcome is ignored, the next task is a
    /// probe.
    fn on_probe_result(&mut self, verdict: Verdict, now: Duration, until: Duration) {
        *self = match verdict {
            Verdict::Success => Self::Closed { failures: 0 },
            Verdict::Failure => Self::Open { until },
            Verdict::Ignored => Self::Open { until: now },
        };
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // Without a verdict the future was dropped: the task was cancelled or timed out.
        let verdict = self.verdict.unwrap_or_else(|| match self.context.is_cancelled() {
            true => Verdict::Ignored,
            false => Verdict::Failure,
        });
        let now = self.breaker.clock.elapsed();
        let mut circuit = self.breaker.circuit.lock();
        let until = now.saturating_add(self.breaker.open_for);
        if self.is_probe {
            circuit.on_probe_result(verdict, now, until);
        } else {
            circuit.count(verdict, self.breaker.threshold, until);
        }
    }
}

impl Middleware for CircuitBreaker {
    async fn call(
        &self,
        agent: &dyn DynAgent,
        context: &TaskContext,
        parameters: Payload,
    ) -> Result<Payload, TaskError> {
        let mut permit = self.acquire(context).map_err(rejected)?;
        let result = agent.process_task(context, parameters).await;
        permit.verdict = Some(Verdict::of(&result));
        result
    }

    fn check(&self) -> Result<(), AgentError> {
        check_span("open_for of a circuit breaker", self.open_for, Duration::from_millis(1))
            .map_err(|reason| AgentError::InvalidConfiguration { reason })
    }
}

/// The failure of a task that was not admitted.
fn rejected(wait: Option<Duration>) -> TaskError {
    let admitted = match wait {
        Some(wait) => format!("in {wait:?}"),
        None => "once the running probe succeeds".to_owned(),
    };
    let message = format!(
        "the circuit is open after too many failures; the next task is admitted {admitted}"
    );
    TaskError::retryable(Failure::new(codes::CIRCUIT_OPEN, message))
}
