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

/// The arguments of the SQL functions `append` and `append_known`: one array per column.
///
/// The arrays are extended as appends are added to the batch, so the statement can be sent as soon as the
/// previous commit is done. Arrays refer to each other by numbers that count from 1; 0 means none.
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

/// Optional texts, one per event. Usually all are `None`, and NULL is sent instead of an array.
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
    /// Adds an append to a stream that has `length` events in the batch already.
    pub(crate) fn push(
        &mut self,
        ValidAppend { append, metadata }: &ValidAppend,
        stream: usize,
        fence: Option<usize>,
        length: usize,
    ) {
        self.append_streams.push(sql_index(stream));
        self.append_sizes.push(to_i32(append.events.len()));
        self.append_fences.push(fence.map_or(0, sql_index));
        for ((offset, event), metadata) in (length..).zip(&append.events).zip(metadata) {
            self.event_streams.push(sql_index(stream));
            self.offsets.push(sql_index(offset));
            self.push_event(event);
            self.metadata.push(metadata.as_deref());
            self.changes.add(to_i32(self.ids.len()), &append.stream, event);
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

    /// Returns the keys of the last `count` events.
    pub(crate) fn last_ids(&self, count: usize) -> impl Iterator<Item = Uuid> {
        self.ids.iter().skip(self.ids.len().saturating_sub(count)).copied()
    }

    /// Returns the call for a batch whose streams are all cached.
    ///
    /// # Errors
    ///
    /// If the changes of the read models cannot be serialised to JSON.
    pub(crate) fn known_statement(
        &self,
        sql: Sql,
        batch: &Batch,
        name_ids: &NameIds,
        heads: &StreamHeads,
    ) -> sqlx::Result<Statement> {
        let stream_ids: Vec<_> = self.per_event(&heads.ids).collect();
        let versions: Vec<_> = self
            .per_event(&heads.heads)
            .zip(&self.offsets)
            .map(|(head, offset)| Some(head?.saturating_add((*offset).into())))
            .collect();
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
            .bind(heads.expirations))
    }

    /// Returns, for each event, the value of its stream in a column of streams.
    fn per_event(&self, column: &[i64]) -> impl Iterator<Item = Option<i64>> {
        self.event_streams.iter().map(move |stream| {
            let index = usize::try_from(stream.checked_sub(1)?).ok()?;
            column.get(index).copied()
        })
    }

    /// Returns the call for any other batch.
    ///
    /// # Errors
    ///
    /// If the changes of the read models cannot be serialised to JSON.
    pub(crate) fn statement(
        &self,
        sql: Sql,
        batch: &Batch,
        name_ids: &NameIds,
        hints: &StreamHints,
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
            .bind(&hints.ids)
            .bind(&hints.heads)
            .bind(hints.expirations)
            .bind(hints.verify))
    }

    fn changes(&self) -> sqlx::Result<Option<String>> {
        self.changes.to_json().map_err(|error| sqlx::Error::Encode(error.into()))
    }
}

/// Returns the shards and the epochs of the batch's fences.
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

/// Converts an index to the indexes of SQL arrays, which count from 1.
fn sql_index(index: usize) -> i32 {
    to_i32(index).saturating_add(1)
}

fn to_i32(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Converts a version or epoch. A number beyond `i64::MAX` becomes `i64::MAX`, which matches no stored
/// one.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Object id of PostgreSQL's type `text`.
const TEXT: u32 = 25;

/// An array of texts in PostgreSQL's binary format.
///
/// Texts are copied while the batch is built, so that encoding the statement does not chase pointers.
#[derive(Debug, Default)]
pub(crate) struct PgTextArray {
    count: u32,
    /// The elements of the array, each as its length and its bytes.
    elements: Vec<u8>,
}

impl PgTextArray {
    /// Adds a text of less than 2 GiB.
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
    /// Writes the binary format of arrays; see `array_recv` in PostgreSQL's `arrayfuncs.c`.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (dimensions, has_nulls, lower_bound) = (1_u32, 0_u32, 1_u32);
        for number in [dimensions, has_nulls, TEXT, self.count, lower_bound] {
            buffer.extend(number.to_be_bytes());
        }
        buffer.extend(&self.elements);
        Ok(IsNull::No)
    }
}
