use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn code_review(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_code-review");
    Command::new(program).args(arguments).current_dir(folder).output().unwrap()
}

#[test]
fn should_write_the_same_report_again_even_into_the_tree_it_reviews() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.rs"), "// TODO: more\nfn a() {}\n").unwrap();
    fs::write(folder.path().join("b.bin"), b"\0\xff").unwrap();
    let report = || {
        let output = code_review(folder.path(), &["."]);
        assert!(output.status.success(), "{output:?}");
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        (read("report.json"), read("report.md"))
    };
    let first = report();
    assert_eq!(first, report());
    assert!(first.0.contains("\"b.bin\"") && first.1.contains("a.rs:1"));
    assert!(!first.0.contains(folder.path().to_str().unwrap()));
}

#[test]
fn should_refuse_a_missing_path_on_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = code_review(folder.path(), &["gone"]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("code-review: can't read gone: "), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
