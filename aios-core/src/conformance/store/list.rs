//! Lists by time, and deleted agents.

use serde_json::json;

use super::{
    Capability,
    harness::{Harness, typed},
};
use crate::{
    event::Timestamp,
    store::{AgentFilter, AgentStatus, PageRequest, RunFilter, TaskFilter, TaskStatus},
};

const SECOND: i64 = 1_000_000;

/// The ranges that both lists are asked for: from, before, and the numbers of the seconds in them.
const RANGES: [(Option<i64>, Option<i64>, std::ops::Range<i64>); 5] = [
    (Some(0), None, 0..8),
    (None, Some(8), 0..8),
    (Some(3), Some(6), 3..6),
    (Some(6), Some(3), 0..0),
    (Some(8), None, 0..0),
];

fn second(number: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000 * SECOND + number * SECOND)
}

/// Reports of a process may be late, in any order: the row stays deleted until the agent is created
/// again.
pub async fn should_keep_an_agent_deleted_whatever_is_reported_late(harness: Harness<'_>) {
    use AgentStatus::{Running, Stopped, Waiting};
    let registered = |id: &str| json!({ "agent_id": id, "name": id });
    let mut expected = Vec::new();
    let orders = permutations(vec!["deleted", "seen", "running", "stopped", "created"]);
    for (number, order) in orders.into_iter().enumerate() {
        let id = format!("a{number:03}");
        let status = |status: &str| json!({ "agent_id": id, "status": status });
        let mut events = Vec::new();
        let mut row = (Waiting, false);
        for action in std::iter::once("created").chain(order) {
            let (action, data, next) = match (action, row) {
                ("created", _) => ("created", registered(&id), (Waiting, false)),
                ("deleted", _) => ("deleted", json!({ "agent_id": id }), (Stopped, true)),
                ("seen", (_, false)) => ("seen", json!({ "agent_id": id }), (Running, false)),
                ("seen", gone) => ("seen", json!({ "agent_id": id }), gone),
                ("running", (_, false)) => ("status_changed", status("running"), (Running, false)),
                ("running", gone) => ("status_changed", status("running"), gone),
                (_, (_, false)) => ("status_changed", status("stopped"), (Stopped, false)),
                (_, gone) => ("status_changed", status("stopped"), gone),
            };
            row = next;
            events.push(typed(&format!("agents.backend.{action}"), &data));
        }
        harness.append("agents/backend", events).await;
        let touched = harness.store.touch_agents(std::slice::from_ref(&id), Timestamp::now()).await;
        let is_known = row == (Running, false) && !harness.lacks(Capability::SignsOfLife);
        assert_eq!(touched.unwrap().is_empty(), is_known, "{id}");
        expected.push((id, row));
    }
    let all = AgentFilter { include_deleted: true, ..AgentFilter::default() };
    for _ in ["live", "rebuilt"] {
        let rows = harness.store.agents(&all, &PageRequest::first(1000)).await.unwrap().rows;
        let mut found: Vec<_> =
            rows.into_iter().map(|it| (it.id, (it.status, it.deleted_at.is_some()))).collect();
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(found, expected);
        harness.store.rebuild().await.unwrap();
    }
}

/// All orders of some items.
fn permutations(items: Vec<&'static str>) -> Vec<Vec<&'static str>> {
    if items.len() < 2 {
        return vec![items];
    }
    let of_first = |first: usize| {
        let mut rest = items.clone();
        let item = rest.remove(first);
        let tails = permutations(rest).into_iter();
        tails.map(move |tail| std::iter::once(item).chain(tail).collect::<Vec<_>>())
    };
    (0..items.len()).flat_map(of_first).collect()
}

/// Runs of a time are in the order in which they were started, on pages that follow one another,
/// whatever their ids are; the first time belongs to a range, and the last one does not.
pub async fn should_list_runs_of_a_time_in_order(harness: Harness<'_>) {
    for number in [5, 2, 7, 0, 1, 6, 4, 3] {
        for copy in ["a", "b"] {
            let started = typed("workflows.deploy.started", &json!({ "version": 1 }))
                .with_timestamp(second(number));
            let id = format!("runs/{copy}/{}", (number * 5) % 8);
            harness.append(&id, vec![started]).await;
        }
    }
    for (from, before, expected) in RANGES {
        let filter = RunFilter {
            workflow: Some("deploy".to_owned()),
            created_after: from.map(second),
            created_before: before.map(second),
            ..RunFilter::default()
        };
        let mut request = Some(PageRequest::first(3));
        let mut found = Vec::new();
        while let Some(page) = request {
            let page = harness.store.runs(&filter, &page).await.unwrap();
            found.extend(page.rows.into_iter().map(|run| run.created_at));
            request = page.next;
        }
        let expected: Vec<_> = expected.flat_map(|number| [second(number); 2]).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let filter = RunFilter { created_after: Some(second(0)), ..RunFilter::default() };
    for after in ["a/5", "5", "5/"] {
        let page = PageRequest { after: Some(after.to_owned()), limit: 10 };
        let error = harness.store.runs(&filter, &page).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{after}");
    }
}

/// The same for tasks, also with other filters.
pub async fn should_list_tasks_of_a_time_in_order(harness: Harness<'_>) {
    for number in [5, 2, 7, 0, 1, 6, 4, 3] {
        let data =
            json!({ "task_id": format!("t{}", (number * 5) % 8), "agent_id": "a1", "attempt": 1 });
        let assigned = typed("agents.backend.task_assigned", &data).with_timestamp(second(number));
        harness.append("runs/r1", vec![assigned]).await;
    }
    let text = |text: &str| Some(text.to_owned());
    for (from, before, expected) in RANGES {
        let of_a_time = TaskFilter {
            created_after: from.map(second),
            created_before: before.map(second),
            ..TaskFilter::default()
        };
        for filter in [
            of_a_time.clone(),
            TaskFilter { run_id: text("r1"), ..of_a_time.clone() },
            TaskFilter { agent_type: text("backend"), ..of_a_time.clone() },
            TaskFilter { agent_id: text("a1"), status: Some(TaskStatus::Assigned), ..of_a_time },
        ] {
            let page = harness.store.tasks(&filter, &PageRequest::default()).await.unwrap();
            let found: Vec<_> = page.rows.into_iter().map(|task| task.created_at).collect();
            let expected: Vec<_> = expected.clone().map(second).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    }
}
