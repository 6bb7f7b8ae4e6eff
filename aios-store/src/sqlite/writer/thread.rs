//! The writer: one thread that owns the only writing connection.
//!
//! The thread takes all queued calls, runs them in one transaction, and commits. Callers are
//! answered after the commit. Calls that arrive during a commit form the next transaction, so
//! throughput grows with the number of concurrent callers while a single call never waits for a
//! timer.
//!
//! ```text
//! wait for a call ─► BEGIN IMMEDIATE ─► run it ─► another one queued? ─► run it … ─► COMMIT
//!       ▲                                                                              │
//!       └── reply to all ◄── publish the head ◄── are the files still in place? ◄──────┘
//! ```
//!
//! The thread keeps copies of some data of the database: the leases, the head of the log, the ends
//! of streams. No other connection writes, so the copies are correct until a transaction is rolled
//! back. Then they are marked as stale and are read again at the beginning of the next transaction.
//!
//! If a job fails for a reason of its own, such as an invalid row or a lack of space, the transaction is
//! rolled back and each job of the batch is run again in a transaction of its own. This costs nothing as
//! long as no job fails, unlike a savepoint for each.
//!
//! The thread ends when the handle is dropped and the queue is empty, or at the job `Last`. It
//! closes the readers, then its own connection, and then releases the lock of the file, in this
//! order.

use std::{fmt, thread::JoinHandle};

use aios_core::{
    clock::{Clock, SystemClock},
    store::StoreError,
};
use tokio::sync::{oneshot, watch};

use super::{
    Writer,
    queue::{Batch, Call, Calls, Job, Last},
    reply::ReplyThread,
};
use crate::{
    job_queue::{Caller, Closed, JobQueue, job_queue},
    measure,
    sqlite::{
        error::{backend, lacks_space, store_error},
        options::SqliteOptions,
        read::ReadPool,
        schema,
    },
};

/// Maximum number of calls in a transaction. With more, all callers would wait for the same commit, and
/// the writer would then wait for all of them.
const BATCH: usize = 512;

/// No call is added to a transaction that has reached this weight, in bytes.
const BATCH_WEIGHT: usize = 16 * 1024 * 1024;

/// A handle to the writer thread. Dropping it blocks until the thread has closed the database.
pub(crate) struct WriterHandle {
    /// `None` while the handle is being dropped.
    queue: Option<JobQueue<Box<dyn Job>>>,
    /// `None` after it was joined.
    thread: Option<JoinHandle<()>>,
}

impl WriterHandle {
    /// Starts the thread and waits until it has opened the database.
    pub(crate) async fn start(
        options: SqliteOptions,
        readers: Option<ReadPool>,
        head: watch::Sender<u64>,
    ) -> Result<Self, StoreError> {
        let (queue, calls) = job_queue();
        let (ready, opened) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("aios-sqlite".to_owned())
            .spawn(move || serve(&options, readers.as_ref(), &head, calls, ready))
            .map_err(|source| backend("start the writer", true, source))?;
        let handle = Self { queue: Some(queue), thread: Some(thread) };
        opened.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(handle)
    }

    /// Ends the thread after the queued calls. It has closed the database when it drops its sender of the
    /// head.
    pub(crate) async fn end(&self) {
        // Sending fails if the thread has ended.
        let _ = self.send(Box::new(Last)).await;
    }

    /// Queues a job, at the first poll. The result is held until the reply has come.
    pub(crate) async fn send(&self, job: Box<dyn Job>) -> Result<Caller, StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(job).await.map_err(|Closed| StoreError::Closed)
    }

    /// Runs a closure in the next transaction, and returns its result after the commit.
    pub(crate) async fn call<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Call { run, result: None, reply, is_alone: false };
        let _caller = self.send(Box::new(job)).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Runs a closure between two transactions, and returns its result.
    ///
    /// For statements that can't run inside a transaction, such as `VACUUM`.
    pub(crate) async fn call_alone<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Call { run, result: None, reply, is_alone: true };
        let _caller = self.send(Box::new(job)).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        // Dropping the sender ends the thread after the queued calls.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // Joining fails only if the thread panicked. The panic hook has reported that, and all
            // callers got `Closed`.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for WriterHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WriterHandle").finish_non_exhaustive()
    }
}

/// Opens the database and serves calls until the queue is closed.
///
/// If the write-ahead log was deleted, this closes all connections and opens the database again. SQLite
/// would otherwise keep writing to the deleted log. The read pool is closed by a write lock on its gate,
/// which is held until the new connection is open. If the database can't be opened again, each further call
/// causes another attempt, and gets its error.
fn serve(
    options: &SqliteOptions,
    readers: Option<&ReadPool>,
    head: &watch::Sender<u64>,
    mut calls: Calls,
    ready: oneshot::Sender<Result<(), StoreError>>,
) {
    let replies = ReplyThread::start();
    let mut ready = Some(ready);
    let mut next = None;
    let mut gate = None;
    loop {
        let connection = schema::open_writer(options, readers.map(ReadPool::path));
        let opened = connection.as_ref().map_err(Clone::clone).and_then(|connection| {
            Writer::open(connection, options, readers.map(ReadPool::path), ready.is_some(), head)
        });
        let result = opened.as_ref().map(drop).map_err(Clone::clone);
        let is_first = ready.is_some();
        if let Some(ready) = ready.take() {
            // Sending fails if opening was cancelled. The queue is then closed as well.
            let _ = ready.send(result);
        }
        // Readers may open connections again.
        drop(gate.take());
        let served = opened.map(|mut writer| writer.serve(&mut calls, &mut next, &replies));
        let end = match served {
            Ok(end) => end,
            Err(_) if is_first => End::Closed,
            Err(error) => refuse(&mut calls, &mut next, error),
        };
        // Readers close first, so that the writer closes the last connection and SQLite removes the
        // write-ahead log. The lock is released last.
        gate = readers.map(ReadPool::close);
        if end == End::Closed {
            drop(connection);
            gate.into_iter().for_each(|mut lock| *lock = None);
            return;
        }
    }
}

/// Answers the call that caused the database to be opened again with the error, and waits for another one,
/// which causes the next attempt.
fn refuse(calls: &mut Calls, next: &mut Option<Box<dyn Job>>, error: StoreError) -> End {
    match next.take() {
        Some(job) if job.is_last() => return End::Closed,
        Some(job) => job.reply(Err(error)),
        None => {}
    }
    *next = calls.blocking_recv().filter(|job| !job.is_last());
    if next.is_some() { End::LogLost } else { End::Closed }
}

/// Why a writer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The store is closed: no queued call is left, or the last one has come.
    Closed,
    /// The write-ahead log was deleted or replaced. All commits are in the database.
    LogLost,
}

impl Writer<'_> {
    /// Serves calls until the queue is closed or the database has to be opened again.
    fn serve(
        &mut self,
        calls: &mut Calls,
        next: &mut Option<Box<dyn Job>>,
        replies: &ReplyThread,
    ) -> End {
        while let Some(first) = next.take().or_else(|| calls.blocking_recv()) {
            if first.is_last() {
                return End::Closed;
            }
            let mut batch = Vec::with_capacity(1 + calls.len());
            batch.push(first);
            let outcome = self.commit(&mut batch, || next_of_batch(calls, next));
            self.finish(batch, outcome, replies);
            if self.files.has_lost_the_log() {
                return End::LogLost;
            }
        }
        End::Closed
    }

    /// Replies to a batch. If one of its jobs failed, nothing of the batch is stored, so each job is run
    /// again in a transaction of its own, and only the job that fails again gets the error.
    fn finish(&mut self, batch: Batch, outcome: Result<(), CommitError>, replies: &ReplyThread) {
        match outcome {
            Err(CommitError::Job(_)) if batch.len() > 1 => {
                for job in batch {
                    let mut single = vec![job];
                    let outcome = self.commit(&mut single, || None);
                    replies.send(single, outcome.map_err(CommitError::into_inner));
                }
            }
            outcome => replies.send(batch, outcome.map_err(CommitError::into_inner)),
        }
    }

    /// Commits a batch of calls as one transaction, with the calls that `more` returns.
    ///
    /// The files are looked at after the commit and before the replies: a caller gets `Ok` only if
    /// its commit will be found when the database is opened again.
    fn commit(
        &mut self,
        batch: &mut Batch,
        more: impl FnMut() -> Option<Box<dyn Job>>,
    ) -> Result<(), CommitError> {
        let gone = self.files.last_result(&self.database);
        gone.inspect_err(|_| measure::commit_failed()).map_err(CommitError::All)?;
        let began = SystemClock.elapsed();
        let outcome = match batch.first_mut() {
            // What the writer knows is published after the job, so it has to be valid.
            Some(job) if job.is_alone() => {
                self.reload_if_stale().and_then(|()| job.run(self)).map_err(|error| self.all(error))
            }
            _ => self.transact(batch, more),
        };
        let outcome = outcome.and_then(|()| self.check_files().map_err(CommitError::All));
        match &outcome {
            Ok(()) => {
                self.publish_head();
                measure::committed(batch.len(), SystemClock.elapsed().saturating_sub(began));
            }
            Err(_) => {
                self.roll_back();
                measure::commit_failed();
            }
        }
        outcome
    }

    /// Runs the calls of a batch in a transaction, and takes further calls until there is none or the
    /// transaction is full.
    fn transact(
        &mut self,
        batch: &mut Batch,
        mut more: impl FnMut() -> Option<Box<dyn Job>>,
    ) -> Result<(), CommitError> {
        self.begin.execute([]).map_err(|error| self.all(error))?;
        self.reload_if_stale().map_err(|error| self.all(error))?;
        let mut done = 0;
        let mut weight = 0;
        while let Some(job) = batch.get_mut(done) {
            job.run(self).map_err(|error| self.of_job(error))?;
            weight += job.weight();
            done += 1;
            if weight < BATCH_WEIGHT && batch.len() < BATCH {
                batch.extend(more());
            }
        }
        self.commit.execute([]).map_err(|error| self.of_commit(error)).map(drop)
    }

    /// An error of the transaction.
    fn all(&self, error: rusqlite::Error) -> CommitError {
        CommitError::All(store_error("commit", &self.database, error))
    }

    /// An error of a job. A retryable one would meet the other jobs too, unless they need less space.
    fn of_job(&self, error: rusqlite::Error) -> CommitError {
        let lacks_space = lacks_space(&error);
        match store_error("commit", &self.database, error) {
            error if error.is_retryable() && !lacks_space => CommitError::All(error),
            error => CommitError::Job(error),
        }
    }

    /// An error of the commit. Without the job that needs the most space, the others may succeed.
    fn of_commit(&self, error: rusqlite::Error) -> CommitError {
        match lacks_space(&error) {
            true => self.of_job(error),
            false => self.all(error),
        }
    }
}

/// Why a batch was not committed.
#[derive(Debug)]
enum CommitError {
    /// One of its jobs failed. The others may succeed without it.
    Job(StoreError),
    /// The error concerns every job.
    All(StoreError),
}

impl CommitError {
    fn into_inner(self) -> StoreError {
        let (Self::Job(error) | Self::All(error)) = self;
        error
    }
}

/// Takes the next call for a batch from the queue. One that runs alone is stored in `next` and ends the
/// batch.
fn next_of_batch(calls: &mut Calls, next: &mut Option<Box<dyn Job>>) -> Option<Box<dyn Job>> {
    if next.is_some() {
        return None;
    }
    let call = calls.try_recv()?;
    if call.is_alone() {
        *next = Some(call);
        return None;
    }
    Some(call)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aios_core::{
        event::{Event, Timestamp},
        store::{Append, Expected, OwnerId, Shard, StreamId},
    };
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::{
        super::append::{AppendJob, Reply},
        *,
    };
    use crate::{leases::LeaseTable, sqlite::lease::lease_rows};

    /// Makes the commit fail: inserts an event without a stream, and defers the check to the commit.
    const BREAK: &str = "PRAGMA defer_foreign_keys = ON;
        INSERT INTO events VALUES (1000, x'00', 1000, 1, 1000, 1000, 0, NULL, NULL, '')";

    fn append_job(expected: Expected) -> (Box<dyn Job>, oneshot::Receiver<Reply>) {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        let append = Append::new(StreamId::new("a").unwrap(), vec![event]).with_expected(expected);
        let (reply, answer) = oneshot::channel();
        (Box::new(AppendJob::new(vec![append], 1000, reply)), answer)
    }

    fn failing_job() -> Box<dyn Job> {
        let run = |writer: &mut Writer<'_>| writer.connection.execute_batch(BREAK);
        Box::new(Call { run, result: None, reply: oneshot::channel().0, is_alone: false })
    }

    /// Commits a batch and replies to it, as the writer thread does.
    fn commit(writer: &mut Writer<'_>, mut batch: Vec<Box<dyn Job>>) {
        let outcome = writer.commit(&mut batch, || None);
        writer.finish(batch, outcome, &ReplyThread::start());
    }

    /// A connection whose commit fails after `BREAK`.
    fn open(options: &SqliteOptions) -> rusqlite::Connection {
        let connection = schema::open_writer(options, None).unwrap();
        connection.pragma_update(None, "foreign_keys", true).unwrap();
        connection
    }

    #[test]
    fn should_count_failed_commits() {
        let options = SqliteOptions::memory();
        let connection = open(&options);
        let (published, _head) = watch::channel(0);
        let mut writer = Writer::open(&connection, &options, None, true, &published).unwrap();
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            measure::opened();
            commit(&mut writer, vec![failing_job()]);
            commit(&mut writer, vec![append_job(Expected::Exact(7)).0]);
        });
        let values = recorder.snapshotter().snapshot().into_vec();
        let mut values = values.into_iter().map(|(key, .., value)| (key, value));
        let failed =
            values.find(|(key, _)| key.key().name() == "aios_store_commits_failed_total").unwrap();
        assert_eq!(failed.1, DebugValue::Counter(1), "a conflict is not a failure of the store");
    }

    fn call_job<T: Send + 'static>(
        run: impl FnMut(&mut Writer<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> (Box<dyn Job>, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Call { run, result: None, reply, is_alone: false }), answer)
    }

    /// A job that fails after it has changed the log and the copies.
    fn invalid_job() -> (Box<dyn Job>, oneshot::Receiver<Result<(), StoreError>>) {
        call_job(|writer: &mut Writer<'_>| {
            writer.connection.execute_batch("DELETE FROM events")?;
            writer.log.reload()?;
            writer.leases = LeaseTable::default();
            Err(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    #[test]
    fn should_report_the_error_of_a_job_to_its_caller_only() {
        let options = SqliteOptions::memory();
        let connection = open(&options);
        let (published, head) = watch::channel(0);
        let mut writer = Writer::open(&connection, &options, None, true, &published).unwrap();
        let acquire = |writer: &mut Writer<'_>| {
            let (shards, owner) = ([Shard::new(1).unwrap()], OwnerId::new("me"));
            let hour = Duration::from_secs(3600);
            let acquired = writer.leases.acquire(&shards, &owner, Timestamp::now(), hour);
            lease_rows::save(writer.connection, acquired)
        };
        let (first, mut stored) = append_job(Expected::Empty);
        let (lease, mut acquired) = call_job(acquire);
        let (invalid, mut failed) = invalid_job();
        let (last, mut after) = append_job(Expected::Exact(1));
        commit(&mut writer, vec![first, lease, invalid, last]);
        assert_eq!(stored.try_recv().unwrap().answers[0].as_ref().unwrap().position, 1);
        assert_eq!(failed.try_recv().unwrap().unwrap_err().code(), "INVALID_ROW");
        assert_eq!(after.try_recv().unwrap().answers[0].as_ref().unwrap().position, 2);
        let lease = acquired.try_recv().unwrap().unwrap().remove(0);
        writer.reload_if_stale().unwrap();
        assert!(writer.leases.check(Some(lease.fence())).is_ok());
        assert_eq!(*head.borrow(), 2);
    }

    #[test]
    fn should_report_a_lack_of_memory_to_the_job_that_needs_it() {
        let options = SqliteOptions::memory();
        let connection = open(&options);
        let (published, _head) = watch::channel(0);
        let mut writer = Writer::open(&connection, &options, None, true, &published).unwrap();
        let (first, mut stored) = append_job(Expected::Empty);
        let (large, mut failed) = call_job(|_| -> rusqlite::Result<()> {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOMEM);
            Err(rusqlite::Error::SqliteFailure(error, None))
        });
        commit(&mut writer, vec![first, large]);
        assert_eq!(stored.try_recv().unwrap().answers[0].as_ref().unwrap().position, 1);
        assert!(failed.try_recv().unwrap().unwrap_err().is_retryable());
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let of_commit = writer.of_commit(rusqlite::Error::SqliteFailure(full, None));
        assert!(matches!(of_commit, CommitError::Job(StoreError::Full { .. })));
    }

    #[test]
    fn should_report_a_failed_commit_to_every_caller() {
        let options = SqliteOptions::memory();
        let connection = open(&options);
        let (published, head) = watch::channel(0);
        let mut writer = Writer::open(&connection, &options, None, true, &published).unwrap();
        let (first, mut stored) = append_job(Expected::Empty);
        commit(&mut writer, vec![first]);
        assert_eq!(stored.try_recv().unwrap().answers[0].as_ref().unwrap().version, 1);
        let (second, mut lost) = append_job(Expected::Exact(1));
        commit(&mut writer, vec![second, failing_job()]);
        let error = lost.try_recv().unwrap().answers.remove(0).unwrap_err();
        assert_eq!((error.code(), *head.borrow()), ("STORE_BACKEND", 1));
        let (third, mut stored) = append_job(Expected::Exact(1));
        commit(&mut writer, vec![third]);
        assert_eq!(stored.try_recv().unwrap().answers[0].as_ref().unwrap().position, 2);
        assert_eq!(*head.borrow(), 2);
    }
}
