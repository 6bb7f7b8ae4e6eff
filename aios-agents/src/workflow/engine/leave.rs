//! Gives shards to other engines: what is under way ends first, if it can.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    event::Timestamp,
    store::{Lease, Leases, Shard},
};
use tracing::warn;

use super::{Engine, Message, parking, recover};

/// How often is looked whether a shard is empty.
const LOOK: Duration = Duration::from_millis(10);
/// How long runs may take to leave memory that are told that they have to.
const EVICTION: Duration = Duration::from_secs(1);
/// How long the relay may take to finish what it publishes.
const RELAY_GRACE: Duration = Duration::from_millis(500);

impl Engine {
    /// Gives shards to other engines, unless a step that runs takes longer than `grace`: then its
    /// shard stays.
    pub(super) async fn move_away(self: Arc<Self>, shards: BTreeSet<Shard>, grace: Duration) {
        self.hold(&shards);
        let busy = self.settled(&shards, self.clock.now() + grace).await;
        let empty: BTreeSet<Shard> = shards.difference(&busy).copied().collect();
        self.give_back(&empty, Vec::new()).await;
        if busy.is_empty() {
            return;
        }
        self.ownership.set_leaving(&busy, false);
        self.live.tell(&busy, || Message::Stay);
        // Runs that had nothing to wait for have left memory.
        recover::run(self, busy.into_iter().collect()).await;
    }

    /// Gives everything to other engines, and is no member any more. A step that runs has `grace` to
    /// end; each shard leaves as soon as nothing of it runs.
    pub(crate) async fn leave(self: &Arc<Self>, grace: Duration) {
        self.leaving.send_replace(true);
        let left = self.ownership.shards();
        self.hold(&left);
        let resigned = self.ownership.resign().into_iter();
        let (relay, slot) = resigned.partition(|lease: &Lease| lease.shard == Shard::RELAY);
        tokio::join!(self.empty(left, slot, grace), self.give_relay_back(relay));
    }

    /// Gives back the slot at once, and each shard when nothing of it runs any more.
    async fn empty(
        self: &Arc<Self>,
        mut left: BTreeSet<Shard>,
        mut slot: Vec<Lease>,
        grace: Duration,
    ) {
        let deadline = self.clock.now() + grace;
        loop {
            let busy = self.busy(&left);
            let empty: BTreeSet<Shard> = left.difference(&busy).copied().collect();
            if !empty.is_empty() || !slot.is_empty() {
                parking::note_rest(self).await;
                self.give_back(&empty, std::mem::take(&mut slot)).await;
            }
            left = busy;
            if left.is_empty() || self.clock.now() >= deadline {
                break;
            }
            self.clock.sleep(LOOK).await;
        }
        if !left.is_empty() {
            warn!(shards = left.len(), "steps did not end in time; other engines begin them again");
            self.live.lose(&left);
            self.settled(&left, self.clock.now() + EVICTION).await;
            self.give_back(&left, Vec::new()).await;
        }
    }

    /// No run of these shards begins anything any more.
    fn hold(&self, shards: &BTreeSet<Shard>) {
        self.ownership.set_leaving(shards, true);
        self.live.tell(shards, || Message::Leave);
    }

    /// Gives the relay back once it has finished what it does.
    async fn give_relay_back(&self, relay: Vec<Lease>) {
        tokio::select! {
            biased;
            relaying = self.relaying.lock() => drop(relaying),
            () = self.clock.sleep(RELAY_GRACE) => {}
        }
        self.give_back(&BTreeSet::new(), relay).await;
    }

    /// Those of the shards that runs in memory belong to.
    fn busy(&self, shards: &BTreeSet<Shard>) -> BTreeSet<Shard> {
        self.live.shards().intersection(shards).copied().collect()
    }

    /// Waits until no run of these shards is in memory; returns those that still have some at the
    /// deadline.
    async fn settled(&self, shards: &BTreeSet<Shard>, deadline: Timestamp) -> BTreeSet<Shard> {
        loop {
            let busy = self.busy(shards);
            if busy.is_empty() || self.clock.now() >= deadline {
                return busy;
            }
            self.clock.sleep(LOOK).await;
        }
    }

    /// Releases leases. Other engines hear of it at once.
    async fn give_back(&self, shards: &BTreeSet<Shard>, others: Vec<Lease>) {
        let _changing = self.ownership.changing.lock().await;
        let leases: Vec<Lease> = self.ownership.remove(shards).into_iter().chain(others).collect();
        if leases.is_empty() {
            return;
        }
        if let Err(error) = self.store.release(&leases).await {
            warn!(error = %Chain(&error), "could not release leases; they expire by themselves");
        }
    }

    /// Releases what is left.
    pub(super) async fn release_leases(&self) {
        let left = self.ownership.shards();
        let others = self.ownership.resign();
        self.give_back(&left, others).await;
    }
}
