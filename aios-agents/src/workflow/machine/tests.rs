use std::time::Duration;

use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskError, TaskId},
    event::{Event, Payload},
    retry::RetryPolicy,
};

use super::*;
use crate::workflow::journal::{
    AgentEvent, CancelRequested, ChildEnded, ChildStarted, OperationFailed, RetryScheduled,
    SignalAwaited, Signaled, Started, StepCompleted, TimerFired, TimerStarted, Unblocked,
    VersionMarked,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn later(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn failure() -> Failure {
    Failure::new("X", "broken")
}

/// A request of each kind that can wait, by name.
fn request(kind: &str) -> Request {
    let agent_type = "backend".parse().unwrap();
    let retry = RetryPolicy::fixed(3, Duration::from_secs(1));
    match kind {
        "step" => Request::Step { name: "s".into(), timeout: None, retry },
        "task" => Request::Task(Box::new(TaskRequest {
            agent_type,
            agent_id: None,
            parameters: Payload::null(),
            timeout: None,
            total_timeout: None,
            retry,
        })),
        "timer" => Request::Sleep { duration: Duration::from_secs(5) },
        "signal" => Request::Signal { name: "g".into(), timeout: Some(Duration::from_secs(5)) },
        _ => Request::Child(Box::new(ChildRequest {
            workflow: agent_type,
            run_id: None,
            input: Payload::null(),
            leave_running: false,
            cancel_when_dropped: false,
        })),
    }
}

/// Entries about an operation, by name.
fn entry(name: &str) -> Entry {
    let (operation, agent_type) = (1, "backend".parse().unwrap());
    let task_id = TaskId::of_run("r", operation);
    match name {
        "step_completed" => {
            let (name, result) = ("s".into(), Payload::null());
            Entry::StepCompleted(StepCompleted::new(operation, name, result))
        }
        "operation_failed" => {
            Entry::OperationFailed(OperationFailed::new(operation, None, failure()))
        }
        "retry_scheduled" => Entry::RetryScheduled(Box::new(RetryScheduled::new(
            operation,
            None,
            2,
            later(1),
            failure(),
        ))),
        "timer_started" => Entry::TimerStarted(TimerStarted::new(operation, later(5))),
        "timer_fired" => Entry::TimerFired(TimerFired::new(operation)),
        "signal_awaited" => {
            Entry::SignalAwaited(SignalAwaited::new(operation, "g".into(), later(5)))
        }
        "task_assigned" => {
            let parameters = Payload::null();
            let data = TaskAssigned::new(task_id, parameters, 1);
            Entry::TaskAssigned(AgentEvent { agent_type, data })
        }
        "task_completed" => {
            let data = TaskCompleted::new(task_id, Payload::null());
            Entry::TaskCompleted(AgentEvent { agent_type, data })
        }
        "child_started" => Entry::ChildStarted(ChildStarted::new(
            operation,
            "r~1".into(),
            agent_type,
            Payload::null(),
            false,
        )),
        _ => {
            let result = Some(Payload::null());
            Entry::ChildEnded(ChildEnded::new(operation, result, None))
        }
    }
}

fn machine() -> Machine {
    let mut machine = Machine::new("r".into(), []);
    machine.go_live().unwrap();
    machine
}

/// A machine whose only operation is of this kind and in this state.
fn machine_in(kind: &str, state: &str) -> Machine {
    let mut machine = machine();
    let operation = machine.reserve();
    if state == "reserved" {
        return machine;
    }
    machine.ask(operation, request(kind), NOW).unwrap();
    let path: &[&str] = match (kind, state) {
        (_, "open") => &[],
        ("step", "waiting") => return machine_in(kind, "retrying"),
        ("timer" | "signal" | "child", "recording" | "retrying") => {
            return machine_in(kind, "waiting");
        }
        (_, "waiting") => &["start"],
        (_, "retrying") => &["start", "retry_scheduled"],
        (_, "taken") => {
            let mut machine = machine_in(kind, "resolved");
            machine.take_outcome(1).unwrap().ok();
            return machine;
        }
        ("step", "recording") => {
            machine.step_ended(1, Ok(Payload::null()), NOW);
            return machine;
        }
        ("task", "recording") => {
            let mut machine = machine_in(kind, "waiting");
            machine.task_answered(1);
            return machine;
        }
        ("step", "resolved") => &["step_completed"],
        ("task", "resolved") => &["start", "task_completed"],
        ("child", "resolved") => &["start", "child_ended"],
        (_, "resolved") => &["start", "timer_fired"],
        _ => {
            machine.abandon(operation);
            &[]
        }
    };
    for name in path {
        let name = if *name == "start" { start_of(kind) } else { name };
        if !name.is_empty() {
            machine.apply(&entry(name), NOW).unwrap();
        }
    }
    machine
}

fn start_of(kind: &str) -> &'static str {
    match kind {
        "task" => "task_assigned",
        "timer" => "timer_started",
        "signal" => "signal_awaited",
        "child" => "child_started",
        _ => "",
    }
}

fn state_of(machine: &Machine) -> &'static str {
    match machine.operation(1).unwrap().state {
        State::Reserved => "reserved",
        State::Open { .. } => "open",
        State::Recording => "recording",
        State::Waiting { .. } => "waiting",
        State::Retrying { .. } => "retrying",
        State::Resolved { .. } => "resolved",
        State::Taken => "taken",
        State::Abandoned => "abandoned",
    }
}

#[test]
fn should_follow_the_table_of_states_and_entries() {
    const STATES: [&str; 8] =
        ["reserved", "open", "recording", "waiting", "retrying", "resolved", "taken", "abandoned"];
    let entries = [
        (["step"].as_slice(), "step_completed", "resolved"),
        (&["step", "task", "child"], "operation_failed", "resolved"),
        (&["step", "task"], "retry_scheduled", "retrying"),
        (&["timer"], "timer_started", "waiting"),
        (&["timer", "signal"], "timer_fired", "resolved"),
        (&["signal"], "signal_awaited", "waiting"),
        (&["task"], "task_assigned", "waiting"),
        (&["task"], "task_completed", "resolved"),
        (&["child"], "child_started", "waiting"),
        (&["child"], "child_ended", "resolved"),
    ];
    for (kinds, name, becomes) in entries {
        for kind in ["step", "task", "timer", "signal", "child"] {
            for state in STATES {
                let mut machine = machine_in(kind, state);
                let before = state_of(&machine);
                let applied = machine.apply(&entry(name), NOW);
                let is_over = ["resolved", "taken", "abandoned"].contains(&state);
                let fits = kinds.contains(&kind) || name == "operation_failed";
                let is_legal = state != "reserved" && (is_over || fits);
                // The answer that is being recorded is that of an earlier attempt.
                let is_answered = state == "recording" && name == "task_assigned";
                let stays = is_over || is_answered || !is_legal;
                let expected = if stays { before } else { becomes };
                assert_eq!(applied.is_ok(), is_legal, "{kind} {state} {name}");
                assert_eq!(state_of(&machine), expected, "{kind} {state} {name}");
            }
        }
    }
}

#[test]
fn should_follow_the_table_of_entries_about_the_whole_run() {
    let mut machine = machine_in("step", "open");
    let cancel = CancelRequested::new("why not".into());
    for (entry, paused, cancelled) in [
        (Entry::Paused, true, false),
        (Entry::Paused, true, false),
        (Entry::Resumed, false, false),
        (Entry::Resumed, false, false),
        (Entry::Paused, true, false),
        (Entry::CancelRequested(cancel.clone()), false, true),
        (Entry::Paused, false, true),
        (Entry::CancelRequested(cancel), false, true),
        (Entry::Unblocked(Unblocked::default()), false, true),
    ] {
        assert_eq!(machine.apply(&entry, NOW), Ok(None), "{entry:?}");
        assert_eq!((machine.is_paused(), machine.cancelled().is_some()), (paused, cancelled));
        assert_eq!(state_of(&machine), "open");
    }
    let mark = VersionMarked::new("c".into(), 3);
    assert_eq!(machine.apply(&Entry::VersionMarked(mark), NOW), Ok(None));
    assert_eq!(machine.version("c", 1, 4).unwrap(), 3);
    assert_eq!(machine.version("c", 1, 2).unwrap_err().code, "UNKNOWN_VERSION");
}

#[test]
fn should_record_what_each_request_begins_with() {
    for (kind, action) in [
        ("step", None),
        ("task", Some("task_assigned")),
        ("timer", Some("timer_started")),
        ("signal", Some("signal_awaited")),
        ("child", Some("child_started")),
    ] {
        let mut machine = machine_in(kind, "open");
        assert_eq!(machine.take_recording(), action.map(entry).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn should_hold_everything_back_while_replaying() {
    let journal = [entry("timer_started")];
    let mut machine = Machine::new("r".into(), &journal);
    let (timer, step) = (machine.reserve(), machine.reserve());
    machine.ask(timer, request("timer"), NOW).unwrap();
    machine.ask(step, request("step"), NOW).unwrap();
    machine.apply(&journal[0], NOW).unwrap();
    assert!(machine.take_effects().is_empty() && machine.take_recording().is_empty());
    assert_eq!(machine.step_attempt(step), None);
    machine.go_live().unwrap();
    assert!(matches!(machine.take_effects()[..], [Effect::Timer { operation: 1, .. }]));
    assert_eq!(machine.step_attempt(step), Some(1));
}

#[test]
fn should_refuse_code_that_requests_another_operation() {
    let journal = [entry("step_completed")];
    let mut machine = Machine::new("r".into(), &journal);
    let operation = machine.reserve();
    let mismatch = machine.ask(operation, request("timer"), NOW).unwrap_err();
    let expected = Mismatch { operation: 1, recorded: "step s".into(), asked: "timer".into() };
    assert_eq!(mismatch, expected);
}

#[test]
fn should_refuse_code_that_requests_less_than_is_recorded() {
    let journal = [entry("task_assigned")];
    let mut machine = Machine::new("r".into(), &journal);
    let mismatch = machine.apply(&journal[0], NOW).unwrap_err();
    assert_eq!((mismatch.recorded.as_str(), mismatch.asked.as_str()), ("task backend", "nothing"));
}

#[test]
fn should_give_each_signal_to_the_longest_wait() {
    let mut machine = machine();
    let (first, second) = (machine.reserve(), machine.reserve());
    for operation in [first, second] {
        let request = Request::Signal { name: "g".into(), timeout: None };
        machine.ask(operation, request, NOW).unwrap();
    }
    let signal =
        |number: u32| Entry::Signaled(Signaled::new("g".into(), Payload::encode(&number).unwrap()));
    assert_eq!(machine.apply(&signal(1), NOW).unwrap(), Some(first));
    assert_eq!(machine.apply(&signal(2), NOW).unwrap(), Some(second));
    assert_eq!(machine.apply(&signal(3), NOW).unwrap(), None);
    assert_eq!(machine.take_outcome(second).unwrap().unwrap().as_str(), "2");
}

#[test]
fn should_try_a_step_again_when_its_timer_is_due() {
    let mut machine = machine_in("step", "open");
    machine.step_ended(1, Err(TaskError::retryable(failure())), NOW);
    let [Entry::RetryScheduled(retry)] = &machine.take_recording()[..] else {
        panic!("a retry is recorded")
    };
    machine.apply(&Entry::RetryScheduled(retry.clone()), NOW).unwrap();
    assert_eq!(machine.timer_due(1, NOW), None, "too early");
    assert_eq!(machine.timer_due(1, retry.at), Some(1));
    assert_eq!(machine.step_attempt(1), Some(2));
}

/// The result of the first attempt arrives after the second attempt was due and before it is recorded.
#[test]
fn should_assign_no_further_attempt_at_a_task_that_has_an_outcome() {
    let ends: [fn(&mut Machine); 2] = [
        |machine| machine.task_answered(1),
        |machine| assert!(machine.apply(&entry("task_completed"), NOW).unwrap().is_some()),
    ];
    for end in ends {
        let mut machine = machine_in("task", "retrying");
        machine.take_recording();
        machine.timer_due(1, later(1));
        assert_eq!(machine.recording().count(), 1, "the second attempt");
        end(&mut machine);
        assert_eq!(machine.take_recording(), []);
    }
}

/// The same, but the assignment of the second attempt is on its way to the journal.
#[test]
fn should_not_dispatch_an_attempt_whose_task_was_answered_while_it_was_recorded() {
    for is_recorded in [true, false] {
        let mut machine = machine_in("task", "retrying");
        machine.take_recording();
        machine.take_effects();
        machine.timer_due(1, later(1));
        let assigned = machine.take_recording();
        assert_eq!(assigned.len(), 1);
        machine.task_answered(1);
        if is_recorded {
            assert_eq!(machine.apply(&assigned[0], NOW).unwrap(), None);
        } else {
            machine.put_back(assigned);
        }
        assert!(!machine.awaits_task(1, None), "a second answer is not needed");
        assert!(machine.apply(&entry("task_completed"), NOW).unwrap().is_some());
        assert_eq!(machine.take_recording(), []);
        let effects = machine.take_effects();
        let dispatches = |effect: &Effect| matches!(effect, Effect::Dispatch(_));
        assert!(!effects.iter().any(dispatches), "{effects:?}");
    }
}

#[test]
fn should_record_a_due_timer_once() {
    let mut machine = machine_in("timer", "waiting");
    machine.take_recording();
    machine.timer_due(1, later(5));
    machine.timer_due(1, later(6));
    assert_eq!(machine.take_recording(), [entry("timer_fired")]);
}

/// Its timer is due, and before that is recorded, its signal comes or the code drops it.
#[test]
fn should_not_record_the_timeout_of_a_wait_that_is_over() {
    for is_dropped in [false, true] {
        let mut machine = machine_in("signal", "waiting");
        machine.timer_due(1, later(5));
        assert!(machine.has_recording());
        match is_dropped {
            true => machine.abandon(1),
            false => {
                let signal = Signaled::new("g".into(), Payload::null());
                assert_eq!(machine.apply(&Entry::Signaled(signal), NOW).unwrap(), Some(1));
            }
        }
        assert_eq!(machine.take_recording(), [], "dropped: {is_dropped}");
    }
}

#[test]
fn should_cancel_a_task_without_a_waiting_caller() {
    let mut machine = machine_in("task", "waiting");
    machine.take_recording();
    machine.take_effects();
    machine.abandon(1);
    let effects = machine.take_effects();
    let expected =
        matches!(effects[..], [Effect::Settled { operation: 1 }, Effect::CancelTask { .. }]);
    assert!(expected, "{effects:?}");
    assert!(!machine.awaits_task(1, None));
}

#[test]
fn should_leave_no_trace_of_operations_given_up_before_they_were_recorded() {
    for kind in ["task", "timer", "signal", "child"] {
        let mut machine = machine_in(kind, "open");
        machine.abandon(1);
        assert!(machine.take_recording().is_empty() && machine.take_effects().is_empty(), "{kind}");
    }
}

/// Held entries make the code drop an operation that is not recorded yet, and request others.
#[test]
fn should_record_nothing_of_what_is_requested_before_a_cancellation_ends_a_pause() {
    let mut machine = machine_in("task", "open");
    machine.apply(&Entry::Paused, NOW).unwrap();
    machine.begin_flush();
    machine.abandon(1);
    let event = Event::new("shop.order.placed".parse().unwrap(), "test", &1).unwrap();
    for request in [Request::Emit { event: Box::new(event) }, request("task"), request("child")] {
        let operation = machine.reserve();
        machine.ask(operation, request, NOW).unwrap();
    }
    assert_eq!(machine.version("change", 1, 2).unwrap(), 2);
    machine.end_flush();
    let cancel = CancelRequested::new("enough".into());
    machine.apply(&Entry::CancelRequested(cancel), NOW).unwrap();
    (2..=machine.reserved()).for_each(|operation| machine.abandon(operation));
    let recorded = machine.take_recording();
    assert!(matches!(recorded[..], [Entry::VersionMarked(_)]), "{recorded:?}");
    assert!(machine.take_effects().is_empty() && machine.take_unwanted().is_empty());
}

#[test]
fn should_begin_nothing_while_it_is_paused() {
    let mut machine = machine_in("task", "open");
    machine.apply(&Entry::Paused, NOW).unwrap();
    assert!(!machine.has_recording() && machine.take_recording().is_empty());
    machine.apply(&Entry::Resumed, NOW).unwrap();
    assert_eq!(machine.take_recording(), [entry("task_assigned")]);

    machine.apply(&entry("task_assigned"), NOW).unwrap();
    machine.apply(&Entry::Paused, NOW).unwrap();
    assert!(machine.take_effects().is_empty());
    machine.apply(&Entry::Resumed, NOW).unwrap();
    assert!(matches!(machine.take_effects()[..], [Effect::Dispatch(_)]));
}

/// The run was forked before its code began, and a day after it was to begin.
#[test]
fn should_count_the_age_from_a_fork_of_a_delayed_start() {
    const HOUR: u64 = 3600;
    let mut started = Started::new(1, Payload::null());
    started.start_at = Some(later(24 * HOUR));
    started.gaps = vec![Gap::new(NOW, later(48 * HOUR))];
    let mut machine = Machine::new("r".into(), []);
    machine.apply(&Entry::Started(Box::new(started)), NOW).unwrap();
    let mark = Entry::VersionMarked(VersionMarked::new("c".into(), 3));
    let ages = [24, 47, 48, 50].map(|hour| {
        machine.apply(&mark, later(hour * HOUR)).unwrap();
        machine.age().as_secs() / HOUR
    });
    assert_eq!(ages, [0, 0, 0, 2]);
}

#[test]
fn should_record_the_end_of_a_step_that_was_begun_before_it_was_paused() {
    let mut machine = machine_in("step", "open");
    assert!(machine.begin_step(1, NOW) == Some(1) && machine.runs_step());
    let task = machine.reserve();
    machine.ask(task, request("task"), NOW).unwrap();
    machine.apply(&Entry::Paused, NOW).unwrap();
    machine.step_ended(1, Ok(Payload::null()), NOW);
    assert!(!machine.runs_step() && machine.has_recording());
    let recorded = machine.take_recording();
    assert!(matches!(recorded[..], [Entry::StepCompleted(_)]), "{recorded:?}");
    assert_eq!(machine.begin_step(1, NOW), None, "no step begins");
}

#[test]
fn should_set_the_timers_of_a_run_again_that_is_resumed() {
    let mut machine = machine_in("timer", "waiting");
    machine.take_recording();
    machine.take_effects();
    machine.apply(&Entry::Paused, NOW).unwrap();
    assert_eq!(machine.timer_due(1, later(5)), None);
    assert!(machine.take_recording().is_empty(), "nothing fires");
    machine.apply(&Entry::Resumed, NOW).unwrap();
    assert!(matches!(machine.take_effects()[..], [Effect::Timer { operation: 1, .. }]));
}

#[test]
fn should_report_that_an_operation_no_longer_waits() {
    for (kind, name) in
        [("timer", "timer_fired"), ("signal", "timer_fired"), ("child", "child_ended")]
    {
        let mut machine = machine_in(kind, "waiting");
        machine.take_effects();
        machine.apply(&entry(name), NOW).unwrap();
        let effects = machine.take_effects();
        assert!(matches!(effects[..], [Effect::Settled { operation: 1 }]), "{kind}: {effects:?}");
    }
}
