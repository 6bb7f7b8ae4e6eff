//! The time of a simulation, and the clocks of its nodes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{BoxFuture, clock::Clock, event::Timestamp};

use super::{Node, Shared, State};

/// The time at which every simulation begins: 2026-01-01.
const EPOCH: i64 = 1_767_225_600_000_000;

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The true time.
pub fn timestamp(now: u64) -> Timestamp {
    Timestamp::from_micros(EPOCH + i64::try_from(now).unwrap_or(i64::MAX / 2))
}

/// The clock of a node.
pub(super) struct NodeClock {
    pub(super) node: Node,
    pub(super) shared: Arc<Shared>,
}

impl NodeClock {
    fn read(&self, state: &State) -> Timestamp {
        let offset = state.nodes.get(&self.node).map_or(0, |node| node.offset);
        Timestamp::from_micros(timestamp(state.now).as_micros() + offset)
    }
}

impl NodeClock {
    fn asleep(&self, until: Until) -> Sleep {
        let clock = Self { node: self.node, shared: Arc::clone(&self.shared) };
        Sleep { clock, until, key: None }
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        self.read(&self.shared.state())
    }

    /// The monotonic clock of every machine is correct.
    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.shared.state().now)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Rounded up to microseconds: it never ends early.
        let duration = duration.saturating_add(Duration::from_nanos(999));
        let until = self.shared.state().now.saturating_add(micros(duration));
        Box::pin(self.asleep(Until::True(until)))
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(self.asleep(Until::Local(deadline)))
    }
}

impl std::fmt::Debug for NodeClock {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "NodeClock({})", self.node.0)
    }
}

/// When a sleep ends.
enum Until {
    /// By the monotonic clock.
    True(u64),
    /// By the clock of the node.
    Local(Timestamp),
}

struct Sleep {
    clock: NodeClock,
    until: Until,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.clock.shared);
        let mut state = shared.state();
        if let Some(key) = self.key.take() {
            state.sleepers.remove(&key);
        }
        let rest = match self.until {
            Until::True(until) => until.saturating_sub(state.now),
            Until::Local(deadline) => micros(deadline.duration_since(self.clock.read(&state))),
        };
        if rest == 0 {
            return Poll::Ready(());
        }
        let at = state.now.saturating_add(rest);
        let key = (at, state.number());
        state.sleepers.insert(key, (self.clock.node, context.waker().clone()));
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.clock.shared.state().sleepers.remove(&key);
        }
    }
}
