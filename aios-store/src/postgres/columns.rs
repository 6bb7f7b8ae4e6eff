use aios_core::event::Event;
use uuid::Uuid;

use super::{
    batch::{Admitted, Batch},
    changes::ChangeSets,
    names::UsedNames,
    statement::{Sql, Statement},
    streams::{Ends, Known},
    texts::Texts,
};

/// A batch as the arguments of the SQL functions `append` and `append_known`, written down while it
/// gathers. Places count from 1, 0 means none.
#[derive(Debug, Default)]
pub(super) struct Columns {
    append_streams: Vec<i32>,
    append_sizes: Vec<i32>,
    append_fences: Vec<i32>,
    event_streams: Vec<i32>,
    offsets: Vec<i32>,
    ids: Vec<Uuid>,
    foreign_ids: Rare,
    pub(super) types: UsedNames,
    pub(super) sources: UsedNames,
    timestamps: Vec<i64>,
    payloads: Texts,
    metadata: Rare,
    changes: ChangeSets,
}

/// The numbers that the types and the sources of a batch's events have.
pub(super) struct Numbers {
    pub(super) types: Vec<i32>,
    pub(super) sources: Vec<i32>,
}

/// Texts of events, of which there are mostly none: then there is no column.
#[derive(Debug, Default)]
struct Rare {
    texts: Vec<Option<String>>,
    any: bool,
}

impl Rare {
    fn push(&mut self, text: Option<&str>) {
        self.any |= text.is_some();
        self.texts.push(text.map(ToOwned::to_owned));
    }

    fn column(&self) -> Option<&[Option<String>]> {
        self.any.then_some(&self.texts)
    }
}

impl Columns {
    /// Adds an append to a stream that has so many events in the batch already.
    pub(super) fn push(
        &mut self,
        Admitted { append, metadata }: &Admitted,
        stream: usize,
        fence: Option<usize>,
        length: usize,
    ) {
        self.append_streams.push(place(stream));
        self.append_sizes.push(number(append.events.len()));
        self.append_fences.push(fence.map_or(0, place));
        for ((offset, event), metadata) in (length..).zip(&append.events).zip(metadata) {
            self.event_streams.push(place(stream));
            self.offsets.push(place(offset));
            self.push_event(event);
            self.metadata.push(metadata.as_deref());
            self.changes.add(number(self.ids.len()), &append.stream, event);
        }
    }

    fn push_event(&mut self, event: &Event) {
        self.ids.push(event.id.key());
        self.foreign_ids.push(event.id.foreign());
        self.types.push(event.event_type.as_str());
        self.sources.push(&event.source);
        self.timestamps.push(event.timestamp.as_micros());
        self.payloads.push(event.payload.as_str());
    }

    /// The keys of the last events.
    pub(super) fn last_ids(&self, count: usize) -> impl Iterator<Item = Uuid> {
        self.ids.iter().skip(self.ids.len().saturating_sub(count)).copied()
    }

    /// The call for a batch of whose streams it is known where they end.
    ///
    /// # Errors
    ///
    /// If what changes can't be written as JSON.
    pub(super) fn known_statement(
        &self,
        sql: Sql,
        batch: &Batch,
        numbers: &Numbers,
        ends: &Ends,
    ) -> sqlx::Result<Statement> {
        let stream_ids: Vec<_> = self.of_streams(&ends.ids).collect();
        let heads = self.of_streams(&ends.heads).zip(&self.offsets);
        let versions: Vec<_> =
            heads.map(|(head, offset)| Some(head?.saturating_add((*offset).into()))).collect();
        let (shards, epochs) = fences(batch);
        Ok(Statement::new(sql)
            .bind(stream_ids)
            .bind(versions)
            .bind(&self.ids)
            .bind(self.foreign_ids.column())
            .bind(&numbers.types)
            .bind(&numbers.sources)
            .bind(&self.timestamps)
            .bind(&self.payloads)
            .bind(self.metadata.column())
            .bind(shards)
            .bind(epochs)
            .bind(self.changes()?)
            .bind(ends.expirations))
    }

    /// What each event's stream has in a column of streams.
    fn of_streams(&self, column: &[i64]) -> impl Iterator<Item = Option<i64>> {
        let index = |place: &i32| usize::try_from(place.checked_sub(1)?).ok();
        self.event_streams.iter().map(move |place| column.get(index(place)?).copied())
    }

    /// The call for any other batch.
    ///
    /// # Errors
    ///
    /// If what changes can't be written as JSON.
    pub(super) fn statement(
        &self,
        sql: Sql,
        batch: &Batch,
        numbers: &Numbers,
        known: &Known,
    ) -> sqlx::Result<Statement> {
        let streams: Vec<&str> = batch.streams().iter().map(|stream| stream.id.as_str()).collect();
        let expected: Vec<Option<i64>> =
            batch.streams().iter().map(|stream| stream.expected.map(signed)).collect();
        let (shards, epochs) = fences(batch);
        Ok(Statement::new(sql)
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
            .bind(self.foreign_ids.column())
            .bind(&numbers.types)
            .bind(&numbers.sources)
            .bind(&self.timestamps)
            .bind(&self.payloads)
            .bind(self.metadata.column())
            .bind(self.changes()?)
            .bind(&known.ids)
            .bind(&known.heads)
            .bind(known.expirations)
            .bind(known.is_checked))
    }

    fn changes(&self) -> sqlx::Result<Option<String>> {
        self.changes.to_json().map_err(|error| sqlx::Error::Encode(error.into()))
    }
}

/// Shards and epochs of the fences.
fn fences(batch: &Batch) -> (Vec<i32>, Vec<i64>) {
    let fences = batch.fences().iter();
    fences.map(|fence| (i32::from(fence.shard.0), signed(fence.epoch.0))).unzip()
}

/// The call that [`Columns::known_statement`] makes.
pub(super) const KNOWN_CALL: &str =
    "SELECT {schema}.append_known($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

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
