use aios_core::{event::Event, store::Append};
use sqlx::SqlStr;
use uuid::Uuid;

use super::{batch::Batch, changes::ChangeSets, pool::Statement, streams::Known};
use crate::admission::encode_metadata;

/// A batch as the arguments of the SQL function `append`. Places count from 1, 0 means none.
#[derive(Default)]
pub(super) struct Columns {
    append_streams: Vec<i32>,
    append_sizes: Vec<i32>,
    append_fences: Vec<i32>,
    event_streams: Vec<i32>,
    offsets: Vec<i32>,
    ids: Vec<Uuid>,
    external_ids: Texts,
    timestamps: Vec<i64>,
    metadata: Texts,
    changes: Option<String>,
}

/// A column in which most are null: without one that is not, there is no column.
#[derive(Default)]
struct Texts {
    texts: Vec<Option<String>>,
    any: bool,
}

impl Texts {
    fn push(&mut self, text: Option<String>) {
        self.any |= text.is_some();
        self.texts.push(text);
    }

    fn column(&self) -> Option<&[Option<String>]> {
        self.any.then_some(self.texts.as_slice())
    }
}

impl Columns {
    /// Writes a batch down.
    ///
    /// # Errors
    ///
    /// If an event's metadata can't be written as JSON.
    pub(super) fn of(batch: &Batch) -> sqlx::Result<Self> {
        let (mut columns, mut changes) = (Self::default(), ChangeSets::default());
        let mut lengths = vec![0; batch.streams().len()];
        for (append, stream, fence) in batch.appends() {
            columns.append_streams.push(place(stream));
            columns.append_sizes.push(number(append.events.len()));
            columns.append_fences.push(fence.map_or(0, place));
            if let Some(length) = lengths.get_mut(stream) {
                columns.push_events(append, place(stream), length, &mut changes)?;
            }
        }
        columns.changes = changes.into_json();
        Ok(columns)
    }

    fn push_events(
        &mut self,
        append: &Append,
        stream: i32,
        length: &mut i32,
        changes: &mut ChangeSets,
    ) -> sqlx::Result<()> {
        for event in &append.events {
            *length = length.saturating_add(1);
            self.event_streams.push(stream);
            self.offsets.push(*length);
            self.push_event(event)?;
            changes.add(number(self.ids.len()), &append.stream, event);
        }
        Ok(())
    }

    fn push_event(&mut self, event: &Event) -> sqlx::Result<()> {
        self.ids.push(event.id.key());
        self.external_ids.push(event.id.foreign().map(ToOwned::to_owned));
        self.timestamps.push(event.timestamp.as_micros());
        let metadata = encode_metadata(event).map_err(|error| sqlx::Error::Encode(error.into()))?;
        self.metadata.push(metadata);
        Ok(())
    }

    /// The call, whose types and sources were given numbers before.
    pub(super) fn statement<'q>(
        &'q self,
        sql: SqlStr,
        batch: &'q Batch,
        (types, sources): (&'q [i32], &'q [i32]),
        known: &'q Known,
    ) -> Statement<'q> {
        let streams: Vec<&str> = batch.streams().iter().map(|stream| stream.id.as_str()).collect();
        let expected: Vec<Option<i64>> =
            batch.streams().iter().map(|stream| stream.expected.map(signed)).collect();
        let shards: Vec<i32> = batch.fences().iter().map(|fence| fence.shard.0.into()).collect();
        let epochs: Vec<i64> = batch.fences().iter().map(|fence| signed(fence.epoch.0)).collect();
        let payloads: Vec<&str> = events(batch).map(|event| event.payload.as_str()).collect();
        sqlx::query(sql)
            .bind(streams)
            .bind(expected)
            .bind(shards)
            .bind(epochs)
            .bind(&self.append_streams)
            .bind(&self.append_sizes)
            .bind(&self.append_fences)
            .bind(&self.event_streams)
            .bind(&self.offsets)
            .bind(&self.ids)
            .bind(self.external_ids.column())
            .bind(types)
            .bind(sources)
            .bind(&self.timestamps)
            .bind(payloads)
            .bind(self.metadata.column())
            .bind(self.changes.as_deref())
            .bind(&known.ids)
            .bind(&known.heads)
            .bind(known.expirations)
            .bind(known.is_checked)
    }
}

/// The call that [`Columns::statement`] makes.
pub(super) const CALL: &str = "\
    SELECT head, heads, verdicts, versions, positions, doubles, stream_ids, expirations \
    FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
        $18, $19, $20, $21)";

/// Every event of a batch, in order.
pub(super) fn events(batch: &Batch) -> impl Iterator<Item = &Event> {
    batch.appends().flat_map(|(append, _, _)| &append.events)
}

/// A place that counts from 0, as SQL counts it.
fn place(index: usize) -> i32 {
    number(index).saturating_add(1)
}

fn number(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// No version or epoch comes near `i64::MAX`, so that one beyond it is never the right one.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
