//! Writes the changes of a projection to the tables.
//!
//! A `Change` is translated to one statement. Its text depends only on the table, the names of the
//! columns and the effect, so the statements of all events of a type are equal and are compiled
//! once for each connection. Values are always parameters.
//!
//! | effect | statement |
//! |---|---|
//! | creates | `INSERT … ON CONFLICT DO NOTHING` |
//! | creates or updates | `INSERT … ON CONFLICT DO UPDATE … WHERE` conditions |
//! | updates | `UPDATE … WHERE id = ? AND` conditions |

use aios_core::projection::{Cell, Change};
use rusqlite::{Connection, ToSql, types::Value};

use crate::rows::Key;

/// Applies the changes of a projection to the tables.
pub(crate) fn apply_all(connection: &Connection, changes: &[Change]) -> rusqlite::Result<()> {
    changes.iter().try_for_each(|change| apply(connection, change))
}

/// Applies one change. A change whose id can't be a key is ignored, and so is one whose conditions
/// no row fulfils.
fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    let Some(key) = Key::of_change(change) else { return Ok(()) };
    let creates = change.effect.creates();
    let sql = if creates { insert(change) } else { update(change) };
    let key_bytes = &key.uuid.as_bytes()[..];
    let at = change.at.as_micros();
    let only = change.only.iter().filter(|_| change.effect.updates());
    let cells = change.cells.iter().chain(only);
    let cells: Vec<Value> = cells.map(|(_, cell)| value(cell)).collect();
    let mut parameters: Vec<&dyn ToSql> = vec![&key_bytes, &at];
    if creates {
        parameters.push(&key.external_id);
    }
    parameters.extend(cells.iter().map(|cell| -> &dyn ToSql { cell }));
    connection.prepare_cached(&sql)?.execute(&*parameters).map(drop)
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
}
