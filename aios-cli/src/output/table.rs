use std::io::{self, IsTerminal};

use aios_core::event::Timestamp;
use comfy_table::{ContentArrangement, presets};

use super::Output;

/// A table for people, without lines.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.iter().map(|name| name.to_uppercase()));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// Adds a row. Control characters are escaped, so that no text can steer the terminal.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| plain(&cell)));
    }

    pub(crate) fn write(&self, output: &mut Output) -> io::Result<()> {
        self.0.lines().try_for_each(|line| output.line(line.trim_end()))
    }
}

/// Escapes control characters.
pub(crate) fn plain(text: &str) -> String {
    escaped(text, &[])
}

/// Escapes control characters except those that part lines and columns.
pub(crate) fn plain_lines(text: &str) -> String {
    escaped(text, &['\n', '\t'])
}

fn escaped(text: &str, kept: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() && !kept.contains(&character) {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    escaped
}

/// The beginning of a text, if the output is a terminal; otherwise all of it.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) if io::stdout().is_terminal() => {
            format!("{}…", text.get(..end).unwrap_or_default())
        }
        _ => text.to_owned(),
    }
}

/// A time to the second.
pub(crate) fn time(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_escape_what_steers_a_terminal() {
        assert_eq!(plain("a\x1b[31m\u{9b}2J\nü"), r"a\u{1b}[31m\u{9b}2J\nü");
        assert_eq!(plain_lines("a\x1b[\n\tb\r"), "a\\u{1b}[\n\tb\\r");
    }

    #[test]
    fn should_write_times_to_the_second() {
        assert_eq!(time(Timestamp::from_micros(1_500_000)), "1970-01-01T00:00:01Z");
        assert_eq!(time(Timestamp::from_micros(1_000_000)), "1970-01-01T00:00:01Z");
    }
}
