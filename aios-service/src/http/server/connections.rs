//! The open connections, and which of them have no request.
//!
//! The number of connections is limited, and idle clients must not keep others out. A connection
//! moves between two states:
//!
//! ```text
//! add ──► idle ◄──── the last answer was sent ────┐
//!           │                                     │
//!           ├── a request begins ──► busy ────────┘
//!           └── the oldest, when there is no room, or idle too long ──► told to close ──► dropped
//! ```
//!
//! Locks are taken in the order `activity` of a connection, then `state` of all. A connection that
//! was asked to close may get a request at the same moment. It then stays open, and `remove_idle`
//! corrects the count of closing ones, so that another one is chosen.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aios_core::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Limits the number of open connections. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    /// The most open connections.
    limit: usize,
    /// Monotonic time.
    clock: Arc<dyn Clock>,
    /// Shared by all clones and connections.
    state: Arc<Mutex<State>>,
    /// A connection was closed, or has no request any more.
    changed: Arc<Notify>,
}

/// The connections, as the accepting task sees them.
#[derive(Debug, Default)]
struct State {
    /// Accepted and not dropped.
    open: usize,
    /// Connections that were told to close, and have not done so yet.
    closing: usize,
    /// The last number of an idle entry. Numbers grow, so the first entry is the oldest one.
    next: u64,
    /// The connections without a request, those that have been so for the longest time first.
    idle: BTreeMap<u64, Idle>,
}

/// A connection without a request.
#[derive(Debug)]
struct Idle {
    /// Since when.
    since: Duration,
    /// Tells it to close.
    close: Arc<Notify>,
}

impl State {
    /// Adds a connection that has no request, and returns its number.
    fn add_idle(&mut self, since: Duration, close: &Arc<Notify>) -> u64 {
        self.next += 1;
        self.idle.insert(self.next, Idle { since, close: Arc::clone(close) });
        self.next
    }

    /// Removes a connection that was without a request.
    ///
    /// A connection that is no longer idle has been asked to close. It either ends now or has a request
    /// after all, and in both cases it no longer counts as closing.
    fn remove_idle(&mut self, id: u64) {
        if self.idle.remove(&id).is_none() {
            self.closing -= 1;
        }
    }

    /// Asks the oldest of the connections without a request to close.
    fn close_oldest(&mut self) {
        if let Some((_, idle)) = self.idle.pop_first() {
            self.closing += 1;
            idle.close.notify_one();
        }
    }
}

impl Connections {
    /// No connection is open.
    pub(super) fn new(limit: usize, clock: Arc<dyn Clock>) -> Self {
        Self { limit, clock, state: Arc::default(), changed: Arc::default() }
    }

    /// Adds a connection, which has no request yet. If there are too many, closes the one that has
    /// been without a request for the longest time, and waits until there is room. Cancel safe.
    pub(super) async fn add(&self) -> Connection {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                if state.open < self.limit {
                    state.open += 1;
                    let close = Arc::default();
                    let since = self.clock.elapsed();
                    let idle = Some(state.add_idle(since, &close));
                    let headers_since = Some(since);
                    let activity =
                        Activity { requests: 0, begun: 0, idle, untaken: 0, since, headers_since };
                    let activity = Mutex::new(activity);
                    return Connection { all: self.clone(), close, activity };
                }
                if state.closing == 0 {
                    state.close_oldest();
                }
            }
            changed.await;
        }
    }

    /// Closes the connections that have been without a request for this time.
    pub(super) fn close_idle(&self, timeout: Duration) {
        let now = self.clock.elapsed();
        let mut state = self.state.lock();
        let is_over = |idle: &Idle| now.saturating_sub(idle.since) >= timeout;
        while state.idle.first_key_value().is_some_and(|(_, oldest)| is_over(oldest)) {
            state.close_oldest();
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The others.
    all: Connections,
    close: Arc<Notify>,
    /// Locked before the state of all.
    activity: Mutex<Activity>,
}

/// The requests of a connection.
#[derive(Debug)]
struct Activity {
    /// Requests whose answer was not sent completely. HTTP/2 has several.
    requests: usize,
    /// Requests so far.
    begun: u64,
    /// Its number among the idle ones; `None` while it has a request.
    idle: Option<u64>,
    /// Answers of which a part waits for the client.
    untaken: usize,
    /// Time since which the client has taken none of these parts.
    since: Duration,
    /// Time since which headers are awaited; `None` while there is a request, and until the next one begins.
    headers_since: Option<Duration>,
}

impl Connection {
    /// Completes when the connection has no request and must be closed.
    ///
    /// The notification keeps a permit, so an order to close that comes before this future is
    /// polled is not lost.
    pub(super) async fn closed(&self) {
        loop {
            self.close.notified().await;
            // A request may have come in the meantime.
            if self.activity.lock().requests == 0 {
                return;
            }
        }
    }

    /// Counts a request until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Request {
        let mut activity = self.activity.lock();
        activity.requests += 1;
        activity.begun += 1;
        activity.headers_since = None;
        if let Some(idle) = activity.idle.take() {
            self.all.state.lock().remove_idle(idle);
        }
        Request { connection: Arc::clone(self), is_untaken: false }
    }

    /// How many requests there were, if all of them have ended.
    pub(super) fn idle_after(&self) -> Option<u64> {
        let activity = self.activity.lock();
        (activity.requests == 0).then_some(activity.begun)
    }

    /// Notes that the client has sent something. While no request is handled, the headers of one begin.
    pub(super) fn on_received(&self) {
        let mut activity = self.activity.lock();
        if activity.requests == 0 {
            activity.headers_since.get_or_insert_with(|| self.all.clock.elapsed());
        }
    }

    /// Completes when the headers of a request have taken longer than `timeout`. Those of the first request
    /// count from the beginning of the connection.
    pub(super) async fn unfinished(&self, timeout: Duration) {
        let clock = &self.all.clock;
        loop {
            let now = clock.elapsed();
            let since = self.activity.lock().headers_since;
            let passed = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            if passed >= timeout {
                return;
            }
            clock.sleep(timeout - passed).await;
        }
    }

    /// Completes when parts of answers wait for the client, and it has taken none for this time.
    #[cfg(any(feature = "tls", test))]
    pub(super) async fn stalled(&self, timeout: Duration) {
        let clock = &self.all.clock;
        loop {
            let now = clock.elapsed();
            let left = {
                let activity = self.activity.lock();
                let passed = now.saturating_sub(activity.since);
                if activity.untaken == 0 { timeout } else { timeout.saturating_sub(passed) }
            };
            if left.is_zero() {
                return;
            }
            clock.sleep(left).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let idle = self.activity.lock().idle.take();
        let mut state = self.all.state.lock();
        state.open -= 1;
        if let Some(idle) = idle {
            state.remove_idle(idle);
        }
        drop(state);
        self.all.changed.notify_one();
    }
}

/// A request of a connection, until its answer was sent.
#[derive(Debug)]
pub(super) struct Request {
    /// The connection.
    connection: Arc<Connection>,
    /// Whether a part of the answer waits for the client.
    is_untaken: bool,
}

impl Request {
    /// A part of the answer waits for the client from now on.
    pub(super) fn wait(&mut self) {
        let mut activity = self.connection.activity.lock();
        if activity.untaken == 0 {
            activity.since = self.connection.all.clock.elapsed();
        }
        activity.untaken += usize::from(!self.is_untaken);
        self.is_untaken = true;
    }

    /// The client has taken the part.
    pub(super) fn taken(&mut self) {
        if !std::mem::take(&mut self.is_untaken) {
            return;
        }
        let mut activity = self.connection.activity.lock();
        activity.since = self.connection.all.clock.elapsed();
        activity.untaken -= 1;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Self { connection, is_untaken } = self;
        let all = &connection.all;
        let mut activity = connection.activity.lock();
        activity.untaken -= usize::from(*is_untaken);
        activity.requests -= 1;
        if activity.requests == 0 {
            activity.idle = Some(all.state.lock().add_idle(all.clock.elapsed(), &connection.close));
            all.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use aios_core::{clock::VirtualClock, event::Timestamp};
    use futures_util::FutureExt;

    use super::*;

    fn is_closed(connection: &Connection) -> bool {
        pin!(connection.closed()).now_or_never().is_some()
    }

    fn add(connections: &Connections) -> Option<Arc<Connection>> {
        pin!(connections.add()).now_or_never().map(Arc::new)
    }

    #[test]
    fn should_close_the_connection_that_waits_longest_for_another() {
        let clock = Arc::new(VirtualClock::new(Timestamp::UNIX_EPOCH));
        let connections = Connections::new(2, clock);
        let first = add(&connections).unwrap();
        let second = add(&connections).unwrap();
        drop(first.begin());
        assert!(add(&connections).is_none());
        assert!(is_closed(&second) && !is_closed(&first));
        drop(second);
        assert!(add(&connections).is_some());
    }

    #[test]
    fn should_close_no_connection_that_has_a_request() {
        let clock = Arc::new(VirtualClock::new(Timestamp::UNIX_EPOCH));
        let connections = Connections::new(1, clock);
        let first = add(&connections).unwrap();
        let one = first.begin();
        let two = first.begin();
        assert!(add(&connections).is_none());
        drop(one);
        assert!(add(&connections).is_none() && !is_closed(&first));
        drop(two);
        assert!(add(&connections).is_none() && is_closed(&first));
    }

    #[test]
    fn should_notice_that_a_client_takes_nothing() {
        let clock = Arc::new(VirtualClock::new(Timestamp::UNIX_EPOCH));
        let connections = Connections::new(1, Arc::clone(&clock) as Arc<dyn Clock>);
        let connection = add(&connections).unwrap();
        let timeout = Duration::from_secs(10);
        let is_stalled = || pin!(connection.stalled(timeout)).now_or_never().is_some();
        let [mut one, mut two] = [connection.begin(), connection.begin()];
        clock.advance(timeout);
        assert!(!is_stalled(), "the handlers take their time");
        one.wait();
        two.wait();
        clock.advance(timeout - Duration::from_secs(1));
        assert!(!is_stalled());
        two.taken();
        two.wait();
        clock.advance(timeout - Duration::from_secs(1));
        assert!(!is_stalled(), "a part was taken");
        clock.advance(Duration::from_secs(1));
        assert!(is_stalled());
        drop((one, two));
        assert!(!is_stalled());
    }

    #[test]
    fn should_close_connections_without_a_request_after_a_time() {
        let clock = Arc::new(VirtualClock::new(Timestamp::UNIX_EPOCH));
        let connections = Connections::new(9, Arc::clone(&clock) as Arc<dyn Clock>);
        let idle = Duration::from_secs(10);
        let first = add(&connections).unwrap();
        let busy = add(&connections).unwrap();
        let request = busy.begin();
        clock.advance(Duration::from_secs(9));
        connections.close_idle(idle);
        assert!(!is_closed(&first));
        clock.advance(Duration::from_secs(1));
        connections.close_idle(idle);
        assert!(is_closed(&first) && !is_closed(&busy));
        drop(request);
        clock.advance(idle);
        connections.close_idle(idle);
        assert!(is_closed(&busy));
    }
}
