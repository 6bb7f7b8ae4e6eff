use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_core::{
    clock::Clock,
    store::{Fence, Lease, Shard},
};
use tokio::sync::watch;

use super::{hosting::Host, members::Members};

/// What this engine owns, and until when.
///
/// All leases of an engine end together by its own clock: a moment before the first of them can end
/// by the clock of the store. Nothing is owned from then on, whether the store can be asked or not.
#[derive(Debug)]
pub(super) struct Ownership {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// When the leases end, in microseconds of [`Clock::elapsed`].
    valid_until: AtomicU64,
    /// Whether this engine relays the log.
    relays: watch::Sender<bool>,
    /// Held while leases are renewed or released, so that nothing renews what is being released.
    pub(super) changing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    shards: BTreeMap<Shard, Owned>,
    slot: Option<Lease>,
    relay: Option<Lease>,
    /// Name of the mailbox that gets the answers of agents.
    mailbox: Option<Arc<str>>,
    members: Members,
    /// Runs that were moved to this engine.
    guests: BTreeSet<Arc<str>>,
    /// Runs of this engine's shards that were moved to other engines, and what these prove that with.
    away: BTreeMap<Arc<str>, Fence>,
}

impl State {
    /// The shard that stands for the guests of this engine.
    fn guest_shard(&self) -> Option<Shard> {
        let first = self.shards.range(Shard::guests(0)..).next()?;
        first.0.guests_number().map(|_| *first.0)
    }

    fn shard_of(&self, run_id: &str) -> Option<Shard> {
        match self.guests.contains(run_id) {
            true => self.guest_shard(),
            false if self.away.contains_key(run_id) => None,
            false => Some(Shard::of(run_id)),
        }
    }

    /// A shard is owned no more.
    fn remove(&mut self, shard: Shard) -> Option<Owned> {
        match shard.guests_number() {
            Some(_) => self.guests.clear(),
            None => self.away.retain(|run_id, _| Shard::of(run_id) != shard),
        }
        self.shards.remove(&shard)
    }
}

/// What is the same since the engines were looked at before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The same engines are alive.
    pub(super) same_engines: bool,
    /// Runs can be moved to the same engines.
    pub(super) same_hosts: bool,
}

#[derive(Debug)]
struct Owned {
    lease: Lease,
    /// It is about to be given to another engine: no run of it is loaded any more.
    is_leaving: bool,
}

impl Ownership {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            valid_until: AtomicU64::new(0),
            relays: watch::Sender::new(false),
            changing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the leases have not ended.
    pub(super) fn is_valid(&self) -> bool {
        micros(self.clock.elapsed()) < self.valid_until.load(Ordering::Acquire)
    }

    /// When the leases end, by [`Clock::elapsed`].
    pub(super) fn valid_until(&self) -> Duration {
        Duration::from_micros(self.valid_until.load(Ordering::Acquire))
    }

    /// The leases end then.
    pub(super) fn set_valid_until(&self, until: Duration) {
        self.valid_until.store(micros(until), Ordering::Release);
    }

    /// The proof to append under, while the shard is owned and stays.
    pub(super) fn fence(&self, shard: Shard) -> Option<Fence> {
        let state = self.state();
        let owned = state.shards.get(&shard).filter(|owned| !owned.is_leaving)?;
        let fence = owned.lease.fence();
        drop(state);
        self.is_valid().then_some(fence)
    }

    /// The shard of this engine that a run belongs to, if it is not with another engine: that of its
    /// id, or that of the guests.
    pub(super) fn shard_of(&self, run_id: &str) -> Option<Shard> {
        self.state().shard_of(run_id)
    }

    /// The proof to append to a run's journal under, while the run is owned and stays.
    pub(super) fn fence_of(&self, run_id: &str) -> Option<Fence> {
        self.fence(self.shard_of(run_id)?)
    }

    /// Whether a run was moved to this engine.
    pub(super) fn is_guest(&self, run_id: &str) -> bool {
        self.state().guests.contains(run_id)
    }

    /// The runs that were moved to this engine.
    pub(super) fn guests(&self) -> Vec<Arc<str>> {
        self.state().guests.iter().cloned().collect()
    }

    /// Notes who advances a run, as its journal says. Returns whether that is news.
    pub(super) fn place(&self, run_id: &Arc<str>, to: Option<Fence>) -> bool {
        let mut state = self.state();
        let is_ours = |fence: Fence| {
            state.shards.get(&fence.shard).is_some_and(|owned| owned.lease.epoch == fence.epoch)
        };
        let is_guest = to.is_some_and(is_ours);
        let away = to.filter(|_| !is_guest && state.shards.contains_key(&Shard::of(run_id)));
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
        let mut state = self.state();
        state.guests.remove(run_id);
        state.away.remove(run_id);
    }

    /// The runs of this engine's shards whose engines are gone. They are this engine's again.
    pub(super) fn come_back(&self) -> Vec<Arc<str>> {
        let mut state = self.state();
        if state.away.is_empty() {
            return Vec::new();
        }
        let alive: Vec<Fence> = state.members.hosts().values().map(Host::fence).collect();
        let back = state.away.extract_if(.., |_, fence| !alive.contains(fence));
        back.map(|(run_id, _)| run_id).collect()
    }

    /// The engines that runs can be moved to, as far as this one knows.
    pub(super) fn hosts(&self) -> BTreeMap<u16, Host> {
        self.state().members.hosts().clone()
    }

    /// Whether this engine has a lease on guests.
    pub(super) fn has_guests(&self) -> bool {
        self.state().guest_shard().is_some()
    }

    /// The proof to append under, also while the shard is about to leave.
    pub(super) fn held(&self, shard: Shard) -> Option<Fence> {
        let fence = self.state().shards.get(&shard)?.lease.fence();
        self.is_valid().then_some(fence)
    }

    /// Whether a shard is owned under this fence, also while it is about to leave.
    pub(super) fn has(&self, fence: Fence) -> bool {
        let has = |owned: &Owned| owned.lease.epoch == fence.epoch;
        self.state().shards.get(&fence.shard).is_some_and(has) && self.is_valid()
    }

    /// The lease that a fence belongs to.
    pub(super) fn lease(&self, fence: Fence) -> Option<Lease> {
        let state = self.state();
        let owned = state.shards.get(&fence.shard)?;
        (owned.lease.epoch == fence.epoch).then(|| owned.lease.clone())
    }

    /// The number of this engine.
    pub(super) fn slot(&self) -> Option<u16> {
        self.state().slot.as_ref()?.shard.slot_number()
    }

    /// This engine has a number from now on, and reads the mailbox of that name.
    pub(super) fn set_slot(&self, lease: Lease, mailbox: Arc<str>) {
        let mut state = self.state();
        state.slot = Some(lease);
        state.mailbox = Some(mailbox);
    }

    /// Name of the mailbox that gets the answers of agents.
    pub(super) fn mailbox(&self) -> Option<Arc<str>> {
        self.state().mailbox.clone()
    }

    /// Takes the lease of the relay.
    pub(super) fn set_relay(&self, lease: Lease) {
        self.state().relay = Some(lease);
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

    /// Completes when whether this engine relays is this.
    pub(super) async fn until_relays(&self, wanted: bool) {
        let mut relays = self.relays.subscribe();
        // The sender lives as long as this.
        let _ = relays.wait_for(|relays| *relays == wanted).await;
    }

    /// Notes what was seen of the engines; says whether the same engines were alive before.
    pub(super) fn set_members(&self, members: Members) -> Seen {
        let mut state = self.state();
        let same_engines = state.members.slots() == members.slots();
        let same_hosts = state.members.hosts() == members.hosts();
        state.members = members;
        Seen { same_engines, same_hosts }
    }

    /// The number of the engine that advances a run, as far as this one knows.
    pub(super) fn slot_with(&self, run_id: &str) -> Option<u16> {
        let state = self.state();
        match state.away.get(run_id) {
            Some(fence) => fence.shard.guests_number(),
            None => state.members.slot_of(Shard::of(run_id)),
        }
    }

    /// Shards are owned from now on.
    pub(super) fn add(&self, taken: Vec<Lease>) {
        let owned = |lease: Lease| (lease.shard, Owned { lease, is_leaving: false });
        self.state().shards.extend(taken.into_iter().map(owned));
    }

    /// Every lease: of shards, of the slot and of the relay.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let state = self.state();
        let shards = state.shards.values().map(|owned| &owned.lease);
        shards.chain(&state.slot).chain(&state.relay).cloned().collect()
    }

    /// The shards that are owned, with that of the guests.
    pub(super) fn shards(&self) -> BTreeSet<Shard> {
        self.state().shards.keys().copied().collect()
    }

    /// The shares of the runs that are owned.
    pub(super) fn shares(&self) -> BTreeSet<Shard> {
        self.state().shards.keys().copied().filter(|shard| shard.is_share()).collect()
    }

    /// The shares of the runs that are owned and stay.
    pub(super) fn staying(&self) -> BTreeSet<Shard> {
        let state = self.state();
        let shares = state.shards.iter().filter(|(shard, _)| shard.is_share());
        let staying = shares.filter(|(_, owned)| !owned.is_leaving);
        staying.map(|(shard, _)| *shard).collect()
    }

    /// Notes whether shards are about to be given to another engine.
    pub(super) fn set_leaving(&self, shards: &BTreeSet<Shard>, is_leaving: bool) {
        let mut state = self.state();
        for (_, owned) in state.shards.iter_mut().filter(|(shard, _)| shards.contains(shard)) {
            owned.is_leaving = is_leaving;
        }
    }

    /// Gives up shards, and returns their leases.
    pub(super) fn remove(&self, shards: &BTreeSet<Shard>) -> Vec<Lease> {
        let mut state = self.state();
        let removed = shards.iter().filter_map(|shard| state.remove(*shard));
        removed.map(|owned| owned.lease).collect()
    }

    /// Gives up one lease, of whatever kind.
    pub(super) fn lose(&self, lease: &Lease) {
        let mut state = self.state();
        let is_it = |held: &mut Lease| held.shard == lease.shard && held.epoch == lease.epoch;
        state.slot.take_if(is_it);
        if state.relay.take_if(is_it).is_some() {
            self.relays.send_replace(false);
        }
        if state.shards.get_mut(&lease.shard).is_some_and(|owned| is_it(&mut owned.lease)) {
            state.remove(lease.shard);
        }
    }

    /// Gives up the slot and the relay, and returns their leases. The mailbox keeps its name.
    pub(super) fn resign(&self) -> Vec<Lease> {
        let mut state = self.state();
        self.relays.send_replace(false);
        let (slot, relay) = (state.slot.take(), state.relay.take());
        slot.into_iter().chain(relay).collect()
    }

    /// Gives up everything, and returns the leases.
    pub(super) fn take(&self) -> Vec<Lease> {
        let mut leases = self.remove(&self.shards());
        leases.extend(self.resign());
        leases
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}
