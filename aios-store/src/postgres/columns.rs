use aios_core::{event::Event, store::Append};
use sqlx::SqlStr;
use uuid::Uuid;

use super::{batch::Batch, changes::ChangeSets, pool::Statement, streams::Known};

/// A batch as the arguments of the SQL function `append`, written down while it gathers. Places count
/// from 1, 0 means none.
#[derive(Debug, Default)]
pub(super) struct Columns {
    append_streams: Vec<i32>,
    append_sizes: Vec<i32>,
    append_fences: Vec<i32>,
    event_streams: Vec<i32>,
    offsets: Vec<i32>,
    ids: Vec<Uuid>,
    foreign_ids: Foreign,
    timestamps: Vec<i64>,
    changes: ChangeSets,
}

/// Ids that are not ours, of which there are mostly none: then there is no column.
#[derive(Debug, Default)]
struct Foreign {
    ids: Vec<Option<String>>,
    any: bool,
}

impl Columns {
    /// Adds an append to a stream that has so many events in the batch already.
    pub(super) fn push(
        &mut self,
        append: &Append,
        stream: usize,
        fence: Option<usize>,
        length: usize,
    ) {
        self.append_streams.push(place(stream));
        self.append_sizes.push(number(append.events.len()));
        self.append_fences.push(fence.map_or(0, place));
        for (offset, event) in (length..).zip(&append.events) {
            self.event_streams.push(place(stream));
            self.offsets.push(place(offset));
            self.push_event(event);
            self.changes.add(number(self.ids.len()), &append.stream, event);
        }
    }

    fn push_event(&mut self, event: &Event) {
        self.ids.push(event.id.key());
        let foreign = event.id.foreign().map(ToOwned::to_owned);
        self.foreign_ids.any |= foreign.is_some();
        self.foreign_ids.ids.push(foreign);
        self.timestamps.push(event.timestamp.as_micros());
    }

    /// The keys of the last events.
    pub(super) fn last_ids(&self, count: usize) -> impl Iterator<Item = Uuid> {
        self.ids.iter().skip(self.ids.len().saturating_sub(count)).copied()
    }

    /// The call, whose types and sources were given numbers before.
    ///
    /// # Errors
    ///
    /// If what changes can't be written as JSON.
    pub(super) fn statement<'q>(
        &'q self,
        sql: SqlStr,
        batch: &'q Batch,
        (types, sources): (&'q [i32], &'q [i32]),
        known: &'q Known,
    ) -> sqlx::Result<Statement<'q>> {
        let streams: Vec<&str> = batch.streams().iter().map(|stream| stream.id.as_str()).collect();
        let expected: Vec<Option<i64>> =
            batch.streams().iter().map(|stream| stream.expected.map(signed)).collect();
        let shards: Vec<i32> = batch.fences().iter().map(|fence| fence.shard.0.into()).collect();
        let epochs: Vec<i64> = batch.fences().iter().map(|fence| signed(fence.epoch.0)).collect();
        let payloads: Vec<&str> = batch.events().map(|event| event.payload.as_str()).collect();
        let changes = self.changes.to_json().map_err(|error| sqlx::Error::Encode(error.into()))?;
        Ok(sqlx::query(sql)
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
            .bind(self.foreign_ids.any.then_some(&self.foreign_ids.ids))
            .bind(types)
            .bind(sources)
            .bind(&self.timestamps)
            .bind(payloads)
            .bind(batch.metadata())
            .bind(changes)
            .bind(&known.ids)
            .bind(&known.heads)
            .bind(known.expirations)
            .bind(known.is_checked))
    }
}

/// The call that [`Columns::statement`] makes.
pub(super) const CALL: &str = "\
    SELECT head, heads, verdicts, versions, positions, doubles, stream_ids, expirations \
    FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
        $18, $19, $20, $21)";

/// A place that counts from 0, as SQL counts it.
fn place(index: usize) -> i32 {
    number(index).saturating_add(1)
}

fn number(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// No version or epoch comes near `i64::MAX`, so that one beyond it is never the right one.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
