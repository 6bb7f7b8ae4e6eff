use std::collections::{BTreeMap, HashMap};

use aios_core::{
    event::{Event, Timestamp},
    projection::{Cell, Change, Table, is_projected, project},
    store::{RecordedEvent, StreamId},
};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{postgres::nul::escaped, rows::Key};

/// Stands for a position that is not known before the append.
const UNPLACED: u64 = 0x2e5c_a17e_0dd5_eed5;

/// First moment that a read model can hold, because `timestamptz` can: the start of the year 1.
const FIRST: i64 = -62_135_596_800_000_000;

/// Changes of read models as the SQL function `apply_changes` takes them: in sets that have each row
/// once, so that several changes of one row are applied one after the other.
#[derive(Debug, Default)]
pub(crate) struct ChangeSets {
    /// By place in the row's own order of changes.
    sets: BTreeMap<(usize, Table), Vec<Value>>,
    seen: HashMap<(Table, Uuid), usize>,
}

impl ChangeSets {
    /// Adds what an event changes that is about to be appended as the `number`th of a batch.
    pub(crate) fn add(&mut self, number: i32, stream: &StreamId, event: &Event) {
        if !is_projected(&event.event_type) {
            return;
        }
        let recorded = RecordedEvent {
            position: UNPLACED,
            stream: stream.clone(),
            version: UNPLACED,
            event: event.clone(),
        };
        project(&recorded).into_iter().for_each(|change| self.push(number, change));
    }

    /// Adds what a stored event changes.
    pub(crate) fn add_recorded(&mut self, recorded: &RecordedEvent) {
        project(recorded).into_iter().for_each(|change| self.push(0, change));
    }

    fn push(&mut self, number: i32, change: Change) {
        let Some(key) = Key::of_change(&change) else { return };
        let seen = self.seen.entry((change.table, key.uuid)).or_default();
        let set = self.sets.entry((*seen, change.table)).or_default();
        *seen += 1;
        set.push(written(number, &key, change));
    }

    /// The JSON text; `None` if nothing changes.
    pub(crate) fn to_json(&self) -> serde_json::Result<Option<String>> {
        if self.sets.is_empty() {
            return Ok(None);
        }
        let sets = self.sets.iter();
        let sets = sets.map(|((_, table), changes)| ChangeSet { table: table.name(), changes });
        serde_json::to_string(&sets.collect::<Vec<_>>()).map(Some)
    }
}

/// A set as the SQL function reads it.
#[derive(Serialize)]
struct ChangeSet<'a> {
    table: &'static str,
    changes: &'a [Value],
}

fn written(number: i32, key: &Key, change: Change) -> Value {
    let mut cells = Map::new();
    let mut positioned = None;
    for (name, cell) in change.cells {
        if cell == Cell::integer(UNPLACED) {
            positioned = Some(name);
        } else {
            cells.insert(name.to_owned(), value(cell));
        }
    }
    let mut written = object([
        ("event", number.into()),
        ("id", key.uuid.to_string().into()),
        ("external_id", key.external_id.clone().map(escaped).into()),
        ("at", moment(change.at).into()),
        ("creates", change.effect.creates().into()),
        ("updates", change.effect.updates().into()),
        ("positioned", positioned.into()),
        ("cells", Value::Object(cells)),
    ]);
    if !change.only.is_empty() {
        let only = change.only.into_iter().map(|(name, cell)| (name.to_owned(), value(cell)));
        written.insert("holds".to_owned(), Value::Object(only.collect()));
    }
    Value::Object(written)
}

/// As `json!` makes it, which would copy what it is given.
fn object<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Map<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// JSON stays text, so that the database keeps it as it is.
fn value(cell: Cell) -> Value {
    match cell {
        // The projection never writes what is unreadable.
        Cell::Null | Cell::Unreadable => Value::Null,
        Cell::Text(text) => Value::String(escaped(text)),
        Cell::Integer(number) => Value::from(number),
        Cell::Timestamp(at) => Value::String(moment(at)),
        Cell::Json(payload) => Value::String(payload.as_str().to_owned()),
    }
}

fn moment(at: Timestamp) -> String {
    at.max(Timestamp::from_micros(FIRST)).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(action: &str) -> Event {
        let event_type = format!("workflows.deploy.{action}").parse().unwrap();
        Event::new(event_type, "test", &json!({"version": 1, "result": "a\u{0}b"})).unwrap()
    }

    #[test]
    fn should_apply_changes_of_one_row_one_after_the_other() {
        let mut sets = ChangeSets::default();
        let stream = StreamId::of_run("r1").unwrap();
        sets.add(1, &stream, &event("started"));
        sets.add(2, &StreamId::of_run("r2").unwrap(), &event("started"));
        sets.add(3, &stream, &event("completed"));
        let json: Value = serde_json::from_str(&sets.to_json().unwrap().unwrap()).unwrap();
        let sizes: Vec<usize> = json
            .as_array()
            .unwrap()
            .iter()
            .map(|set| set["changes"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [2, 1]);
        let last = &json[1]["changes"][0];
        assert_eq!((&last["positioned"], &last["event"]), (&json!("position"), &json!(3)));
        assert_eq!(last["cells"]["result"], json!("\"a\\u0000b\""));
    }

    #[test]
    fn should_say_nothing_where_nothing_changes() {
        let mut sets = ChangeSets::default();
        sets.add(1, &StreamId::of_run("r1").unwrap(), &event("step_completed"));
        assert_eq!(sets.to_json().unwrap(), None);
    }

    #[test]
    fn should_hold_moments_that_the_database_can() {
        assert_eq!(moment(Timestamp::MIN), "0001-01-01T00:00:00Z");
        assert_eq!(moment(Timestamp::from_micros(1)), "1970-01-01T00:00:00.000001Z");
    }
}
