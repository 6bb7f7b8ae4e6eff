//! The columns of a batch, in the form in which they are sent.
//!
//! A batch is sent as one array per column, and the SQL function unnests them side by side.
//! Encoding them is work that does not need the server, so it is done while the previous batch
//! commits: every append is added to the arrays as it is taken from the queue.

use aios_core::event::Event;
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};
use uuid::Uuid;

use super::{changes::ChangeSets, names::BatchNames, valid::ValidAppend};

/// The arguments of the SQL functions `append` and `append_known`: one array per column.
///
/// The arrays are extended as appends are added to the batch, so the statement can be sent as soon as the
/// previous commit is done. Arrays refer to each other by numbers that count from 1; 0 means none.
#[derive(Debug, Default)]
pub(crate) struct AppendArguments {
    /// For each append, the number of its stream.
    pub(super) append_streams: Vec<i32>,
    /// For each append, how many events it has.
    pub(super) append_sizes: Vec<i32>,
    /// For each append, the number of its fence, or 0.
    pub(super) append_fences: Vec<i32>,
    /// For each event, the number of its stream. This and the following columns have one element
    /// per event.
    pub(super) event_streams: Vec<i32>,
    /// The number of the event among those of its stream in the batch. The version is the head of
    /// the stream plus this number.
    pub(super) offsets: Vec<i32>,
    /// Keys of the ids.
    pub(super) ids: Vec<Uuid>,
    /// Texts of the ids that are not UUIDs.
    pub(super) foreign_ids: SparseTexts,
    /// Names, because the numbers are known only when the statement is sent.
    pub(crate) types: BatchNames,
    pub(crate) sources: BatchNames,
    /// Microseconds since the Unix epoch.
    pub(super) timestamps: Vec<i64>,
    /// JSON, as it was given.
    pub(super) payloads: PgTextArray,
    /// Metadata that differs from the default of the stream.
    pub(super) metadata: SparseTexts,
    /// Changes of the read models, one JSON text for the batch.
    pub(super) changes: ChangeSets,
}

/// Optional texts, one per event. Usually all are `None`, and NULL is sent instead of an array.
#[derive(Debug, Default)]
pub(super) struct SparseTexts {
    /// One element per event.
    texts: Vec<Option<String>>,
    /// Whether any of them is a text.
    any: bool,
}

impl SparseTexts {
    /// Adds the text of the next event.
    fn push(&mut self, text: Option<&str>) {
        self.any |= text.is_some();
        self.texts.push(text.map(ToOwned::to_owned));
    }

    /// Returns the array, or `None` if it would hold nothing but NULL.
    pub(super) fn column(&self) -> Option<&[Option<String>]> {
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

    /// Adds the columns of an event that do not depend on its append.
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
}

/// Converts an index to the indexes of SQL arrays, which count from 1.
fn sql_index(index: usize) -> i32 {
    to_i32(index).saturating_add(1)
}

/// Converts a count. A batch is far below the limit.
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
    /// Number of elements.
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
        let dimensions = 1_u32;
        let has_nulls = 0_u32;
        let lower_bound = 1_u32;
        for number in [dimensions, has_nulls, TEXT, self.count, lower_bound] {
            buffer.extend(number.to_be_bytes());
        }
        buffer.extend(&self.elements);
        Ok(IsNull::No)
    }
}
