//! The shards whose runs are being discovered.
//!
//! Until that is done, the state of a run in the store may be outdated: a run that another process has
//! blocked is tried again by this one, which may have other code.

use std::{collections::BTreeMap, sync::Arc};

use aios_core::store::Shard;
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

/// The shards whose runs are being discovered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovering(Arc<Discoveries>);

#[derive(Debug, Default)]
struct Discoveries {
    /// Number of discoveries in progress, by shard.
    counts: Mutex<BTreeMap<Shard, u32>>,
    /// Wakes those that wait for the end of a discovery.
    ended: Notify,
}

impl Recovering {
    /// Notes that the runs of some shards are being discovered, until the guard is dropped.
    pub(super) fn begin(&self, shards: &[Shard]) -> RecoveringGuard {
        let mut counts = self.0.counts.lock();
        for shard in shards {
            *counts.entry(*shard).or_default() += 1;
        }
        RecoveringGuard { recovering: self.clone(), shards: shards.to_vec() }
    }

    /// Completes when the next discovery ends.
    pub(crate) fn ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }

    /// Whether the runs of a shard are being discovered.
    pub(crate) fn contains(&self, shard: Shard) -> bool {
        self.0.counts.lock().contains_key(&shard)
    }
}

/// A discovery in progress.
#[derive(Debug)]
pub(super) struct RecoveringGuard {
    recovering: Recovering,
    shards: Vec<Shard>,
}

impl Drop for RecoveringGuard {
    fn drop(&mut self) {
        let mut counts = self.recovering.0.counts.lock();
        for shard in &self.shards {
            if let Some(count) = counts.get_mut(shard) {
                *count -= 1;
            }
        }
        counts.retain(|_, count| *count > 0);
        drop(counts);
        self.recovering.0.ended.notify_waiters();
    }
}
