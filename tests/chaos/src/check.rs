//! Checks for the time after the last fault.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aios_core::{
    Chain,
    store::{MAX_PAGE, PageRequest, RunFilter, RunStatus, Store, StreamId},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    fault::Fault,
    history::{History, run_of},
    inject::Targets,
};

/// How often, and at which interval, the queues are checked for being empty.
const LOOKS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);
/// Faults of the relay that are reported, at most.
const SHOWN: usize = 10;
/// Lines of a journal that are printed, at most.
const LINES: usize = 200;
/// Log messages of a former owner that was stopped, or could do nothing any more.
const FENCED: [&str; 3] = [
    "the leases ended before they could be renewed",
    "lost leases to other engines",
    "lost a shard to another engine",
];

/// No messages are left in queues, no runs are waiting in the store, and processes use little more
/// memory than when they were ready.
pub(crate) async fn quiet(targets: &Targets, store: &dyn Store, memory: u64, patience: f64) {
    let mut left = Vec::new();
    let end = Instant::now() + (PAUSE * LOOKS).mul_f64(patience);
    while Instant::now() < end {
        left = unsettled(store).await;
        left.extend(queued(targets).await);
        if left.is_empty() {
            break;
        }
        sleep(PAUSE).await;
    }
    for text in left {
        targets.history.violation(None, format!("left behind: {text}"));
    }
    for process in &targets.processes {
        let (found, first) = (process.memory(), process.first_memory.load(Ordering::Acquire));
        if found > first + memory {
            let text = format!("{} has {found} MB, and had {first} MB", process.name);
            targets.history.violation(None, text);
        }
    }
}

/// Every lifecycle event has arrived at the subscriber, in the order of its stream.
pub(crate) async fn relayed(history: &History, patience: f64) {
    let end = Instant::now() + (PAUSE * LOOKS).mul_f64(patience);
    let mut faults = history.relay_faults();
    while !faults.is_empty() && Instant::now() < end {
        sleep(PAUSE).await;
        faults = history.relay_faults();
    }
    for text in faults.iter().take(SHOWN) {
        history.violation(None, format!("relay: {text}"));
    }
}

/// The rows of runs, tasks and workflows are those that follow from the log.
pub(crate) async fn rows(targets: &Targets, store: &dyn Store, is_changed: bool) {
    if is_changed {
        let change = "UPDATE aios.workflow_runs SET status_text = 'changed' WHERE id = \
                      (SELECT id FROM aios.workflow_runs ORDER BY id LIMIT 1)";
        targets.postgres.sql(change);
    }
    let digests = || {
        ["workflow_runs", "agent_tasks", "workflows"].map(|table| {
            let query = format!(
                "SELECT count(*), md5(string_agg(row::text, '' ORDER BY id)) FROM aios.{table} AS row"
            );
            (table, targets.postgres.sql(&query))
        })
    };
    let before = digests();
    if let Err(error) = store.rebuild().await {
        let text = format!("the read models can't be rebuilt: {}", Chain(&error));
        return targets.history.violation(None, text);
    }
    for ((table, live), (_, rebuilt)) in before.into_iter().zip(digests()) {
        targets.history.note(format!("{table}: {}", live.trim()));
        if live != rebuilt {
            let text = format!("{table} differs from what the log says: {live} and {rebuilt}");
            targets.history.violation(None, text);
        }
    }
}

/// Runs that have not ended, whether or not a client started them.
async fn unsettled(store: &dyn Store) -> Vec<String> {
    let statuses =
        vec![RunStatus::Running, RunStatus::Paused, RunStatus::Blocked, RunStatus::Cancelling];
    let filter = RunFilter { statuses, ..RunFilter::default() };
    match store.runs(&filter, &PageRequest::first(MAX_PAGE)).await {
        Ok(page) => page.rows.iter().map(|row| format!("{} is {}", row.id, row.status)).collect(),
        Err(error) => vec![format!("runs can't be listed: {}", Chain(&error))],
    }
}

/// The output of a list command of a RabbitMQ node.
async fn list(targets: &Targets, what: &'static str, columns: &[&'static str]) -> String {
    let nodes = Arc::clone(&targets.rabbitmq);
    let arguments = [&[what, "--quiet", "--no-table-headers"], columns].concat();
    let listed = spawn_blocking(move || nodes.first().map(|node| node.ctl(&arguments))).await;
    listed.expect("RabbitMQ answers").unwrap_or_default()
}

/// The number of queues, connections and channels in RabbitMQ.
pub(crate) async fn sizes(targets: &Targets) -> String {
    let queues = list(targets, "list_queues", &["name"]).await;
    let connections = list(targets, "list_connections", &["pid"]).await;
    let channels = list(targets, "list_channels", &["pid"]).await;
    let [queues, connections, channels] =
        [queues, connections, channels].map(|listed| listed.lines().count());
    format!("rabbitmq: {queues} queues, {connections} connections, {channels} channels")
}

/// Queues that are not empty.
async fn queued(targets: &Targets) -> Vec<String> {
    let listed = list(targets, "list_queues", &["messages", "name"]).await;
    let lines = listed.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.filter(|line| !line.starts_with("0\t")).map(|line| format!("queue {line}")).collect()
}

/// Every kind of fault that was planned has happened.
pub(crate) fn kinds(history: &History, schedule: &[Fault]) {
    let happened = history.counts().faults;
    let missing: BTreeSet<_> = schedule
        .iter()
        .map(|fault| fault.kind)
        .filter(|kind| !happened.contains_key(kind))
        .collect();
    for kind in missing {
        history.violation(None, format!("{kind} has not happened"));
    }
}

/// No process panicked, and how often a former owner was stopped.
pub(crate) fn logs(targets: &Targets) {
    for process in &targets.processes {
        let log = fs::read_to_string(&process.log).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("panicked at")) {
            targets.history.violation(None, format!("{}: {line}", process.name));
        }
        for text in FENCED {
            let count = log.lines().filter(|line| line.contains(text)).count();
            if count > 0 {
                targets.history.note(format!("{}: {count} times \"{text}\"", process.name));
            }
        }
    }
}

/// The journals of a run, of the runs that continue it and of their children.
pub(crate) async fn journals(store: &dyn Store, run: &str) -> String {
    let mut lines = Vec::new();
    let mut request = Some(PageRequest::first(MAX_PAGE));
    let mut ids = Vec::new();
    while let Some(page) = request.take() {
        let Ok(found) = store.runs(&RunFilter::default(), &page).await else { break };
        ids.extend(found.rows.into_iter().map(|row| row.id).filter(|id| run_of(id) == run));
        request = found.next;
    }
    for id in ids {
        lines.push(format!("{id}:"));
        let Ok(stream) = StreamId::of_run(&id) else { continue };
        let events = store.read_stream(&stream, 0, LINES).await.unwrap_or_default();
        lines.extend(events.iter().map(|recorded| {
            let event = &recorded.event;
            let data = event.payload.as_str();
            format!(
                "  {} {} {} {} {data}",
                recorded.position, event.timestamp, event.event_type, event.id
            )
        }));
    }
    lines.join("\n")
}
