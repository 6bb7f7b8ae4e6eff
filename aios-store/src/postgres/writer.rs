use std::{sync::Arc, time::Duration};

use aios_core::{clock::ClockExt, store::StoreError};
use tokio::sync::mpsc;

use super::{
    batch::Batch,
    callers::{Caller, Pending, dismiss, too_late},
    commit::{Answers, Committer},
    error::{is_lost, is_passing, is_poison},
    lent::Lent,
    pool::Database,
    tail::Tail,
    wake::Head,
};

/// Appends that wait for the writer; more wait for a place.
pub(super) const QUEUE: usize = 4096;

/// First and longest pause before a batch is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The one task of a process that appends: it takes whatever has queued up and commits it together;
/// meanwhile the next batch gathers.
pub(super) struct Writer {
    database: Database,
    committer: Committer,
    queue: mpsc::Receiver<Pending>,
    /// Begins the next batch, because it did not fit into the last.
    next: Option<Pending>,
    /// Kept, because taking one from the pool and giving it back costs a round trip.
    connection: Option<Lent>,
    head: Head,
    append_timeout: Duration,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        queue: mpsc::Receiver<Pending>,
        head: Head,
        tail: Tail,
        append_timeout: Duration,
    ) -> Self {
        let committer = Committer::new(&database, tail);
        Self { database, committer, queue, next: None, connection: None, head, append_timeout }
    }

    /// Writes until every sender is gone and the queue is empty.
    pub(super) async fn run(mut self) {
        while let Some((batch, mut callers)) = self.take().await {
            if !callers.is_empty() {
                self.write(&batch, &mut callers).await;
            }
        }
        if let Some(connection) = self.connection {
            connection.give_back();
        }
    }

    /// Waits for an append, and takes all that fit into one batch with it; none where nobody waits
    /// for an answer any more.
    async fn take(&mut self) -> Option<(Batch, Vec<Caller>)> {
        let mut pending = match self.next.take() {
            Some(pending) => Some(pending),
            None => Some(self.queue.recv().await?),
        };
        let (mut batch, mut callers) = (Batch::default(), Vec::new());
        while let Some(Pending { append, mut caller }) = pending {
            if self.is_wanted(&mut caller) {
                if !batch.takes(&append) {
                    self.next = Some(Pending { append, caller });
                    break;
                }
                batch.push(append);
                callers.push(caller);
            }
            pending = self.queue.try_recv().ok();
        }
        Some((batch, callers))
    }

    fn is_wanted(&self, caller: &mut Caller) -> bool {
        let now = self.database.clock().now();
        dismiss(std::slice::from_mut(caller), now, || too_late(self.append_timeout))
    }

    /// Commits a batch. If the data of one append is what the server refuses, each is tried alone.
    async fn write(&mut self, batch: &Batch, callers: &mut [Caller]) {
        let mut is_uncertain = false;
        match self.insist(batch, callers, &mut is_uncertain).await {
            Ok(answers) => self.answer(callers, answers),
            Err(Refusal::Poison(_)) if batch.len() > 1 => {
                for (alone, caller) in batch.split().zip(callers.chunks_mut(1)) {
                    self.write_alone(&alone, caller, is_uncertain).await;
                }
            }
            Err(refusal) => refuse(callers, &refusal),
        }
    }

    async fn write_alone(&mut self, alone: &Batch, caller: &mut [Caller], mut is_uncertain: bool) {
        let late = self.reason((!is_uncertain).then(|| too_late(self.append_timeout)));
        if !dismiss(caller, self.database.clock().now(), || late.clone()) {
            return;
        }
        match self.insist(alone, caller, &mut is_uncertain).await {
            Ok(answers) => self.answer(caller, answers),
            Err(refusal) => refuse(caller, &refusal),
        }
    }

    fn answer(&self, callers: &mut [Caller], answers: Answers) {
        let positions = answers.iter().flatten().map(|appended| appended.position);
        if let Some(last) = positions.max() {
            self.head.committed(last);
        }
        for (caller, answer) in callers.iter_mut().zip(answers) {
            caller.answer(answer);
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
    ) -> Result<Answers, Refusal> {
        let clock = Arc::clone(self.database.clock());
        let mut pause = PAUSES.0;
        loop {
            let error = match self.attempt(batch, *is_uncertain).await {
                Attempt::Answered(answers) => return Ok(answers),
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
            Some(Ok(answers)) => {
                self.connection = Some(connection);
                Attempt::Answered(answers)
            }
            Some(Err(error)) if !is_lost(&error) => {
                self.connection = Some(connection);
                Attempt::Refused(error)
            }
            None | Some(Err(_)) => {
                self.committer.forget();
                Attempt::Lost
            }
        }
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
    Answered(Answers),
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
