//! The journals of a trial, and the faults in them.

use std::collections::{BTreeMap, BTreeSet};

use aios_agents::prelude::*;
use aios_core::store::{PageRequest, RecordedEvent, RunFilter, RunStatus};
use serde_json::Value;

/// The runs of one trial, in a store that other trials use before and after.
pub(super) struct Journals<'s> {
    pub(super) store: &'s dyn Store,
    /// The ids of all runs begin with it.
    pub(super) id: &'s str,
    /// Where the log stood before.
    pub(super) from: u64,
}

impl Journals<'_> {
    pub(super) async fn events(&self) -> Vec<(String, RecordedEvent)> {
        let (mut events, mut after) = (Vec::new(), self.from);
        loop {
            let page = self.store.read_log(after, 1000).await.unwrap();
            let Some(last) = page.last() else { return events };
            after = last.position;
            let of_run = |recorded: RecordedEvent| {
                Some((recorded.stream.run_id().map(ToOwned::to_owned)?, recorded))
            };
            events.extend(page.into_iter().filter_map(of_run));
        }
    }

    /// The steps and attempts at tasks that are recorded as done.
    pub(super) async fn done(&self) -> BTreeSet<(String, String)> {
        let mut done = BTreeSet::new();
        for (run_id, recorded) in self.events().await {
            let data: Value = recorded.event.data().unwrap();
            let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
            match recorded.event.event_type.action() {
                "step_completed" => drop(done.insert((run_id, text("name")))),
                "task_completed" => {
                    let attempts = (1..9).map(|attempt| format!("attempt {attempt}"));
                    done.extend(attempts.map(|attempt| (text("task_id"), attempt)));
                }
                "task_failed" => {
                    done.insert((text("task_id"), format!("attempt {}", data["attempt"])));
                }
                _ => {}
            }
        }
        done
    }

    /// The runs that have not ended, with their states.
    pub(super) async fn open(&self) -> Vec<(String, RunStatus)> {
        let statuses =
            [RunStatus::Running, RunStatus::Paused, RunStatus::Blocked, RunStatus::Cancelling];
        let filter = RunFilter { statuses: statuses.to_vec(), ..RunFilter::default() };
        let rows = self.store.runs(&filter, &PageRequest::first(500)).await.unwrap().rows;
        let own = rows.into_iter().filter(|row| row.id.starts_with(self.id));
        own.map(|row| (row.id, row.status)).collect()
    }

    /// The faults in the journals of runs that have ended: something is recorded twice, or after the
    /// end, or there is no end.
    pub(super) async fn faults(&self) -> Vec<String> {
        let (mut faults, mut started, mut ended) = (vec![], BTreeSet::new(), BTreeSet::new());
        let mut recorded: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (run_id, event) in self.events().await {
            let action = event.event.event_type.action().to_owned();
            if ended.contains(&run_id) {
                faults.push(format!("{run_id} has {action} after its end"));
            }
            let data: Value = event.event.data().unwrap();
            let what = match &*action {
                "started" => {
                    started.insert(run_id);
                    continue;
                }
                "completed" | "failed" | "cancelled" | "continued" => {
                    ended.insert(run_id);
                    continue;
                }
                "step_completed" | "operation_failed" | "child_ended" | "timer_fired"
                | "timer_started" | "child_started" | "event_emitted" | "status_set" => {
                    data["operation"].to_string()
                }
                "task_completed" => data["task_id"].to_string(),
                "task_assigned" | "task_failed" => {
                    format!("{}#{}", data["task_id"], data["attempt"])
                }
                "retry_scheduled" => format!("{}#{}", data["operation"], data["attempt"]),
                "signaled" => format!("{} {}", data["name"], data["payload"]),
                "noted" => String::new(),
                _ => continue,
            };
            *recorded.entry((run_id, format!("{action} {what}"))).or_default() += 1;
        }
        let twice = recorded.into_iter().filter(|(_, count)| *count > 1);
        faults.extend(twice.map(|(what, count)| format!("{what:?} is recorded {count} times")));
        faults.extend(started.difference(&ended).map(|run_id| format!("{run_id} has no end")));
        faults
    }
}
