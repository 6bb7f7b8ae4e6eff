//! How waiting tasks learn that the log has grown.
//!
//! Polling is what makes this correct: while a task waits, the head of the log is queried with increasing
//! pauses. `NOTIFY` only shortens the pause, so a notification may be lost, duplicated or late. That is why
//! it is sent outside the append transaction, without waiting for the disk: inside, it would make commits
//! wait for a global lock of PostgreSQL.
//!
//! Three tasks share a [`Head`]: [`poll`] queries the head, [`notify`] sends hints to other processes, and
//! [`listen`] receives theirs. A hint does not carry the head to the waiting tasks. It makes [`poll`] query
//! the head at once, so that only committed positions are reported.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_core::{event::EventId, store::StoreError};
use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions},
};
use tokio::sync::{Notify, watch};
use tracing::error;

use super::{LastEvent, last_event};
use crate::postgres::connection::{Database, Statement};

/// Shortest pause between two polls, and between two hints.
const SHORTEST_POLL: Duration = Duration::from_millis(50);

/// Longest pause between two polls while this process listens for hints: 6 queries a minute.
const LONGEST_POLL: Duration = Duration::from_secs(10);

/// Longest pause between two polls while it does not listen: 60 queries a minute.
const LONGEST_BLIND_POLL: Duration = Duration::from_secs(1);

/// Pause after a hint, so that a busy writer sends at most 100 a second.
const HINT_PAUSE: Duration = Duration::from_millis(10);

/// Silence after which the listening connection is checked.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Pause before the listening connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Prefix of the hint that leases were released. The rest is the id of the sender. Any other hint is the
/// position of an event.
const RELEASED: &str = "released ";
/// The number of releases in a closed store.
const CLOSED: u64 = u64::MAX;

const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// The head of the log as far as this process knows, with the tasks that wait for it to move.
#[derive(Clone)]
pub(crate) struct Head(Arc<Inner>);

/// Each field is a channel between tasks; none of them is locked across an await.
struct Inner {
    /// Identifies this process in its own hints, which it also receives.
    sender: String,
    state: watch::Sender<HeadState>,
    /// The last position that this process committed. Other processes are notified of it.
    committed: watch::Sender<u64>,
    /// Number of lease releases that this process knows of.
    releases: watch::Sender<u64>,
    /// Number of tasks that wait for the head.
    waiting: watch::Sender<usize>,
    /// Signalled if another process appended, or if hints may have been missed.
    hinted: Notify,
    /// Whether hints of other processes arrive, which lets `poll` pause longer.
    listens: AtomicBool,
}

/// The state that tasks look at while they wait for the log to grow.
#[derive(Clone, Debug, Default)]
struct HeadState {
    /// The event with the highest position that is known to be committed. Never moves back.
    last: LastEvent,
    /// Number of failed polls.
    failures: u64,
    /// The error of the last failed poll.
    error: Option<StoreError>,
    /// Why all waits and reads of events fail from now on: the store was closed, or its log has lost events.
    end: Option<StoreError>,
}

impl Head {
    /// Begins at an event that was read from the database.
    pub(crate) fn new(last: LastEvent) -> Self {
        Self(Arc::new(Inner {
            sender: EventId::generate().to_string(),
            state: watch::Sender::new(HeadState { last, ..HeadState::default() }),
            committed: watch::Sender::new(last.position),
            releases: watch::Sender::new(0),
            waiting: watch::Sender::new(0),
            hinted: Notify::new(),
            listens: AtomicBool::new(false),
        }))
    }

    /// The last known position.
    pub(crate) fn position(&self) -> u64 {
        self.0.state.borrow().last.position
    }

    /// The last known event. Fails once it is known that the log has lost events, and after `close`.
    pub(crate) fn known(&self) -> Result<LastEvent, StoreError> {
        let state = self.0.state.borrow();
        state.end.clone().map_or(Ok(state.last), Err)
    }

    /// Records that this process committed an event.
    pub(crate) fn on_commit(&self, last: LastEvent) {
        self.advance(last);
        self.0.committed.send_replace(last.position);
    }

    /// Moves the head forward. Returns whether it moved.
    pub(crate) fn advance(&self, last: LastEvent) -> bool {
        self.0.state.send_if_modified(|state| {
            let moves = last.position > state.last.position;
            if moves {
                state.last = last;
            }
            moves
        })
    }

    /// Fails the tasks that wait at this time. They learn of an error by the number of failures,
    /// which has grown since they began.
    fn on_poll_error(&self, error: StoreError) {
        self.0.state.send_modify(|state| {
            state.failures += 1;
            state.error = Some(error);
        });
    }

    /// Records that leases were released.
    pub(crate) fn on_release(&self) {
        self.0.releases.send_modify(|count| *count = count.saturating_add(1));
    }

    /// Waits until the number of releases is above `seen`.
    pub(crate) async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        let mut releases = self.0.releases.subscribe();
        let count =
            *releases.wait_for(|count| *count > seen).await.map_err(|_| StoreError::Closed)?;
        if count == CLOSED { Err(StoreError::Closed) } else { Ok(count) }
    }

    /// Fails all pending and later waits with [`StoreError::Closed`].
    pub(crate) fn close(&self) {
        self.0.state.send_modify(|state| state.end = Some(StoreError::Closed));
        self.0.releases.send_replace(CLOSED);
    }

    /// Fails all pending and later waits and reads of events: the database no longer has the event at a
    /// position that was committed, and readers of the log have passed positions that are given to other
    /// events. `found` is such a position, if it is known.
    pub(crate) fn on_loss(&self, database: &str, known: u64, found: Option<u64>) {
        let is_new = self.0.state.send_if_modified(|state| {
            let is_new = state.end.is_none();
            let lost = || StoreError::LostEvents { database: database.to_owned(), position: known };
            state.end.get_or_insert_with(lost);
            is_new
        });
        if is_new {
            error!(
                database,
                known,
                found,
                "the database has lost committed events, for example in a failover to a server that \
                 lagged behind; restart this process"
            );
        }
    }

    /// Waits until the head is above `after`, or a poll fails.
    pub(crate) async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        let mut state = self.0.state.subscribe();
        let failures = state.borrow().failures;
        let _waiting = Waiting::new(&self.0.waiting);
        let state = state
            .wait_for(|state| {
                state.end.is_some() || state.last.position > after || state.failures > failures
            })
            .await
            .map_err(|_| StoreError::Closed)?
            .clone();
        match (state.end, state.error) {
            (Some(end), _) => Err(end),
            (None, Some(error)) if state.last.position <= after => Err(error),
            (None, _) => Ok(state.last.position),
        }
    }
}

/// Counts a waiting task until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    /// Counts a task. The first one starts the polling.
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Queries the head while a task waits: at once after a hint, otherwise with increasing pauses.
pub(crate) async fn poll(database: Database, head: Head) {
    let mut waiting = head.0.waiting.subscribe();
    let mut pause = SHORTEST_POLL;
    while waiting.wait_for(|count| *count > 0).await.is_ok() {
        let hint = database.within(pause, head.0.hinted.notified()).await;
        if *waiting.borrow() == 0 {
            restore_hint(&head, hint);
            continue;
        }
        let known = head.position();
        let moved = match last_event(&database, &head).await {
            Ok(last) => last.position > known,
            Err(StoreError::LostEvents { .. }) => return,
            Err(error) => {
                head.on_poll_error(error);
                false
            }
        };
        let longest = if head.listens() { LONGEST_POLL } else { LONGEST_BLIND_POLL };
        pause = if moved { SHORTEST_POLL } else { pause.saturating_mul(2).min(longest) };
    }
}

/// Puts a hint back that arrived after the last waiting task was gone, for the next task that waits.
fn restore_hint(head: &Head, hint: Option<()>) {
    if hint.is_some() {
        head.0.hinted.notify_one();
    }
}

impl Head {
    /// Whether hints of other processes arrive.
    fn listens(&self) -> bool {
        self.0.listens.load(Ordering::Relaxed)
    }

    /// Notes whether hints arrive from now on. Counts as a hint itself: some may have been missed
    /// while they did not.
    fn set_listens(&self, listens: bool) {
        self.0.listens.store(listens, Ordering::Relaxed);
        self.0.hinted.notify_one();
    }
}

/// Notifies other processes of commits: at most one hint per batch, outside the append transaction, and
/// without waiting for the disk. A lost hint is compensated by polling.
pub(crate) async fn notify(database: Database, head: Head) {
    let mut committed = head.0.committed.subscribe();
    let channel = database.schema().channel();
    while committed.changed().await.is_ok() {
        let position = *committed.borrow_and_update();
        let query = Statement::new(NOTIFY).bind(&channel).bind(position.to_string());
        let sent = database.fetch_all("send a hint", query).await;
        let pause = if sent.is_ok() { HINT_PAUSE } else { RECONNECT_PAUSE };
        database.clock().sleep(pause).await;
    }
}

/// Notifies other processes that leases were released.
pub(crate) async fn notify_release(database: &Database, head: &Head) -> Result<(), StoreError> {
    let hint = format!("{RELEASED}{}", head.0.sender);
    let query = Statement::new(NOTIFY).bind(database.schema().channel()).bind(hint);
    database.fetch_all("send a hint", query).await.map(drop)
}

/// Listens for the hints of other processes. Reconnects when the connection is lost.
pub(crate) async fn listen(database: Database, head: Head) {
    let Some(options) = database.listen() else { return };
    loop {
        let connect =
            database.within(database.connect_timeout(), connect(options, &database)).await;
        if let Some(Ok(mut listener)) = connect {
            forward_notifications(&mut listener, &database, &head).await;
        }
        database.clock().sleep(RECONNECT_PAUSE).await;
    }
}

/// Opens the listening connection in a new pool. In an existing pool of one connection, a dead connection
/// could occupy the only slot.
async fn connect(options: &PgConnectOptions, database: &Database) -> sqlx::Result<PgListener> {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(&database.schema().channel()).await?;
    Ok(listener)
}

/// Processes hints until the connection is lost.
async fn forward_notifications(listener: &mut PgListener, database: &Database, head: &Head) {
    head.set_listens(true);
    loop {
        match database.within(KEEPALIVE, listener.try_recv()).await {
            Some(Ok(Some(hint))) => head.on_notification(&hint),
            None if is_alive(listener, database).await => {}
            None | Some(Ok(None) | Err(_)) => break,
        }
    }
    head.set_listens(false);
}

/// Checks the connection with a query. A half-open connection never reports an error.
async fn is_alive(listener: &mut PgListener, database: &Database) -> bool {
    let ask = listener.execute("SELECT 1");
    matches!(database.within(database.connect_timeout(), ask).await, Some(Ok(_)))
}

impl Head {
    /// Handles a hint. A position that is already known, such as one of this process, causes no
    /// query.
    fn on_notification(&self, hint: &PgNotification) {
        if let Some(sender) = hint.payload().strip_prefix(RELEASED) {
            // A release of this process was counted when it happened.
            if sender != self.0.sender {
                self.on_release();
            }
            return;
        }
        let is_known =
            hint.payload().parse().is_ok_and(|position: u64| position <= self.position());
        if !is_known {
            self.0.hinted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> LastEvent {
        LastEvent { position, key: None }
    }

    #[tokio::test]
    async fn should_wake_a_task_that_waits_for_an_append() {
        let head = Head::new(at(3));
        assert_eq!(head.wait_for(2).await.unwrap(), 3);
        let waiter = tokio::spawn({
            let head = head.clone();
            async move { head.wait_for(4).await }
        });
        head.on_commit(at(4));
        head.on_commit(at(5));
        assert_eq!(waiter.await.unwrap().unwrap(), 5);
        assert_eq!(*head.0.waiting.borrow(), 0);
    }

    #[tokio::test]
    async fn should_report_a_failed_poll_to_waiting_tasks() {
        let head = Head::new(at(3));
        let waiter = tokio::spawn({
            let head = head.clone();
            async move { head.wait_for(3).await }
        });
        while *head.0.waiting.borrow() == 0 {
            tokio::task::yield_now().await;
        }
        head.on_poll_error(StoreError::Closed);
        assert_eq!(waiter.await.unwrap().unwrap_err().code(), "STORE_CLOSED");
    }

    #[tokio::test]
    async fn should_fail_waits_after_close() {
        let head = Head::new(at(3));
        let waiter = tokio::spawn({
            let head = head.clone();
            async move { head.wait_for(3).await }
        });
        tokio::task::yield_now().await;
        head.close();
        assert_eq!(waiter.await.unwrap().unwrap_err().code(), "STORE_CLOSED");
        assert_eq!(head.wait_for_release(0).await.unwrap_err().code(), "STORE_CLOSED");
        assert_eq!(head.wait_for(0).await.unwrap_err().code(), "STORE_CLOSED");
    }

    #[tokio::test]
    async fn should_fail_waits_after_a_loss_of_events() {
        let head = Head::new(at(3));
        head.on_loss("db", 3, Some(2));
        head.on_commit(at(4));
        for after in [0, 3, 4] {
            assert_eq!(head.wait_for(after).await.unwrap_err().code(), "STORE_LOST_EVENTS");
        }
    }

    #[tokio::test]
    async fn should_never_move_back() {
        let head = Head::new(at(3));
        assert!(head.advance(at(7)) && !head.advance(at(5)));
        assert_eq!(head.position(), 7);
    }
}
