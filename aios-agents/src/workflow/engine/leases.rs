//! Keeps the leases alive, shares the shards with other engines, and ends what the engine runs when
//! its leases end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aios_core::store::{Fence, Lease, Leases, SHARDS, Shard, StoreError};
use tracing::{debug, info, warn};

use super::{
    Engine, EngineError,
    members::{Members, next_expiry},
    recover, slots,
};
use crate::task::{self, JoinSet};

/// Shards that one engine gives to others in a minute, at most.
const MOVES_PER_MINUTE: usize = SHARDS as usize;
/// How long a step may take to end when its shard is about to move to another engine. If it takes
/// longer, the shard stays for now.
const MOVE_GRACE: Duration = Duration::from_secs(2);
/// How much later than by its own clock this engine looks whether a lease of another one has expired.
const EXPIRY_DELAY: Duration = Duration::from_millis(20);

/// What is to be remembered from one look to the next.
#[derive(Debug)]
struct Looks {
    /// Releases of leases that were heard of.
    releases: u64,
    /// When the leases are renewed next, by [`elapsed`](aios_core::clock::Clock::elapsed) time.
    renew_at: Duration,
    /// When to look at the latest.
    look_at: Duration,
    /// When this minute began, and how many shards moved in it.
    minute: (Duration, usize),
    /// Shards on their way to other engines, and what looks for runs of shards that were taken.
    moves: JoinSet<()>,
}

/// Renews the leases three times in their life. Whenever others have released some or may have lost
/// them, and after each renewal, looks who is alive and what is free.
pub(super) async fn run(engine: Arc<Engine>) {
    let now = engine.clock.elapsed();
    let period = engine.options.lease_time / 3;
    let (renew_at, minute) = (now + period, (now, 0));
    let mut looks =
        Looks { releases: 0, renew_at, look_at: renew_at, minute, moves: JoinSet::new() };
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            () = looks.next(&engine) => {}
        }
        if let Err(error) = look(&engine, &mut looks).await
            && !engine.survives("keep shards", error)
        {
            return;
        }
    }
}

impl Looks {
    /// Waits until it is time to look.
    async fn next(&mut self, engine: &Engine) {
        let pause = self.look_at.saturating_sub(engine.clock.elapsed());
        let timer = async { engine.clock.sleep(pause).await };
        let released = async {
            match engine.store.wait_for_release(self.releases).await {
                Ok(releases) => releases,
                // The next look is not far.
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

async fn look(engine: &Arc<Engine>, looks: &mut Looks) -> Result<(), EngineError> {
    let period = engine.options.lease_time / 3;
    let now = engine.clock.elapsed();
    looks.look_at = now + period;
    if now >= looks.renew_at {
        // Not later because one renewal failed.
        looks.renew_at = now + period;
        renew(engine).await?;
    }
    looks.look_at = looks.renew_at;
    if engine.is_leaving() {
        return Ok(());
    }
    if engine.ownership.slot().is_none() {
        slots::join_again(engine).await?;
        looks.renew_at = engine.clock.elapsed() + period;
        looks.look_at = looks.renew_at;
    }
    let leases = engine.store.leases().await?;
    if let Some(expiry) = expiry_of_others(engine, &leases) {
        looks.look_at = looks.look_at.min(expiry.max(now + EXPIRY_DELAY));
    }
    balance(engine, &leases, looks).await
}

/// When the first lease of another engine expires that nobody renews, by the clock of this engine.
fn expiry_of_others(engine: &Engine, leases: &[Lease]) -> Option<Duration> {
    let own = leases.iter().find(|lease| lease.owner == engine.owner)?;
    let next = next_expiry(leases, [&engine.owner, &engine.hosting.guests])?;
    // This engine knows when its own leases expire by both clocks.
    let margin = margin(engine.options.lease_time);
    let own_expiry = engine.ownership.valid_until() + margin;
    let earlier = own.expires_at.duration_since(next);
    let later = next.duration_since(own.expires_at);
    Some(own_expiry.saturating_sub(earlier) + later + EXPIRY_DELAY)
}

/// How long before the end of its leases an engine stops.
pub(super) fn margin(lease_time: Duration) -> Duration {
    lease_time / 10
}

/// Renews every lease. What was lost is given up; without its slot, an engine gives up everything.
async fn renew(engine: &Engine) -> Result<(), StoreError> {
    let _changing = engine.ownership.changing.lock().await;
    let held = engine.ownership.leases();
    if held.is_empty() {
        return Ok(());
    }
    let (lease_time, sent) = (engine.options.lease_time, engine.clock.elapsed());
    let renewed = engine.store.renew(&held, lease_time).await?;
    engine.store_clock.heard(&renewed, lease_time, sent);
    let is_lost = |lease: &&Lease| !renewed.iter().any(|renewed| renewed.shard == lease.shard);
    let lost: Vec<&Lease> = held.iter().filter(is_lost).collect();
    if !lost.is_empty() {
        warn!(leases = lost.len(), "lost leases to other engines");
    }
    if lost.iter().any(|lease| lease.shard.slot_number().is_some()) {
        let rest = engine.give_up();
        return engine.store.release(&rest).await;
    }
    for lease in lost {
        engine.lose(lease);
    }
    engine.ownership.set_valid_until(sent + lease_time - margin(lease_time));
    Ok(())
}

/// Ends what this engine runs when its leases end by its own clock, whether the store answers or not.
pub(super) async fn watch(engine: Arc<Engine>) {
    loop {
        let until = engine.ownership.valid_until();
        let rest = until.saturating_sub(engine.clock.elapsed());
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            () = engine.clock.sleep(rest.max(EXPIRY_DELAY)) => {}
        }
        if !engine.ownership.is_valid() && !engine.give_up().is_empty() {
            warn!(
                lease_time = ?engine.options.lease_time,
                "the leases ended before they could be renewed; their runs stop here"
            );
        }
    }
}

/// Takes what this engine should own and is free, and gives away what it has beyond its share.
pub(super) async fn balance_now(engine: &Arc<Engine>) -> Result<(), EngineError> {
    let leases = engine.store.leases().await?;
    let members = Members::of(&leases);
    slots::read_mailboxes(engine, &members);
    take(engine, &members).await?;
    engine.ownership.set_members(members);
    Ok(())
}

async fn balance(
    engine: &Arc<Engine>,
    leases: &[Lease],
    looks: &mut Looks,
) -> Result<(), EngineError> {
    let members = Members::of(leases);
    slots::read_mailboxes(engine, &members);
    take(engine, &members).await?;
    let seen = engine.ownership.set_members(members.clone());
    engine.look_after_moved(!seen.same_hosts);
    // An engine that comes and goes at once moves nothing.
    if seen.same_engines {
        give(engine, &members, looks);
    }
    Ok(())
}

/// Takes free shards up to this engine's share, the relay if nobody has it, and what stands for the
/// runs that are moved to this engine.
async fn take(engine: &Arc<Engine>, members: &Members) -> Result<(), EngineError> {
    let Some(slot) = engine.ownership.slot() else { return Ok(()) };
    let _changing = engine.ownership.changing.lock().await;
    let owned = engine.ownership.shares();
    let free = members.free(slot).into_iter().filter(|shard| !owned.contains(shard));
    let mut wanted: Vec<Shard> =
        free.take(members.share(slot).saturating_sub(owned.len())).collect();
    if engine.options.relay && !members.has_relay() && !engine.ownership.has_relay() {
        wanted.push(Shard::RELAY);
    }
    if engine.is_leaving() {
        return Ok(());
    }
    let lease_time = engine.options.lease_time;
    if !engine.ownership.has_guests() {
        // Whoever had the number before may have died a moment ago.
        let guests = [Shard::guests(slot)];
        let taken = engine.store.acquire(&guests, &engine.hosting.guests, lease_time).await?;
        engine.ownership.add(taken);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let taken = engine.store.acquire(&wanted, &engine.owner, lease_time).await?;
    let (shards, others): (Vec<Lease>, Vec<Lease>) =
        taken.into_iter().partition(|lease| lease.shard.is_share());
    others.into_iter().for_each(|lease| engine.ownership.set_relay(lease));
    let numbers: Vec<Shard> = shards.iter().map(|lease| lease.shard).collect();
    engine.ownership.add(shards);
    if !numbers.is_empty() {
        debug!(shards = numbers.len(), "took shards");
        // A task of its own: recovery may take longer than a lease lives.
        task::spawn(recover::run(Arc::clone(engine), numbers));
    }
    Ok(())
}

/// Gives away what this engine has beyond its share: a limited number in a minute, and one set of
/// shards at a time.
fn give(engine: &Arc<Engine>, members: &Members, looks: &mut Looks) {
    while looks.moves.try_join_next().is_some() {}
    let Some(slot) = engine.ownership.slot() else { return };
    let staying = engine.ownership.staying();
    let surplus = staying.len().saturating_sub(members.share(slot));
    let now = engine.clock.elapsed();
    if now >= looks.minute.0 + Duration::from_secs(60) {
        looks.minute = (now, 0);
    }
    let count = surplus.min(MOVES_PER_MINUTE.saturating_sub(looks.minute.1));
    if count == 0 || !looks.moves.is_empty() {
        return;
    }
    looks.minute.1 += count;
    // Those first that have nothing to wait for.
    let busy = engine.live.shards();
    let (idle, others): (Vec<Shard>, Vec<Shard>) =
        staying.into_iter().rev().partition(|shard| !busy.contains(shard));
    let leaving: BTreeSet<Shard> = idle.into_iter().chain(others).take(count).collect();
    info!(
        shards = leaving.len(),
        engines = members.slots().len(),
        "giving shards to other engines"
    );
    let engine = Arc::clone(engine);
    looks.moves.spawn(async move { engine.move_away(leaving, MOVE_GRACE).await });
}

impl Engine {
    /// Another engine has what this lease stands for.
    pub(super) fn lose(&self, lease: &Lease) {
        self.ownership.lose(lease);
        self.live.lose(&BTreeSet::from([lease.shard]));
    }

    /// The store refused what was to be written under this fence: somebody else has the shard.
    pub(super) fn lost(&self, fence: Fence) {
        if let Some(lease) = self.ownership.lease(fence) {
            warn!(shard = %fence.shard, "lost a shard to another engine");
            self.lose(&lease);
        }
    }

    /// Ends everything that runs under the leases of this engine, and returns the leases.
    pub(super) fn give_up(&self) -> Vec<Lease> {
        self.readers.stop();
        let shards = self.ownership.shards();
        let leases = self.ownership.take();
        self.live.lose(&shards);
        leases
    }
}
