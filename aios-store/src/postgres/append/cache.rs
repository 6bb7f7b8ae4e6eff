//! The ends of the streams that the writer appended to.
//!
//! With a remembered end, an append needs no look-up: the writer sends the number of the stream and
//! the versions of the events. The memory is only a hint. It is outdated when another process
//! appended to the stream, and then the unique index on stream and version refuses the batch.
//! Nothing is stored in that case, and the batch is sent again without hints.
//!
//! Two things could make a wrong hint pass, and both are excluded:
//!
//! - retention removed the stream, and its number belongs to another one. The server counts
//!   retention runs in `expirations` and ignores hints from before the last one.
//! - after a failover, the server lost commits, so that a version is free that this process has
//!   used. The cache is cleared when the connection is lost.

use aios_core::store::{StoreError, StreamId};
use hashlink::LruCache;

use super::{
    batch::{Batch, Stream},
    outcome::AppendResults,
};

/// Capacity of the cache.
const CAPACITY: usize = 16_384;

/// Number of batches that do not use a cached stream after another process has appended to it.
const COOLDOWN: u8 = 16;

/// A cache of the ends of streams, so that the next append does not look them up.
///
/// An outdated entry does no harm. A unique index then refuses the batch, and the writer sends it again
/// without hints. If another process appended to a stream, it will probably do so again, so the entry is
/// not used for a while ([`COOLDOWN`]): a refused batch costs more than a look-up.
pub(crate) struct StreamCache {
    /// Open streams only.
    ends: LruCache<StreamId, End>,
    /// Number of retention runs when the ends were learnt.
    expirations: i64,
}

/// The end of a stream after the last append of this process.
#[derive(Clone, Copy)]
struct End {
    /// The number of the stream in its table.
    id: i64,
    /// The version of its last event.
    head: i64,
    /// Batches that still do not use this end.
    cooldown: u8,
}

/// The cached ends of a batch's streams, one element per stream. `None` if a stream has to be looked up.
#[derive(Default)]
pub(crate) struct StreamHints {
    pub(crate) ids: Vec<Option<i64>>,
    pub(crate) heads: Vec<Option<i64>>,
    /// The number of retention runs that the cache has seen. Hints from before another one are ignored.
    pub(crate) expirations: i64,
    /// Look everything up, including the ids of the events.
    pub(crate) verify: bool,
}

/// The cached ends of a batch whose streams are all cached, one element per stream.
pub(crate) struct StreamHeads {
    pub(crate) ids: Vec<i64>,
    pub(crate) heads: Vec<i64>,
    pub(crate) expirations: i64,
}

impl StreamHints {
    /// No hints: look everything up.
    pub(crate) fn none() -> Self {
        Self { verify: true, ..Self::default() }
    }

    /// Returns the ends of all streams, or `None` if any of them has to be looked up.
    pub(crate) fn complete(&self) -> Option<StreamHeads> {
        if self.verify {
            return None;
        }
        Some(StreamHeads {
            ids: self.ids.iter().copied().collect::<Option<_>>()?,
            heads: self.heads.iter().copied().collect::<Option<_>>()?,
            expirations: self.expirations,
        })
    }
}

impl StreamCache {
    /// Creates an empty cache.
    pub(crate) fn new() -> Self {
        Self { ends: LruCache::new(CAPACITY), expirations: 0 }
    }

    /// Returns the hints for a batch. A stream whose cached end differs from the expected version gets no
    /// hint, so that the server checks it.
    pub(crate) fn hints(&mut self, batch: &Batch) -> StreamHints {
        let ends: Vec<Option<End>> =
            batch.streams().iter().map(|stream| self.use_cached(stream)).collect();
        StreamHints {
            ids: ends.iter().map(|end| end.map(|end| end.id)).collect(),
            heads: ends.iter().map(|end| end.map(|end| end.head)).collect(),
            expirations: self.expirations,
            verify: false,
        }
    }

    /// Returns the end of a stream, unless it is unknown, cooling down, or contradicts what the
    /// append expects.
    fn use_cached(&mut self, stream: &Stream) -> Option<End> {
        let end = self.ends.get_mut(&stream.id)?;
        if end.cooldown > 0 {
            end.cooldown -= 1;
            return None;
        }
        let is_expected = stream
            .expected
            .is_none_or(|expected| i64::try_from(expected).is_ok_and(|it| it == end.head));
        is_expected.then_some(*end)
    }

    /// Clears the cache. Called when the connection was lost, because the next one may lead to a server
    /// that lost the last commits.
    pub(crate) fn clear(&mut self) {
        self.ends.clear();
    }

    /// Removes streams that turned out to be closed. Cached streams are assumed to be open.
    pub(crate) fn remove_closed(&mut self, batch: &Batch, results: &AppendResults) {
        for ((append, _), answer) in batch.appends().zip(results) {
            if matches!(answer, Err(StoreError::StreamClosed { .. })) {
                self.ends.remove(&append.stream);
            }
        }
    }

    /// Updates the ends of a batch's streams: `before` and `after` are the versions before and after the
    /// batch. A stream that the batch may have closed is removed, so that the next append looks it up. A
    /// stream that got no event may have been closed before, so it is not added.
    pub(crate) fn update(
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
            } else {
                self.update_end(&stream.id, *id, (*before, *after));
            }
        }
    }

    /// Updates the end of one stream. If the version before the batch is not the remembered one,
    /// another process has appended in between.
    fn update_end(&mut self, stream: &StreamId, id: i64, (before, after): (i64, i64)) {
        let has_grown = after > before;
        match self.ends.get_mut(stream) {
            Some(end) => {
                if end.head != before {
                    end.cooldown = COOLDOWN;
                }
                // An end without the events of another process is outdated, and is refused when used.
                if has_grown {
                    (end.id, end.head) = (id, after);
                }
            }
            None if has_grown => {
                self.ends.insert(stream.clone(), End { id, head: after, cooldown: 0 });
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Event,
        store::{Append, Expected},
    };

    use super::*;
    use crate::postgres::append::valid::ValidAppend;

    fn batch(expected: Expected) -> Batch {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        let append = Append::new("a".parse().unwrap(), vec![event]).with_expected(expected);
        let mut batch = Batch::default();
        batch.push(ValidAppend::new(append, 100).unwrap());
        batch
    }

    fn head(streams: &mut StreamCache, expected: Expected) -> Option<i64> {
        streams.hints(&batch(expected)).heads[0]
    }

    #[test]
    fn should_cache_the_end_of_the_last_append() {
        let mut streams = StreamCache::new();
        assert_eq!(head(&mut streams, Expected::Any), None);
        streams.update(1, &batch(Expected::Any), &[7], &[0], &[2]);
        assert_eq!(head(&mut streams, Expected::Any), Some(2));
        assert_eq!(head(&mut streams, Expected::Exact(2)), Some(2));
        assert_eq!(head(&mut streams, Expected::Exact(3)), None);
        assert_eq!(head(&mut streams, Expected::Empty), None);
    }

    #[test]
    fn should_not_use_a_stream_for_a_while_after_another_process_appended() {
        let mut streams = StreamCache::new();
        streams.update(1, &batch(Expected::Any), &[7], &[0], &[2]);
        streams.update(1, &batch(Expected::Any), &[7], &[5], &[6]);
        for _ in 0..COOLDOWN {
            assert_eq!(head(&mut streams, Expected::Any), None);
        }
        assert_eq!(head(&mut streams, Expected::Any), Some(6));
    }

    #[test]
    fn should_not_take_a_stream_for_open_that_got_no_event() {
        let mut streams = StreamCache::new();
        streams.update(1, &batch(Expected::Empty), &[7], &[5], &[5]);
        assert_eq!(head(&mut streams, Expected::Any), None);
        streams.update(1, &batch(Expected::Any), &[7], &[5], &[6]);
        streams.update(1, &batch(Expected::Empty), &[7], &[6], &[6]);
        assert_eq!(head(&mut streams, Expected::Any), Some(6));
        streams.update(1, &batch(Expected::Empty), &[7], &[8], &[8]);
        for _ in 0..COOLDOWN {
            assert_eq!(head(&mut streams, Expected::Any), None);
        }
        assert_eq!(head(&mut streams, Expected::Any), Some(6), "which the server refuses");
    }

    #[test]
    fn should_clear_the_cache_after_retention_and_not_cache_empty_streams() {
        let mut streams = StreamCache::new();
        streams.update(1, &batch(Expected::Any), &[7], &[0], &[2]);
        streams.update(2, &batch(Expected::Any), &[8], &[0], &[0]);
        assert_eq!(head(&mut streams, Expected::Any), None);
    }
}
