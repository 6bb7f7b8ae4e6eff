//! The page of guarantees names the tests that prove them.

use std::{collections::BTreeSet, fs, path::Path};

const PAGE: &str = include_str!("../../docs/guarantees.md");
/// The folders that contain tests.
const FOLDERS: [&str; 7] =
    ["aios-agents", "aios-broker", "aios-core", "aios-py/tests", "aios-store", "examples", "tests"];

/// The names of tests in a text: words between backticks that begin like test names.
fn named(text: &str) -> BTreeSet<&str> {
    text.split('`')
        .filter(|part| part.starts_with("should_") || part.starts_with("test_"))
        .collect()
}

/// The names of the functions of every source file below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs" || it == "py") {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(str::trim_start);
            let names =
                lines.filter_map(|line| line.split("fn ").nth(1).or(line.split("def ").nth(1)));
            found.extend(names.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn should_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    FOLDERS.iter().for_each(|folder| functions(&root.join(folder), &mut found));
    let named = named(PAGE);
    assert!(named.len() >= 20, "the page names {} tests", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/guarantees.md names tests that are not there: {missing:?}");
}

/// A guarantee with an empty cell would be meaningless.
#[test]
fn should_prove_every_cell_or_say_why_not() {
    let rows = PAGE.lines().filter(|line| line.starts_with("| **"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{row}");
        for cell in cells.get(1..).unwrap_or_default() {
            let is_proved = !named(cell).is_empty();
            assert!(
                is_proved || cell.starts_with("no:") || cell.starts_with("–"),
                "{row}: {cell:?}"
            );
        }
        count += 1;
    }
    assert!(count >= 8, "{count} guarantees");
}
