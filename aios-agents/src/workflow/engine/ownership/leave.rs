//! Hands shards over to other engines, after their current steps have ended if possible.
//!
//! A shard is released when none of its runs is in memory, so that the next owner repeats nothing that
//! is about to be recorded. The order for each shard:
//!
//! 1. It is marked as leaving: its runs are not activated any more, and its fence is no longer given
//!    out.
//! 2. Its runs get `Leave`: they begin nothing, and leave memory when their steps have ended, their
//!    records are durable and the broker has their tasks.
//! 3. If the engine stops, the notes of waiting runs are written, so that the next owner need not read
//!    their journals.
//! 4. The lease is released, which notifies the other engines.
//!
//! Shards do not wait for each other. A step may take longer than the grace. When shards are balanced,
//! its shard stays then. When the engine stops, the step is dropped, and its next owner begins it again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    event::Timestamp,
    store::{Lease, Leases, Shard},
};
use tracing::warn;

use crate::workflow::engine::{
    Engine, Message,
    recovery::{parking, recover},
};

/// How often to check whether a shard has runs in memory.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long runs may take to leave memory after they were asked to.
const EVICTION: Duration = Duration::from_secs(1);
/// How long the relay may take to finish what it publishes.
const RELAY_GRACE: Duration = Duration::from_millis(500);

impl Engine {
    /// Hands shards over to other engines. A shard whose step takes longer than `grace` stays. Returns
    /// the number of those that stay.
    pub(super) async fn move_away(
        self: Arc<Self>,
        shards: BTreeSet<Shard>,
        grace: Duration,
    ) -> usize {
        self.begin_leaving(&shards);
        let busy = self.release_when_idle(shards, Vec::new(), grace).await;
        // If the engine has begun to stop in the meantime, `leave` hands over the rest.
        if busy.is_empty() || self.is_leaving() || self.is_stopping() {
            return 0;
        }
        let stay = busy.len();
        self.ownership.set_leaving(&busy, false);
        self.live.broadcast(&busy, || Message::Stay);
        // Idle runs of these shards have left memory.
        recover::run(self, busy.into_iter().collect()).await;
        stay
    }

    /// Hands everything over to other engines, and leaves the group of engines. A running step has
    /// `grace` to end; each shard is released as soon as none of its runs is in memory.
    pub(crate) async fn leave(self: &Arc<Self>, grace: Duration) {
        self.leaving.send_replace(true);
        let left = self.ownership.shards();
        self.begin_leaving(&left);
        let resigned = self.ownership.resign().into_iter();
        let (relay, slot) = resigned.partition(|lease: &Lease| lease.shard == Shard::RELAY);
        tokio::join!(self.release_all(left, slot, grace), self.release_relay(relay));
    }

    /// Releases each shard when none of its runs is in memory, and at the end of the grace also those
    /// with steps that still run.
    async fn release_all(
        self: &Arc<Self>,
        shards: BTreeSet<Shard>,
        slot: Vec<Lease>,
        grace: Duration,
    ) {
        let busy = self.release_when_idle(shards, slot, grace).await;
        if !busy.is_empty() {
            warn!(shards = busy.len(), "steps did not end in time; other engines start them again");
            self.live.lose(&busy);
            self.wait_until_idle(&busy, self.clock.now() + EVICTION).await;
            self.release(&busy, Vec::new()).await;
        }
    }

    /// Releases the slot at once, and each shard when none of its runs is in memory. Returns those that
    /// still have some at the end of the grace.
    async fn release_when_idle(
        self: &Arc<Self>,
        mut left: BTreeSet<Shard>,
        mut slot: Vec<Lease>,
        grace: Duration,
    ) -> BTreeSet<Shard> {
        let deadline = self.clock.now() + grace;
        loop {
            let busy = self.busy(&left);
            let empty: BTreeSet<Shard> = left.difference(&busy).copied().collect();
            if !empty.is_empty() || !slot.is_empty() {
                if self.is_leaving() {
                    parking::note_rest(self).await;
                }
                self.release(&empty, std::mem::take(&mut slot)).await;
            }
            left = busy;
            if left.is_empty() || self.clock.now() >= deadline {
                return left;
            }
            self.clock.sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops the runs of these shards from beginning anything.
    fn begin_leaving(&self, shards: &BTreeSet<Shard>) {
        self.ownership.set_leaving(shards, true);
        self.live.broadcast(shards, || Message::Leave);
    }

    /// Releases the relay once it has finished its current window.
    ///
    /// The lock is free when the relay has stopped, which it does once it has no lease any more.
    async fn release_relay(&self, relay: Vec<Lease>) {
        tokio::select! {
            biased;
            relaying = self.relaying.lock() => drop(relaying),
            () = self.clock.sleep(RELAY_GRACE) => {}
        }
        self.release(&BTreeSet::new(), relay).await;
    }

    /// The shards that have runs in memory.
    fn busy(&self, shards: &BTreeSet<Shard>) -> BTreeSet<Shard> {
        #[cfg(feature = "simulation")]
        if aios_core::simulation::plants("a shard moves before its steps have ended") {
            return BTreeSet::new();
        }
        self.live.shards().intersection(shards).copied().collect()
    }

    /// Waits until no run of these shards is in memory, or until the deadline.
    async fn wait_until_idle(&self, shards: &BTreeSet<Shard>, deadline: Timestamp) {
        while !self.busy(shards).is_empty() && self.clock.now() < deadline {
            self.clock.sleep(POLL_INTERVAL).await;
        }
    }

    /// Releases leases. Other engines are notified at once.
    async fn release(&self, shards: &BTreeSet<Shard>, others: Vec<Lease>) {
        let _changing = self.ownership.changing.lock().await;
        let leases: Vec<Lease> = self.ownership.remove(shards).into_iter().chain(others).collect();
        if leases.is_empty() {
            return;
        }
        if let Err(error) = self.store.release(&leases).await {
            warn!(error = %Chain(&error), "could not release leases; they expire by themselves");
        }
    }

    /// Releases the remaining leases.
    pub(crate) async fn release_leases(&self) {
        let left = self.ownership.shards();
        let others = self.ownership.resign();
        self.release(&left, others).await;
    }
}
