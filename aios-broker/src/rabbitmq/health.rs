use aios_core::{
    broker::{BrokerError, Health, HealthWatch},
    event::Timestamp,
};
use parking_lot::Mutex;

use crate::health::HealthState;

/// Which of a broker's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Publishes; the server may block it.
    Publishing,
    /// Consumes; never blocked, because it does not publish.
    Consuming,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        }
    }
}

/// Combines the health of two connections.
#[derive(Debug)]
pub(super) struct Reporter {
    overall: HealthState,
    parts: Mutex<[Health; 2]>,
}

impl Reporter {
    pub(super) fn new() -> Self {
        let parts = Mutex::new([Health::Connected, Health::Connected]);
        Self { overall: HealthState::new(Health::Connected), parts }
    }

    pub(super) fn up(&self, part: Part) {
        self.set(part, Health::Connected);
    }

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

    pub(super) fn blocked(&self, part: Part, since: Timestamp, reason: &str) {
        self.set(part, Health::Blocked { since, reason: reason.into() });
    }

    pub(super) fn closed(&self) {
        self.set(Part::Publishing, Health::Closed);
    }

    /// Fails if the server blocks publishers, or the broker is closed.
    pub(super) fn check_publishing(&self) -> Result<(), BrokerError> {
        match &*self.parts.lock() {
            [Health::Closed, _] => Err(BrokerError::Closed),
            [Health::Blocked { reason, .. }, _] => {
                Err(BrokerError::Blocked { reason: reason.to_string() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn watch(&self) -> HealthWatch {
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
