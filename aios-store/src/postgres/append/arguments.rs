use aios_core::event::Event;
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};
use uuid::Uuid;

use super::{
    batch::{Batch, ValidAppend},
    cache::{StreamHeads, StreamHints},
    changes::ChangeSets,
    names::BatchNames,
};
use crate::postgres::connection::{Sql, Statement};

/// A batch as the arguments of the SQL functions `append` and `append_known`, written down while it
/// gathers. Places count from 1, 0 means none.
#[derive(Debug, Default)]
pub(crate) struct AppendArguments {
    append_streams: Vec<i32>,
    append_sizes: Vec<i32>,
    append_fences: Vec<i32>,
    event_streams: Vec<i32>,
    offsets: Vec<i32>,
    ids: Vec<Uuid>,
    foreign_ids: SparseTexts,
    pub(crate) types: BatchNames,
    pub(crate) sources: BatchNames,
    timestamps: Vec<i64>,
    payloads: PgTextArray,
    metadata: SparseTexts,
    changes: ChangeSets,
}

/// The ids of the types and sources of a batch's events.
pub(crate) struct NameIds {
    pub(crate) types: Vec<i32>,
    pub(crate) sources: Vec<i32>,
}

/// Optional texts, one per event. Usually all are absent, and no column is sent.
#[derive(Debug, Default)]
struct SparseTexts {
    texts: Vec<Option<String>>,
    any: bool,
}

impl SparseTexts {
    fn push(&mut self, text: Option<&str>) {
        self.any |= text.is_some();
        self.texts.push(text.map(ToOwned::to_owned));
    }

    fn column(&self) -> Option<&[Option<String>]> {
        self.any.then_some(&self.texts)
    }
}

impl AppendArguments {
    /// Adds an append to a stream that has so many events in the batch already.
    pub(crate) fn push(
        &mut self,
        ValidAppend { append, metadata }: &ValidAppend,
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
    pub(crate) fn last_ids(&self, count: usize) -> impl Iterator<Item = Uuid> {
        self.ids.iter().skip(self.ids.len().saturating_sub(count)).copied()
    }

    /// The call for a batch of whose streams it is known where they end.
    ///
    /// # Errors
    ///
    /// If what changes can't be written as JSON.
    pub(crate) fn known_statement(
        &self,
        sql: Sql,
        batch: &Batch,
        name_ids: &NameIds,
        ends: &StreamHeads,
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
            .bind(&name_ids.types)
            .bind(&name_ids.sources)
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
    pub(crate) fn statement(
        &self,
        sql: Sql,
        batch: &Batch,
        name_ids: &NameIds,
        known: &StreamHints,
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
            .bind(&name_ids.types)
            .bind(&name_ids.sources)
            .bind(&self.timestamps)
            .bind(&self.payloads)
            .bind(self.metadata.column())
            .bind(self.changes()?)
            .bind(&known.ids)
            .bind(&known.heads)
            .bind(known.expirations)
            .bind(known.verify))
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

/// The call that [`AppendArguments::known_statement`] makes.
pub(crate) const KNOWN_CALL: &str =
    "SELECT {schema}.append_known($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// The call that [`AppendArguments::statement`] makes.
pub(crate) const CALL: &str = "\
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
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// PostgreSQL's number of the type `text`.
const TEXT: u32 = 25;

/// An array of texts, written down as it is sent, so that nobody has to look for the texts then: they
/// lie all over the memory.
#[derive(Debug, Default)]
pub(crate) struct PgTextArray {
    count: u32,
    /// Each text after its length.
    elements: Vec<u8>,
}

impl PgTextArray {
    /// Adds a text, of less than 2 GiB.
    pub(crate) fn push(&mut self, text: &str) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.count += 1;
        self.elements.extend(length.to_be_bytes());
        self.elements.extend(text.as_bytes());
    }
}

impl Type<Postgres> for PgTextArray {
    fn type_info() -> PgTypeInfo {
        <[&str] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for PgTextArray {
    /// The binary format of arrays, see `array_recv` of PostgreSQL's `arrayfuncs.c`.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (dimensions, has_nulls, lower_bound) = (1_u32, 0_u32, 1_u32);
        for number in [dimensions, has_nulls, TEXT, self.count, lower_bound] {
            buffer.extend(number.to_be_bytes());
        }
        buffer.extend(&self.elements);
        Ok(IsNull::No)
    }
}
