//! The transcripts of the guide are what the program writes.

use std::{env, fs, path::Path};

use crate::support::{Dev, Program};

/// The commands of the transcripts with their outputs.
fn transcripts(page: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match line {
            "```console" => is_inside = true,
            "```" => is_inside = false,
            line if !is_inside => _ = line,
            line => match line.strip_prefix("$ ") {
                Some(command) => found.push((command.to_owned(), Vec::new())),
                None => found.last_mut().unwrap().1.push(line.to_owned()),
            },
        }
    }
    found
}

/// Whether a line is as the page says, where `…` stands for any text.
fn is_as(line: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn should_write_what_the_guide_shows() {
    let page =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/pages/operators-program.md");
    let transcripts = transcripts(&fs::read_to_string(page).unwrap());
    assert!(transcripts.len() > 10);
    let program = Program::new();
    let dev = Dev::start(&program, &[]);
    let bin = Path::new(env!("CARGO_BIN_EXE_aios")).parent().unwrap();
    let path = env::var_os("PATH").unwrap();
    let path = format!("{}:{}", bin.display(), path.display());
    for (command, expected) in transcripts {
        if command == "aios dev" {
            continue;
        }
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .current_dir(program.folder())
            .env_clear()
            .env("PATH", &path)
            .env("AIOS_API_URL", &dev.url)
            .output()
            .unwrap();
        let written = String::from_utf8(output.stdout).unwrap();
        let mut lines = written.lines().filter(|line| !line.starts_with("started 0"));
        for expected in expected {
            if expected == "…" {
                lines.by_ref().for_each(drop);
                break;
            }
            let line = lines.next().unwrap_or_default();
            assert!(is_as(line, &expected), "$ {command}\n{written}\nexpected {expected:?}");
        }
        assert_eq!(lines.next(), None, "$ {command}\n{written}");
    }
}
