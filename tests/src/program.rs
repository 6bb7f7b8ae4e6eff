//! The example programs, built with the profile of the test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

/// Path of an example program. The first call in a process builds all of them, into the target
/// directory and with the profile of the test that calls it.
///
/// # Panics
///
/// If the programs can't be built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let folder = folder_of_the_test();
    BUILT.call_once(|| build(&folder));
    folder.join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// The folder of the programs of this profile: `target/debug` for `target/debug/deps/e2e-0123`.
fn folder_of_the_test() -> PathBuf {
    let test = env::current_exe().expect("a test knows its path");
    let folder = test.parent().and_then(Path::parent);
    folder.expect("a test lies in a target directory").to_owned()
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = folder.parent().expect("a profile lies in a target directory");
    let status = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["build", "--quiet", "--package", "aios-examples", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the example programs can't be built: {status}");
}
