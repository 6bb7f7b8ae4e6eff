//! Which appends may share a statement.
//!
//! The general SQL function judges all appends of a batch at once, each against the state before
//! the batch. That is correct only if no append of the batch could change the verdict on another
//! one. The rules of [`Batch`] exclude every such pair. An append that they exclude begins the next
//! batch.

use std::collections::{HashMap, HashSet};

use aios_core::{
    catalog::{ending, is_projected},
    event::Event,
    store::{Append, Expected, Fence, StoreError, StreamId},
};
use hashlink::DefaultHashBuilder;
use uuid::Uuid;

use super::{arguments::AppendArguments, valid::ValidAppend};

/// Maximum number of appends in a batch.
const MAX_APPENDS: usize = 1000;

/// Maximum weight of a batch with more than one append, in bytes.
const MAX_WEIGHT: usize = 8 * 1024 * 1024;

/// Approximate weight of an event in addition to its payload, metadata and id, in bytes.
const EVENT_WEIGHT: usize = 256;

/// The longest statement that is sent, in bytes. PostgreSQL ends the connection if a message has 1 GiB.
const MAX_STATEMENT: usize = (1 << 30) - (1 << 20);

/// The most bytes of one value of the type `jsonb`.
const MAX_JSONB: usize = (1 << 28) - 1;

/// Appends that one SQL statement can check at once, because the outcome of none depends on another:
///
/// - only the first append to a stream may have an expected version,
/// - no append follows one that may have closed its stream,
/// - no event id occurs in two appends.
///
/// Appends keep their order: one that does not fit begins the next batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order of the queue.
    appends: Vec<ValidAppend>,
    /// For each append, the indexes of its stream in [`streams`](Self::streams) and of its fence in
    /// [`fences`](Self::fences).
    indexes: Vec<(usize, Option<usize>)>,
    /// The distinct streams, in the order of their first append.
    streams: Vec<Stream>,
    /// Index of each stream in `streams`.
    by_stream: HashMap<StreamId, usize, DefaultHashBuilder>,
    /// The distinct fences. Few, because an engine owns few shards, so they are searched in order.
    fences: Vec<Fence>,
    /// Keys of all events.
    ids: HashSet<Uuid, DefaultHashBuilder>,
    /// Approximate bytes.
    weight: usize,
    /// The columns of the statement, which grow with each append.
    arguments: AppendArguments,
}

/// A stream of a batch.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// The version that the first append to the stream expects.
    pub(crate) expected: Option<u64>,
    /// Number of events in the batch for this stream.
    pub(crate) length: usize,
    /// Whether the last of these events may close the stream.
    pub(crate) is_ending: bool,
}

impl Batch {
    /// Whether the append can be added.
    ///
    /// An empty batch accepts every append, also one above the limit of weight: it has to be sent
    /// somehow.
    pub(crate) fn accepts(&self, valid: &ValidAppend) -> bool {
        let append = &valid.append;
        if self.appends.is_empty() {
            return true;
        }
        self.appends.len() < MAX_APPENDS
            && self.weight.saturating_add(weight(valid)) <= MAX_WEIGHT
            && self.is_independent(append)
            && !append.events.iter().any(|event| self.ids.contains(&event.id.key()))
    }

    /// Whether the append does not depend on the appends to the same stream.
    fn is_independent(&self, append: &Append) -> bool {
        let stream = self.by_stream.get(&append.stream).and_then(|index| self.streams.get(*index));
        stream.is_none_or(|stream| append.expected == Expected::Any && !stream.is_ending)
    }

    /// Adds an append that the batch [`accepts`](Self::accepts).
    pub(crate) fn push(&mut self, valid: ValidAppend) {
        let append = &valid.append;
        self.weight = self.weight.saturating_add(weight(&valid));
        let stream_index = self.stream_index(append);
        let fence_index = append.fence.map(|fence| self.fence_index(fence));
        let events = append.events.len();
        if let Some(stream) = self.streams.get_mut(stream_index) {
            self.arguments.push(&valid, stream_index, fence_index, stream.length);
            stream.length = stream.length.saturating_add(events);
            let last = append.events.last().map(|event| &event.event_type);
            stream.is_ending = last.is_some_and(|last| ending(&stream.id, last).is_some());
        }
        self.ids.extend(self.arguments.last_ids(events));
        self.indexes.push((stream_index, fence_index));
        self.appends.push(valid);
    }

    /// Returns the index of the append's stream. The first append to a stream adds it, with the
    /// version that it expects.
    fn stream_index(&mut self, append: &Append) -> usize {
        if let Some(index) = self.by_stream.get(&append.stream) {
            return *index;
        }
        let expected = match append.expected {
            Expected::Any => None,
            Expected::Empty => Some(0),
            Expected::Exact(version) => Some(version),
        };
        let id = append.stream.clone();
        self.streams.push(Stream { id, expected, length: 0, is_ending: false });
        self.by_stream.insert(append.stream.clone(), self.streams.len() - 1);
        self.streams.len() - 1
    }

    /// Returns the index of a fence, which is added if it is new.
    fn fence_index(&mut self, fence: Fence) -> usize {
        let index = self.fences.iter().position(|other| *other == fence);
        index.unwrap_or_else(|| {
            self.fences.push(fence);
            self.fences.len() - 1
        })
    }

    /// Number of appends.
    pub(crate) fn len(&self) -> usize {
        self.appends.len()
    }

    /// The distinct streams.
    pub(crate) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// The distinct fences.
    pub(crate) fn fences(&self) -> &[Fence] {
        &self.fences
    }

    /// The appends, with their encoded metadata.
    pub(crate) fn valid(&self) -> &[ValidAppend] {
        &self.appends
    }

    /// The columns of the statement.
    pub(crate) fn arguments(&self) -> &AppendArguments {
        &self.arguments
    }

    /// The appends, each with the index of its stream.
    pub(crate) fn appends(&self) -> impl Iterator<Item = (&Append, usize)> {
        let pairs = self.appends.iter().zip(&self.indexes);
        pairs.map(|(valid, (stream, _))| (&valid.append, *stream))
    }

    /// Refuses a batch whose statement, with that many bytes of changes of the read models, would be too
    /// long to be sent.
    pub(crate) fn check_length(&self, changes: usize) -> Result<(), StoreError> {
        self.check_within(self.weight.saturating_add(changes), MAX_STATEMENT, |_| true)
    }

    /// Refuses a batch whose changes of the read models have that many bytes, if they don't fit into one
    /// value of the type `jsonb`.
    pub(crate) fn check_changes(&self, bytes: usize) -> Result<(), StoreError> {
        self.check_within(bytes, MAX_JSONB, |event| is_projected(&event.event_type))
    }

    /// The error names the largest of the events that count, and the bytes that the rest leaves for it.
    fn check_within(
        &self,
        length: usize,
        limit: usize,
        counts: impl Fn(&Event) -> bool,
    ) -> Result<(), StoreError> {
        if length <= limit {
            return Ok(());
        }
        let events =
            self.appends.iter().flat_map(|valid| valid.append.events.iter().zip(valid.sizes()));
        let events = events.filter(|(event, _)| counts(event));
        let Some((event, bytes)) = events.max_by_key(|(_, bytes)| *bytes) else { return Ok(()) };
        let limit = limit.saturating_sub(length.saturating_sub(bytes));
        Err(StoreError::TooLarge { id: event.id.clone(), bytes, limit })
    }

    /// Keeps the appends whose flag in `keep` is set.
    ///
    /// Builds the arguments again. It is used when a caller gave up, which is rare.
    pub(crate) fn retain(self, keep: &[bool]) -> Self {
        let mut retained = Self::default();
        let appends = self.appends.into_iter().zip(keep).filter(|(_, keep)| **keep);
        appends.for_each(|(valid, _)| retained.push(valid));
        retained
    }

    /// Splits the batch into batches of one append.
    pub(crate) fn split(&self) -> impl Iterator<Item = Self> {
        self.appends.iter().map(|valid| {
            let mut single = Self::default();
            single.push(valid.clone());
            single
        })
    }
}

/// Approximate bytes of an append in the statement.
fn weight(valid: &ValidAppend) -> usize {
    let ids = valid.append.events.iter().map(|event| event.id.foreign().unwrap_or_default().len());
    let bytes = valid.sizes().zip(ids).map(|(bytes, id)| bytes.saturating_add(id));
    bytes.fold(0, |sum, bytes| sum.saturating_add(bytes).saturating_add(EVENT_WEIGHT))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aios_core::store::{Epoch, Shard};

    use super::*;

    fn append(stream: &str, expected: Expected) -> Append {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        Append::new(stream.parse().unwrap(), vec![event]).with_expected(expected)
    }

    fn valid(append: &Append) -> ValidAppend {
        ValidAppend::new(append.clone(), MAX_WEIGHT).unwrap()
    }

    fn batch(appends: &[Append]) -> Batch {
        let mut batch = Batch::default();
        appends.iter().for_each(|append| batch.push(valid(append)));
        batch
    }

    fn accepts(batch: &Batch, append: &Append) -> bool {
        batch.accepts(&valid(append))
    }

    #[test]
    fn should_accept_only_independent_appends() {
        let first = append("a", Expected::Exact(3));
        let batch = batch(std::slice::from_ref(&first));
        assert!(accepts(&batch, &append("a", Expected::Any)));
        assert!(accepts(&batch, &append("b", Expected::Empty)));
        assert!(!accepts(&batch, &append("a", Expected::Exact(4))));
        assert!(!accepts(&batch, &append("a", Expected::Empty)));
        assert!(!accepts(&batch, &Append::new("c".parse().unwrap(), first.events)));
    }

    #[test]
    fn should_accept_nothing_after_an_event_that_may_close_the_stream() {
        let ended = |stream: &str| {
            let mut append = append(stream, Expected::Any);
            append.events[0].event_type = "workflows.deploy.failed".parse().unwrap();
            append
        };
        let any = |stream: &str| append(stream, Expected::Any);
        let batch = batch(&[any("runs/a"), ended("runs/a"), ended("orders/a")]);
        assert!(!accepts(&batch, &any("runs/a")));
        assert!(accepts(&batch, &any("runs/b")) && accepts(&batch, &any("orders/a")));
    }

    #[test]
    fn should_limit_the_number_of_appends() {
        let appends: Vec<Append> = (0..MAX_APPENDS).map(|_| append("a", Expected::Any)).collect();
        assert!(!accepts(&batch(&appends), &append("a", Expected::Any)));
    }

    /// An append with this many bytes of metadata.
    fn described(stream: &str, bytes: usize) -> Append {
        let mut append = append(stream, Expected::Any);
        Arc::make_mut(&mut append.events[0].metadata).tracestate = Some("x".repeat(bytes).into());
        append
    }

    #[test]
    fn should_limit_the_bytes_of_payloads_and_metadata() {
        const MIB: usize = 1024 * 1024;
        let batch = batch(&[described("a", 5 * MIB)]);
        assert!(accepts(&batch, &described("b", MIB)));
        assert!(!accepts(&batch, &described("b", 5 * MIB)));
    }

    #[test]
    fn should_refuse_a_statement_that_is_too_long_to_be_sent() {
        let mut long = described("a", 1000);
        long.events.push(described("a", 3000).events.remove(0));
        let batch = batch(std::slice::from_ref(&long));
        assert!(batch.check_length(1000).is_ok());
        let check = |limit| batch.check_within(batch.weight + 1000, limit, |_| true);
        assert!(check(6000).is_ok());
        let error = check(5000).unwrap_err();
        let StoreError::TooLarge { id, bytes, limit } = error else { panic!("{error}") };
        assert_eq!(id, long.events[1].id);
        assert!(bytes > 3000 && limit < 3000, "{bytes} bytes, at most {limit}");
        assert_eq!(batch.check_length(usize::MAX).unwrap_err().code(), "EVENT_TOO_LARGE");
    }

    #[test]
    fn should_list_each_stream_and_fence_once() {
        let fence = |epoch| Fence { shard: Shard::new(1).unwrap(), epoch: Epoch(epoch) };
        let batch = batch(&[
            append("a", Expected::Exact(3)).with_fence(fence(1)),
            append("b", Expected::Any),
            append("a", Expected::Any).with_fence(fence(2)),
            append("b", Expected::Any).with_fence(fence(1)),
        ]);
        assert_eq!(batch.indexes, [(0, Some(0)), (1, None), (0, Some(1)), (1, Some(0))]);
        let expected: Vec<_> = batch.streams().iter().map(|stream| stream.expected).collect();
        assert_eq!((expected, batch.fences().len()), (vec![Some(3), None], 2));
    }
}
