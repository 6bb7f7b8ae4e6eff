//! Faults that are planted in the harness's own processes, to verify that the checks find them.

use std::time::Duration;

use aios_core::broker::{Broker, Group, Subscription};
use clap::ValueEnum;

use crate::effect::{Effect, Reporter, now};

/// The delay before an effect is repeated: by then its result was seen.
const LATER: Duration = Duration::from_secs(5);
/// How long a process runs before it ends on its own.
const LIFE: Duration = Duration::from_secs(4);
/// How long a process runs before it uses more memory: its memory was measured by then.
const GROWTH: Duration = Duration::from_secs(1);
/// An allocation, in bytes, that exceeds the memory limit.
const MUCH: usize = 400 << 20;

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// A recorded step runs again.
    RepeatStep,
    /// Some runs never end.
    DropRun,
    /// Some tasks have the wrong result.
    WrongResult,
    /// Some tasks have another idempotency key when they are repeated.
    SecondKey,
    /// A queue is filled, and never emptied.
    FullQueue,
    /// Engines panic.
    Panic,
    /// The first agent service ends on its own.
    Exit,
    /// The second agent service ignores SIGTERM.
    Deaf,
    /// The third agent service uses a lot of memory.
    Memory,
    /// The subscriber does not see every event.
    LostEvent,
    /// A row of the read models is changed.
    ChangedRow,
}

/// The planted faults of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plants(pub(crate) Vec<Plant>);

impl Plants {
    /// Whether this fault is planted.
    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.0.contains(&plant)
    }

    /// Whether the fault applies to this number: not to all of them, so that others continue.
    pub(crate) fn hits(&self, plant: Plant, number: u64) -> bool {
        self.has(plant) && number.is_multiple_of(8)
    }

    /// Starts the faults that concern a whole process.
    pub(crate) async fn begin(&self, name: &str, broker: &dyn Broker) {
        if self.has(Plant::Panic) && name.starts_with("engine") {
            std::thread::spawn(|| panic!("planted"));
        }
        if self.has(Plant::Exit) && name == "agent-1" {
            tokio::spawn(async {
                tokio::time::sleep(LIFE).await;
                std::process::exit(7);
            });
        }
        if self.has(Plant::Memory) && name == "agent-3" {
            tokio::spawn(async {
                tokio::time::sleep(GROWTH).await;
                std::mem::forget(vec![1_u8; MUCH]);
            });
        }
        if self.has(Plant::FullQueue) {
            let pattern = "workflows.*.*".parse().expect("a pattern");
            let group = Group::new("chaos.forgotten").expect("a group");
            let deliveries = broker.subscribe(Subscription::group(group, [pattern])).await;
            std::mem::forget(deliveries.expect("subscribing"));
        }
    }

    /// Whether a process ends when it is asked to.
    pub(crate) fn hears(&self, name: &str) -> bool {
        !(self.has(Plant::Deaf) && name == "agent-2")
    }

    /// Repeats the effect of a step.
    pub(crate) fn repeat(&self, effect: &Effect, reporter: &Reporter) {
        if self.has(Plant::RepeatStep) {
            let (mut effect, reporter) = (effect.clone(), reporter.clone());
            tokio::spawn(async move {
                tokio::time::sleep(LATER).await;
                effect.at = now();
                reporter.report(&effect).await.ok();
            });
        }
    }

    /// Repeats the effect of a task under another idempotency key.
    pub(crate) async fn repeat_otherwise(&self, effect: &Effect, number: u64, reporter: &Reporter) {
        if self.hits(Plant::SecondKey, number + 2) {
            let key = format!("{}-other", effect.key);
            reporter.report(&Effect { key, ..effect.clone() }).await.ok();
        }
    }
}
