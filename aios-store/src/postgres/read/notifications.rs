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

use super::head as read_head;
use crate::postgres::connection::{Database, Statement};

/// Shortest pause between two polls, and between two hints.
const SHORTEST_POLL: Duration = Duration::from_millis(50);

/// Longest pause between two polls while hints arrive: 6 queries a minute.
const LONGEST_POLL: Duration = Duration::from_secs(10);

/// Longest pause between two polls without hints: 60 queries a minute.
const LONGEST_BLIND_POLL: Duration = Duration::from_secs(1);

/// Pause after a hint, so that a busy writer sends at most 100 a second.
const HINT_PAUSE: Duration = Duration::from_millis(10);

/// Silence after which the listening connection has to show that it is alive.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Pause before the listening connection is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Begins the hint that leases were released, which ends with its sender; any other hint is the position
/// of an event.
const RELEASED: &str = "released ";
/// Count of releases of a store that is closed.
const CLOSED: u64 = u64::MAX;

const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// What this process knows of the end of the log, and who waits for it to move.
#[derive(Clone)]
pub(crate) struct Head(Arc<HeadState>);

struct HeadState {
    /// Tells the hints of this process from those of others.
    sender: String,
    known: watch::Sender<Known>,
    /// The last position committed by this process, about which other processes are notified.
    committed: watch::Sender<u64>,
    /// Counts the releases of leases that were heard of.
    releases: watch::Sender<u64>,
    waiting: watch::Sender<usize>,
    /// Another process said that it appended, or hints may have been missed.
    hinted: Notify,
    listens: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Known {
    head: u64,
    /// Counts the polls that failed, and keeps the last reason.
    failures: u64,
    error: Option<StoreError>,
    is_closed: bool,
}

impl Head {
    pub(crate) fn new(head: u64) -> Self {
        Self(Arc::new(HeadState {
            sender: EventId::generate().to_string(),
            known: watch::Sender::new(Known { head, ..Known::default() }),
            committed: watch::Sender::new(head),
            releases: watch::Sender::new(0),
            waiting: watch::Sender::new(0),
            hinted: Notify::new(),
            listens: AtomicBool::new(false),
        }))
    }

    pub(crate) fn known(&self) -> u64 {
        self.0.known.borrow().head
    }

    /// This process appended.
    pub(crate) fn committed(&self, position: u64) {
        self.seen(position);
        self.0.committed.send_replace(position);
    }

    /// The log has an event at this position. Returns whether that is news.
    fn seen(&self, position: u64) -> bool {
        self.0.known.send_if_modified(|known| {
            let is_news = position > known.head;
            known.head = known.head.max(position);
            is_news
        })
    }

    fn failed(&self, error: StoreError) {
        self.0.known.send_modify(|known| {
            known.failures += 1;
            known.error = Some(error);
        });
    }

    /// Leases are free.
    pub(crate) fn released(&self) {
        self.0.releases.send_modify(|count| *count = count.saturating_add(1));
    }

    /// Waits until leases were released more often than that.
    pub(crate) async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        let mut releases = self.0.releases.subscribe();
        let count =
            *releases.wait_for(|count| *count > seen).await.map_err(|_| StoreError::Closed)?;
        if count == CLOSED { Err(StoreError::Closed) } else { Ok(count) }
    }

    /// Nobody will forward_notifications of anything any more.
    pub(crate) fn close(&self) {
        self.0.known.send_modify(|known| known.is_closed = true);
        self.0.releases.send_replace(CLOSED);
    }

    /// Waits until the head is above `after`, or a poll fails.
    pub(crate) async fn wait_for(&self, after: u64) -> Result<u64, StoreError> {
        let mut known = self.0.known.subscribe();
        let failures = known.borrow().failures;
        let _waiting = Waiting::new(&self.0.waiting);
        let ends =
            |known: &Known| known.is_closed || known.head > after || known.failures > failures;
        let now = known.wait_for(ends).await.map_err(|_| StoreError::Closed)?.clone();
        match now.error {
            _ if now.is_closed => Err(StoreError::Closed),
            Some(error) if now.head <= after => Err(error),
            _ => Ok(now.head),
        }
    }
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
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

/// Asks for the head while somebody waits: at once after a hint, otherwise ever more rarely.
pub(crate) async fn poll(database: Database, head: Head) {
    let mut waiting = head.0.waiting.subscribe();
    let mut pause = SHORTEST_POLL;
    while waiting.wait_for(|count| *count > 0).await.is_ok() {
        let hint = database.within(pause, head.0.hinted.notified()).await;
        if *waiting.borrow() == 0 {
            restore_hint(&head, hint);
            continue;
        }
        let is_news = match read_head(&database).await {
            Ok(position) => head.seen(position),
            Err(error) => {
                head.failed(error);
                false
            }
        };
        let longest = if head.listens() { LONGEST_POLL } else { LONGEST_BLIND_POLL };
        pause = if is_news { SHORTEST_POLL } else { pause.saturating_mul(2).min(longest) };
    }
}

/// Puts a hint back that nobody was there to forward_notifications.
fn restore_hint(head: &Head, hint: Option<()>) {
    if hint.is_some() {
        head.0.hinted.notify_one();
    }
}

impl Head {
    fn listens(&self) -> bool {
        self.0.listens.load(Ordering::Relaxed)
    }

    fn set_listens(&self, listens: bool) {
        self.0.listens.store(listens, Ordering::Relaxed);
        self.0.hinted.notify_one();
    }
}

/// Tells other processes of what this one committed: one hint a batch at most, outside its
/// transaction, and without waiting for the disk. A hint that is lost is made up for by polling.
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

/// Tells other processes that leases are free.
pub(crate) async fn notify_release(database: &Database, head: &Head) -> Result<(), StoreError> {
    let hint = format!("{RELEASED}{}", head.0.sender);
    let query = Statement::new(NOTIFY).bind(database.schema().channel()).bind(hint);
    database.fetch_all("send a hint", query).await.map(drop)
}

/// Listens for the hints of other processes, and comes back whenever the connection is lost.
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

/// With a pool of its own, in which no dead connection has the one place.
async fn connect(options: &PgConnectOptions, database: &Database) -> sqlx::Result<PgListener> {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(&database.schema().channel()).await?;
    Ok(listener)
}

/// Passes hints on until the connection is lost.
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

/// A connection whose other end vanished without a word stays silent for ever.
async fn is_alive(listener: &mut PgListener, database: &Database) -> bool {
    let ask = listener.execute("SELECT 1");
    matches!(database.within(database.connect_timeout(), ask).await, Some(Ok(_)))
}

impl Head {
    fn on_notification(&self, hint: &PgNotification) {
        if let Some(sender) = hint.payload().strip_prefix(RELEASED) {
            // What this process released was counted at once.
            if sender != self.0.sender {
                self.released();
            }
            return;
        }
        let is_known = hint.payload().parse().is_ok_and(|head: u64| head <= self.known());
        if !is_known {
            self.0.hinted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn should_wake_who_waits_for_an_append() {
        let head = Head::new(3);
        assert_eq!(head.wait_for(2).await.unwrap(), 3);
        let waiter = tokio::spawn({
            let head = head.clone();
            async move { head.wait_for(4).await }
        });
        head.committed(4);
        head.committed(5);
        assert_eq!(waiter.await.unwrap().unwrap(), 5);
        assert_eq!(*head.0.waiting.borrow(), 0);
    }

    #[tokio::test]
    async fn should_report_a_failed_poll_to_who_waits() {
        let head = Head::new(3);
        let waiter = tokio::spawn({
            let head = head.clone();
            async move { head.wait_for(3).await }
        });
        while *head.0.waiting.borrow() == 0 {
            tokio::task::yield_now().await;
        }
        head.failed(StoreError::Closed);
        assert_eq!(waiter.await.unwrap().unwrap_err().code(), "STORE_CLOSED");
    }

    #[tokio::test]
    async fn should_let_nobody_wait_once_closed() {
        let head = Head::new(3);
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
    async fn should_never_move_back() {
        let head = Head::new(3);
        assert!(head.seen(7) && !head.seen(5));
        assert_eq!(head.known(), 7);
    }
}
