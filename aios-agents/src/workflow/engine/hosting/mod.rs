//! Runs whose owner has no code for them: they move to an engine that has it.
//!
//! Every engine lists its workflows in its guest lease. The owner of a run's shard moves the run to
//! an engine that has its workflow, with a journal entry that names the lease of that engine. The
//! owner stays responsible: once the lease is gone, it moves the run again.
//!
//! ```text
//! owner of the shard:  no code ──► append `moved` with the fence of a host ──► the run is away
//! host:                finds `moved` in the log ──► loads the run, appends under its own fence
//! owner of the shard:  the host's lease is gone ──► raise its epoch ──► append `moved` back, or to another
//! ```
//!
//! Raising the epoch is what makes the last step safe: a host that was only frozen can't append any
//! more, whatever it believes.

mod host;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aios_core::{
    catalog::workflow::Registered,
    event::EventId,
    store::{EventStore, Fence, Leases, OwnerId, Shard, StoreError, StreamId},
};
use metrics::gauge;
use parking_lot::Mutex;
use tracing::warn;

use super::{Engine, Message, ownership::Members};
use crate::workflow::{Registry, SINGLE_TASK};

pub(crate) use self::host::Host;

/// Events read at once.
const PAGE: usize = 100;
/// How often to check whether a missing lease is taken or free.
const LEASE_CHECKS: u32 = 3;

/// The workflows that an engine announces, and its runs that no engine has code for.
#[derive(Debug)]
pub(super) struct Hosting {
    /// The name of the engine.
    pub(super) engine: OwnerId,
    /// The name and the workflows, as the owner of a guest lease.
    announced: String,
    /// Its runs that no engine has code for.
    pub(super) unhosted: Unhosted,
}

impl Hosting {
    /// Generates the name of an engine.
    pub(super) fn new(registry: &Registry) -> Self {
        let engine = OwnerId::new(EventId::generate().to_string());
        let mut announced = engine.as_str().to_owned();
        let workflows = registry.iter().map(|registered| &registered.workflow);
        // Every engine has the workflow of single tasks.
        for workflow in workflows.filter(|workflow| workflow.name().as_str() != SINGLE_TASK) {
            announced.push_str(&format!(" {}@{}", workflow.name(), workflow.version()));
        }
        Self { engine, announced, unhosted: Unhosted::default() }
    }

    /// The owner of the engine's next guest lease, after it has lost some.
    ///
    /// Each guest lease has an owner, and thus an epoch, of its own. An engine that loses its guest lease
    /// forgets its guests, so the owners of their shards must see that their host is gone, even if it
    /// acquires the lease again before they look.
    pub(super) fn owner_of_guests(&self, lost: u64) -> OwnerId {
        match lost {
            0 => OwnerId::new(self.announced.clone()),
            lost => OwnerId::new(format!("{} #{lost}", self.announced)),
        }
    }
}

/// The runs of this engine that no engine has code for, with their workflows.
#[derive(Debug, Default)]
pub(super) struct Unhosted(Mutex<Runs>);

/// The runs, and their number for each workflow, which the metric shows.
#[derive(Debug, Default)]
struct Runs {
    /// The workflow and version of each run.
    runs: BTreeMap<Arc<str>, (Box<str>, u32)>,
    /// Number of runs for each workflow and version.
    counts: BTreeMap<(Box<str>, u32), u32>,
}

impl Runs {
    /// Removes a run, if it is here.
    fn remove(&mut self, run_id: &str) {
        if let Some(workflow) = self.runs.remove(run_id) {
            self.count(workflow, |count| count.saturating_sub(1));
        }
    }

    /// Changes the number of runs of a workflow; returns the previous number.
    fn count(&mut self, workflow: (Box<str>, u32), change: impl FnOnce(u32) -> u32) -> u32 {
        let name = workflow.0.to_string();
        let version = workflow.1.to_string();
        let count = self.counts.entry(workflow).or_default();
        let before = *count;
        *count = change(before);
        gauge!("aios_runs_unhosted", "workflow" => name, "version" => version).set(*count);
        before
    }
}

impl Unhosted {
    /// Records that no engine has code for a run.
    pub(super) fn add(&self, run_id: &Arc<str>, workflow: &str, version: u32) {
        let mut runs = self.0.lock();
        let workflow = (Box::from(workflow), version);
        if runs.runs.insert(Arc::clone(run_id), workflow.clone()).is_some() {
            return;
        }
        if runs.count(workflow.clone(), |count| count + 1) == 0 {
            let (workflow, version) = workflow;
            warn!(%workflow, version, "no engine has code for runs of a workflow; they wait");
        }
    }

    /// Removes a run that has ended, that an engine has code for, or that another engine owns.
    pub(super) fn remove(&self, run_id: &str) {
        self.0.lock().remove(run_id);
    }

    /// The ids of all these runs.
    fn all(&self) -> Vec<Arc<str>> {
        self.0.lock().runs.keys().cloned().collect()
    }
}

impl Engine {
    /// The fence of another engine that announces code for a run and did not decline it. The runs
    /// of a workflow are spread over the engines that have it.
    pub(super) async fn host_for(
        &self,
        run_id: &str,
        workflow: (&str, u32),
        declined: &BTreeSet<Box<str>>,
    ) -> Result<Option<Fence>, StoreError> {
        let pick = |hosts: &BTreeMap<u16, Host>| {
            let fits = |host: &&Host| {
                let is_other = host.engine() != self.owner.as_str();
                is_other && host.has(workflow.0, workflow.1) && !declined.contains(host.engine())
            };
            let fitting: Vec<&Host> = hosts.values().filter(fits).collect();
            // Spread by the number of the shard, so that the choice is the same when it is repeated.
            let place = usize::from(Shard::of(run_id).number()) % fitting.len().max(1);
            fitting.get(place).map(|host| host.fence())
        };
        if let Some(host) = pick(&self.ownership.hosts()) {
            return Ok(Some(host));
        }
        // An engine that joined a moment ago is not known yet.
        Ok(pick(Members::of(&self.store.leases().await?).hosts()))
    }

    /// The newest version of a workflow: of those that this engine has, or else of those that other living
    /// engines have, or else of those that were ever registered. Engines with that one may be away for a
    /// moment.
    pub(super) async fn newest_version(&self, workflow: &str) -> Result<Option<u32>, StoreError> {
        if let Some(registered) = self.journals.registry.latest(workflow) {
            return Ok(Some(registered.workflow.version()));
        }
        let newest = |hosts: &BTreeMap<u16, Host>| {
            hosts.values().flat_map(|host| host.versions(workflow)).max()
        };
        if let Some(version) = newest(&self.ownership.hosts()) {
            return Ok(Some(version));
        }
        // An engine that joined a moment ago is not known yet.
        if let Some(version) = newest(Members::of(&self.store.leases().await?).hosts()) {
            return Ok(Some(version));
        }
        self.registered_version(workflow).await
    }

    /// The newest version of a workflow that a process has ever registered.
    async fn registered_version(&self, workflow: &str) -> Result<Option<u32>, StoreError> {
        let stream = StreamId::new(format!("workflows/{workflow}"))?;
        let (mut newest, mut after) = (None, 0);
        loop {
            let page = self.store.read_stream(&stream, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(newest) };
            after = last.version;
            let versions = page.iter().filter_map(|it| it.event.data::<Registered>().ok());
            newest = newest.max(versions.map(|registered| registered.version).max());
        }
    }

    /// Whether the engine of a fence may still advance the runs that were moved to it. If this
    /// returns `false`, it never can again.
    pub(super) async fn is_alive(&self, host: Fence) -> Result<bool, StoreError> {
        if self.ownership.hosts().values().any(|known| known.fence() == host) {
            return Ok(true);
        }
        for _ in 0..LEASE_CHECKS {
            let leases = self.store.leases().await?;
            if let Some(lease) = leases.iter().find(|lease| lease.shard == host.shard) {
                return Ok(lease.epoch == host.epoch);
            }
            // Acquiring the lease increases its epoch, so nothing can be appended under the old
            // one.
            let lease_time = self.options.lease_time;
            let taken = self.store.acquire(&[host.shard], &self.owner, lease_time).await?;
            if !taken.is_empty() {
                self.store.release(&taken).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Wakes the runs that were moved to engines which are gone and, if engines joined or left, the
    /// runs that no engine had code for.
    pub(super) fn recheck_moved(self: &Arc<Self>, hosts_changed: bool) {
        let mut runs = self.ownership.reclaim();
        let unhosted = self.hosting.unhosted.all();
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            unhosted.into_iter().partition(|run_id| self.ownership.fence_of(run_id).is_some());
        elsewhere.iter().for_each(|run_id| self.hosting.unhosted.remove(run_id));
        if hosts_changed {
            runs.extend(here);
        }
        self.wake_moved(runs);
    }

    /// Wakes runs that this engine may advance now.
    pub(super) fn wake_moved(self: &Arc<Self>, runs: Vec<Arc<str>>) {
        if runs.is_empty() {
            return;
        }
        let engine = Arc::clone(self);
        // In a separate task, because loading many runs may take longer than a lease lasts.
        self.background.spawn(async move {
            for run_id in runs {
                engine.activate(&run_id, Message::Wake).await;
            }
        });
    }
}
