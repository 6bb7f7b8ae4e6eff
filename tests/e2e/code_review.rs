//! code-review from the perspective of a user.

use std::{fs, path::Path};

use aios_store::sqlite::SqliteStore;
use aios_tests::postgres::PostgresServer;
use serde_json::Value;

use crate::review::{Review, tree};

const FILES: usize = 120;

fn skipped(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let skipped = report["skipped"].as_array().unwrap().iter();
    skipped.map(|skipped| (text(&skipped["path"]), text(&skipped["reason"]))).collect()
}

#[test]
fn should_give_the_report_that_was_checked_by_hand() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let review = Review::of(&fixtures.join("tree"));
    review.finish(&[]);
    let expected = fs::read_to_string(fixtures.join("tree-report.json")).unwrap();
    assert_eq!(review.report_text(), expected);
}

#[cfg(unix)]
#[test]
fn should_report_unusual_files_and_continue() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let tree = tree(3);
    let at = |name: &str| tree.path().join(name);
    fs::write(at("binary"), b"a\0b").unwrap();
    fs::File::create(at("huge.rs")).unwrap().set_len(64 << 20).unwrap();
    fs::write(at("latin1.txt"), b"caf\xe9").unwrap();
    fs::write(at(".gitignore"), "ignored\n").unwrap();
    fs::write(at("ignored"), "// TODO\n").unwrap();
    symlink("loop", at("loop")).unwrap();
    symlink("..", at("up")).unwrap();
    fs::write(at("unreadable.rs"), "").unwrap();
    fs::set_permissions(at("unreadable.rs"), fs::Permissions::from_mode(0o000)).unwrap();
    // File permissions do not restrict root.
    let is_bound = fs::File::open(at("unreadable.rs")).is_err();

    let review = Review::of(tree.path());
    review.finish(&[]);
    let mut expected = vec![
        ("binary", "binary"),
        ("huge.rs", "too_large"),
        ("latin1.txt", "not_utf8"),
        ("loop", "symlink"),
        ("unreadable.rs", "unreadable"),
        ("up", "symlink"),
    ];
    expected.retain(|(path, _)| is_bound || *path != "unreadable.rs");
    let report = review.report();
    let found = skipped(&report);
    let found: Vec<_> = found.iter().map(|(path, why)| (path.as_str(), why.as_str())).collect();
    assert_eq!(found, expected);
    let readable = if is_bound { 4 } else { 5 };
    assert_eq!(report["total"]["files"], readable, "three sources and .gitignore");
    assert!(!review.report_text().contains("ignored"));
}

#[test]
fn should_refuse_a_missing_path_on_one_line() {
    let review = Review::of(Path::new("/nowhere/at all"));
    let output = review.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("code-review: can't read /nowhere/at all: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!review.has_state());
}

#[tokio::test]
async fn should_refuse_a_store_that_another_process_has_open() {
    let tree = tree(1);
    let review = Review::of(tree.path());
    let _store = SqliteStore::connect(&review.state_url()).await.unwrap();
    let output = review.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        message,
        "code-review: code-review.db is open already, in this or in another process\n"
    );
}

#[test]
fn should_refuse_a_store_that_it_does_not_know() {
    let tree = tree(1);
    let output = Review::of(tree.path()).run(&["--store", "ftp://x"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("begins with memory:, sqlite: or postgres:"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

/// Kills a review halfway, and starts it again.
fn resume_after_a_kill(arguments: &[&str]) {
    let tree = tree(FILES);
    let uninterrupted = Review::of(tree.path());
    uninterrupted.finish(&[]);

    let review = Review::of(tree.path());
    let mut child = review.start(arguments);
    review.wait_for(&mut child, FILES / 2);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the kill should come in the middle");
    let before = review.executions().len();

    let printed = review.finish(arguments);
    let resumed = printed.strip_prefix("resuming: ").and_then(|rest| rest.split_once(' '));
    let (done, rest) = resumed.unwrap_or_else(|| panic!("{printed}"));
    let done: usize = done.parse().unwrap();
    assert!(done > 0 && done <= before, "{done} of {before}");
    assert!(rest.starts_with(&format!("of {FILES} files were done\n")), "{printed}");
    let later = rest.lines().filter_map(|line| line.strip_suffix(" files are done"));
    let later: Vec<_> =
        later.filter_map(|line| line.split(' ').next()?.parse::<usize>().ok()).collect();
    assert!(later.iter().all(|shown| *shown >= done), "{printed}");
    assert_eq!(review.executions().len() - before, FILES - done);
    assert_eq!(review.report_text(), uninterrupted.report_text());
}

#[test]
fn should_resume_after_a_kill_and_report_the_earlier_progress() {
    resume_after_a_kill(&[]);
}

#[test]
fn should_resume_after_a_kill_from_a_server() {
    let Some(server) = PostgresServer::start() else { return };
    resume_after_a_kill(&["--store", &server.url()]);
}

#[cfg(unix)]
#[test]
fn should_stop_on_a_signal_and_resume_later() {
    let tree = tree(FILES);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let review = Review::of(tree.path());
        let mut child = review.start(&[]);
        review.wait_for(&mut child, FILES / 4);
        let pid = child.id().to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let printed = String::from_utf8(output.stdout).unwrap();
        let last = printed.lines().last().unwrap_or_default();
        assert!(last.starts_with("stopped: ") && last.contains("run the same command"), "{last}");
        assert!(review.finish(&[]).starts_with("resuming: "));
        // It waited for running work before it stopped, so nothing ran twice.
        assert_eq!(review.executions().len(), FILES);
    }
}

#[test]
fn should_start_over_when_requested() {
    let tree = tree(FILES);
    let review = Review::of(tree.path());
    let mut child = review.start(&[]);
    review.wait_for(&mut child, FILES / 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = review.executions().len();
    assert!(before < FILES, "the kill should come in the middle");

    let printed = review.finish(&["--fresh"]);
    assert!(printed.starts_with("the unfinished review is given up; starting over\n"), "{printed}");
    assert_eq!(review.executions().len() - before, FILES);
}

#[test]
fn should_review_again_after_the_end_and_see_what_has_changed() {
    let tree = tree(2);
    let review = Review::of(tree.path());
    assert!(review.finish(&[]).starts_with("reviewing "));
    fs::write(tree.path().join("new.rs"), "fn new() {}\n").unwrap();
    let printed = review.finish(&[]);
    assert!(printed.starts_with("the last review is done, see "), "{printed}");
    assert_eq!(review.report()["total"]["files"], 3);
}
