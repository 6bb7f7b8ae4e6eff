use aios_core::store::{StoreError, StreamId};
use hashlink::LruCache;

use super::{
    batch::{Batch, Stream},
    verdicts::Answers,
};

/// Streams that the writer remembers.
const REMEMBERED: usize = 16_384;

/// Batches for which a stream is looked up after another process was seen to append to it.
const DISTRUST: u8 = 16;

/// What the writer remembers of streams it appended to, so that the next append need not look them
/// up. Nothing depends on its being right: where it is not, the database refuses the batch, and the
/// writer sends it again without.
pub(super) struct Streams {
    ends: LruCache<StreamId, End>,
    expirations: i64,
}

#[derive(Clone, Copy)]
struct End {
    id: i64,
    head: i64,
    distrust: u8,
}

/// What is passed on for a batch; a column per stream.
#[derive(Default)]
pub(super) struct Known {
    pub(super) ids: Vec<Option<i64>>,
    pub(super) heads: Vec<Option<i64>>,
    pub(super) expirations: i64,
    /// Nothing is taken on trust.
    pub(super) is_checked: bool,
}

/// Where every stream of a batch ends; a column per stream.
pub(super) struct Ends {
    pub(super) ids: Vec<i64>,
    pub(super) heads: Vec<i64>,
    pub(super) expirations: i64,
}

impl Known {
    /// Nothing is known, and everything is to be checked.
    pub(super) fn nothing() -> Self {
        Self { is_checked: true, ..Self::default() }
    }

    /// Where all streams end, unless there is one that has to be looked up.
    pub(super) fn ends(&self) -> Option<Ends> {
        let all = |column: &[Option<i64>]| column.iter().copied().collect::<Option<Vec<_>>>();
        match self.is_checked {
            true => None,
            false => Some(Ends {
                ids: all(&self.ids)?,
                heads: all(&self.heads)?,
                expirations: self.expirations,
            }),
        }
    }
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { ends: LruCache::new(REMEMBERED), expirations: 0 }
    }

    /// What is known of the streams of a batch, where it agrees with what the batch expects.
    pub(super) fn known(&mut self, batch: &Batch) -> Known {
        let ends: Vec<Option<End>> =
            batch.streams().iter().map(|stream| self.trusted(stream)).collect();
        Known {
            ids: ends.iter().map(|end| end.map(|end| end.id)).collect(),
            heads: ends.iter().map(|end| end.map(|end| end.head)).collect(),
            expirations: self.expirations,
            is_checked: false,
        }
    }

    fn trusted(&mut self, stream: &Stream) -> Option<End> {
        let end = self.ends.get_mut(&stream.id)?;
        if end.distrust > 0 {
            end.distrust -= 1;
            return None;
        }
        let agrees = |expected| i64::try_from(expected).is_ok_and(|expected| expected == end.head);
        stream.expected.is_none_or(agrees).then_some(*end)
    }

    /// Forgets everything: the next connection may lead to a server that lost what this one knew.
    pub(super) fn forget(&mut self) {
        self.ends.clear();
    }

    /// Forgets the streams that turned out to be closed: what is known is taken to be open.
    pub(super) fn forget_closed(&mut self, batch: &Batch, answers: &Answers) {
        for ((append, _), answer) in batch.appends().zip(answers) {
            if matches!(answer, Err(StoreError::StreamClosed { .. })) {
                self.ends.remove(&append.stream);
            }
        }
    }

    /// Remembers where streams ended before a batch, and after it. One that the batch may have closed
    /// is forgotten, so that the next append looks it up.
    pub(super) fn remember(
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
            self.ends.insert(stream.clone(), End { id, head: after, distrust: 0 });
            return;
        };
        if end.head != before {
            end.distrust = DISTRUST;
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

    use super::{super::batch::Admitted, *};

    fn batch(expected: Expected) -> Batch {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        let append = Append::new("a".parse().unwrap(), vec![event]).with_expected(expected);
        let mut batch = Batch::default();
        batch.push(Admitted::new(append, 100).unwrap());
        batch
    }

    fn head(streams: &mut Streams, expected: Expected) -> Option<i64> {
        streams.known(&batch(expected)).heads[0]
    }

    #[test]
    fn should_know_where_its_last_append_ended() {
        let mut streams = Streams::new();
        assert_eq!(head(&mut streams, Expected::Any), None);
        streams.remember(1, &batch(Expected::Any), &[7], &[0], &[2]);
        assert_eq!(head(&mut streams, Expected::Any), Some(2));
        assert_eq!(head(&mut streams, Expected::Exact(2)), Some(2));
        assert_eq!(head(&mut streams, Expected::Exact(3)), None);
        assert_eq!(head(&mut streams, Expected::Empty), None);
    }

    #[test]
    fn should_look_up_for_a_while_what_another_process_appends_to() {
        let mut streams = Streams::new();
        streams.remember(1, &batch(Expected::Any), &[7], &[0], &[2]);
        streams.remember(1, &batch(Expected::Any), &[7], &[5], &[6]);
        for _ in 0..DISTRUST {
            assert_eq!(head(&mut streams, Expected::Any), None);
        }
        assert_eq!(head(&mut streams, Expected::Any), Some(6));
    }

    #[test]
    fn should_forget_everything_at_an_expiration_and_what_is_not_there() {
        let mut streams = Streams::new();
        streams.remember(1, &batch(Expected::Any), &[7], &[0], &[2]);
        streams.remember(2, &batch(Expected::Any), &[8], &[0], &[0]);
        assert_eq!(head(&mut streams, Expected::Any), None);
    }
}
