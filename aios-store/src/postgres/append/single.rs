//! The fast call for one event.

use aios_core::{catalog::is_projected, event::Event, store::Fence};

use super::{arguments::signed, batch::Batch, cache::StreamHints};
use crate::postgres::connection::{Sql, Statement};

/// A batch of one event that changes no read model, to a stream whose end is cached.
///
/// This is the usual append of a process that is not busy, for which latency matters most, so it has a SQL
/// function of its own with scalar arguments.
pub(crate) struct SingleAppend<'q> {
    /// The event.
    event: &'q Event,
    /// `None` for the default metadata of the stream.
    metadata: Option<&'q str>,
    /// Checked by the server.
    fence: Option<Fence>,
    /// The number of the stream in its table.
    pub(crate) stream_id: i64,
    /// The version of the last event of the stream, as this process knows it.
    pub(crate) head: i64,
    /// Number of retention runs when the end of the stream was learnt.
    pub(crate) expirations: i64,
}

impl<'q> SingleAppend<'q> {
    /// Returns the append if the batch is such a batch.
    ///
    /// Hints that have to be verified have no ends, so an uncertain batch is never such a batch.
    pub(crate) fn of(batch: &'q Batch, hints: &StreamHints) -> Option<Self> {
        let [valid] = batch.valid() else { return None };
        let ([event], [metadata]) = (&*valid.append.events, &*valid.metadata) else {
            return None;
        };
        let (&[Some(stream_id)], &[Some(head)]) = (&*hints.ids, &*hints.heads) else {
            return None;
        };
        (!is_projected(&event.event_type)).then_some(Self {
            event,
            metadata: metadata.as_deref(),
            fence: valid.append.fence,
            stream_id,
            head,
            expirations: hints.expirations,
        })
    }

    /// Returns the call. `event_type` and `source` are the ids of these names.
    pub(crate) fn statement(&self, sql: Sql, event_type: i32, source: i32) -> Statement {
        Statement::new(sql)
            .bind(self.stream_id)
            .bind(self.head)
            .bind(self.expirations)
            .bind(self.fence.map(|fence| i32::from(fence.shard.number())))
            .bind(self.fence.map(|fence| signed(fence.epoch.0)))
            .bind(self.event.id.key())
            .bind(self.event.id.foreign())
            .bind(event_type)
            .bind(source)
            .bind(self.event.timestamp.as_micros())
            .bind(self.event.payload.as_str())
            .bind(self.metadata)
    }
}

/// The call that [`SingleAppend::statement`] makes.
pub(crate) const CALL: &str =
    "SELECT {schema}.append_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

#[cfg(test)]
mod tests {
    use aios_core::store::Append;

    use super::*;
    use crate::postgres::append::valid::ValidAppend;

    fn is_single(event_type: &str, events: usize, appends: usize, hints: &StreamHints) -> bool {
        let event = || Event::new(event_type.parse().unwrap(), "test", &1).unwrap();
        let mut batch = Batch::default();
        for _ in 0..appends {
            let events = (0..events).map(|_| event()).collect();
            let append = Append::new("runs/a".parse().unwrap(), events);
            batch.push(ValidAppend::new(append, 100).unwrap());
        }
        SingleAppend::of(&batch, hints).is_some()
    }

    #[test]
    fn should_accept_a_single_step_of_a_cached_stream() {
        let step = "workflows.deploy.step_completed";
        let hints =
            StreamHints { ids: vec![Some(7)], heads: vec![Some(3)], ..StreamHints::default() };
        assert!(is_single(step, 1, 1, &hints));
        assert!(!is_single(step, 2, 1, &hints));
        assert!(!is_single(step, 1, 2, &hints));
        assert!(!is_single("workflows.deploy.completed", 1, 1, &hints));
        let unknown = StreamHints { heads: vec![None], ids: vec![None], ..hints };
        assert!(!is_single(step, 1, 1, &unknown));
        assert!(!is_single(step, 1, 1, &StreamHints::none()));
    }
}
