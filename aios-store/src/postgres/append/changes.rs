//! The changes of read models in a batch.
//!
//! The projection is a pure function in `aios-core`, and runs here, before the events have
//! positions. Its result travels as JSON in the same statement as the events, and the function
//! `apply_changes` applies it in the same transaction. A row that records a position gets it on the
//! server, which knows the number of each event in the batch.
//!
//! Changes of refused appends are sent too. Each change names its event, and the server applies
//! those of the accepted ones.

use std::collections::{BTreeMap, HashMap};

use aios_core::{
    catalog::is_projected,
    event::{Event, Timestamp},
    projection::{Cell, Change, Table, project},
    store::{RecordedEvent, StreamId},
};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{postgres::nul_escape::escape, rows::Key};

/// Placeholder for a position that is not known before the append. The projection runs before the server
/// assigns positions, so cells with this value are filled in by the SQL function.
const UNKNOWN_POSITION: u64 = 0x2e5c_a17e_0dd5_eed5;

/// The earliest timestamp that a read model can hold as `timestamptz`: the start of the year 1.
const MIN_MICROS: i64 = -62_135_596_800_000_000;

/// Changes of read models, as arguments of the SQL function `apply_changes`.
///
/// A SQL statement can change a row only once. So changes are grouped into sets that have each row at most
/// once, and the sets are applied one after the other.
#[derive(Debug, Default)]
pub(crate) struct ChangeSets {
    /// Changes by their number among the changes of the same row.
    sets: BTreeMap<(usize, Table), Vec<Value>>,
    /// Number of changes of each row so far.
    counts: HashMap<(Table, Uuid), usize>,
    /// The bytes that the server needs for the changes as `jsonb`, or a little more.
    weight: usize,
}

impl ChangeSets {
    /// Adds the changes of event number `number` of a batch, which is not yet stored.
    pub(crate) fn add(&mut self, number: i32, stream: &StreamId, event: &Event) {
        if !is_projected(&event.event_type) {
            return;
        }
        let recorded = RecordedEvent {
            position: UNKNOWN_POSITION,
            stream: stream.clone(),
            version: UNKNOWN_POSITION,
            event: event.clone(),
        };
        project(&recorded).into_iter().for_each(|change| self.push(number, change));
    }

    /// Adds the changes of a stored event.
    pub(crate) fn add_recorded(&mut self, recorded: &RecordedEvent) {
        project(recorded).into_iter().for_each(|change| self.push(0, change));
    }

    /// Adds a change to the first set that does not have its row yet. Changes of the same row keep
    /// their order, because later sets are applied later. A change whose id can't be a key is
    /// ignored.
    fn push(&mut self, number: i32, change: Change) {
        let Some(key) = Key::of_change(&change) else { return };
        let count = self.counts.entry((change.table, key.uuid)).or_default();
        let set = self.sets.entry((*count, change.table)).or_default();
        *count += 1;
        let json = change_to_json(number, &key, change);
        self.weight = self.weight.saturating_add(weight(&json));
        set.push(json);
    }

    /// The bytes that the server needs for the changes as `jsonb`, or a little more.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Returns the JSON text, or `None` if there are no changes.
    pub(crate) fn to_json(&self) -> serde_json::Result<Option<String>> {
        if self.sets.is_empty() {
            return Ok(None);
        }
        let sets = self.sets.iter();
        let sets = sets.map(|((_, table), changes)| ChangeSet { table: table.name(), changes });
        serde_json::to_string(&sets.collect::<Vec<_>>()).map(Some)
    }
}

/// A set in the form that the SQL function reads.
#[derive(Serialize)]
struct ChangeSet<'a> {
    /// Name of the table.
    table: &'static str,
    /// At most one change of each row.
    changes: &'a [Value],
}

/// Converts a change to the form that the SQL function reads. The cell that holds the unknown
/// position is replaced by the name of its column.
fn change_to_json(number: i32, key: &Key, change: Change) -> Value {
    let mut cells = Map::new();
    let mut positioned = None;
    for (name, cell) in change.cells {
        if cell == Cell::integer(UNKNOWN_POSITION) {
            positioned = Some(name);
        } else {
            cells.insert(name.to_owned(), value(cell));
        }
    }
    let mut json = object([
        ("event", number.into()),
        ("id", key.uuid.to_string().into()),
        ("external_id", key.external_id.clone().map(escape).into()),
        ("at", timestamp(change.at).into()),
        ("creates", change.effect.creates().into()),
        ("updates", change.effect.updates().into()),
        ("positioned", positioned.into()),
        ("cells", Value::Object(cells)),
    ]);
    if !change.only.is_empty() {
        let only = change.only.into_iter().map(|(name, cell)| (name.to_owned(), value(cell)));
        json.insert("holds".to_owned(), Value::Object(only.collect()));
    }
    Value::Object(json)
}

/// The bytes of a value as `jsonb`, or a little more. Each element has a header, and some are aligned.
fn weight(value: &Value) -> usize {
    const ELEMENT: usize = 16;
    let bytes = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + ELEMENT + weight(value)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => ELEMENT,
    };
    bytes.saturating_add(ELEMENT)
}

/// Makes a JSON object. The macro `json!` would copy the values.
fn object<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Map<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// Converts a cell. JSON is passed as text, so that the database stores it unchanged.
fn value(cell: Cell) -> Value {
    match cell {
        // A projection never writes an unreadable cell.
        Cell::Null | Cell::Unreadable => Value::Null,
        Cell::Text(text) => Value::String(escape(text)),
        Cell::Integer(number) => Value::from(number),
        Cell::Timestamp(at) => Value::String(timestamp(at)),
        Cell::Json(payload) => Value::String(payload.as_str().to_owned()),
    }
}

/// A timestamp as text, within the range of the read models.
///
/// Filters of lists convert their bounds in the same way, so that a bound and a stored value
/// compare as they did before.
pub(crate) fn timestamp(at: Timestamp) -> String {
    at.max(Timestamp::from_micros(MIN_MICROS)).to_string()
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
    fn should_put_changes_of_one_row_into_consecutive_sets() {
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
    fn should_be_empty_without_changes() {
        let mut sets = ChangeSets::default();
        sets.add(1, &StreamId::of_run("r1").unwrap(), &event("step_completed"));
        assert_eq!(sets.to_json().unwrap(), None);
    }

    #[test]
    fn should_clamp_timestamps_to_the_range_of_the_database() {
        assert_eq!(timestamp(Timestamp::MIN), "0001-01-01T00:00:00Z");
        assert_eq!(timestamp(Timestamp::from_micros(1)), "1970-01-01T00:00:00.000001Z");
    }
}
