//! The small examples.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use aios_tests::{postgres::PostgresServer, program::program, rabbitmq::RabbitMqServer};

/// The output of a program in its own folder.
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
fn should_research_once_and_publish_what_was_approved() {
    let folder = tempfile::tempdir().unwrap();
    let first = printed("research-team", &[], folder.path());
    let published = "published \"Two databases\" as report.md\n";
    assert_eq!(first, format!("approved: publish \"Two databases\"\n{published}7 requests\n"));
    let report = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("one file") && report.contains("a database server"), "{report}");
    let second = printed("research-team", &[], folder.path());
    assert_eq!(second, format!("{published}0 requests\n"));
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
    assert_eq!(last(&[]), "no answer");
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
        "the trip failed: task of agent \"booker\" (operation 3) failed: there are no cars (SOLD_OUT)",
        "",
    ];
    assert_eq!(printed("saga", &[], folder.path()), expected.join("\n"));
}

#[test]
fn should_tell_a_change_that_fits_a_journal_from_one_that_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let expected = "2 reminders in 20 days\nthe code fits\nthe change does not fit\n";
    assert_eq!(printed("testing", &[], folder.path()), expected);
}

#[test]
fn should_keep_the_old_branch_for_an_old_run() {
    let folder = tempfile::tempdir().unwrap();
    let expected = "deployed\norder 1 shipped to Paris\norder 2 checked and shipped to Paris\n";
    for _ in 0..2 {
        assert_eq!(printed("versions", &[], folder.path()), expected);
    }
}

#[test]
fn should_continue_with_a_short_journal() {
    let folder = tempfile::tempdir().unwrap();
    let printed = printed("continue-as-new", &[], folder.path());
    assert!(printed.starts_with("balance 325\n"), "{printed}");
}

#[test]
fn should_spend_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(printed("middleware", &[], folder.path()), "ten bytes\nBUDGET_SPENT\n");
}

#[test]
fn should_count_what_is_published() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(printed("custom-adapter", &[], folder.path()), "A\nB\nC\n3 tasks published\n");
}

#[test]
fn should_report_each_month_once_from_postgresql() {
    let Some(server) = PostgresServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let printed = printed("postgres", &[&server.url()], folder.path());
        let reports = (1..=3).map(|month| format!("the report of month {month}\n"));
        assert_eq!(printed, reports.collect::<String>() + "0 runs removed\n");
    }
}

#[test]
fn should_signal_a_run_of_another_process() {
    let Some(server) = PostgresServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut waiting = Running::start("signals", &["wait", &server.url()], folder.path());
    for _ in 0..2 {
        assert_eq!(printed("signals", &["send", &server.url()], folder.path()), "sent\n");
    }
    assert_eq!(waiting.line(), "tea was paid with 500\n");
}

#[test]
fn should_assign_tasks_to_an_agent_of_another_process() {
    let Some(server) = RabbitMqServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Running::start("rabbitmq", &["agent", &server.url()], folder.path());
    assert_eq!(agent.line(), "ready\n");
    let arguments = ["run", &server.url(), "sqlite://runs.db"];
    assert_eq!(printed("rabbitmq", &arguments, folder.path()), "HELLO FROM AFAR\n");
}

/// A program that is stopped with the test.
struct Running(Child);

impl Running {
    fn start(name: &str, arguments: &[&str], folder: &Path) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments).current_dir(folder).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The first line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
