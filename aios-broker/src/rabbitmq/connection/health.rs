//! The health of the broker: two connections, reported as one.
//!
//! The worse state wins: closed, then reconnecting, then blocked, then connected. Only the
//! publishing connection can be blocked. Publishing is refused at once while it is, instead of
//! waiting for the timeout.

use aios_core::{
    broker::{BrokerError, Health, HealthWatch},
    event::Timestamp,
};
use parking_lot::Mutex;

use crate::health::HealthState;

/// Which of a broker's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Publishes; the server may block it.
    Publishing,
    /// Consumes; never blocked, because it does not publish.
    Consuming,
}

impl Part {
    /// The name in logs, and in the name of the connection on the server.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        }
    }
}

/// Combines the health of two connections.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// The state that watchers see.
    overall: HealthState,
    /// The states of the publishing and of the consuming connection. Held while `overall` is set,
    /// so that two supervisors can't report in the wrong order.
    parts: Mutex<[Health; 2]>,
}

impl Reporter {
    /// Begins with both connected.
    pub(crate) fn new() -> Self {
        let parts = Mutex::new([Health::Connected, Health::Connected]);
        Self { overall: HealthState::new(Health::Connected), parts }
    }

    /// Records that a connection works.
    pub(super) fn up(&self, part: Part) {
        self.set(part, Health::Connected);
    }

    /// Records that a connection was lost.
    pub(super) fn down(&self, part: Part, since: Timestamp, cause: &str) {
        self.set(part, Health::Reconnecting { since, cause: cause.into() });
    }

    /// Records that reconnecting failed again.
    pub(super) fn still_down(&self, part: Part, cause: &str) {
        let since = {
            let parts = self.parts.lock();
            match (part, &*parts) {
                (Part::Publishing, [Health::Reconnecting { since, .. }, _])
                | (Part::Consuming, [_, Health::Reconnecting { since, .. }]) => *since,
                _ => return,
            }
        };
        self.down(part, since, cause);
    }

    /// Records that the server blocks publishers.
    pub(crate) fn blocked(&self, part: Part, since: Timestamp, reason: &str) {
        self.set(part, Health::Blocked { since, reason: reason.into() });
    }

    /// Records that the broker was closed by this process.
    pub(crate) fn closed(&self) {
        self.set(Part::Publishing, Health::Closed);
    }

    /// Fails if the server blocks publishers, or the broker is closed.
    pub(crate) fn check_publishing(&self) -> Result<(), BrokerError> {
        match &*self.parts.lock() {
            [Health::Closed, _] => Err(BrokerError::Closed),
            [Health::Blocked { reason, .. }, _] => {
                Err(BrokerError::Blocked { reason: reason.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Watches the combined state.
    pub(crate) fn watch(&self) -> HealthWatch {
        self.overall.watch()
    }

    /// Reports the worse of both. Closing is final.
    fn set(&self, part: Part, health: Health) {
        let mut parts = self.parts.lock();
        let [publishing, consuming] = &mut *parts;
        if *publishing == Health::Closed {
            return;
        }
        match part {
            Part::Publishing => *publishing = health,
            Part::Consuming => *consuming = health,
        }
        let overall = match (&*publishing, &*consuming) {
            (Health::Closed, _) => Health::Closed,
            (down @ Health::Reconnecting { .. }, _) | (_, down @ Health::Reconnecting { .. }) => {
                down.clone()
            }
            (other, _) => other.clone(),
        };
        self.overall.set(overall);
    }
}
