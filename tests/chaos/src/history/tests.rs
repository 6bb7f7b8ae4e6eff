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

#[test]
fn should_know_why_a_recorded_task_runs_again() {
    let reasons: [fn(&History); 4] = [
        |history| history.healed(history.hit("rabbitmq", &fault(FaultKind::RabbitmqKill))),
        |history| history.healed(history.hit("engine-2", &fault(FaultKind::KillEngine))),
        |history| history.stalled(MOMENT),
        |_| {},
    ];
    for (number, happens) in reasons.into_iter().enumerate() {
        let history = history();
        history.assigned(TASK);
        history.effect(effect(TASK, 1, NOW));
        happens(&history);
        record(&history, TASK, Some("first"));
        let later = if number == 3 { PATIENCE } else { MOMENT };
        history.effect(effect(TASK, 1, later));
        let Counts { unacknowledged, given_twice, slow, .. } = history.counts();
        let counted = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]];
        assert_eq!(Some(&[unacknowledged, given_twice, slow]), counted.get(number));
        assert_eq!(violated(&history), None);
    }
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
