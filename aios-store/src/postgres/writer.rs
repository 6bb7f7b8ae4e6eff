use std::{sync::Arc, time::Duration};

use aios_core::{
    clock::ClockExt,
    store::{Append, Appended, StoreError},
};
use sqlx::{Postgres, pool::PoolConnection};
use tokio::sync::{mpsc, oneshot};

use super::{
    batch::Batch,
    commit::{Answers, Committer},
    error::{is_lost, is_passing, is_poison},
    pool::Database,
    wake::Head,
};

/// Appends that wait for the writer; more wait for a place.
pub(super) const QUEUE: usize = 4096;

/// First and longest pause before a batch is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What an append waits for.
pub(super) type Reply = oneshot::Sender<Result<Appended, StoreError>>;

/// An append in the queue.
pub(super) struct Pending {
    pub(super) append: Append,
    pub(super) reply: Reply,
}

/// The one task of a process that appends: it takes whatever has queued up and commits it together;
/// meanwhile the next batch gathers.
pub(super) struct Writer {
    database: Database,
    committer: Committer,
    queue: mpsc::Receiver<Pending>,
    /// Begins the next batch, because it did not fit into the last.
    next: Option<Pending>,
    /// Kept, because taking one from the pool and giving it back costs a round trip.
    connection: Option<PoolConnection<Postgres>>,
    head: Head,
    append_timeout: Duration,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        queue: mpsc::Receiver<Pending>,
        head: Head,
        append_timeout: Duration,
    ) -> Self {
        let committer = Committer::new(&database);
        Self { database, committer, queue, next: None, connection: None, head, append_timeout }
    }

    /// Writes until every sender is gone and the queue is empty.
    pub(super) async fn run(mut self) {
        while let Some((batch, replies)) = self.take().await {
            let answers = self.write(&batch).await;
            self.publish(&answers);
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Nobody waits for a cancelled append.
                drop(reply.send(answer));
            }
        }
    }

    /// Waits for an append, and takes all that fit into one batch with it.
    async fn take(&mut self) -> Option<(Batch, Vec<Reply>)> {
        let mut pending = match self.next.take() {
            Some(pending) => Some(pending),
            None => Some(self.queue.recv().await?),
        };
        let (mut batch, mut replies) = (Batch::default(), Vec::new());
        while let Some(Pending { append, reply }) = pending {
            if reply.is_closed() {
                pending = self.queue.try_recv().ok();
                continue;
            }
            if !batch.takes(&append) {
                self.next = Some(Pending { append, reply });
                break;
            }
            batch.push(append);
            replies.push(reply);
            pending = self.queue.try_recv().ok();
        }
        Some((batch, replies))
    }

    /// Commits a batch. If the data of one append is what the server refuses, each is tried alone.
    async fn write(&mut self, batch: &Batch) -> Answers {
        let error = match self.insist(batch).await {
            Ok(answers) => return answers,
            Err(Refusal::Poison(error)) if batch.len() == 1 => error,
            Err(Refusal::Poison(_)) => return self.write_each(batch).await,
            Err(Refusal::Other(error)) => error,
        };
        batch.appends().map(|_| Err(error.clone())).collect()
    }

    async fn write_each(&mut self, batch: &Batch) -> Answers {
        let mut answers = Vec::with_capacity(batch.len());
        for alone in batch.split() {
            let answer = self.insist(&alone).await.unwrap_or_else(|refusal| match refusal {
                Refusal::Poison(error) | Refusal::Other(error) => vec![Err(error)],
            });
            answers.extend(answer);
        }
        answers
    }

    /// Tries until it is known whether the batch is stored, or the time is up. A batch that is sent
    /// again is answered by what is stored, so nothing is appended twice.
    async fn insist(&mut self, batch: &Batch) -> Result<Answers, Refusal> {
        let clock = Arc::clone(self.database.clock());
        let deadline = clock.now() + self.append_timeout;
        let (mut pause, mut is_uncertain) = (PAUSES.0, false);
        loop {
            let error = match self.attempt(batch, is_uncertain).await {
                Attempt::Answered(answers) => return Ok(answers),
                Attempt::Refused(error) if !is_passing(&error) => return Err(self.refusal(error)),
                Attempt::Refused(error) => Some(error),
                Attempt::Lost => {
                    is_uncertain = true;
                    None
                }
            };
            if clock.now() + pause >= deadline {
                let error = error.filter(|_| !is_uncertain);
                return Err(self.give_up(error));
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
            Some(Ok(answers)) => {
                self.connection = Some(connection);
                Attempt::Answered(answers)
            }
            Some(Err(error)) if !is_lost(&error) => {
                self.connection = Some(connection);
                Attempt::Refused(error)
            }
            None | Some(Err(_)) => {
                connection.close_on_drop();
                self.committer.forget();
                Attempt::Lost
            }
        }
    }

    async fn connect(&mut self) -> sqlx::Result<PoolConnection<Postgres>> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.database.try_acquire().await.unwrap_or(Err(sqlx::Error::PoolTimedOut)),
        }
    }

    fn refusal(&self, error: sqlx::Error) -> Refusal {
        let is_poison = is_poison(&error);
        let error = self.database.error("append", error);
        if is_poison { Refusal::Poison(error) } else { Refusal::Other(error) }
    }

    /// The time is up: either the batch is known not to be stored, and why, or nobody knows.
    fn give_up(&self, known: Option<sqlx::Error>) -> Refusal {
        Refusal::Other(match known {
            Some(error) => self.database.error("append", error),
            None => StoreError::Timeout {
                operation: "learn what became of an append",
                after: self.append_timeout,
            },
        })
    }

    fn publish(&self, answers: &Answers) {
        let positions = answers.iter().flatten().map(|appended| appended.position);
        if let Some(last) = positions.max() {
            self.head.committed(last);
        }
    }
}

/// What came of one attempt.
enum Attempt {
    Answered(Answers),
    /// It is not stored.
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
