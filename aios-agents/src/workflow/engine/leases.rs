use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    Chain,
    clock::ClockExt,
    store::{Fence, Lease, Leases, Shard, StoreError},
};
use futures_util::future::join_all;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::{Bundle, Engine, EngineError, failing::PANICKED, mailbox, recover};
use crate::{
    panic::panic_failure,
    task::{self, JoinSet},
};

/// The shards that this engine owns.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    shards: Mutex<BTreeMap<Shard, Owned>>,
    /// The lease of the relay, if this engine relays.
    relay: Mutex<Vec<Lease>>,
}

#[derive(Debug)]
struct Owned {
    lease: Lease,
    /// Reads the mailbox of the shard's bundle, once that is open.
    reader: Option<AbortHandle>,
}

impl Owned {
    fn stop(&self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Ownership {
    fn shards(&self) -> MutexGuard<'_, BTreeMap<Shard, Owned>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn relay(&self) -> Vec<Lease> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_relay(&self, leases: Vec<Lease>) {
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = leases;
    }

    /// Whether this engine relays the log.
    pub(super) fn relays(&self) -> bool {
        !self.relay().is_empty()
    }

    /// The proof to append under, while the shard is owned.
    pub(super) fn fence(&self, shard: Shard) -> Option<Fence> {
        let shards = self.shards();
        let owned = shards.get(&shard).filter(|owned| owned.reader.is_some());
        owned.map(|owned| owned.lease.fence())
    }

    /// The shards that are owned.
    pub(super) fn owned(&self) -> Vec<Shard> {
        let shards = self.shards();
        let owned = shards.iter().filter(|(_, owned)| owned.reader.is_some());
        owned.map(|(shard, _)| *shard).collect()
    }

    /// Whether this engine has the lease, be the mailbox open or not.
    fn holds(&self, shard: Shard) -> bool {
        self.shards().contains_key(&shard)
    }

    fn add(&self, taken: &[Lease]) {
        let owned = |lease: &Lease| (lease.shard, Owned { lease: lease.clone(), reader: None });
        self.shards().extend(taken.iter().map(owned));
    }

    /// The mailbox of a shard is read from now on, unless the shard was lost meanwhile.
    fn open(&self, shard: Shard, reader: AbortHandle) {
        match self.shards().get_mut(&shard) {
            Some(owned) => owned.reader = Some(reader),
            None => reader.abort(),
        }
    }

    fn renew(&self, renewed: &Lease) {
        if let Some(owned) = self.shards().get_mut(&renewed.shard) {
            owned.lease = renewed.clone();
        }
    }

    /// Takes every lease; the mailboxes are no longer read.
    pub(super) fn take(&self) -> Vec<Lease> {
        let owned = std::mem::take(&mut *self.shards());
        let stop = |owned: Owned| {
            owned.stop();
            owned.lease
        };
        let mut leases: Vec<Lease> = owned.into_values().map(stop).collect();
        leases.append(&mut self.relay.lock().unwrap_or_else(PoisonError::into_inner));
        leases
    }

    fn leases(&self) -> Vec<Lease> {
        self.shards().values().map(|owned| owned.lease.clone()).collect()
    }

    fn lose(&self, shard: Shard) {
        if let Some(lost) = self.shards().remove(&shard) {
            lost.stop();
        }
    }
}

/// Keeps the leases alive, and takes shards that are free beside that: opening their mailboxes may
/// take as long as the broker likes.
pub(super) async fn run(engine: Arc<Engine>) {
    let period = engine.options.lease_time / 3;
    let mut taking = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = engine.stopped() => return,
            () = engine.clock.sleep(period) => {}
        }
        if let Err(error) = renew(&engine).await
            && !engine.survives("renew leases", error)
        {
            return;
        }
        while let Some(taken) = taking.try_join_next() {
            if let Err(panic) = taken.map_err(tokio::task::JoinError::try_into_panic)
                && let Ok(panic) = panic
            {
                return engine.fail("take shards", &panic_failure(PANICKED, &*panic));
            }
        }
        if taking.is_empty() {
            let engine = Arc::clone(&engine);
            taking.spawn(async move {
                if let Err(error) = take(&engine).await {
                    engine.survives("take shards", error);
                }
            });
        }
    }
}

/// Renews the leases. If one of a bundle is lost, all of the bundle are given up.
async fn renew(engine: &Engine) -> Result<(), StoreError> {
    let held = engine.ownership.leases();
    let renewed = engine.store.renew(&held, engine.options.lease_time).await?;
    let find = |lease: &Lease| renewed.iter().find(|renewed| renewed.shard == lease.shard);
    let lost: Vec<Bundle> = held
        .iter()
        .filter(|lease| find(lease).is_none())
        .map(|lease| Bundle::of(lease.shard))
        .collect();
    let mut given_up = Vec::new();
    for lease in &held {
        let is_given_up = lost.contains(&Bundle::of(lease.shard));
        match find(lease) {
            Some(renewed) if !is_given_up => engine.ownership.renew(renewed),
            found => {
                warn!(shard = %lease.shard, "lost a shard");
                engine.ownership.lose(lease.shard);
                engine.live.lose(lease.shard);
                given_up.extend(found.cloned());
            }
        }
    }
    match given_up.is_empty() {
        true => Ok(()),
        false => engine.store.release(&given_up).await,
    }
}

/// Takes the bundles of shards that are free. Nothing of them goes on before their mailboxes are open.
pub(super) async fn take(engine: &Arc<Engine>) -> Result<(), EngineError> {
    let free: Vec<Shard> = Shard::all().filter(|shard| !engine.ownership.holds(*shard)).collect();
    if free.is_empty() {
        return Ok(());
    }
    let taken = engine.store.acquire(&free, &engine.owner, engine.options.lease_time).await?;
    let has = |shard: Shard| taken.iter().any(|lease| lease.shard == shard);
    let whole: Vec<Bundle> = Bundle::all().filter(|bundle| bundle.shards().all(has)).collect();
    let (taken, parts): (Vec<Lease>, Vec<Lease>) =
        taken.iter().cloned().partition(|lease| whole.contains(&Bundle::of(lease.shard)));
    if !parts.is_empty() {
        // Another engine has the rest, and reads the mailbox.
        engine.store.release(&parts).await?;
    }
    engine.ownership.add(&taken);
    let mailboxes = join_all(whole.iter().map(|bundle| mailbox::open(engine, *bundle))).await;
    let mailboxes = match mailboxes.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(mailboxes) => mailboxes,
        Err(error) => {
            taken.iter().for_each(|lease| engine.ownership.lose(lease.shard));
            engine.store.release(&taken).await?;
            return Err(error.into());
        }
    };
    for (bundle, deliveries) in whole.into_iter().zip(mailboxes) {
        let reader = task::spawn(mailbox::run(Arc::clone(engine), bundle, deliveries));
        bundle.shards().for_each(|shard| engine.ownership.open(shard, reader.abort_handle()));
    }
    let shards: Vec<Shard> = taken.iter().map(|lease| lease.shard).collect();
    if !shards.is_empty() {
        debug!(shards = shards.len(), "took shards");
        // A task of its own: recovery may take longer than a lease lives.
        task::spawn(recover::run(Arc::clone(engine), shards));
    }
    Ok(())
}

impl Engine {
    /// Gives every shard up at once.
    pub(super) async fn release_leases(&self) {
        let held = self.ownership.take();
        if let Err(error) = self.store.release(&held).await {
            warn!(error = %Chain(&error), "could not release leases; they expire by themselves");
        }
    }
}
