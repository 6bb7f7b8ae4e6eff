use std::{sync::Arc, time::Duration};

use aios_core::{event::Event, store::StoreError};

use super::{
    batch::Batch,
    commit::{Committed, Committer},
    queue::{PendingBatch, Waiter, expire_waiters, timed_out},
    writer::{CommittedBatch, Replier},
};
use crate::postgres::{
    connection::{ConnectionGuard, Database},
    error::{is_bad_data, is_lost, is_read_only, is_transient},
};

/// First and longest pause before a batch is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Commits batches, whatever happens to the connection, until it is known what became of each append.
pub(crate) struct Appender {
    database: Database,
    committer: Committer,
    /// Kept, because taking one from the pool and giving it back costs a round trip.
    connection: Option<ConnectionGuard>,
    replier: Replier,
    append_timeout: Duration,
}

impl Appender {
    pub(crate) fn new(replier: Replier, append_timeout: Duration) -> Self {
        let database = replier.database.clone();
        let committer = Committer::new(&database);
        Self { database, committer, connection: None, replier, append_timeout }
    }

    /// Gives the connection back.
    pub(crate) fn close(self) {
        if let Some(connection) = self.connection {
            connection.release();
        }
    }

    /// Commits a load, and returns what its waiters have to be told, unless they know already. If the
    /// data of one append is what the server refuses, each is tried alone.
    pub(crate) async fn write(&mut self, mut load: PendingBatch) -> Option<CommittedBatch> {
        let mut is_uncertain = false;
        match self.commit_with_retries(&load.batch, &mut load.waiters, &mut is_uncertain).await {
            Ok(committed) => return Some(CommittedBatch { load, committed }),
            Err(Rejected::BadData(_)) if load.batch.len() > 1 => {
                for alone in load.split() {
                    self.commit_single(alone, is_uncertain).await;
                }
            }
            Err(refusal) => refuse(&mut load.waiters, &refusal.explained(&load.batch)),
        }
        None
    }

    async fn commit_single(&mut self, mut alone: PendingBatch, mut is_uncertain: bool) {
        let late = self.reason((!is_uncertain).then(|| timed_out(self.append_timeout)));
        if !expire_waiters(&mut alone.waiters, self.database.clock().now(), || late.clone()) {
            return;
        }
        match self.commit_with_retries(&alone.batch, &mut alone.waiters, &mut is_uncertain).await {
            Ok(committed) => self.replier.answer(CommittedBatch { load: alone, committed }),
            Err(refusal) => refuse(&mut alone.waiters, &refusal.explained(&alone.batch)),
        }
    }

    /// Tries until it is known whether the batch is stored, or nobody waits any more. A batch that is
    /// sent again is answered by what is stored, so nothing is appended twice; while it may be stored,
    /// whatever keeps it from being sent again says nothing about that.
    async fn commit_with_retries(
        &mut self,
        batch: &Batch,
        waiters: &mut [Waiter],
        is_uncertain: &mut bool,
    ) -> Result<Committed, Rejected> {
        let clock = Arc::clone(self.database.clock());
        let mut pause = PAUSES.0;
        loop {
            let error = match self.attempt(batch, *is_uncertain).await {
                Attempt::Answered(committed) => return Ok(committed),
                Attempt::Refused(error) if is_bad_data(&error) => {
                    return Err(Rejected::BadData(self.database.error("append", error)));
                }
                Attempt::Refused(error) if !is_transient(&error) && !*is_uncertain => {
                    return Err(Rejected::Other(self.database.error("append", error)));
                }
                Attempt::Refused(error) => Some(self.database.error("append", error)),
                Attempt::Unknown => {
                    *is_uncertain = true;
                    None
                }
            };
            let error = self.reason(error.filter(|_| !*is_uncertain));
            if !expire_waiters(waiters, clock.now() + pause, || error.clone()) {
                return Err(Rejected::Other(error));
            }
            clock.sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSES.1);
        }
    }

    /// Tries once. What may be stored already has to be checked.
    async fn attempt(&mut self, batch: &Batch, verify: bool) -> Attempt {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Attempt::Refused(error),
        };
        let work = self.committer.commit(&mut connection, batch, verify);
        match self.database.within(self.database.limit(), work).await {
            Some(Ok(committed)) => {
                self.connection = Some(connection);
                Attempt::Answered(committed)
            }
            Some(Err(error)) if is_read_only(&error) => {
                self.database.discard_idle();
                self.forget();
                Attempt::Refused(error)
            }
            Some(Err(error)) if !is_lost(&error) => {
                self.connection = Some(connection);
                Attempt::Refused(error)
            }
            None | Some(Err(_)) => {
                self.forget();
                Attempt::Unknown
            }
        }
    }

    /// Forgets what is known of the log: the next connection may lead to another server.
    fn forget(&mut self) {
        self.committer.forget();
        self.replier.tail.clear();
    }

    async fn connect(&mut self) -> sqlx::Result<ConnectionGuard> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.database.acquire_alive().await.unwrap_or(Err(sqlx::Error::PoolTimedOut)),
        }
    }

    /// What is said when the time is up: why the batch is not stored, or that nobody knows.
    fn reason(&self, known: Option<StoreError>) -> StoreError {
        known.unwrap_or(StoreError::Timeout {
            operation: "learn what became of an append",
            after: self.append_timeout,
        })
    }
}

fn refuse(waiters: &mut [Waiter], refusal: &Rejected) {
    let (Rejected::BadData(error) | Rejected::Other(error)) = refusal;
    for waiter in waiters {
        waiter.answer(Err(error.clone()));
    }
}

/// What came of one attempt.
enum Attempt {
    Answered(Committed),
    /// It is not stored, if no earlier attempt did it.
    Refused(sqlx::Error),
    /// Nobody knows.
    Unknown,
}

/// Why a batch was not written.
enum Rejected {
    /// Something in it is what the server does not take.
    BadData(StoreError),
    Other(StoreError),
}

impl Rejected {
    /// Replaces an error about bad data by one that names the text with NUL, if there is one.
    fn explained(self, batch: &Batch) -> Self {
        let mut events = batch.appends().flat_map(|(append, _)| {
            append.events.iter().map(|event| (append.stream.as_str(), event))
        });
        match self {
            Self::BadData(error) => Self::BadData(
                events.find_map(|(stream, event)| nul(stream, event)).unwrap_or(error),
            ),
            other => other,
        }
    }
}

/// The character that PostgreSQL's text can't hold, in a text of an event.
fn nul(stream: &str, event: &Event) -> Option<StoreError> {
    let id = event.id.foreign().unwrap_or_default();
    let texts = [("id", id), ("source", &*event.source), ("stream", stream)];
    let (part, _) = texts.into_iter().find(|(_, text)| text.contains('\0'))?;
    Some(StoreError::InvalidText { id: event.id.clone(), part })
}
