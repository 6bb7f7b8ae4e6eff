//! Announces to store and broker which agents are running.
//!
//! "Seen" is written in two ways. The time of the last announcement is a column that is updated
//! without an event, because it changes all the time. An event is appended only for an agent that
//! the store did not know as running: it is new, has returned, or was reported missing. The event
//! restores its status in the read model. Subscribers get the event in both cases, through the
//! broker.

use std::sync::Arc;

use super::{Shared, announcement::Announcement, hosted::HostedType, missing};

impl Shared {
    /// Announces to store and broker that agents are running. Only an agent that was not known to
    /// be running gets an event in the log, so that the log does not grow while nothing changes.
    async fn announce_seen(&self, seen: Vec<(String, Announcement)>) {
        if seen.is_empty() {
            return;
        }
        let unknown = match &self.store {
            None => Vec::new(),
            Some(store) => {
                let ids: Vec<String> = seen.iter().map(|(id, _)| id.clone()).collect();
                match store.touch_agents(&ids, self.clock.now()).await {
                    Ok(unknown) => unknown,
                    Err(error) => return self.on_announce_failure(&error.into()),
                }
            }
        };
        let (returned, known): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|(id, _)| unknown.contains(id));
        // Agents that come back are recorded first, then all others are published.
        self.announce_or_warn(returned.into_iter().map(|(_, seen)| seen).collect()).await;
        let known: Vec<_> = known.into_iter().map(|(_, seen)| seen).collect();
        if !known.is_empty()
            && let Err(error) = self.publish(known).await
        {
            self.on_announce_failure(&error);
        }
    }
}

/// Announces the running agents at each interval, and looks for missing ones.
pub(super) async fn run(shared: Arc<Shared>, types: Vec<Arc<HostedType>>) {
    let mut suspects = missing::Suspects::default();
    loop {
        shared.clock.sleep(shared.options.announce_interval).await;
        // Agents of a blocked place are left out, so that they become missing.
        let seen = types.iter().flat_map(|hosted| hosted.seen()).collect();
        shared.announce_seen(seen).await;
        for hosted in &types {
            hosted.announce_failures().await;
        }
        if let Some(store) = &shared.store {
            missing::report_missing(&shared, &**store, &mut suspects).await;
        }
    }
}
