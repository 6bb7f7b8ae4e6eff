//! Writes the changes of a projection to the tables.
//!
//! A `Change` is translated to one statement. Its text depends only on the table, the names of the
//! columns and the effect (`Shape`), so the statements of all events of a type are equal and are
//! written and compiled once. Values are always parameters.
//!
//! | effect | statement |
//! |---|---|
//! | creates | `INSERT … ON CONFLICT DO NOTHING` |
//! | creates or updates | `INSERT … ON CONFLICT DO UPDATE … WHERE` conditions |
//! | updates | `UPDATE … WHERE id = ? AND` conditions |

use aios_core::projection::{Cell, Change, Effect, Table};
use rusqlite::{
    Connection, Statement, ToSql,
    types::{ToSqlOutput, Value, ValueRef},
};

use crate::rows::Key;

/// The properties of a change that the text of its statement depends on.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    table: Table,
    effect: Effect,
    /// Names of the columns to set.
    cells: Vec<&'static str>,
    /// Names of the columns of the conditions.
    only: Vec<&'static str>,
}

impl Shape {
    fn of(change: &Change) -> Self {
        Self {
            table: change.table,
            effect: change.effect,
            cells: names(&change.cells).collect(),
            only: names(&change.only).collect(),
        }
    }

    /// Whether a change has this shape. Allocates nothing.
    fn fits(&self, change: &Change) -> bool {
        self.table == change.table
            && self.effect == change.effect
            && names(&change.cells).eq(self.cells.iter().copied())
            && names(&change.only).eq(self.only.iter().copied())
    }
}

/// The names of columns.
fn names(cells: &[(&'static str, Cell)]) -> impl Iterator<Item = &'static str> {
    cells.iter().map(|(name, _)| *name)
}

/// Applies changes, with a statement that is compiled once for each shape. There are a few shapes for each
/// type of events, so a list is faster than a map.
pub(crate) struct Changes<'c> {
    connection: &'c Connection,
    statements: Vec<(Shape, Statement<'c>)>,
}

impl<'c> Changes<'c> {
    /// Compiles nothing yet.
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, statements: Vec::new() }
    }

    /// Applies the changes of a projection to the tables.
    pub(crate) fn apply_all(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        changes.iter().try_for_each(|change| self.apply(change))
    }

    /// Applies one change. A change whose id can't be a key is ignored, and so is one whose conditions
    /// no row fulfils.
    fn apply(&mut self, change: &Change) -> rusqlite::Result<()> {
        let Some(key) = Key::of_change(change) else { return Ok(()) };
        let (key_bytes, at) = (&key.uuid.as_bytes()[..], change.at.as_micros());
        let only = change.only.iter().filter(|_| change.effect.updates());
        let statement = self.statement(change)?;
        let mut index = 0;
        let mut bind = |statement: &mut Statement<'_>, value: &dyn ToSql| {
            index += 1;
            statement.raw_bind_parameter(index, value)
        };
        bind(statement, &key_bytes)?;
        bind(statement, &at)?;
        if change.effect.creates() {
            bind(statement, &key.external_id)?;
        }
        for (_, cell) in change.cells.iter().chain(only) {
            bind(statement, &Parameter(cell))?;
        }
        let executed = statement.raw_execute();
        // The statement would keep a large value.
        statement.clear_bindings();
        executed.map(drop)
    }

    /// The statement of a change.
    fn statement(&mut self, change: &Change) -> rusqlite::Result<&mut Statement<'c>> {
        let known = self.statements.iter().position(|(shape, _)| shape.fits(change));
        let index = match known {
            Some(index) => index,
            None => {
                let sql = if change.effect.creates() { insert(change) } else { update(change) };
                self.statements.push((Shape::of(change), self.connection.prepare(&sql)?));
                self.statements.len() - 1
            }
        };
        let found = self.statements.get_mut(index).map(|(_, statement)| statement);
        found.ok_or(rusqlite::Error::QueryReturnedNoRows)
    }
}

/// The parameters are the key, the timestamp, the text of the id, the cells, and the required values.
///
/// `WHERE true` lets every condition after it begin with `AND`.
fn insert(change: &Change) -> String {
    let mut names = String::new();
    let mut placeholders = String::new();
    let mut sets = String::new();
    for (name, _) in &change.cells {
        push(&mut names, &[", ", name]);
        placeholders.push_str(", ?");
        push(&mut sets, &[", ", name, " = excluded.", name]);
    }
    let on_conflict = if change.effect.updates() {
        let conditions = update_conditions(change);
        format!("DO UPDATE SET updated_at = excluded.updated_at{sets} WHERE true{conditions}")
    } else {
        "DO NOTHING".to_owned()
    };
    let table = change.table.name();
    format!(
        "INSERT INTO {table} (id, external_id, created_at, updated_at{names})
         VALUES (?1, ?3, ?2, ?2{placeholders})
         ON CONFLICT (id) {on_conflict}"
    )
}

/// The parameters are the key, the timestamp, the cells, and the required values.
fn update(change: &Change) -> String {
    let mut sets = String::new();
    for (name, _) in &change.cells {
        push(&mut sets, &[", ", name, " = ?"]);
    }
    let table = change.table.name();
    let conditions = update_conditions(change);
    format!("UPDATE {table} SET updated_at = ?2{sets} WHERE id = ?1{conditions}")
}

/// The conditions that an existing row must fulfil to be updated: it has the required values, which are
/// the next parameters, and its status is not final.
fn update_conditions(change: &Change) -> String {
    let table = change.table.name();
    let mut conditions = String::new();
    for (name, _) in &change.only {
        push(&mut conditions, &[" AND ", table, ".", name, " IS ?"]);
    }
    // Separate comparisons, because SQLite builds a temporary table for `NOT IN` with more than two
    // values.
    for status in change.table.final_statuses() {
        push(&mut conditions, &[" AND ", table, ".status <> '", status, "'"]);
    }
    conditions
}

/// Appends the parts to a text without formatting, which this is called too often for.
pub(crate) fn push(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

/// Text as a parameter, without a copy.
fn text(text: &str) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))
}

/// A cell as a parameter, without a copy of its text.
struct Parameter<'a>(&'a Cell);

/// Timestamps are microseconds, and JSON is text as it was written.
impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            // A projection never writes an unreadable cell.
            Cell::Null | Cell::Unreadable => ToSqlOutput::Owned(Value::Null),
            Cell::Text(value) => text(value),
            Cell::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Cell::Timestamp(at) => ToSqlOutput::Owned(Value::Integer(at.as_micros())),
            Cell::Json(payload) => text(payload.as_str()),
        })
    }
}

/// Converts a cell to a value of SQLite. Timestamps are microseconds, and JSON is text as it was
/// written.
pub(crate) fn value(cell: &Cell) -> Value {
    match cell {
        // A projection never writes an unreadable cell.
        Cell::Null | Cell::Unreadable => Value::Null,
        Cell::Text(text) => Value::Text(text.clone()),
        Cell::Integer(number) => Value::Integer(*number),
        Cell::Timestamp(at) => Value::Integer(at.as_micros()),
        Cell::Json(payload) => Value::Text(payload.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Timestamp,
        projection::{Effect, Table},
    };

    use super::*;
    use crate::sqlite::{SqliteOptions, schema::open_writer};

    #[test]
    fn should_change_rows_without_a_temporary_table() {
        let connection = open_writer(&SqliteOptions::memory(), None).unwrap();
        let effects = [Effect::Create, Effect::Update, Effect::Upsert];
        for (effect, table) in effects.iter().flat_map(|it| Table::ALL.map(|table| (*it, table))) {
            let cells = table.columns().iter().map(|column| (column.name, Cell::Null)).collect();
            let id = "r".to_owned();
            let only = vec![("created_at", Cell::Integer(1))];
            let change = Change { table, id, at: Timestamp::UNIX_EPOCH, effect, only, cells };
            let sql = if effect.creates() { insert(&change) } else { update(&change) };
            let mut statement = connection.prepare(&format!("EXPLAIN {sql}")).unwrap();
            let codes = statement.raw_query().mapped(|row| row.get::<_, String>(1));
            let codes = codes.collect::<rusqlite::Result<Vec<_>>>().unwrap();
            assert!(!codes.iter().any(|code| code == "OpenEphemeral"), "{sql}: {codes:?}");
        }
    }

    #[test]
    fn should_compile_one_statement_for_changes_of_a_shape() {
        let connection = open_writer(&SqliteOptions::memory(), None).unwrap();
        let mut changes = Changes::new(&connection);
        let change = |name: &str, effect| Change {
            table: Table::Workflows,
            id: name.to_owned(),
            at: Timestamp::UNIX_EPOCH,
            effect,
            only: Vec::new(),
            cells: vec![("name", Cell::Text(name.to_owned())), ("version", Cell::Integer(1))],
        };
        let of_two = ["a", "b"].map(|name| change(name, Effect::Upsert));
        changes.apply_all(&of_two).unwrap();
        assert_eq!(changes.statements.len(), 1);
        changes.apply_all(&[change("a", Effect::Update)]).unwrap();
        assert_eq!(changes.statements.len(), 2);
        let sql = "SELECT group_concat(name, ' ' ORDER BY name) FROM workflows";
        let names: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(names, "a b");
    }
}
