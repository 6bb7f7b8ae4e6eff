//! Files that are hostile, or that cannot be read.

use std::{fmt::Write, os::unix::ffi::OsStringExt, process::Command};

use aios_service::config::Settings;

use super::{Mail, Scene};

fn report(text: &str) -> Vec<String> {
    let scene = Scene::new(&[("config/base.yaml", text)]);
    let error = scene.builder(&[]).section::<Mail>("mail").load().unwrap_err();
    scene.faults(&error)
}

fn assert_refused(text: &str, reason: &str) {
    let faults = report(text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains(reason), "{faults:?}");
}

#[test]
fn should_refuse_aliases_that_multiply() {
    let mut bomb = "mail:\n  anything:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "    a{level}: &a{level} [{aliases}]").unwrap();
    }
    assert_refused(&bomb, "too complex");
}

#[test]
fn should_refuse_aliases_that_contain_themselves() {
    assert_refused("mail:\n  anything: &a [*a]\n", "Recursive");
    assert_refused("mail: &a\n  anything:\n    <<: *a\n", "Recursive");
}

#[test]
fn should_refuse_deep_and_large_files() {
    let deep = format!("mail: {{anything: {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_refused(&deep, "recursion limit");
    let deep: String = (0..1_000).fold(String::new(), |mut text, level| {
        writeln!(text, "{}a:", " ".repeat(level)).unwrap();
        text
    });
    assert_refused(&deep, "too complex");
    let many = format!("mail:\n  anything: [{}]\n", "1, ".repeat(50_000));
    assert_refused(&many, "too complex");
    let large = format!("mail: {{host: {}}}", "x".repeat(1_100_000));
    assert_eq!(report(&large), ["config/base.yaml: is larger than 1 MiB"]);
    let long_key = format!("{}: 1", "x".repeat(100_000));
    assert_refused(&long_key, "mapping values");
}

#[test]
fn should_refuse_what_is_not_a_text_file() {
    let scene = Scene::new(&[]);
    let base = scene.path().join("config/base.yaml");
    let faults = || scene.faults(&scene.builder(&[]).load().unwrap_err());
    std::fs::write(&base, b"log: \xff\n").unwrap();
    assert_eq!(faults(), ["config/base.yaml: is not UTF-8"]);
    std::fs::remove_file(&base).unwrap();
    std::fs::create_dir(&base).unwrap();
    assert_eq!(faults(), ["config/base.yaml: is not a file"]);
    std::fs::remove_dir(&base).unwrap();
    assert!(Command::new("mkfifo").arg(&base).status().unwrap().success());
    assert_eq!(faults(), ["config/base.yaml: is not a file"], "a pipe would block forever");
}

#[test]
fn should_refuse_a_folder_that_is_not_one() {
    let scene = Scene::new(&[("file", "")]);
    for (folder, fault) in [("none", "none: is not a folder"), ("file", "file: is not a folder")] {
        let builder = scene.builder(&[]).folder(scene.path().join(folder));
        assert_eq!(scene.faults(&builder.load().unwrap_err()), [fault]);
    }
}

#[test]
fn should_refuse_too_many_files() {
    let scene = Scene::new(&[]);
    let mount = scene.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    for number in 0..101 {
        std::fs::write(mount.join(format!("{number}.yaml")), "").unwrap();
    }
    let builder = scene.builder(&[("AIOS_CONFIG_DIR", "DIR/mount")]);
    assert_eq!(
        scene.faults(&builder.load().unwrap_err()),
        ["AIOS_CONFIG_DIR: mount has more than 100 files"]
    );
}

#[test]
fn should_refuse_variables_that_are_not_text() {
    let bytes = || std::ffi::OsString::from_vec(vec![0xff]);
    let scene = Scene::new(&[]);
    let builder = Settings::builder().folder(scene.path().join("config")).environment([
        ("AIOS_LOG_LEVEL".into(), bytes()),
        ("OTHER".into(), bytes()),
        (bytes(), bytes()),
    ]);
    let faults = scene.faults(&builder.load().unwrap_err());
    assert_eq!(faults, ["AIOS_LOG_LEVEL: the value is not UTF-8"]);
}
