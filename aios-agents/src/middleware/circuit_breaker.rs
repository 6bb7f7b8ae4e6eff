use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aios_core::{
    agent::{DynAgent, TaskContext, TaskError},
    clock::Clock,
    event::{Payload, Timestamp},
    failure::Failure,
};

use super::Middleware;
use crate::{
    agent::{AgentError, codes},
    options::check_span,
};

/// Refuses tasks for a while after several failures in a row, with
/// [`CIRCUIT_OPEN`](codes::CIRCUIT_OPEN), which is retryable; then lets one through to see whether
/// the trouble is over (the pattern is described by Nygard, "Release It!", 2007).
///
/// Only retryable failures count: a terminal one says nothing about the health of what the agent
/// needs.
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    clock: Arc<dyn Clock>,
    threshold: u32,
    open_for: Duration,
    circuit: Arc<Mutex<Circuit>>,
}

#[derive(Debug)]
enum Circuit {
    Closed {
        failures: u32,
    },
    Open {
        until: Timestamp,
    },
    /// One task is under way to see whether the trouble is over.
    Probing,
}

impl CircuitBreaker {
    /// Opens after 5 failures in a row, for 30 s.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let circuit = Arc::new(Mutex::new(Circuit::Closed { failures: 0 }));
        Self { clock, threshold: 5, open_for: Duration::from_secs(30), circuit }
    }

    /// Sets after how many failures in a row it opens; 0 counts as 1.
    #[must_use]
    pub fn with_threshold(mut self, failures: u32) -> Self {
        self.threshold = failures.max(1);
        self
    }

    /// Sets for how long it refuses tasks.
    #[must_use]
    pub fn with_open_for(mut self, time: Duration) -> Self {
        self.open_for = time;
        self
    }

    /// Lets a task in, or says how long it would have to wait.
    fn enter<'a>(&'a self, context: &'a TaskContext) -> Result<Pass<'a>, Duration> {
        let (now, mut circuit) = (self.clock.now(), self.circuit());
        let probes = match *circuit {
            Circuit::Closed { .. } => false,
            Circuit::Open { until } if now >= until => true,
            Circuit::Open { until } => return Err(until.duration_since(now)),
            Circuit::Probing => return Err(Duration::ZERO),
        };
        if probes {
            *circuit = Circuit::Probing;
        }
        Ok(Pass { breaker: self, context, probes, end: None })
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that was let in; it counts when this is dropped.
struct Pass<'a> {
    breaker: &'a CircuitBreaker,
    context: &'a TaskContext,
    probes: bool,
    end: Option<End>,
}

/// What the end of a task says about the health of what the agent needs.
#[derive(Clone, Copy)]
enum End {
    Healthy,
    Sick,
    /// Nothing.
    Neutral,
}

impl End {
    fn of(result: &Result<Payload, TaskError>) -> Self {
        match result {
            Ok(_) => Self::Healthy,
            Err(error) if error.retryable => Self::Sick,
            Err(_) => Self::Neutral,
        }
    }
}

impl Circuit {
    /// Counts the end of a task that was let in while closed.
    fn count(&mut self, end: End, threshold: u32, until: Timestamp) {
        let Self::Closed { failures } = self else { return };
        match end {
            End::Healthy => *failures = 0,
            End::Sick if failures.saturating_add(1) >= threshold => *self = Self::Open { until },
            End::Sick => *failures = failures.saturating_add(1),
            End::Neutral => {}
        }
    }

    /// Opens or closes after the probe. One that proved nothing lets the next task probe.
    fn conclude(&mut self, end: End, now: Timestamp, until: Timestamp) {
        *self = match end {
            End::Healthy => Self::Closed { failures: 0 },
            End::Sick => Self::Open { until },
            End::Neutral => Self::Open { until: now },
        };
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // Without an end the future was dropped: cancelled, or over time.
        let cancelled = self.context.is_cancelled();
        let end = self.end.unwrap_or(if cancelled { End::Neutral } else { End::Sick });
        let (now, mut circuit) = (self.breaker.clock.now(), self.breaker.circuit());
        let until = now + self.breaker.open_for;
        if self.probes {
            circuit.conclude(end, now, until);
        } else {
            circuit.count(end, self.breaker.threshold, until);
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
        let mut pass = self.enter(context).map_err(refused)?;
        let result = agent.process_task(context, parameters).await;
        pass.end = Some(End::of(&result));
        result
    }

    fn check(&self) -> Result<(), AgentError> {
        check_span("the time for which a circuit is open", self.open_for, Duration::from_millis(1))
            .map_err(|reason| AgentError::InvalidConfiguration { reason })
    }
}

fn refused(wait: Duration) -> TaskError {
    let message = format!("too many tasks failed; the next one is let through in {wait:?}");
    TaskError::retryable(Failure::new(codes::CIRCUIT_OPEN, message))
}
