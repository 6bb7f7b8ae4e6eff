use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aios_core::{
    clock::ClockExt,
    store::{Fence, Lease, Leases, PageRequest, ReadModels, RunFilter, RunStatus, Shard},
};
use futures_util::future::join_all;
use tokio::task::AbortHandle;
use tracing::{debug, error, warn};

use super::{Engine, EngineError, Message, mailbox};

/// The shards that this engine owns.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    shards: Mutex<HashMap<Shard, Owned>>,
    /// The lease of the relay, if this engine relays.
    relay: Mutex<Vec<Lease>>,
}

#[derive(Debug)]
struct Owned {
    lease: Lease,
    /// Reads the shard's mailbox.
    reader: AbortHandle,
}

impl Ownership {
    fn shards(&self) -> MutexGuard<'_, HashMap<Shard, Owned>> {
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
        self.shards().get(&shard).map(|owned| owned.lease.fence())
    }

    /// Takes every lease; the mailboxes are no longer read.
    pub(super) fn take(&self) -> Vec<Lease> {
        let owned = std::mem::take(&mut *self.shards());
        let stop = |owned: Owned| {
            owned.reader.abort();
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
            lost.reader.abort();
        }
    }
}

/// Takes shards that are free, and keeps the leases alive.
pub(super) async fn run(engine: Arc<Engine>) {
    let period = engine.options.lease_time / 3;
    loop {
        tokio::select! {
            () = engine.clock.sleep(period) => {}
            () = engine.stopped() => return,
        }
        if let Err(error) = turn(&engine).await {
            warn!(%error, "could not renew leases");
        }
    }
}

pub(super) async fn turn(engine: &Arc<Engine>) -> Result<(), EngineError> {
    let time_to_live = engine.options.lease_time;
    let held = engine.ownership.leases();
    let renewed = engine.store.renew(&held, time_to_live).await?;
    for lease in held {
        match renewed.iter().find(|renewed| renewed.shard == lease.shard) {
            Some(renewed) => {
                if let Some(owned) = engine.ownership.shards().get_mut(&lease.shard) {
                    owned.lease = renewed.clone();
                }
            }
            None => {
                warn!(shard = %lease.shard, "lost a shard");
                engine.ownership.lose(lease.shard);
            }
        }
    }
    let free: Vec<Shard> =
        Shard::all().filter(|shard| engine.ownership.fence(*shard).is_none()).collect();
    if free.is_empty() {
        return Ok(());
    }
    let taken = engine.store.acquire(&free, &engine.owner, time_to_live).await?;
    let mailboxes = join_all(taken.iter().map(|lease| mailbox::open(engine, lease.shard))).await;
    let mailboxes = match mailboxes.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(mailboxes) => mailboxes,
        Err(error) => {
            engine.store.release(&taken).await?;
            return Err(error.into());
        }
    };
    let shards: Vec<Shard> = taken.iter().map(|lease| lease.shard).collect();
    for (lease, deliveries) in taken.into_iter().zip(mailboxes) {
        let shard = lease.shard;
        let reader = tokio::spawn(mailbox::run(Arc::clone(engine), shard, deliveries));
        let reader = reader.abort_handle();
        engine.ownership.shards().insert(shard, Owned { lease, reader });
    }
    if !shards.is_empty() {
        debug!(shards = shards.len(), "took shards");
        let engine = Arc::clone(engine);
        // A task of its own: recovery may take longer than a lease lives.
        tokio::spawn(async move {
            while let Err(error) = recover(&engine, &shards).await {
                error!(%error, "could not find the runs to go on with; trying again");
                engine.clock.sleep(engine.options.back_off.1).await;
                if engine.is_stopping() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Lets the unfinished runs of shards go on.
async fn recover(
    engine: &Arc<Engine>,
    shards: &[Shard],
) -> Result<(), aios_core::store::StoreError> {
    let statuses =
        vec![RunStatus::Running, RunStatus::Cancelling, RunStatus::Paused, RunStatus::Blocked];
    let filter = RunFilter { shards: shards.to_vec(), statuses, ..RunFilter::default() };
    let mut page = PageRequest::first(1000);
    loop {
        let found = engine.store.runs(&filter, &page).await?;
        let engine = Arc::clone(engine);
        let ids: Vec<Arc<str>> = found.rows.into_iter().map(|row| row.id.into()).collect();
        for run_id in ids {
            engine.activate(&run_id, Message::Nudge).await;
        }
        match found.next {
            Some(next) => page = next,
            None => return Ok(()),
        }
    }
}

impl Engine {
    /// Gives every shard up at once.
    pub(super) async fn release_leases(&self) {
        let held = self.ownership.take();
        if let Err(error) = self.store.release(&held).await {
            warn!(%error, "could not release leases; they expire by themselves");
        }
    }
}
