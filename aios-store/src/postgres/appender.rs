use std::{sync::Arc, time::Duration};

use aios_core::{event::Event, store::StoreError};

use super::{
    answer::{Answering, Done},
    batch::Batch,
    callers::{Caller, dismiss, too_late},
    commit::{Committed, Committer},
    error::{is_lost, is_passing, is_poison, is_read_only},
    lent::Lent,
    load::Load,
    pool::Database,
};

/// First and longest pause before a batch is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Commits batches, whatever happens to the connection, until it is known what became of each append.
pub(super) struct Appender {
    database: Database,
    committer: Committer,
    /// Kept, because taking one from the pool and giving it back costs a round trip.
    connection: Option<Lent>,
    answering: Answering,
    append_timeout: Duration,
}

impl Appender {
    pub(super) fn new(answering: Answering, append_timeout: Duration) -> Self {
        let database = answering.database.clone();
        let committer = Committer::new(&database);
        Self { database, committer, connection: None, answering, append_timeout }
    }

    /// Gives the connection back.
    pub(super) fn close(self) {
        if let Some(connection) = self.connection {
            connection.give_back();
        }
    }

    /// Commits a load, and returns what its callers have to be told, unless they know already. If the
    /// data of one append is what the server refuses, each is tried alone.
    pub(super) async fn write(&mut self, mut load: Load) -> Option<Done> {
        let mut is_uncertain = false;
        match self.insist(&load.batch, &mut load.callers, &mut is_uncertain).await {
            Ok(committed) => return Some(Done { load, committed }),
            Err(Refusal::Poison(_)) if load.batch.len() > 1 => {
                for alone in load.split() {
                    self.write_alone(alone, is_uncertain).await;
                }
            }
            Err(refusal) => refuse(&mut load.callers, &refusal.explained(&load.batch)),
        }
        None
    }

    async fn write_alone(&mut self, mut alone: Load, mut is_uncertain: bool) {
        let late = self.reason((!is_uncertain).then(|| too_late(self.append_timeout)));
        if !dismiss(&mut alone.callers, self.database.clock().now(), || late.clone()) {
            return;
        }
        match self.insist(&alone.batch, &mut alone.callers, &mut is_uncertain).await {
            Ok(committed) => self.answering.answer(Done { load: alone, committed }),
            Err(refusal) => refuse(&mut alone.callers, &refusal.explained(&alone.batch)),
        }
    }

    /// Tries until it is known whether the batch is stored, or nobody waits any more. A batch that is
    /// sent again is answered by what is stored, so nothing is appended twice; while it may be stored,
    /// whatever keeps it from being sent again says nothing about that.
    async fn insist(
        &mut self,
        batch: &Batch,
        callers: &mut [Caller],
        is_uncertain: &mut bool,
    ) -> Result<Committed, Refusal> {
        let clock = Arc::clone(self.database.clock());
        let mut pause = PAUSES.0;
        loop {
            let error = match self.attempt(batch, *is_uncertain).await {
                Attempt::Answered(committed) => return Ok(committed),
                Attempt::Refused(error) if is_poison(&error) => {
                    return Err(Refusal::Poison(self.database.error("append", error)));
                }
                Attempt::Refused(error) if !is_passing(&error) && !*is_uncertain => {
                    return Err(Refusal::Other(self.database.error("append", error)));
                }
                Attempt::Refused(error) => Some(self.database.error("append", error)),
                Attempt::Lost => {
                    *is_uncertain = true;
                    None
                }
            };
            let error = self.reason(error.filter(|_| !*is_uncertain));
            if !dismiss(callers, clock.now() + pause, || error.clone()) {
                return Err(Refusal::Other(error));
            }
            clock.sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSES.1);
        }
    }

    /// Tries once. What may be stored already has to be checked.
    async fn attempt(&mut self, batch: &Batch, is_checked: bool) -> Attempt {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Attempt::Refused(error),
        };
        let work = self.committer.commit(&mut connection, batch, is_checked);
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
                Attempt::Lost
            }
        }
    }

    /// Forgets what is known of the log: the next connection may lead to another server.
    fn forget(&mut self) {
        self.committer.forget();
        self.answering.tail.clear();
    }

    async fn connect(&mut self) -> sqlx::Result<Lent> {
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

fn refuse(callers: &mut [Caller], refusal: &Refusal) {
    let (Refusal::Poison(error) | Refusal::Other(error)) = refusal;
    for caller in callers {
        caller.answer(Err(error.clone()));
    }
}

/// What came of one attempt.
enum Attempt {
    Answered(Committed),
    /// It is not stored, if no earlier attempt did it.
    Refused(sqlx::Error),
    /// Nobody knows.
    Lost,
}

/// Why a batch was not written.
enum Refusal {
    /// Something in it is what the server does not take.
    Poison(StoreError),
    Other(StoreError),
}

impl Refusal {
    /// Names what the server does not take, if it is what it never takes.
    fn explained(self, batch: &Batch) -> Self {
        let mut events = batch.appends().flat_map(|(append, _)| {
            append.events.iter().map(|event| (append.stream.as_str(), event))
        });
        match self {
            Self::Poison(error) => {
                Self::Poison(events.find_map(|(stream, event)| nul(stream, event)).unwrap_or(error))
            }
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
