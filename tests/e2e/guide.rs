//! The pages of the guide.

use std::{fs, path::Path};

/// The programs in Rust are doctests of this package, the ones in Python are run by
/// `aios-py/tests/test_guide.py`.
#[test]
fn should_run_the_rust_programs_of_every_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let harness = fs::read_to_string(root.join("tests/src/lib.rs")).unwrap();
    let mut pages = 0;
    for entry in fs::read_dir(root.join("docs/guide/pages")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if fs::read_to_string(&path).unwrap().contains("```rust") {
            pages += 1;
            let listed = format!("\"docs/guide/pages/{name}\"");
            assert!(harness.contains(&listed), "tests/src/lib.rs does not list {name}");
        }
    }
    assert!(pages >= 5, "only {pages} pages have programs in Rust");
}
