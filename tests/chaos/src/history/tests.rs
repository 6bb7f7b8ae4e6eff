use std::time::Duration;

use aios_core::store::{Epoch, Fence, Shard};

use super::*;

const STEP: &str = "run-1/open";
const TASK: &str = "run-1/1";

fn history() -> History {
    let history = History::new();
    history.started("run-1");
    history
}

fn effect(operation: &str, epoch: u64, later: Duration) -> Effect {
    Effect {
        kind: if operation == TASK { Kind::Task } else { Kind::Step },
        operation: operation.to_owned(),
        key: "key".to_owned(),
        attempt: 1,
        fence: Some(Fence { shard: Shard::new(1).unwrap(), epoch: Epoch(epoch) }),
        process: "engine-1".to_owned(),
        at: now() + later,
    }
}

fn record(history: &History, operation: &str, cause: Option<&str>) {
    let cause = cause.map(str::to_owned);
    history.recorded(operation, Recorded { at: now(), event: "event".to_owned(), cause });
}

fn fault(kind: FaultKind) -> Fault {
    Fault { at: Duration::ZERO, kind, time: Duration::ZERO, chance: 0 }
}

/// The text of the only violation, if there is one.
fn violated(history: &History) -> Option<String> {
    let mut violations = history.violations();
    assert!(violations.len() < 2, "{violations:?}");
    violations.pop()
}

const NOW: Duration = Duration::ZERO;
const MOMENT: Duration = Duration::from_millis(500);

#[test]
fn should_find_a_recorded_step_that_runs_again() {
    let history = history();
    assert!(history.effect(effect(STEP, 1, NOW)));
    assert!(history.effect(effect(STEP, 1, NOW)), "nothing is recorded yet");
    assert_eq!((violated(&history), history.counts().again), (None, 1));
    record(&history, STEP, None);
    history.hit("engine-1", &fault(FaultKind::KillEngine));
    assert!(history.effect(effect(STEP, 2, MOMENT)));
    assert!(violated(&history).unwrap().contains("after it was recorded"), "no fault excuses it");
}

#[test]
fn should_refuse_a_former_owner() {
    let history = history();
    assert!(history.effect(effect(STEP, 2, NOW)));
    record(&history, STEP, None);
    assert!(!history.effect(effect(STEP, 1, MOMENT)));
    assert_eq!((violated(&history), history.counts().refused), (None, 1));
}

#[test]
fn should_find_a_recorded_task_that_runs_again_without_a_reason() {
    let history = history();
    history.assigned(TASK);
    history.effect(effect(TASK, 1, NOW));
    record(&history, TASK, Some("first"));
    history.effect(effect(TASK, 1, MOMENT));
    assert!(violated(&history).unwrap().contains("after it was recorded"));
}

/// A task that `agent-1` did under the first epoch, a fault, and the same task in `agent-2` after its
/// result was recorded. Returns the history.
fn repeated(
    happens: impl FnOnce(&History),
    epoch: u64,
    later: Duration,
) -> (History, Option<Excuse>) {
    let history = history();
    history.assigned(TASK);
    history.effect(Effect { process: "agent-1".to_owned(), ..effect(TASK, 1, NOW) });
    happens(&history);
    record(&history, TASK, Some("first"));
    history.effect(Effect { process: "agent-2".to_owned(), ..effect(TASK, epoch, later) });
    let Counts { unacknowledged, given_twice, slow, .. } = history.counts();
    let excuse = match (unacknowledged, given_twice, slow) {
        (1, 0, 0) => Some(Excuse::Unacknowledged),
        (0, 1, 0) => Some(Excuse::GivenTwice),
        (0, 0, 1) => Some(Excuse::Slow),
        _ => None,
    };
    (history, excuse)
}

fn hit(target: &'static str, kind: FaultKind) -> impl Fn(&History) {
    move |history| history.healed(history.hit(target, &fault(kind)))
}

#[test]
fn should_excuse_a_repeated_task_by_a_fault_that_can_repeat_it() {
    use FaultKind as Kind;
    for (target, kind, epoch, expected) in [
        ("rabbitmq", Kind::RabbitmqKill, 1, Excuse::Unacknowledged),
        ("agent-1", Kind::KillAgent, 1, Excuse::Unacknowledged),
        ("agent-1", Kind::CutBroker, 1, Excuse::Unacknowledged),
        ("agent-2", Kind::FreezeAgent, 1, Excuse::Unacknowledged),
        ("engine-1", Kind::PartBroker, 1, Excuse::GivenTwice),
        ("engine-3", Kind::KillEngine, 2, Excuse::GivenTwice),
        ("engine-3", Kind::FreezeEngine, 2, Excuse::GivenTwice),
        ("postgresql", Kind::PostgresKill, 2, Excuse::GivenTwice),
    ] {
        let (history, excuse) = repeated(hit(target, kind), epoch, MOMENT);
        assert_eq!((violated(&history), excuse), (None, Some(expected)), "{target} {kind:?}");
    }
    let (history, excuse) = repeated(|history| history.stalled(MOMENT), 1, MOMENT);
    assert_eq!((violated(&history), excuse), (None, Some(Excuse::Unacknowledged)));
}

#[test]
fn should_not_excuse_a_repeated_task_by_a_fault_of_another_kind_or_process() {
    use FaultKind as Kind;
    for (target, kind, epoch) in [
        // Another agent, which did not do the task.
        ("agent-3", Kind::KillAgent, 1),
        // The engine is the same one.
        ("engine-1", Kind::KillEngine, 1),
        ("postgresql", Kind::PostgresKill, 1),
        // The engine is another one, which no fault of an agent or of RabbitMQ causes.
        ("agent-1", Kind::KillAgent, 2),
        ("rabbitmq", Kind::RabbitmqKill, 2),
        ("engine-1", Kind::CutBroker, 2),
        // What ends in an orderly way loses nothing, and neither does what is slow or has the wrong time.
        ("engine-1", Kind::RollEngines, 2),
        ("agent-1", Kind::RollAgents, 1),
        ("agent-1", Kind::DelayBroker, 1),
        ("agent-1", Kind::ClockAgent, 1),
        ("engine-1", Kind::DelayStore, 2),
    ] {
        let (history, excuse) = repeated(hit(target, kind), epoch, MOMENT);
        let text = violated(&history).unwrap_or_default();
        assert!(excuse.is_none() && text.contains("it was recorded"), "{target} {kind:?}: {text}");
    }
}

#[test]
fn should_not_excuse_a_task_that_runs_again_long_after_its_result() {
    let (history, _) = repeated(hit("agent-1", FaultKind::KillAgent), 1, MOMENT * 60);
    assert!(violated(&history).unwrap().contains("30.0 s after it was recorded"));
}

#[test]
fn should_excuse_a_repeated_task_that_no_agent_began_for_some_time() {
    let history = history();
    history.assigned(TASK);
    history.effect(effect(TASK, 1, excuse::PATIENCE));
    record(&history, TASK, Some("first"));
    history.effect(effect(TASK, 1, excuse::PATIENCE + MOMENT));
    assert_eq!((violated(&history), history.counts().slow), (None, 1));
}

#[test]
fn should_find_lifecycle_events_that_are_missing_or_out_of_order() {
    let history = history();
    for event in ["started", "signaled", "completed"] {
        history.logged("run-1", event);
    }
    history.logged("run-2", "started of another");
    for event in ["started of another", "started", "completed", "started"] {
        history.arrived(event);
    }
    let faults = history.relay_faults();
    assert_eq!(faults, ["event signaled of run-1 was not relayed"]);
    history.arrived("signaled");
    let faults = history.relay_faults();
    assert_eq!(faults, ["event completed of run-1 came before signaled"]);
    let Counts { relayed, relayed_again, .. } = history.counts();
    assert_eq!((relayed, relayed_again), (4, 1));
}

#[test]
fn should_count_the_events_that_were_lost_with_a_broker() {
    let history = history();
    history.logged("run-1", "started");
    let faults = history.relay_faults();
    assert_eq!(faults.len(), 1);
    hit("rabbitmq", FaultKind::RabbitmqKill)(&history);
    assert_eq!(history.relay_faults(), faults, "it keeps its data");
    hit("rabbitmq", FaultKind::RabbitmqReplace)(&history);
    assert!(history.relay_faults().is_empty());
    assert_eq!(history.counts().lost_with_broker, 1);
}

#[test]
fn should_find_a_task_that_is_assigned_after_its_result() {
    let history = history();
    history.assigned(TASK);
    record(&history, TASK, Some("first"));
    history.assigned(TASK);
    assert!(violated(&history).unwrap().contains("assigned again"));
}

#[test]
fn should_find_two_results_of_one_attempt() {
    let history = history();
    record(&history, TASK, Some("first"));
    record(&history, TASK, Some("second"));
    assert_eq!((violated(&history), history.counts().late_results), (None, 1));
    record(&history, TASK, Some("first"));
    assert!(violated(&history).unwrap().contains("two results"));
}

#[test]
fn should_find_two_idempotency_keys() {
    let history = history();
    history.effect(effect(TASK, 1, NOW));
    history.effect(Effect { key: "other".to_owned(), ..effect(TASK, 1, NOW) });
    assert!(violated(&history).unwrap().contains("two idempotency keys"));
}

#[test]
fn should_expect_no_process_to_be_ready_while_a_server_is_down() {
    let history = history();
    assert!(!history.is_hit("engine-1"));
    let hit = history.hit("postgresql", &fault(FaultKind::PostgresKill));
    assert!(history.is_hit("engine-1"));
    history.healed(hit);
    history.hit("engine-2", &fault(FaultKind::PartStore));
    assert!(history.is_hit("engine-2") && !history.is_hit("engine-1"));
}
