//! Why a task may run again although its result is recorded.
//!
//! Tasks are delivered at least once. An agent asks the engine before it begins a task that was delivered
//! before, so a recorded task runs again only if a fault made a copy that looks new, or if the answer was
//! on its way when the result was recorded. Both happen shortly after the result, to certain processes.

use std::time::Duration;

use super::{Effect, Hit, Operation, RECENT};
use crate::fault::FaultKind;

/// The greatest age of an engine's answer that lets a task begin.
const KNOWN: Duration = Duration::from_secs(20);
/// How long connections and leases may be found dead after a fault.
const AFTERMATH: Duration = Duration::from_secs(15);
/// How long after its assignment a task that no agent has begun may be assigned again: less than the
/// engines' options say, as the assignment may have been seen late.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The reason for which a task runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse {
    /// The acknowledgement was lost with the broker, or with the agent service that did the task.
    Unacknowledged,
    /// An engine assigned it again, because another one was gone or a confirmation was lost.
    GivenTwice,
    /// It was assigned again, because no agent had begun it for some time.
    Slow,
}

/// The reason for which a task runs again after its result was recorded, if there is one.
pub(super) fn find(
    known: &Operation,
    effect: &Effect,
    recorded: Duration,
    hits: &[Hit],
) -> Option<Excuse> {
    let first = known.begun.first()?;
    if effect.at > recorded + KNOWN {
        return None;
    }
    let assigned = known.assigned.map_or(first.at, |assigned| assigned.min(first.at));
    let hits = hits.iter().rev().take(RECENT);
    let hits = hits.filter(|hit| hit.was_between(assigned, effect.at));
    let of_done = |hit: &Hit| known.begun.iter().any(|begun| begun.process == hit.target);
    let epoch = |effect: &Effect| effect.fence.map(|fence| fence.epoch);
    let is_of_other_owner = epoch(first) != epoch(effect);
    let excuse = |hit: &Hit| {
        let Some(kind) = hit.kind else { return Some(Excuse::Unacknowledged) };
        let is_engine = hit.target.starts_with("engine");
        match kind {
            kind if is_of_other_owner => {
                let may_move = kind.is_of_store() || (is_engine && moves_runs(kind));
                may_move.then_some(Excuse::GivenTwice)
            }
            kind if kind.is_of_broker() => Some(Excuse::Unacknowledged),
            kind if is_engine => loses_messages(kind).then_some(Excuse::GivenTwice),
            kind if of_done(hit) || hit.target == effect.process => {
                loses_messages(kind).then_some(Excuse::Unacknowledged)
            }
            _ => None,
        }
    };
    let by_fault = hits.filter_map(excuse).next();
    by_fault.or_else(|| (first.at >= assigned + PATIENCE).then_some(Excuse::Slow))
}

/// Whether a fault of an engine can make another one own its runs.
fn moves_runs(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::KillEngine
            | FaultKind::FreezeEngine
            | FaultKind::PartStore
            | FaultKind::PartNetwork
            | FaultKind::MuteNetwork
    )
}

/// Whether a fault of a process can lose what it sends to the broker, or delay what it receives.
fn loses_messages(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::KillAgent
            | FaultKind::FreezeAgent
            | FaultKind::FreezeEngine
            | FaultKind::CutBroker
            | FaultKind::PartBroker
            | FaultKind::PartNetwork
            | FaultKind::MuteNetwork
    )
}

impl Hit {
    /// Whether it affected its target in this period.
    fn was_between(&self, from: Duration, to: Duration) -> bool {
        self.from <= to && self.until.is_none_or(|until| until + AFTERMATH >= from)
    }
}
