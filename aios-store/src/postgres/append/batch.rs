//! Which appends may share a statement.
//!
//! The general SQL function judges all appends of a batch at once, each against the state before
//! the batch. That is correct only if no append of the batch could change the verdict on another
//! one. The rules of [`Batch`] exclude every such pair. An append that they exclude begins the next
//! batch.

use std::collections::{HashMap, HashSet};

use aios_core::{
    catalog::ending,
    store::{Append, Expected, Fence, StreamId},
};
use hashlink::DefaultHashBuilder;
use uuid::Uuid;

use super::{arguments::AppendArguments, valid::ValidAppend};

/// Maximum number of appends in a batch.
const MAX_APPENDS: usize = 1000;

/// Maximum weight of a batch with more than one append, in bytes.
const MAX_WEIGHT: usize = 8 * 1024 * 1024;

/// Approximate weight of an event in addition to its payload, in bytes.
const EVENT_WEIGHT: usize = 256;

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
    pub(crate) fn accepts(&self, append: &Append) -> bool {
        if self.appends.is_empty() {
            return true;
        }
        self.appends.len() < MAX_APPENDS
            && self.weight.saturating_add(weight(append)) <= MAX_WEIGHT
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
        self.weight = self.weight.saturating_add(weight(append));
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
fn weight(append: &Append) -> usize {
    let payloads = append.events.iter().map(|event| event.payload.as_str().len());
    payloads.fold(0, |sum, bytes| sum.saturating_add(bytes).saturating_add(EVENT_WEIGHT))
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Event,
        store::{Epoch, Shard},
    };

    use super::*;

    fn append(stream: &str, expected: Expected) -> Append {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        Append::new(stream.parse().unwrap(), vec![event]).with_expected(expected)
    }

    fn batch(appends: &[Append]) -> Batch {
        let mut batch = Batch::default();
        let valid = appends.iter().map(|append| ValidAppend::new(append.clone(), 100).unwrap());
        valid.for_each(|valid| batch.push(valid));
        batch
    }

    #[test]
    fn should_accept_only_independent_appends() {
        let first = append("a", Expected::Exact(3));
        let batch = batch(std::slice::from_ref(&first));
        assert!(batch.accepts(&append("a", Expected::Any)));
        assert!(batch.accepts(&append("b", Expected::Empty)));
        assert!(!batch.accepts(&append("a", Expected::Exact(4))));
        assert!(!batch.accepts(&append("a", Expected::Empty)));
        assert!(!batch.accepts(&Append::new("c".parse().unwrap(), first.events)));
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
        assert!(!batch.accepts(&any("runs/a")));
        assert!(batch.accepts(&any("runs/b")) && batch.accepts(&any("orders/a")));
    }

    #[test]
    fn should_limit_the_number_of_appends() {
        let appends: Vec<Append> = (0..MAX_APPENDS).map(|_| append("a", Expected::Any)).collect();
        assert!(!batch(&appends).accepts(&append("a", Expected::Any)));
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
