//! The leases of an engine: it renews them, balances the shards between the engines, and ends its runs
//! when its leases end.
//!
//! A tick comes three times per lease time, and earlier when other engines release leases or may have
//! lost them. It renews every lease, joins again if the engine has lost its slot, takes free shards up
//! to its share, and hands over what it has beyond its share. How many shards are handed over, and when,
//! is the subject of `moves`.
//!
//! The clock of the store decides when a lease expires. The engine measures the time from *before* it
//! sent a renewal with its own monotonic clock, and stops a tenth of the lease time earlier (`watch`).
//! So it has stopped before another engine can begin, whether or not the store can be reached. If the
//! process was paused for longer than that, the fences of its appends refuse what it writes.
//!
//! | lock | held while |
//! |---|---|
//! | `Ownership::changing` | leases are acquired, renewed or released, including the call of the store |
//! | `Ownership::state` | a single look-up or change in memory |
//!
//! The first one orders the calls: otherwise a lease could be renewed while it is being released.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_core::store::{Fence, Lease, Leases, Shard, StoreError};
use metrics::{counter, gauge};
use tracing::{debug, info, warn};

use super::{
    margin,
    members::{Members, next_expiry},
    moves::Moves,
    slots,
};
use crate::{
    task::JoinSet,
    workflow::engine::{Engine, EngineError, recovery::recover},
};

/// How long a step may take to end when its shard is about to move to another engine. If it takes
/// longer, the shard stays for now.
const MOVE_GRACE: Duration = Duration::from_secs(2);
/// How long after the expiry of another engine's lease, by this engine's clock, the engine checks
/// it.
const EXPIRY_DELAY: Duration = Duration::from_millis(20);

/// The state that is kept from one tick to the next.
#[derive(Debug)]
struct Schedule {
    /// Number of lease releases seen.
    releases: u64,
    /// When the leases are renewed next, by [`elapsed`](aios_core::clock::Clock::elapsed) time.
    renew_at: Duration,
    /// When the next tick is due at the latest.
    check_at: Duration,
    /// The observations of the engines and their shards.
    seen: Moves,
    /// Tasks that move shards to other engines, and return how many of them stay.
    moves: JoinSet<usize>,
}

/// Renews the leases three times per lease time. After each renewal, and whenever other engines
/// released leases or may have lost them, checks which engines are alive and which shards are free.
pub(crate) async fn run(engine: Arc<Engine>) {
    let now = engine.clock.elapsed();
    let period = engine.options.lease_time / 3;
    let renew_at = now + period;
    let (seen, moves) = (Moves::default(), JoinSet::new());
    let mut schedule = Schedule { releases: 0, renew_at, check_at: renew_at, seen, moves };
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            () = schedule.next(&engine) => {}
        }
        if let Err(error) = tick(&engine, &mut schedule).await
            && !engine.survives("keep shards", error)
        {
            return;
        }
    }
}

impl Schedule {
    /// Waits until the next tick is due.
    async fn next(&mut self, engine: &Engine) {
        let pause = self.check_at.saturating_sub(engine.clock.elapsed());
        let timer = async { engine.clock.sleep(pause).await };
        let released = async {
            match engine.store.wait_for_release(self.releases).await {
                Ok(releases) => releases,
                // The next tick is due soon.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = timer => {}
            releases = released => self.releases = releases,
        }
    }
}

/// Renews the leases if they are due, joins again after the slot was lost, and balances the shards.
///
/// The next check is scheduled first, and the next renewal before this one is sent, so that a tick that
/// fails is repeated.
async fn tick(engine: &Arc<Engine>, schedule: &mut Schedule) -> Result<(), EngineError> {
    let period = engine.options.lease_time / 3;
    let now = engine.clock.elapsed();
    schedule.check_at = now + period;
    if now >= schedule.renew_at {
        // Set before the renewal, so that a failure does not delay the next one.
        schedule.renew_at = now + period;
        renew(engine).await?;
    }
    schedule.check_at = schedule.renew_at;
    if engine.is_leaving() || engine.is_stopping() {
        return Ok(());
    }
    if engine.ownership.slot().is_none() {
        slots::join_again(engine).await?;
        schedule.renew_at = engine.clock.elapsed() + period;
        schedule.check_at = schedule.renew_at;
    }
    let leases = engine.store.leases().await?;
    if let Some(expiry) = expiry_of_others(engine, &leases) {
        // An engine that died does not release its leases, so the end of a lease is an event of its
        // own.
        schedule.check_at = schedule.check_at.min(expiry.max(now + EXPIRY_DELAY));
    }
    balance(engine, &leases, schedule).await
}

/// When the next lease of another engine expires unless it is renewed, by the clock of this engine.
fn expiry_of_others(engine: &Engine, leases: &[Lease]) -> Option<Duration> {
    let own = leases.iter().find(|lease| lease.owner == engine.owner)?;
    let next = next_expiry(leases, &engine.owner)?;
    // The expiry of this engine's own leases is known by both clocks.
    let margin = margin(engine.options.lease_time);
    let own_expiry = engine.ownership.valid_until() + margin;
    let earlier = own.expires_at.duration_since(next);
    let later = next.duration_since(own.expires_at);
    Some(own_expiry.saturating_sub(earlier) + later + EXPIRY_DELAY)
}

/// Renews every lease. Lost leases are dropped; an engine that lost its slot drops all of them.
async fn renew(engine: &Engine) -> Result<(), StoreError> {
    // Held during the call of the store, so that a release waits for the answer.
    let _changing = engine.ownership.changing.lock().await;
    renew_held(engine).await
}

/// Whether the store says that this engine owns a shard at some time after the call.
///
/// A renewal confirms every shard, so that calls which wait for the same renewal need no other: the
/// renewals of the leases never wait for more than one of them.
pub(crate) async fn confirm(engine: &Engine, fence: Fence) -> Result<bool, StoreError> {
    let asked_at = engine.clock.elapsed();
    let _changing = engine.ownership.changing.lock().await;
    let is_held = || engine.ownership.lease(fence).is_some();
    // A renewal that was sent after the question, while this call waited for the lock, answers it too.
    if is_held() && engine.ownership.confirmed_at().is_none_or(|at| at < asked_at) {
        renew_held(engine).await?;
    }
    Ok(is_held())
}

/// Renews every lease, while the caller has locked the changes of the ownership. If the leases ended
/// by this engine's clock before the store answered, they are released instead.
async fn renew_held(engine: &Engine) -> Result<(), StoreError> {
    let held = engine.ownership.leases();
    if held.is_empty() {
        return Ok(());
    }
    let lease_time = engine.options.lease_time;
    let sent = engine.clock.elapsed();
    let renewed = engine.store.renew(&held, lease_time).await?;
    engine.store_clock.record_leases(&renewed, lease_time, sent);
    // The store returns what is still ours.
    let is_lost = |lease: &&Lease| !renewed.iter().any(|renewed| renewed.shard == lease.shard);
    let lost: Vec<&Lease> = held.iter().filter(is_lost).collect();
    record_held(&renewed);
    if !lost.is_empty() {
        counter!("aios_leases_lost_total").increment(lost.len() as u64);
        warn!(leases = lost.len(), "lost leases to other engines");
    }
    // The runs that were woken after the leases ended were not advanced, so this engine may only
    // continue as one that takes the shards over.
    let has_ended = !engine.ownership.is_valid();
    // Without its slot the engine is not a member, and others already share its shards.
    if has_ended || lost.iter().any(|lease| lease.shard.slot_number().is_some()) {
        engine.drop_leases();
        // What the store has just extended, even if `watch` has dropped it here before.
        return engine.store.release(&renewed).await;
    }
    for lease in lost {
        engine.lose(lease);
    }
    // Counted from before the request: the store cannot have granted the time earlier.
    engine.ownership.set_valid_until(sent + lease_time - margin(lease_time));
    engine.ownership.set_confirmed_at(sent);
    Ok(())
}

/// Ends the runs of this engine when its leases end by its own clock, whether or not the store
/// answers.
pub(crate) async fn watch(engine: Arc<Engine>) {
    loop {
        let until = engine.ownership.valid_until();
        let rest = until.saturating_sub(engine.clock.elapsed());
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            // The time may have been extended since; the check below reads it again.
            () = engine.clock.sleep(rest.max(EXPIRY_DELAY)) => {}
        }
        if !engine.ownership.is_valid() && !engine.drop_leases().is_empty() {
            warn!(
                lease_time = ?engine.options.lease_time,
                "the leases ended before they could be renewed; their runs stop on this engine"
            );
        }
    }
}

/// Acquires this engine's share of the free shards.
///
/// Called once, when an engine joins. After that, ticks do the same.
pub(crate) async fn balance_now(engine: &Arc<Engine>) -> Result<(), EngineError> {
    let leases = engine.store.leases().await?;
    let members = Members::of(&leases);
    slots::read_mailboxes(engine, &members);
    take_free(engine, &members).await?;
    engine.ownership.set_members(members);
    Ok(())
}

/// Adapts what this engine owns to the engines that are alive now.
async fn balance(
    engine: &Arc<Engine>,
    leases: &[Lease],
    schedule: &mut Schedule,
) -> Result<(), EngineError> {
    let members = Members::of(leases);
    slots::read_mailboxes(engine, &members);
    take_free(engine, &members).await?;
    let are_other_hosts = engine.ownership.set_members(members.clone());
    engine.recheck_moved(are_other_hosts);
    give_surplus(engine, &members, schedule);
    Ok(())
}

/// Acquires free shards up to this engine's share, the relay if no engine has it, and the guest
/// lease of this engine.
///
/// The shares are computed from the members at this moment. Two engines that compute at different
/// moments may both want a shard; the store gives it to one of them.
async fn take_free(engine: &Arc<Engine>, members: &Members) -> Result<(), EngineError> {
    let Some(slot) = engine.ownership.slot() else { return Ok(()) };
    let _changing = engine.ownership.changing.lock().await;
    let owned = engine.ownership.shares();
    let free = members.free(slot).into_iter().filter(|shard| !owned.contains(shard));
    let mut wanted: Vec<Shard> =
        free.take(members.share(slot).saturating_sub(owned.len())).collect();
    if engine.options.relay && !members.has_relay() && !engine.ownership.has_relay() {
        wanted.push(Shard::RELAY);
    }
    if engine.is_leaving() || engine.is_stopping() {
        return Ok(());
    }
    let lease_time = engine.options.lease_time;
    if !engine.ownership.has_guests() {
        // The previous engine with this number may have died a moment ago.
        let guests = [Shard::guests(slot)];
        let owner = engine.hosting.owner_of_guests(engine.ownership.guest_leases_lost());
        let taken = engine.store.acquire(&guests, &owner, lease_time).await?;
        let moved = engine.ownership.add(taken);
        engine.wake_moved(moved);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let taken = engine.store.acquire(&wanted, &engine.owner, lease_time).await?;
    let (shards, others): (Vec<Lease>, Vec<Lease>) =
        taken.into_iter().partition(|lease| lease.shard.is_share());
    others.into_iter().for_each(|lease| engine.ownership.set_relay(lease));
    // Added before recovery, which activates only runs that this engine owns.
    let numbers: Vec<Shard> = shards.iter().map(|lease| lease.shard).collect();
    engine.ownership.add(shards);
    if !numbers.is_empty() {
        counter!("aios_leases_taken_total").increment(numbers.len() as u64);
        record_held(&engine.ownership.leases());
        debug!(shards = numbers.len(), "took shards");
        // In a separate task, because recovery may take longer than a lease lasts.
        engine.background.spawn(recover::run(Arc::clone(engine), numbers));
    }
    Ok(())
}

/// Hands over the shards beyond this engine's share: as many as [`Moves`] allows, and one set of shards
/// at a time.
///
/// A set that is still moving delays the next one, so that a slow step does not make the engine give
/// away everything else.
fn give_surplus(engine: &Arc<Engine>, members: &Members, schedule: &mut Schedule) {
    while let Some(ended) = schedule.moves.try_join_next() {
        schedule.seen.stayed(ended.unwrap_or_default());
    }
    let (now, period) = (engine.clock.elapsed(), engine.options.lease_time / 3);
    schedule.seen.observe(members, &engine.owner, now);
    let Some(slot) = engine.ownership.slot() else { return };
    let staying = engine.ownership.staying();
    let surplus = staying.len().saturating_sub(members.share(slot));
    if surplus == 0 || !schedule.moves.is_empty() {
        return;
    }
    if let Some(next) = schedule.seen.next(now, period) {
        schedule.check_at = schedule.check_at.min(next);
    }
    let count = schedule.seen.allowed(members, surplus, now, period);
    if count == 0 {
        return;
    }
    schedule.seen.begun(count, now);
    // Idle shards first.
    let busy = engine.live.shards();
    let (idle, others): (Vec<Shard>, Vec<Shard>) =
        staying.into_iter().rev().partition(|shard| !busy.contains(shard));
    let leaving: BTreeSet<Shard> = idle.into_iter().chain(others).take(count).collect();
    counter!("aios_leases_handed_over_total").increment(leaving.len() as u64);
    info!(
        shards = leaving.len(),
        engines = members.slots().len(),
        "handing shards over to other engines"
    );
    let engine = Arc::clone(engine);
    schedule.moves.spawn(async move { engine.move_away(leaving, MOVE_GRACE).await });
}

/// Records how many shards this engine owns. Leases on duties, such as the relay, do not count.
fn record_held(leases: &[Lease]) {
    let shards = leases.iter().filter(|lease| lease.shard.is_share()).count();
    gauge!("aios_leases_held").set(f64::from(u32::try_from(shards).unwrap_or(u32::MAX)));
}

impl Engine {
    /// Drops a lease that another engine has acquired.
    pub(crate) fn lose(&self, lease: &Lease) {
        self.ownership.lose(lease);
        self.live.lose(&BTreeSet::from([lease.shard]));
    }

    /// The store rejected an append under this fence, because another engine owns the shard.
    pub(crate) fn lost(&self, fence: Fence) {
        counter!("aios_appends_fenced_total").increment(1);
        if let Some(lease) = self.ownership.lease(fence) {
            warn!(shard = %fence.shard, "lost a shard to another engine");
            self.lose(&lease);
        }
    }

    /// Ends all runs of this engine, and returns its leases.
    pub(super) fn drop_leases(&self) -> Vec<Lease> {
        self.readers.stop();
        let shards = self.ownership.shards();
        let leases = self.ownership.take();
        record_held(&[]);
        self.live.lose(&shards);
        leases
    }
}
