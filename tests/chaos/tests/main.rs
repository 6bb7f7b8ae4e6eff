//! A run of the harness that is short enough for a gate. One test at a time: each needs the whole
//! machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

static MACHINE: Mutex<()> = Mutex::new(());

/// Multiplies the time limits: gate machines are slow and busy with other work.
const PATIENCE: &str = "--patience=5";

/// Runs the harness; returns whether it found nothing, and what it printed.
fn run(arguments: &[&str]) -> (bool, String) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut harness = Command::new(env!("CARGO_BIN_EXE_aios-chaos"));
    let output =
        harness.args(arguments).stderr(Stdio::inherit()).output().expect("the harness runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn should_end_every_run_under_faults_of_every_kind() {
    let (is_good, printed) =
        run(&["--seed=11", "--minutes=2", "--runs=200", "--every-kind", PATIENCE]);
    println!("{printed}");
    assert!(is_good);
}

/// Engines that leave and join are no fault: nothing runs twice, whichever engine owns a run.
#[test]
fn should_do_every_task_once_while_engines_are_replaced() {
    let (is_good, printed) =
        run(&["--seed=14", "--minutes=0.5", "--runs=60", "--faults=roll-engines", PATIENCE]);
    println!("{printed}");
    assert!(is_good);
    let again = "    again: 0,";
    assert!(printed.contains("skipped") || printed.contains(again), "something ran again");
}

#[test]
fn should_find_every_fault_that_is_planted() {
    let (is_good, printed) = run(&[
        "--seed=13",
        "--minutes=0.2",
        "--runs=24",
        "--faults=roll-agents",
        "--settle=2",
        "--plant=repeat-step,drop-run,wrong-result,second-key,full-queue,panic,exit,deaf,memory,\
         lost-event,changed-row",
    ]);
    if is_good && printed.contains("skipped") {
        return;
    }
    for violation in [
        "runs again in engine-",
        "has not ended: ",
        "its result is ",
        "has two idempotency keys",
        "left behind: run-",
        "left behind: queue ",
        "panicked at",
        "ended by itself",
        "did not end within",
        "agent-3 has ",
        "was not relayed",
        "differs from what the log says",
    ] {
        let is_found =
            printed.lines().any(|line| line.contains("VIOLATION") && line.contains(violation));
        assert!(is_found, "the violation {violation:?} was not found: {printed}");
    }
    assert!(!is_good, "it is a failure");
}
