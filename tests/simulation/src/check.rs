//! Checks of the final state.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    testing::replay,
    workflow::{FnWorkflow, Workflow},
};
use aios_core::{
    event::Event,
    store::{
        EventStore, Leases, MAX_PAGE, PageRequest, ReadModels, RunFilter, RunRecord, RunStatus,
        SHARDS, StreamId,
    },
};
use futures_util::FutureExt;

use crate::{
    client::{Clients, End, run_id},
    executor::Node,
    invariant::Invariant,
    perform::{Performer, WORKFLOW},
    plant::Plant,
    program::{Expected, Program},
    random::Random,
    run::RunFacts,
    scenario::Scenario,
    watcher::Watcher,
    world::World,
};

/// How long shards may wait for their move, because others have moved before.
const BALANCED: Duration = Duration::from_secs(120);

/// Checks everything that could not be checked earlier.
pub async fn at_the_end(
    scenario: &Scenario,
    world: &Arc<World>,
    clients: &Clients,
    watcher: &Watcher,
) {
    for (number, program) in scenario.programs.iter().enumerate() {
        let may_be_cancelled = scenario.cancelled.iter().any(|(run, _)| *run == number);
        check_end(world, number, program, clients.end(number).as_ref(), may_be_cancelled);
    }
    watcher.check_order(world);
    check_rows(world).await;
    check_shares(scenario, world).await;
    // In a task of the executor, as replays are tasks themselves.
    let (is_done, seed) = (Arc::new(AtomicBool::new(false)), scenario.seed);
    let (checked, checks) = (Arc::clone(&is_done), Arc::clone(world));
    world.executor.spawn(Node::WORLD, async move {
        check_journals(seed, &checks).await;
        checked.store(true, Ordering::Release);
    });
    world.executor.run(|| is_done.load(Ordering::Acquire), Duration::MAX, u64::MAX).await;
}

fn check_end(
    world: &World,
    number: usize,
    program: &Program,
    end: Option<&End>,
    may_be_cancelled: bool,
) {
    let expected = match program.expected() {
        Expected::Result(values) => End::Result(values),
        Expected::Failure(failure) => End::Failed(failure.code),
    };
    let is_expected = end == Some(&expected) || (may_be_cancelled && end == Some(&End::Cancelled));
    if !is_expected {
        let how = format!("{} is {end:?} instead of {expected:?}", run_id(number));
        world.violated(Invariant::ResultAsExpected, how);
    }
    let undone = world.state().runs.get(&run_id(number)).map(|facts| facts.undone.clone());
    let undone = undone.unwrap_or_default();
    let all = program.undone();
    // A run that was cancelled runs the compensations that it had registered by then.
    let is_right = match end {
        Some(End::Failed(_)) => undone == all,
        Some(End::Cancelled) => all.ends_with(&undone),
        _ => undone.is_empty(),
    };
    if !is_right {
        let how = format!("{} undid {undone:?} of {all:?}, end {end:?}", run_id(number));
        world.violated(Invariant::CompensationsReversed, how);
    }
}

/// The rows of runs match the ends of their journals, and those that are computed again.
async fn check_rows(world: &World) {
    let rows = rows(world).await;
    let rebuilt = world.store.rebuild().await;
    if rebuilt.is_err() || rows != self::rows(world).await {
        world.violated(Invariant::RowsFollowJournals, "the rows differ from those of a rebuild");
    }
    for row in rows {
        let facts = world.state().runs.get(&row.id).cloned().unwrap_or_default();
        let RunFacts { end, .. } = facts;
        let said = end.map(|end| end.event_type.action().to_owned());
        if said.as_deref() != row.status.is_final().then(|| row.status.as_str()) {
            let how = format!("the row of {} says {}, its journal {said:?}", row.id, row.status);
            world.violated(Invariant::RowsFollowJournals, how);
        }
    }
}

async fn rows(world: &World) -> Vec<RunRecord> {
    let page = world.store.runs(&RunFilter::default(), &PageRequest::first(MAX_PAGE)).await;
    let mut rows = page.map(|page| page.rows).unwrap_or_default();
    if world.plants(Plant::RowBehind)
        && let Some(row) = rows.first_mut()
    {
        row.status = RunStatus::Running;
    }
    rows
}

/// The engines own equal shares, some time after the last of them has come or gone.
async fn check_shares(scenario: &Scenario, world: &World) {
    let engines = usize::try_from(scenario.engines).unwrap_or_default();
    let shares = || {
        let leases = world.store.leases().now_or_never().and_then(Result::ok).unwrap_or_default();
        let mut shares = BTreeMap::<String, usize>::new();
        for lease in leases.into_iter().filter(|lease| lease.shard.is_share()) {
            *shares.entry(lease.owner.as_str().to_owned()).or_default() += 1;
        }
        shares.into_values().collect::<Vec<usize>>()
    };
    let are_even = || {
        let shares = shares();
        let (least, most) = (shares.iter().min(), shares.iter().max());
        shares.len() == engines
            && shares.iter().sum::<usize>() == usize::from(SHARDS)
            && most.zip(least).is_some_and(|(most, least)| most - least <= 1)
    };
    let limit = Duration::from_micros(world.executor.now()) + BALANCED + scenario.lease_time * 4;
    world.executor.run(are_even, limit, u64::MAX).await;
    if !are_even() {
        let how = format!("{engines} engines own {:?} shards", shares());
        world.violated(Invariant::SharesAreEven, how);
    }
}

/// Some prefixes of every journal replay, and the whole journal.
async fn check_journals(seed: u64, world: &World) {
    let mut random = Random::new(seed, "replay");
    let ids: Vec<String> = world.state().runs.keys().cloned().collect();
    for run_id in ids {
        let Ok(stream) = StreamId::of_run(&run_id) else { continue };
        let journal = world.store.read_stream(&stream, 0, usize::MAX).await.unwrap_or_default();
        let journal: Vec<Event> = journal.into_iter().map(|recorded| recorded.event).collect();
        let cut = random.index(journal.len()) + 1;
        for length in [cut, journal.len()] {
            let prefix = journal.get(..length).unwrap_or_default();
            if let Err(error) = replay(workflow(world), prefix).await {
                let how = format!(
                    "{length} of {} entries of {run_id} do not replay: {}",
                    journal.len(),
                    aios_core::Chain(&error)
                );
                world.violated(Invariant::JournalsReplay, how);
            }
        }
    }
}

fn workflow(world: &World) -> Arc<dyn Workflow> {
    let performer = Performer { world: None, clock: world.executor.clock(Node::WORLD) };
    let code = move |context, program: Program| performer.clone().run(context, program);
    Arc::new(FnWorkflow::new(WORKFLOW, code).expect("the name is valid"))
}
