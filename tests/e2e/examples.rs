//! The small examples.

use std::{path::Path, process::Command};

use aios_tests::program::program;

/// What a program prints in a folder of its own.
fn printed(name: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program(name)).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn should_greet_and_remember_it() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        assert_eq!(printed("hello-agent", &[], folder.path()), "HELLO, ADA!\n");
    }
    assert!(folder.path().join("hello.db").exists());
}

#[test]
fn should_wait_for_an_approval() {
    let folder = tempfile::tempdir().unwrap();
    let last = |arguments: &[&str]| {
        let text = printed("approval", arguments, folder.path());
        text.lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(last(&["yes"]), "release 1.2 was approved by Grace");
    assert_eq!(last(&["no"]), "release 1.2 was refused by Grace");
    assert_eq!(last(&[]), "nobody answered");
}

#[test]
fn should_apply_every_order_once_however_often_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let printed = printed("projection", &[], folder.path());
        assert_eq!(printed, "Ada has ordered for 42\n0 orders could not be read\n");
    }
}

#[test]
fn should_compensate_in_reverse_order() {
    let folder = tempfile::tempdir().unwrap();
    let expected = [
        "booked the flight",
        "booked the hotel",
        "cancelled the car",
        "cancelled the hotel",
        "cancelled the flight",
        "the trip failed: there are no cars (SOLD_OUT)",
        "",
    ];
    assert_eq!(printed("saga", &[], folder.path()), expected.join("\n"));
}
