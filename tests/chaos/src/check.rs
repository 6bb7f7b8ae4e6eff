//! What has to hold once no fault happens any more.

use std::{fs, sync::Arc, time::Duration};

use aios_core::{
    Chain,
    store::{MAX_PAGE, PageRequest, RunFilter, RunStatus, Store, StreamId},
};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{history::run_of, inject::Targets};

/// How often, and with what pauses, is looked whether queues are empty.
const LOOKS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);
/// Lines of a journal that are printed, at most.
const LINES: usize = 200;
/// What the logs say where a former owner was stopped, or could do nothing any more.
const FENCED: [&str; 3] = [
    "the leases ended before they could be renewed",
    "lost leases to other engines",
    "lost a shard to another engine",
];

/// Nothing waits, in queues and in the store, and processes are as small as they were.
pub(crate) async fn quiet(targets: &Targets, store: &dyn Store, memory: u64) {
    let mut left = Vec::new();
    for _ in 0..LOOKS {
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
        let found = process.memory();
        if found > memory {
            targets.history.violation(None, format!("{} has {found} MB", process.name));
        }
    }
}

/// Runs that have not ended, whoever started them.
async fn unsettled(store: &dyn Store) -> Vec<String> {
    let statuses =
        vec![RunStatus::Running, RunStatus::Paused, RunStatus::Blocked, RunStatus::Cancelling];
    let filter = RunFilter { statuses, ..RunFilter::default() };
    match store.runs(&filter, &PageRequest::first(MAX_PAGE)).await {
        Ok(page) => page.rows.iter().map(|row| format!("{} is {}", row.id, row.status)).collect(),
        Err(error) => vec![format!("runs can't be listed: {}", Chain(&error))],
    }
}

/// Queues that are not empty.
async fn queued(targets: &Targets) -> Vec<String> {
    let rabbitmq = Arc::clone(&targets.rabbitmq);
    let columns = ["list_queues", "--quiet", "--no-table-headers", "messages", "name"];
    let listed = spawn_blocking(move || rabbitmq.ctl(&columns)).await.expect("listing the queues");
    let lines = listed.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.filter(|line| !line.starts_with("0\t")).map(|line| format!("queue {line}")).collect()
}

/// Nobody panicked, and how often a former owner was stopped.
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
