//! Workflows as data: their operations and the expected results.

use aios_core::failure::Failure;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The code of the failure of a program that should fail.
pub const PLANNED: &str = "PLANNED";
/// The value in the result for an operation that failed permanently.
pub const GIVEN_UP: i64 = -1;

/// A workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub parts: Vec<Part>,
    /// The results of the previous runs in its chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<i64>,
}

/// An operation of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// A step that fails this many times before it succeeds.
    Step { value: i64, failures: u32, millis: u64 },
    /// A step that always fails, and is attempted this many times.
    DoomedStep { attempts: u32 },
    /// A task that fails this many times before it succeeds.
    Task { value: i64, failures: u32, millis: u64 },
    /// A task that always fails, and is attempted this many times.
    DoomedTask { attempts: u32 },
    /// A timer.
    Sleep { millis: u64 },
    /// A wait for a signal, by name.
    Signal { name: String },
    /// A child.
    Child(Program),
    /// All of them at the same time.
    All(Vec<Self>),
    /// Registers a compensation.
    Compensate { number: u32 },
    /// An event.
    Emit { number: u32 },
    /// Continues as a new run with the rest of the program.
    Continue,
    /// Fails.
    Fail,
}

/// The expected outcome of a program.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    Result(Vec<i64>),
    Failure(Failure),
}

impl Program {
    /// The expected outcome of a run, whatever faults happen.
    pub fn expected(&self) -> Expected {
        let mut made = self.before.clone();
        match self.parts.iter().try_for_each(|part| part.make(&mut made)) {
            Ok(()) => Expected::Result(made),
            Err(failure) => Expected::Failure(failure),
        }
    }

    /// Limits the duration of its steps.
    pub fn shorten(&mut self, limit: u64) {
        self.parts.iter_mut().for_each(|part| part.shorten(limit));
    }

    /// The signals that the program waits for.
    pub fn signals(&self) -> Vec<String> {
        fn collect(part: &Part, found: &mut Vec<String>) {
            match part {
                Part::Signal { name } => found.push(name.clone()),
                Part::All(parts) => parts.iter().for_each(|part| collect(part, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        self.parts.iter().for_each(|part| collect(part, &mut found));
        found
    }

    /// The compensations that run when it fails, in their order.
    pub fn undone(&self) -> Vec<u32> {
        let numbers = self.parts.iter().filter_map(|part| match part {
            Part::Compensate { number } => Some(*number),
            _ => None,
        });
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.reverse();
        numbers
    }
}

impl Part {
    fn shorten(&mut self, limit: u64) {
        match self {
            Self::Step { millis, .. } => *millis = (*millis).min(limit),
            Self::Child(program) => program.shorten(limit),
            Self::All(parts) => parts.iter_mut().for_each(|part| part.shorten(limit)),
            _ => {}
        }
    }

    fn make(&self, made: &mut Vec<i64>) -> Result<(), Failure> {
        match self {
            Self::Step { value, .. } | Self::Task { value, .. } => made.push(*value),
            Self::DoomedStep { .. } | Self::DoomedTask { .. } => made.push(GIVEN_UP),
            Self::Signal { name } => made.push(value_of_signal(name)),
            Self::Child(program) => match program.expected() {
                Expected::Result(values) => made.push(values.iter().sum()),
                Expected::Failure(_) => made.push(GIVEN_UP),
            },
            Self::All(parts) => parts.iter().try_for_each(|part| part.make(made))?,
            Self::Fail => return Err(planned()),
            Self::Sleep { .. } | Self::Compensate { .. } | Self::Emit { .. } | Self::Continue => {}
        }
        Ok(())
    }
}

/// The failure of a program that should fail.
pub fn planned() -> Failure {
    Failure::new(PLANNED, "as planned")
}

/// The payload of a signal.
pub fn value_of_signal(name: &str) -> i64 {
    name.bytes().map(i64::from).sum()
}

/// Generates programs.
pub struct Generator<'a> {
    random: &'a mut Random,
    next: u32,
}

impl<'a> Generator<'a> {
    pub fn new(random: &'a mut Random) -> Self {
        Self { random, next: 0 }
    }

    /// A program for a run.
    pub fn program(&mut self) -> Program {
        let length = self.random.between(2, 6);
        let mut parts: Vec<Part> = (0..length).map(|_| self.part(2)).collect();
        if self.random.per_mille(250) {
            let first = self.compensation();
            parts.insert(0, first);
            let second = self.compensation();
            parts.push(second);
            if self.random.per_mille(600) {
                parts.push(Part::Fail);
            }
        } else if self.random.per_mille(200) {
            let place = self.random.index(parts.len());
            parts.insert(place + 1, Part::Continue);
        }
        Program { parts, before: Vec::new() }
    }

    fn compensation(&mut self) -> Part {
        Part::Compensate { number: self.number() }
    }

    fn part(&mut self, depth: u32) -> Part {
        let value = i64::from(self.number());
        let failures = if self.random.per_mille(250) { 1 } else { 0 };
        let millis = if self.random.per_mille(300) { self.random.between(1, 4000) } else { 0 };
        match self.random.below(if depth > 0 { 20 } else { 16 }) {
            0..=4 => Part::Step { value, failures, millis },
            5..=9 => Part::Task { value, failures, millis },
            10 => Part::DoomedStep { attempts: 2 },
            11 => Part::DoomedTask { attempts: 2 },
            12 | 13 => Part::Sleep { millis: self.random.between(10, 20_000) },
            14 => Part::Signal { name: format!("signal_{value}") },
            15 => Part::Emit { number: self.number() },
            16 | 17 => {
                let parts = (0..self.random.between(1, 2)).map(|_| self.part(0));
                let parts = parts.filter(|part| !matches!(part, Part::Signal { .. }));
                Part::Child(Program { parts: parts.collect(), before: Vec::new() })
            }
            _ => Part::All((0..self.random.between(2, 3)).map(|_| self.part(0)).collect()),
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}
