//! Appends as jobs of the writer.
//!
//! ```text
//! caller: validate, encode ──► AppendJob ──► queue ──► writer: append each ──► commit ──► reply
//! ```
//!
//! An append can end in three ways. It is *stored*; it is *refused* (fence, version, closed stream,
//! id), which concerns only itself; or the driver *fails*, which undoes the whole transaction. A
//! refused append leaves no rows behind, although it ran inside the transaction of its neighbours.

use aios_core::{
    catalog::is_projected,
    projection::project,
    store::{Append, Appended, StoreError, StreamId},
};
use tokio::sync::oneshot;

use super::{Writer, log::End, queue::Job, row::Prepared};
use crate::{repeat::Lookup, validation::check_expected};

/// The result of one append, unless the whole transaction fails.
pub(super) type Answer = Result<Appended, StoreError>;

/// The reply to a call of `append`.
///
/// The rows return to the caller, whose thread frees them. The reply thread would compete with all
/// callers for the locks of the allocator.
pub(crate) struct Reply {
    pub(crate) answers: Vec<Answer>,
    _appends: Vec<Result<Prepared, StoreError>>,
}

/// A job that runs one call of `append`.
pub(crate) struct AppendJob {
    /// Appends that failed validation keep their place with their refusal.
    appends: Vec<Result<Prepared, StoreError>>,
    /// One answer for each append, in the order of the call.
    answers: Vec<Answer>,
    /// Approximate bytes, for the limit of a transaction.
    weight: usize,
    reply: oneshot::Sender<Reply>,
}

impl AppendJob {
    /// Validates and encodes the appends on the caller's thread, to keep the writer thread short.
    pub(crate) fn new(batch: Vec<Append>, limit: usize, reply: oneshot::Sender<Reply>) -> Self {
        let answers = Vec::with_capacity(batch.len());
        let appends: Vec<_> =
            batch.into_iter().map(|append| Prepared::new(append, limit)).collect();
        let weight = appends.iter().flatten().map(Prepared::weight).sum();
        Self { appends, answers, weight, reply }
    }
}

impl Job for AppendJob {
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, writer: &mut Writer<'_>) -> rusqlite::Result<()> {
        self.answers.clear();
        for prepared in &mut self.appends {
            self.answers.push(match prepared {
                Ok(prepared) => writer.append(prepared)?,
                Err(refusal) => Err(refusal.clone()),
            });
        }
        Ok(())
    }

    fn reply(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { appends, answers, reply, .. } = *self;
        let answers = match outcome {
            Ok(()) => answers,
            Err(error) => vec![Err(error); appends.len()],
        };
        // Sending fails if the caller was cancelled. The commit is not affected.
        let _ = reply.send(Reply { answers, _appends: appends });
    }
}

/// Refuses an append to a stream that has ended.
fn check_open(stream: &StreamId, end: Option<End>) -> Result<(), StoreError> {
    match end.is_some_and(|end| end.is_closed) {
        true => Err(StoreError::StreamClosed { stream: stream.clone() }),
        false => Ok(()),
    }
}

impl Writer<'_> {
    /// Appends, or returns why this append is refused. An `Err` of the driver undoes the whole
    /// transaction, a refusal does not.
    ///
    /// The ids are only looked up if something is wrong, which saves a query for each event in the usual
    /// case. A repeated append then still returns its first result, because its events are found.
    fn append(&mut self, prepared: &mut Prepared) -> rusqlite::Result<Answer> {
        let end = self.log.end_of(&prepared.stream)?;
        let version = end.map_or(0, |end| end.version.cast_unsigned());
        let refusal = self
            .leases
            .check(prepared.fence)
            .and_then(|()| check_expected(&prepared.stream, prepared.expected, version))
            .and_then(|()| check_open(&prepared.stream, end));
        if let Err(refusal) = refusal {
            return Ok(self.find(prepared)?.unwrap_or(Err(refusal)));
        }
        match self.log.insert(prepared, end)? {
            Some(appended) => self.project(prepared).map(|()| Ok(appended)),
            None => self.find(prepared)?.ok_or(rusqlite::Error::QueryReturnedNoRows),
        }
    }

    /// Looks the events of an append up. Returns its result if any of them is stored, otherwise `None`.
    fn find(&mut self, prepared: &Prepared) -> rusqlite::Result<Option<Answer>> {
        Ok(match self.log.look_up(prepared)? {
            Lookup::New => None,
            Lookup::Repeated(appended) => Some(Ok(appended)),
            Lookup::Conflicting(id) => Some(Err(StoreError::DuplicateEvent { id })),
        })
    }

    /// Applies the changes of the read models, in the transaction of the events. Most events of a
    /// journal change none; their types are skipped before the projection clones anything.
    fn project(&mut self, prepared: &Prepared) -> rusqlite::Result<()> {
        let rows = prepared.rows.iter();
        let mut projected = rows.filter(|row| is_projected(&row.recorded.event.event_type));
        projected.try_for_each(|row| self.changes.apply_all(&project(&row.recorded)))
    }
}
