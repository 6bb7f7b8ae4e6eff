//! The ownership of an engine: its shards, its slot, the relay, the runs that are its guests, and when
//! all of that ends.
//!
//! `leases` acquires, renews and hands over what is in it. Everything that dispatches, appends or reads
//! for a run asks it first. It never asks the store: it has what the store answered last, and its own
//! clock says for how long that holds. It is a hint for the engine and no proof. The proof is the fence,
//! which the store checks in the transaction that appends.

mod clock;
pub(super) mod leases;
mod leave;
mod members;
mod moves;
pub(super) mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_core::{
    clock::Clock,
    store::{Fence, Lease, Shard},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::hosting::Host;

pub(crate) use self::{clock::StoreClock, members::Members, slots::Readers};

/// How long before the expiry of its leases an engine stops.
pub(super) fn margin(lease_time: Duration) -> Duration {
    lease_time / 10
}

/// The leases of this engine and their expiry.
///
/// All leases of an engine end together by its own clock, a margin before the first of them can
/// expire by the clock of the store. From then on the engine owns nothing, whether or not the store
/// can be reached.
#[derive(Debug)]
pub(super) struct Ownership {
    /// Measures how long the leases last.
    clock: Arc<dyn Clock>,
    /// Locked for single look-ups and changes.
    state: Mutex<State>,
    /// When the leases end, in microseconds of [`Clock::elapsed`].
    valid_until: AtomicU64,
    /// Whether this engine relays the log.
    relays: watch::Sender<bool>,
    /// Locked while leases are renewed or released, so that a lease is never renewed while it is
    /// being released.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// The leases, and where runs are that don't follow their shard.
#[derive(Debug, Default)]
struct State {
    /// The owned shards, with the guest lease among them.
    shards: BTreeMap<Shard, Owned>,
    /// The membership; without it the engine takes no shards.
    slot: Option<Lease>,
    /// The lease of the relay, if this engine has it.
    relay: Option<Lease>,
    /// When the last renewal of every lease was sent to the store, by [`Clock::elapsed`].
    confirmed_at: Option<Duration>,
    /// Name of the mailbox that gets the answers of agents.
    mailbox: Option<Arc<str>>,
    /// The engines as they were seen last.
    members: Members,
    /// Runs that were moved to this engine.
    guests: BTreeSet<Arc<str>>,
    /// Runs that were moved to this engine under a guest lease whose acquisition the store has not answered
    /// yet, with the fences of that lease.
    coming: BTreeMap<Arc<str>, Fence>,
    /// How many guest leases this engine had and has no more.
    guest_leases_lost: u64,
    /// Runs of this engine's shards that were moved to other engines, with the fences of those
    /// engines.
    away: BTreeMap<Arc<str>, Fence>,
}

impl State {
    /// The shard of this engine's guest lease.
    fn guest_shard(&self) -> Option<Shard> {
        // Guest shards follow all others in the order of numbers, except that of the relay, which is
        // not kept here.
        let first = self.shards.range(Shard::guests(0)..).next()?;
        first.0.guests_number().map(|_| *first.0)
    }

    /// Whether a fence belongs to a guest lease of this engine that it does not know yet, or no more.
    fn is_coming(&self, fence: Fence) -> bool {
        let slot = self.slot.as_ref().and_then(|lease| lease.shard.slot_number());
        slot.is_some_and(|slot| Shard::guests(slot) == fence.shard)
    }

    /// Adds an acquired shard. Returns the runs that were moved to it before.
    fn add(&mut self, lease: Lease) -> Vec<Arc<str>> {
        let (shard, fence) = (lease.shard, lease.fence());
        self.shards.insert(shard, Owned { lease, is_leaving: false });
        if shard.guests_number().is_none() {
            return Vec::new();
        }
        let mut coming = std::mem::take(&mut self.coming);
        coming.retain(|_, to| *to == fence);
        for run_id in coming.keys() {
            self.away.remove(run_id);
            self.guests.insert(Arc::clone(run_id));
        }
        coming.into_keys().collect()
    }

    /// See `Ownership::shard_of`.
    fn shard_of(&self, run_id: &str) -> Option<Shard> {
        match self.guests.contains(run_id) {
            true => self.guest_shard(),
            false if self.away.contains_key(run_id) => None,
            false => Some(Shard::of(run_id)),
        }
    }

    /// Removes a shard and the placement of its runs.
    fn remove(&mut self, shard: Shard) -> Option<Owned> {
        match shard.guests_number() {
            Some(_) => {
                self.guests.clear();
                self.guest_leases_lost += 1;
            }
            None => self.away.retain(|run_id, _| Shard::of(run_id) != shard),
        }
        self.shards.remove(&shard)
    }
}

/// An owned shard.
#[derive(Debug)]
struct Owned {
    /// As it was acquired. Renewals don't change shard, owner or epoch.
    lease: Lease,
    /// It is about to move to another engine, so none of its runs is loaded any more.
    is_leaving: bool,
}

impl Ownership {
    /// Owns nothing yet.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            valid_until: AtomicU64::new(0),
            relays: watch::Sender::new(false),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Whether the leases have not ended.
    pub(super) fn is_valid(&self) -> bool {
        micros(self.clock.elapsed()) < self.valid_until.load(Ordering::Acquire)
    }

    /// When the leases end, by [`Clock::elapsed`].
    pub(super) fn valid_until(&self) -> Duration {
        Duration::from_micros(self.valid_until.load(Ordering::Acquire))
    }

    /// Sets when the leases end.
    pub(super) fn set_valid_until(&self, until: Duration) {
        self.valid_until.store(micros(until), Ordering::Release);
    }

    /// When the last renewal of every lease was sent that the store has confirmed.
    pub(super) fn confirmed_at(&self) -> Option<Duration> {
        self.state.lock().confirmed_at
    }

    /// Sets when the last confirmed renewal of every lease was sent.
    pub(super) fn set_confirmed_at(&self, sent: Duration) {
        self.state.lock().confirmed_at = Some(sent);
    }

    /// The fence of a shard, while it is owned and not about to leave.
    pub(super) fn fence(&self, shard: Shard) -> Option<Fence> {
        let state = self.state.lock();
        let owned = state.shards.get(&shard).filter(|owned| !owned.is_leaving)?;
        let fence = owned.lease.fence();
        drop(state);
        self.is_valid().then_some(fence)
    }

    /// The shard that a run belongs to on this engine: that of its id, or the guest shard. `None`
    /// if the run was moved to another engine.
    pub(super) fn shard_of(&self, run_id: &str) -> Option<Shard> {
        self.state.lock().shard_of(run_id)
    }

    /// The fence for appends to a run's journal, while the run is owned and not about to leave.
    pub(super) fn fence_of(&self, run_id: &str) -> Option<Fence> {
        self.fence(self.shard_of(run_id)?)
    }

    /// Whether a run was moved to this engine.
    pub(super) fn is_guest(&self, run_id: &str) -> bool {
        self.state.lock().guests.contains(run_id)
    }

    /// The runs that were moved to this engine.
    pub(super) fn guests(&self) -> Vec<Arc<str>> {
        self.state.lock().guests.iter().cloned().collect()
    }

    /// Notes which engine advances a run according to its journal. Returns whether that changed.
    pub(super) fn place(&self, run_id: &Arc<str>, to: Option<Fence>) -> bool {
        let mut state = self.state.lock();
        let is_ours = |fence: Fence| {
            state.shards.get(&fence.shard).is_some_and(|owned| owned.lease.epoch == fence.epoch)
        };
        let is_guest = to.is_some_and(is_ours);
        let away = to.filter(|_| !is_guest && state.shards.contains_key(&Shard::of(run_id)));
        match to.filter(|to| !is_guest && state.is_coming(*to)) {
            Some(fence) => state.coming.insert(Arc::clone(run_id), fence),
            None => state.coming.remove(run_id),
        };
        let was_guest = match is_guest {
            true => !state.guests.insert(Arc::clone(run_id)),
            false => state.guests.remove(run_id),
        };
        let before = match away {
            Some(fence) => state.away.insert(Arc::clone(run_id), fence),
            None => state.away.remove(run_id),
        };
        was_guest != is_guest || before != away
    }

    /// Forgets a run that has ended.
    pub(super) fn forget(&self, run_id: &str) {
        let mut state = self.state.lock();
        state.guests.remove(run_id);
        state.coming.remove(run_id);
        state.away.remove(run_id);
    }

    /// Takes back the runs of this engine's shards that were moved to engines which are gone.
    pub(super) fn reclaim(&self) -> Vec<Arc<str>> {
        let mut state = self.state.lock();
        if state.away.is_empty() {
            return Vec::new();
        }
        let alive: Vec<Fence> = state.members.hosts().values().map(Host::fence).collect();
        let back = state.away.extract_if(.., |_, fence| !alive.contains(fence));
        back.map(|(run_id, _)| run_id).collect()
    }

    /// The engines that can take over runs, as far as this one knows.
    pub(super) fn hosts(&self) -> BTreeMap<u16, Host> {
        self.state.lock().members.hosts().clone()
    }

    /// Whether this engine has a guest lease.
    pub(super) fn has_guests(&self) -> bool {
        self.state.lock().guest_shard().is_some()
    }

    /// How many guest leases this engine had and has no more.
    pub(super) fn guest_leases_lost(&self) -> u64 {
        self.state.lock().guest_leases_lost
    }

    /// The fence of a shard, even while it is about to leave.
    pub(super) fn held(&self, shard: Shard) -> Option<Fence> {
        let fence = self.state.lock().shards.get(&shard)?.lease.fence();
        self.is_valid().then_some(fence)
    }

    /// Whether a shard is owned under this fence, even while it is about to leave.
    pub(super) fn has(&self, fence: Fence) -> bool {
        let has = |owned: &Owned| owned.lease.epoch == fence.epoch;
        self.state.lock().shards.get(&fence.shard).is_some_and(has) && self.is_valid()
    }

    /// The lease that a fence belongs to.
    pub(super) fn lease(&self, fence: Fence) -> Option<Lease> {
        let state = self.state.lock();
        let owned = state.shards.get(&fence.shard)?;
        (owned.lease.epoch == fence.epoch).then(|| owned.lease.clone())
    }

    /// The slot number of this engine.
    pub(super) fn slot(&self) -> Option<u16> {
        self.state.lock().slot.as_ref()?.shard.slot_number()
    }

    /// Sets the slot of this engine and the name of its mailbox.
    pub(super) fn set_slot(&self, lease: Lease, mailbox: Arc<str>) {
        let mut state = self.state.lock();
        state.slot = Some(lease);
        state.mailbox = Some(mailbox);
    }

    /// Name of the mailbox that gets the answers of agents.
    pub(super) fn mailbox(&self) -> Option<Arc<str>> {
        self.state.lock().mailbox.clone()
    }

    /// Sets the lease of the relay.
    pub(super) fn set_relay(&self, lease: Lease) {
        self.state.lock().relay = Some(lease);
        self.relays.send_replace(true);
    }

    /// Whether this engine relays the log.
    pub(super) fn relays(&self) -> bool {
        *self.relays.borrow() && self.is_valid()
    }

    /// Whether this engine has the lease of the relay.
    pub(super) fn has_relay(&self) -> bool {
        *self.relays.borrow()
    }

    /// Completes once [`has_relay`](Self::has_relay) equals `wanted`.
    pub(super) async fn until_relays(&self, wanted: bool) {
        let mut relays = self.relays.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = relays.wait_for(|relays| *relays == wanted).await;
    }

    /// Sets the engines that are alive. Returns whether other ones can take over runs than before.
    pub(super) fn set_members(&self, members: Members) -> bool {
        let mut state = self.state.lock();
        let are_other_hosts = state.members.hosts() != members.hosts();
        state.members = members;
        are_other_hosts
    }

    /// The slot number of the engine that advances a run, as far as this one knows.
    pub(super) fn slot_with(&self, run_id: &str) -> Option<u16> {
        let state = self.state.lock();
        match state.away.get(run_id) {
            Some(fence) => fence.shard.guests_number(),
            None => state.members.slot_of(Shard::of(run_id)),
        }
    }

    /// Adds acquired shards. Returns the runs that other engines have already moved to them: others see a
    /// guest lease as soon as the store has it.
    pub(super) fn add(&self, taken: Vec<Lease>) -> Vec<Arc<str>> {
        let mut state = self.state.lock();
        taken.into_iter().flat_map(|lease| state.add(lease)).collect()
    }

    /// All leases: of the shards, the slot and the relay.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let state = self.state.lock();
        let shards = state.shards.values().map(|owned| &owned.lease);
        shards.chain(&state.slot).chain(&state.relay).cloned().collect()
    }

    /// The owned shards, including the guest shard.
    pub(super) fn shards(&self) -> BTreeSet<Shard> {
        self.state.lock().shards.keys().copied().collect()
    }

    /// The owned shards without the guest shard.
    pub(super) fn shares(&self) -> BTreeSet<Shard> {
        self.state.lock().shards.keys().copied().filter(|shard| shard.is_share()).collect()
    }

    /// The owned shards without the guest shard that are not about to leave.
    pub(super) fn staying(&self) -> BTreeSet<Shard> {
        let state = self.state.lock();
        let shares = state.shards.iter().filter(|(shard, _)| shard.is_share());
        let staying = shares.filter(|(_, owned)| !owned.is_leaving);
        staying.map(|(shard, _)| *shard).collect()
    }

    /// Sets whether shards are about to move to another engine.
    pub(super) fn set_leaving(&self, shards: &BTreeSet<Shard>, is_leaving: bool) {
        let mut state = self.state.lock();
        for (_, owned) in state.shards.iter_mut().filter(|(shard, _)| shards.contains(shard)) {
            owned.is_leaving = is_leaving;
        }
    }

    /// Removes shards, and returns their leases.
    pub(super) fn remove(&self, shards: &BTreeSet<Shard>) -> Vec<Lease> {
        let mut state = self.state.lock();
        let removed = shards.iter().filter_map(|shard| state.remove(*shard));
        removed.map(|owned| owned.lease).collect()
    }

    /// Removes one lease of any kind.
    pub(super) fn lose(&self, lease: &Lease) {
        let mut state = self.state.lock();
        let matches = |held: &mut Lease| held.shard == lease.shard && held.epoch == lease.epoch;
        state.slot.take_if(matches);
        if state.relay.take_if(matches).is_some() {
            self.relays.send_replace(false);
        }
        if state.shards.get_mut(&lease.shard).is_some_and(|owned| matches(&mut owned.lease)) {
            state.remove(lease.shard);
        }
    }

    /// Removes the slot and the relay, and returns their leases. The mailbox keeps its name.
    pub(super) fn resign(&self) -> Vec<Lease> {
        let mut state = self.state.lock();
        self.relays.send_replace(false);
        let slot = state.slot.take();
        let relay = state.relay.take();
        slot.into_iter().chain(relay).collect()
    }

    /// Removes all leases, and returns them.
    pub(super) fn take(&self) -> Vec<Lease> {
        let mut leases = self.remove(&self.shards());
        leases.extend(self.resign());
        leases
    }
}

/// Microseconds, as an atomic value can hold them.
fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
