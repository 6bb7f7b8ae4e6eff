//! Retries of a commit, until its outcome is known.
//!
//! ```text
//!             committed ──────────────────────────────────────────► results
//!            ╱
//!   attempt ── bad data ──► alone? ── no ──► each append on its own
//!            ╲              └─ yes ─────────────────────────────► its error
//!             ╲── failed, not transient, certain ───────────────► the error
//!              ╲─ failed, transient ──► pause ──► attempt again
//!               ╲ unknown ──► uncertain from now on ──► pause ──► attempt again, with verify
//! ```
//!
//! Pauses double from 20 ms to 1 s. Between attempts, callers whose deadline passes before the next
//! one get an answer, and the loop ends when no caller waits. While one batch is retried, the
//! next ones wait: their appends may depend on it, and the order of the queue is kept.

use std::{sync::Arc, time::Duration};

use aios_core::{event::Event, store::StoreError};

use super::{
    batch::Batch,
    commit::{Committed, Committer},
    outcome::AppendResults,
    queue::{PendingBatch, Waiter, expire_waiters, timed_out},
    reply::{CommittedBatch, Replier},
};
use crate::{
    measure,
    postgres::{
        connection::{ConnectionGuard, Database},
        error::{is_bad_data, is_lost, is_transient, needs_new_session},
    },
};

/// First and longest pause before a batch is retried.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Commits batches across connection failures, until the result of each append is known or its deadline
/// has passed.
///
/// If a connection is lost during a commit, the batch may be stored or not. From then on it is *uncertain*,
/// and errors of later attempts prove nothing about the first one. An uncertain batch is retried with
/// `verify`, so that stored events are found by their ids. Its callers never get an error that says that
/// the append is not stored.
pub(crate) struct Appender {
    /// Where connections come from.
    database: Database,
    /// Statements and caches.
    committer: Committer,
    /// Kept between batches, because returning a connection to the pool costs a round trip.
    connection: Option<ConnectionGuard>,
    /// Replies to the appends of a batch that was split.
    replier: Replier,
    /// Shown in errors.
    append_timeout: Duration,
}

impl Appender {
    /// Creates an appender without a connection.
    pub(crate) fn new(replier: Replier, append_timeout: Duration) -> Self {
        let database = replier.database.clone();
        let committer = Committer::new(&database);
        Self { database, committer, connection: None, replier, append_timeout }
    }

    /// Returns the connection to the pool.
    pub(crate) fn close(self) {
        if let Some(connection) = self.connection {
            connection.release();
        }
    }

    /// Commits a batch and returns its results, unless the callers already got them. If the server refuses
    /// the data of an append, each append is committed on its own, so that only that append fails.
    pub(crate) async fn write(&mut self, mut pending: PendingBatch) -> Option<CommittedBatch> {
        let mut is_uncertain = false;
        let result =
            self.commit_with_retries(&pending.batch, &mut pending.waiters, &mut is_uncertain).await;
        match result {
            Ok(committed) => return Some(CommittedBatch { pending, committed }),
            Err(Rejected::BadData(_)) if pending.batch.len() > 1 => {
                for single in pending.split() {
                    self.commit_single(single, is_uncertain).await;
                }
            }
            Err(rejected) => reject(&mut pending.waiters, &rejected.explained(&pending.batch)),
        }
        None
    }

    /// Commits one append of a batch that was split, unless its deadline has passed. An
    /// append of an uncertain batch stays uncertain.
    async fn commit_single(&mut self, mut single: PendingBatch, mut is_uncertain: bool) {
        let late = self.deadline_error((!is_uncertain).then(|| timed_out(self.append_timeout)));
        if !expire_waiters(&mut single.waiters, self.database.clock().elapsed(), || late.clone()) {
            return;
        }
        let result =
            self.commit_with_retries(&single.batch, &mut single.waiters, &mut is_uncertain).await;
        match result {
            Ok(committed) => self.replier.reply(CommittedBatch { pending: single, committed }),
            Err(rejected) => reject(&mut single.waiters, &rejected.explained(&single.batch)),
        }
    }

    /// Retries until the result of the batch is known or no caller waits any more.
    async fn commit_with_retries(
        &mut self,
        batch: &Batch,
        waiters: &mut [Waiter],
        is_uncertain: &mut bool,
    ) -> Result<Committed, Rejected> {
        let clock = Arc::clone(self.database.clock());
        let mut pause = PAUSES.0;
        loop {
            let failed = match self.attempt(batch, *is_uncertain).await {
                Attempt::Committed(committed) => return Ok(committed),
                Attempt::Failed(error) if is_bad_data(&error) => {
                    return Err(Rejected::BadData(self.database.error("append", error)));
                }
                failed => failed,
            };
            measure::commit_failed();
            let error = match failed {
                Attempt::Failed(error) if !is_transient(&error) && !*is_uncertain => {
                    return Err(Rejected::Other(self.database.error("append", error)));
                }
                Attempt::Failed(error) => Some(self.database.error("append", error)),
                _ => {
                    *is_uncertain = true;
                    None
                }
            };
            let error = self.deadline_error(error.filter(|_| !*is_uncertain));
            if !expire_waiters(waiters, clock.elapsed() + pause, || error.clone()) {
                return Err(Rejected::Other(error));
            }
            clock.sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSES.1);
        }
    }

    /// Tries once. An uncertain batch needs `verify`.
    async fn attempt(&mut self, batch: &Batch, verify: bool) -> Attempt {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Attempt::Failed(error),
        };
        // Committed before the statement, so that the server must number events after it.
        let known = self.replier.head.position();
        let began = self.database.clock().elapsed();
        let work = self.committer.commit(&mut connection, batch, verify);
        match self.database.within(self.database.limit(), work).await {
            Some(Ok(committed)) => {
                let took = self.database.clock().elapsed().saturating_sub(began);
                measure::committed(batch.len(), took);
                if let Some(first) = first_position(batch, &committed.results)
                    && first <= known
                {
                    self.clear_caches();
                    self.replier.head.on_loss(self.database.name(), known, Some(first));
                }
                self.connection = Some(connection);
                Attempt::Committed(committed)
            }
            // Perhaps a former primary. The statement had no effect, but the next server may lack commits
            // of this one.
            Some(Err(error)) if needs_new_session(&error) => {
                self.database.discard_idle();
                self.clear_caches();
                Attempt::Failed(error)
            }
            Some(Err(error)) if !is_lost(&error) => {
                self.connection = Some(connection);
                Attempt::Failed(error)
            }
            None | Some(Err(_)) => {
                self.clear_caches();
                Attempt::Unknown
            }
        }
    }

    /// Clears everything that is cached from the log, because the next connection may lead to another
    /// server.
    fn clear_caches(&mut self) {
        self.committer.clear_caches();
        self.replier.tail.clear();
    }

    /// Takes the kept connection, or one of the pool that answers a ping. After a failover, the
    /// pool is full of connections to the old server.
    async fn connect(&mut self) -> sqlx::Result<ConnectionGuard> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.database.acquire_alive().await.unwrap_or(Err(sqlx::Error::PoolTimedOut)),
        }
    }

    /// The error for callers whose deadline has passed: why the batch is not stored, or without a cause
    /// that it is unknown whether it is stored.
    fn deadline_error(&self, cause: Option<StoreError>) -> StoreError {
        cause.unwrap_or(StoreError::Timeout {
            operation: "learn what became of an append",
            after: self.append_timeout,
        })
    }
}

/// The position of the first event that this commit stored.
fn first_position(batch: &Batch, results: &AppendResults) -> Option<u64> {
    let stored = batch.appends().zip(results).filter_map(|((append, _), result)| {
        let appended = result.as_ref().ok().filter(|appended| !appended.repeated)?;
        let before = u64::try_from(append.events.len()).ok()?.saturating_sub(1);
        Some(appended.position.saturating_sub(before))
    });
    stored.min()
}

/// Sends the error to the callers that have no answer yet.
fn reject(waiters: &mut [Waiter], rejected: &Rejected) {
    let (Rejected::BadData(error) | Rejected::Other(error)) = rejected;
    for waiter in waiters {
        waiter.reply(Err(error.clone()));
    }
}

/// The outcome of one attempt.
enum Attempt {
    /// The result of every append is known.
    Committed(Committed),
    /// This attempt did not store the batch. An earlier one may have.
    Failed(sqlx::Error),
    /// It is unknown whether the batch is stored.
    Unknown,
}

/// Why a batch was not stored.
enum Rejected {
    /// The server refuses the data of at least one append.
    BadData(StoreError),
    /// Any other error, or the deadlines have passed.
    Other(StoreError),
}

impl Rejected {
    /// Replaces an error about bad data by one that names the text with NUL, if there is such a text.
    fn explained(self, batch: &Batch) -> Self {
        let mut events = batch.appends().flat_map(|(append, _)| {
            append.events.iter().map(|event| (append.stream.as_str(), event))
        });
        match self {
            Self::BadData(error) => Self::BadData(
                events.find_map(|(stream, event)| find_nul(stream, event)).unwrap_or(error),
            ),
            other => other,
        }
    }
}

/// Returns an error if a text of the event has NUL, which PostgreSQL's text type cannot store.
fn find_nul(stream: &str, event: &Event) -> Option<StoreError> {
    let id = event.id.foreign().unwrap_or_default();
    let texts = [("id", id), ("source", &*event.source), ("stream", stream)];
    let (part, _) = texts.into_iter().find(|(_, text)| text.contains('\0'))?;
    Some(StoreError::InvalidText { id: event.id.clone(), part })
}
