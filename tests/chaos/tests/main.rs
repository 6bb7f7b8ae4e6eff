//! The harness, for as long as a gate can wait.

use std::process::Command;

#[test]
fn should_end_every_run_under_faults() {
    let status = Command::new(env!("CARGO_BIN_EXE_aios-chaos"))
        .args(["--seed", "11", "--minutes", "0.75", "--runs", "60", "--every", "2"])
        .status()
        .expect("the harness runs");
    assert!(status.success(), "{status}");
}
