//! Several engine processes: the effect on a review when one of them, or the broker, fails.

use std::{
    collections::HashSet,
    fs,
    process::{Child, Command},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    review::{Review, tree},
    services::{Site, kill, stop},
};

const FILES: usize = 400;
/// The number of files after which the fault happens.
const BEFORE: usize = 60;
/// How often, and at which interval, a test checks before it gives up: leases last for 10 s, and a
/// lost task is assigned again after a minute.
const LOOKS: u32 = 4800;
const PAUSE: Duration = Duration::from_millis(50);

/// A review halfway through, advanced by the first of two engines.
struct Fleet {
    site: Site,
    tree: TempDir,
    first: Child,
    second: Child,
    agents: Vec<Child>,
    client: Child,
}

impl Fleet {
    /// Starts a review, which the first engine advances.
    fn open() -> Option<Self> {
        let site = Site::open()?;
        let tree = tree(FILES);
        let (first, agents) = (site.engine(), vec![site.agent(), site.agent()]);
        let mut client = site.start(&tree);
        site.wait_for(&mut client, 1);
        let second = site.engine();
        site.wait_for(&mut client, BEFORE);
        let fleet = Self { site, tree, first, second, agents, client };
        assert_eq!(fleet.owner(), "t", "the first engine owns the run");
        Some(fleet)
    }

    /// Whether the engine of the lowest number owns the run's shard.
    fn owner(&self) -> String {
        self.site.postgres.sql(
            "SELECT own.owner = slot.owner FROM aios.leases own, aios.leases slot, \
             aios.workflow_runs run WHERE own.shard = run.shard AND slot.shard = 1024 \
             AND run.workflow = 'code_review'",
        )
    }

    /// How many shards each engine owns, in order.
    fn shares(&self) -> Vec<usize> {
        shares(&self.site)
    }

    /// Waits for the report, which must equal that of a single process.
    fn finish(&mut self) {
        eventually(|| self.client.try_wait().unwrap().is_some(), "the review ends");
        assert!(self.client.wait().unwrap().success());
        let alone = Review::of(self.tree.path());
        alone.finish(&[]);
        let report = fs::read_to_string(self.site.folder.path().join("report.json")).unwrap();
        assert_eq!(report, alone.report_text());
    }

    /// No file was analysed again after its result was recorded, according to a snapshot.
    fn check(&self, (recorded, begun): &(HashSet<String>, usize)) {
        let executions = self.site.executions();
        assert!(*begun < FILES, "the fault came in the middle of the review");
        let again = executions[*begun..].iter().find(|path| recorded.contains(*path));
        assert_eq!(again, None, "its result was recorded");
        assert_eq!(executions.iter().collect::<HashSet<_>>().len(), FILES);
    }
}

fn shares(site: &Site) -> Vec<usize> {
    let counts = site.postgres.sql(
        "SELECT count(*) FROM aios.leases WHERE shard < 64 AND expires_at > now() \
         GROUP BY owner ORDER BY 1",
    );
    counts.lines().map(|count| count.trim().parse().unwrap()).collect()
}

fn shared(site: &Site, expected: &[usize]) {
    eventually(|| shares(site) == expected, &format!("the shards are shared as {expected:?}"));
}

fn eventually(mut holds: impl FnMut() -> bool, what: &str) {
    let holds = (0..LOOKS).any(|_| {
        holds() || {
            std::thread::sleep(PAUSE);
            false
        }
    });
    assert!(holds, "{what}");
}

fn signal(process: &Child, signal: &str) {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[test]
fn should_share_the_shards_evenly_among_processes() {
    let Some(site) = Site::open() else { return };
    let mut engines = vec![site.engine(), site.engine(), site.engine()];
    shared(&site, &[21, 21, 22]);
    kill(engines.remove(0));
    shared(&site, &[32, 32]);
    engines.push(site.engine());
    shared(&site, &[21, 21, 22]);
    engines.into_iter().for_each(stop);
    assert_eq!(shares(&site), [0; 0], "an engine that stops leaves nothing behind");
}

#[test]
fn should_hand_a_review_over_when_its_engine_is_told_to_stop() {
    let Some(mut fleet) = Fleet::open() else { return };
    let first = std::mem::replace(&mut fleet.first, fleet.site.engine());
    stop(first);
    let look = fleet.site.look();
    assert!(!fleet.shares().is_empty(), "another engine took over before the end of its lease");
    fleet.finish();
    fleet.check(&look);
    fleet.agents.into_iter().chain([fleet.first, fleet.second]).for_each(stop);
}

/// The engine does not know that it was frozen for longer than its lease.
#[test]
fn should_finish_a_review_whose_engine_was_frozen() {
    let Some(mut fleet) = Fleet::open() else { return };
    signal(&fleet.first, "-STOP");
    let look = fleet.site.look();
    shared(&fleet.site, &[64]);
    signal(&fleet.first, "-CONT");
    fleet.finish();
    fleet.check(&look);
    shared(&fleet.site, &[32, 32]);
    fleet.agents.into_iter().chain([fleet.first, fleet.second]).for_each(stop);
}

/// Answers that it holds do not stay there either.
#[test]
fn should_finish_a_review_whose_engine_stays_frozen() {
    let Some(mut fleet) = Fleet::open() else { return };
    signal(&fleet.first, "-STOP");
    let look = fleet.site.look();
    fleet.finish();
    fleet.check(&look);
    kill(fleet.first);
    fleet.agents.into_iter().chain([fleet.second]).for_each(stop);
}

/// The tasks and answers in its queues are lost.
#[test]
fn should_finish_a_review_with_a_broker_that_lost_its_data() {
    let Some(mut fleet) = Fleet::open() else { return };
    fleet.site.rabbitmq.kill();
    // Agents finish what they have while the broker is away.
    assert!(fleet.site.executions().len() < FILES, "the fault came in the middle of the review");
    fleet.site.rabbitmq.erase();
    fleet.site.rabbitmq.revive();
    fleet.finish();
    fleet.agents.into_iter().chain([fleet.first, fleet.second]).for_each(stop);
}
