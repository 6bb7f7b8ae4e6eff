use std::collections::{HashMap, HashSet};

use aios_core::store::{Append, Expected, Fence, StoreError, StreamId, ending};
use hashlink::DefaultHashBuilder;
use uuid::Uuid;

use super::arguments::AppendArguments;
use crate::validation::validate_append;

/// Appends in one batch at most.
const MAX_APPENDS: usize = 1000;

/// A batch is full once its events weigh this much, in bytes.
const MAX_WEIGHT: usize = 8 * 1024 * 1024;

/// What an event weighs besides its payload, roughly, in bytes.
const EVENT_WEIGHT: usize = 256;

/// An append that may be written, with the metadata of its events as JSON.
#[derive(Clone, Debug)]
pub(crate) struct ValidAppend {
    pub(crate) append: Append,
    pub(crate) metadata: Vec<Option<String>>,
}

impl ValidAppend {
    /// Admits an append whose events have this many bytes at most.
    ///
    /// # Errors
    ///
    /// What [`validate_append`] refuses.
    pub(crate) fn new(append: Append, limit: usize) -> Result<Self, StoreError> {
        let metadata = validate_append(&append, limit)?;
        Ok(Self { append, metadata })
    }
}

/// Appends that one transaction can decide about at once, because none has to know how another one
/// ends: only the first append to a stream may expect something of it, none follows one that may have
/// closed its stream, and no event id stands in two.
///
/// That leaves the order as it is: an append that does not fit begins the next batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    appends: Vec<ValidAppend>,
    /// Place of each append's stream and fence among [`streams`](Self::streams) and
    /// [`fences`](Self::fences).
    places: Vec<(usize, Option<usize>)>,
    streams: Vec<Stream>,
    by_stream: HashMap<StreamId, usize, DefaultHashBuilder>,
    fences: Vec<Fence>,
    ids: HashSet<Uuid, DefaultHashBuilder>,
    weight: usize,
    arguments: AppendArguments,
}

/// A stream of a batch.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// What the first append believes: the version of the last event.
    pub(crate) expected: Option<u64>,
    /// Events for it in the batch.
    pub(crate) length: usize,
    /// Whether the last of them may close it.
    pub(crate) is_ending: bool,
}

impl Batch {
    /// Whether the append can join.
    pub(crate) fn takes(&self, append: &Append) -> bool {
        if self.appends.is_empty() {
            return true;
        }
        self.appends.len() < MAX_APPENDS
            && self.weight.saturating_add(weight(append)) <= MAX_WEIGHT
            && self.takes_more_of(append)
            && !append.events.iter().any(|event| self.ids.contains(&event.id.key()))
    }

    fn takes_more_of(&self, append: &Append) -> bool {
        let known = self.by_stream.get(&append.stream).and_then(|place| self.streams.get(*place));
        known.is_none_or(|stream| append.expected == Expected::Any && !stream.is_ending)
    }

    /// Adds an append that [`takes`](Self::takes) agreed to.
    pub(crate) fn push(&mut self, valid: ValidAppend) {
        let append = &valid.append;
        self.weight = self.weight.saturating_add(weight(append));
        let (stream, fence) = (self.stream(append), append.fence.map(|fence| self.fence(fence)));
        let events = append.events.len();
        if let Some(at) = self.streams.get_mut(stream) {
            self.arguments.push(&valid, stream, fence, at.length);
            at.length = at.length.saturating_add(events);
            let last = append.events.last().map(|event| &event.event_type);
            at.is_ending = last.is_some_and(|last| ending(&at.id, last).is_some());
        }
        self.ids.extend(self.arguments.last_ids(events));
        self.places.push((stream, fence));
        self.appends.push(valid);
    }

    fn stream(&mut self, append: &Append) -> usize {
        if let Some(place) = self.by_stream.get(&append.stream) {
            return *place;
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

    fn fence(&mut self, fence: Fence) -> usize {
        let known = self.fences.iter().position(|other| *other == fence);
        known.unwrap_or_else(|| {
            self.fences.push(fence);
            self.fences.len() - 1
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.appends.len()
    }

    pub(crate) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    pub(crate) fn fences(&self) -> &[Fence] {
        &self.fences
    }

    pub(crate) fn valid(&self) -> &[ValidAppend] {
        &self.appends
    }

    pub(crate) fn arguments(&self) -> &AppendArguments {
        &self.arguments
    }

    /// Each append, with the place of its stream.
    pub(crate) fn appends(&self) -> impl Iterator<Item = (&Append, usize)> {
        let pairs = self.appends.iter().zip(&self.places);
        pairs.map(|(valid, (stream, _))| (&valid.append, *stream))
    }

    /// The batch of those appends that are wanted, given for each.
    pub(crate) fn only(self, wanted: &[bool]) -> Self {
        let mut rest = Self::default();
        let appends = self.appends.into_iter().zip(wanted).filter(|(_, wanted)| **wanted);
        appends.for_each(|(valid, _)| rest.push(valid));
        rest
    }

    /// Each append as a batch of its own.
    pub(crate) fn split(&self) -> impl Iterator<Item = Self> {
        self.appends.iter().map(|valid| {
            let mut alone = Self::default();
            alone.push(valid.clone());
            alone
        })
    }
}

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
    fn should_only_take_what_does_not_depend_on_another_append() {
        let first = append("a", Expected::Exact(3));
        let batch = batch(std::slice::from_ref(&first));
        assert!(batch.takes(&append("a", Expected::Any)));
        assert!(batch.takes(&append("b", Expected::Empty)));
        assert!(!batch.takes(&append("a", Expected::Exact(4))));
        assert!(!batch.takes(&append("a", Expected::Empty)));
        assert!(!batch.takes(&Append::new("c".parse().unwrap(), first.events)));
    }

    #[test]
    fn should_take_nothing_after_what_may_close_a_stream() {
        let ended = |stream: &str| {
            let mut append = append(stream, Expected::Any);
            append.events[0].event_type = "workflows.deploy.failed".parse().unwrap();
            append
        };
        let any = |stream: &str| append(stream, Expected::Any);
        let batch = batch(&[any("runs/a"), ended("runs/a"), ended("orders/a")]);
        assert!(!batch.takes(&any("runs/a")));
        assert!(batch.takes(&any("runs/b")) && batch.takes(&any("orders/a")));
    }

    #[test]
    fn should_end_where_it_is_full() {
        let appends: Vec<Append> = (0..MAX_APPENDS).map(|_| append("a", Expected::Any)).collect();
        assert!(!batch(&appends).takes(&append("a", Expected::Any)));
    }

    #[test]
    fn should_name_streams_and_fences_once() {
        let fence = |epoch| Fence { shard: Shard(1), epoch: Epoch(epoch) };
        let batch = batch(&[
            append("a", Expected::Exact(3)).with_fence(fence(1)),
            append("b", Expected::Any),
            append("a", Expected::Any).with_fence(fence(2)),
            append("b", Expected::Any).with_fence(fence(1)),
        ]);
        assert_eq!(batch.places, [(0, Some(0)), (1, None), (0, Some(1)), (1, Some(0))]);
        let expected: Vec<_> = batch.streams().iter().map(|stream| stream.expected).collect();
        assert_eq!((expected, batch.fences().len()), (vec![Some(3), None], 2));
    }
}
