use aios_core::store::{StoreError, StreamId};
use hashlink::LruCache;

use super::{
    batch::{Batch, Stream},
    outcome::AppendResults,
};

/// Number of streams that the writer remembers.
const REMEMBERED: usize = 16_384;

/// Batches for which a stream is looked up after another process was seen to append to it.
const COOLDOWN: u8 = 16;

/// What the writer remembers of streams it appended to, so that the next append need not look them
/// up. Nothing depends on its being right: where it is not, the database refuses the batch, and the
/// writer sends it again without.
pub(crate) struct StreamCache {
    ends: LruCache<StreamId, End>,
    expirations: i64,
}

#[derive(Clone, Copy)]
struct End {
    id: i64,
    head: i64,
    cooldown: u8,
}

/// What is passed on for a batch; a column per stream.
#[derive(Default)]
pub(crate) struct StreamHints {
    pub(crate) ids: Vec<Option<i64>>,
    pub(crate) heads: Vec<Option<i64>>,
    pub(crate) expirations: i64,
    /// Nothing is taken on trust.
    pub(crate) verify: bool,
}

/// Where every stream of a batch ends; a column per stream.
pub(crate) struct StreamHeads {
    pub(crate) ids: Vec<i64>,
    pub(crate) heads: Vec<i64>,
    pub(crate) expirations: i64,
}

impl StreamHints {
    /// Nothing is known, and everything is to be checked.
    pub(crate) fn none() -> Self {
        Self { verify: true, ..Self::default() }
    }

    /// Where all streams end, unless there is one that has to be looked up.
    pub(crate) fn ends(&self) -> Option<StreamHeads> {
        let all = |column: &[Option<i64>]| column.iter().copied().collect::<Option<Vec<_>>>();
        match self.verify {
            true => None,
            false => Some(StreamHeads {
                ids: all(&self.ids)?,
                heads: all(&self.heads)?,
                expirations: self.expirations,
            }),
        }
    }
}

impl StreamCache {
    pub(crate) fn new() -> Self {
        Self { ends: LruCache::new(REMEMBERED), expirations: 0 }
    }

    /// What is known of the streams of a batch, where it agrees with what the batch expects.
    pub(crate) fn known(&mut self, batch: &Batch) -> StreamHints {
        let ends: Vec<Option<End>> =
            batch.streams().iter().map(|stream| self.use_cached(stream)).collect();
        StreamHints {
            ids: ends.iter().map(|end| end.map(|end| end.id)).collect(),
            heads: ends.iter().map(|end| end.map(|end| end.head)).collect(),
            expirations: self.expirations,
            verify: false,
        }
    }

    fn use_cached(&mut self, stream: &Stream) -> Option<End> {
        let end = self.ends.get_mut(&stream.id)?;
        if end.cooldown > 0 {
            end.cooldown -= 1;
            return None;
        }
        let agrees = |expected| i64::try_from(expected).is_ok_and(|expected| expected == end.head);
        stream.expected.is_none_or(agrees).then_some(*end)
    }

    /// Forgets everything: the next connection may lead to a server that lost what this one knew.
    pub(crate) fn forget(&mut self) {
        self.ends.clear();
    }

    /// Forgets the streams that turned out to be closed: what is known is taken to be open.
    pub(crate) fn forget_closed(&mut self, batch: &Batch, results: &AppendResults) {
        for ((append, _), answer) in batch.appends().zip(results) {
            if matches!(answer, Err(StoreError::StreamClosed { .. })) {
                self.ends.remove(&append.stream);
            }
        }
    }

    /// Remembers where streams ended before a batch, and after it. A stream that the batch may have closed
    /// is forgotten, so that the next append looks it up.
    pub(crate) fn remember(
        &mut self,
        expirations: i64,
        batch: &Batch,
        ids: &[i64],
        before: &[i64],
        after: &[i64],
    ) {
        if expirations != self.expirations {
            self.ends.clear();
            self.expirations = expirations;
        }
        let heads = before.iter().zip(after);
        for ((stream, id), (before, after)) in batch.streams().iter().zip(ids).zip(heads) {
            if stream.is_ending {
                self.ends.remove(&stream.id);
            } else if *after > 0 {
                self.remember_end(&stream.id, *id, (*before, *after));
            }
        }
    }

    fn remember_end(&mut self, stream: &StreamId, id: i64, (before, after): (i64, i64)) {
        let Some(end) = self.ends.get_mut(stream) else {
            self.ends.insert(stream.clone(), End { id, head: after, cooldown: 0 });
            return;
        };
        if end.head != before {
            end.cooldown = COOLDOWN;
        }
        (end.id, end.head) = (id, after);
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Event,
        store::{Append, Expected},
    };

    use super::*;
    use crate::postgres::append::batch::ValidAppend;

    fn batch(expected: Expected) -> Batch {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        let append = Append::new("a".parse().unwrap(), vec![event]).with_expected(expected);
        let mut batch = Batch::default();
        batch.push(ValidAppend::new(append, 100).unwrap());
        batch
    }

    fn head(streams: &mut StreamCache, expected: Expected) -> Option<i64> {
        streams.known(&batch(expected)).heads[0]
    }

    #[test]
    fn should_know_where_its_last_append_ended() {
        let mut streams = StreamCache::new();
        assert_eq!(head(&mut streams, Expected::Any), None);
        streams.remember(1, &batch(Expected::Any), &[7], &[0], &[2]);
        assert_eq!(head(&mut streams, Expected::Any), Some(2));
        assert_eq!(head(&mut streams, Expected::Exact(2)), Some(2));
        assert_eq!(head(&mut streams, Expected::Exact(3)), None);
        assert_eq!(head(&mut streams, Expected::Empty), None);
    }

    #[test]
    fn should_look_up_for_a_while_what_another_process_appends_to() {
        let mut streams = StreamCache::new();
        streams.remember(1, &batch(Expected::Any), &[7], &[0], &[2]);
        streams.remember(1, &batch(Expected::Any), &[7], &[5], &[6]);
        for _ in 0..COOLDOWN {
            assert_eq!(head(&mut streams, Expected::Any), None);
        }
        assert_eq!(head(&mut streams, Expected::Any), Some(6));
    }

    #[test]
    fn should_forget_everything_at_an_expiration_and_what_is_not_there() {
        let mut streams = StreamCache::new();
        streams.remember(1, &batch(Expected::Any), &[7], &[0], &[2]);
        streams.remember(2, &batch(Expected::Any), &[8], &[0], &[0]);
        assert_eq!(head(&mut streams, Expected::Any), None);
    }
}
