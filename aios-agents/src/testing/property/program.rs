//! Workflows as data. The JSON form is shared with the tests in Python, so parts are only added.

use serde::{Deserialize, Serialize};

use super::SECOND;
use crate::testing::WorkflowTest;

/// A workflow as data, and the external events of its run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Program {
    /// Performed in order.
    pub(super) code: Vec<Do>,
    /// Seconds after the start, and the event.
    pub(super) outside: Vec<(u8, ExternalEvent)>,
}

/// An event from outside of the run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum ExternalEvent {
    /// The number of its name, and its payload.
    Signal(u8, u8),
    /// A request to cancel the run.
    Cancel,
    /// A pause.
    Pause,
    /// The end of a pause.
    Resume,
}

/// A part of a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Do {
    /// A step that ends immediately.
    Step(u8),
    /// A step whose code waits.
    SlowStep(u8),
    /// A step that fails twice.
    FailingStep,
    /// A task whose agent fails for some values.
    Task(u8),
    /// A child that fails for some values.
    Child(u8),
    /// A timer, in seconds.
    Sleep(u8),
    /// A wait for a signal by name, with a timeout in seconds.
    Signal(u8, u8),
    /// Emits an event.
    Emit,
    /// Sets the status.
    Status,
    /// Draws a UUID and a random number.
    Draw,
    /// Asks for the version of a change.
    Version(u8),
    /// Yields once without an operation.
    Yield,
    /// Sends to a channel between branches.
    Send(u8),
    /// Receives from a channel, for some seconds.
    Receive(u8, u8),
    /// Performs a part while holding the permit of a semaphore. Each level has its own semaphore, so that
    /// there is no deadlock.
    Guarded(u8, Box<Self>),
    /// Fails.
    Fail,
    /// Registers a compensation that is a step.
    Compensate(u8),
    /// One part after the other; the first error ends it.
    Sequence(Vec<Self>),
    /// Waits for all.
    All(Vec<Self>),
    /// Waits for all, in the order in which they end.
    Unordered(Vec<Self>),
    /// Waits for the first.
    First(Vec<Self>),
    /// Waits for the first of several operations that are polled in random order: timers of N seconds,
    /// and signals.
    Random(Vec<(u8, bool)>),
    /// Polls a part once and drops it.
    Drop(Box<Self>),
    /// Handles items from a signal until a deadline.
    Loop(u8, Box<Self>),
}

impl Program {
    /// Scripts the external events.
    pub(super) fn outside(&self, mut test: WorkflowTest) -> WorkflowTest {
        for (after, what) in &self.outside {
            let after = SECOND * u32::from(*after);
            test = match what {
                ExternalEvent::Signal(name, value) => {
                    test.signal(after, &signal_name(*name), value)
                }
                ExternalEvent::Cancel => test.cancel(after, "enough"),
                ExternalEvent::Pause => test.pause(after),
                ExternalEvent::Resume => test.resume(after),
            };
        }
        test
    }

    /// Slightly smaller programs.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let code = smaller(&self.code).into_iter();
        let mut programs: Vec<_> = code.map(|code| Self { code, ..self.clone() }).collect();
        for index in 0..self.outside.len() {
            let mut program = self.clone();
            program.outside.remove(index);
            programs.push(program);
        }
        programs
    }
}

/// The name of a signal by its number.
pub(super) fn signal_name(name: u8) -> String {
    format!("signal_{name}")
}

/// Combines several parts into one.
type Wrap = fn(Vec<Do>) -> Do;

/// Lists of parts that lack one part, or have the inside of a part instead of it.
fn smaller(parts: &[Do]) -> Vec<Vec<Do>> {
    let mut found = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let with = |new: Option<Do>| {
            let mut parts = parts.to_vec();
            parts.splice(index..=index, new);
            parts
        };
        // The most is gained by leaving out the whole part, so that is tried first.
        found.push(with(None));
        let (inner, wrap): (_, Wrap) = match part.clone() {
            Do::Sequence(parts) => (parts, Do::Sequence),
            Do::All(parts) => (parts, Do::All),
            Do::Unordered(parts) => (parts, Do::Unordered),
            Do::First(parts) => (parts, Do::First),
            Do::Guarded(_, part) | Do::Drop(part) | Do::Loop(_, part) => {
                found.push(with(Some(*part.clone())));
                continue;
            }
            _ => continue,
        };
        found.extend(inner.iter().map(|part| with(Some(part.clone()))));
        let less = smaller(&inner).into_iter().filter(|parts| !parts.is_empty());
        found.extend(less.map(|parts| with(Some(wrap(parts)))));
    }
    found
}
