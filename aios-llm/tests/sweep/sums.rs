//! The sums of the budgets of a trial: those of its runs, and those of its subjects.

use std::collections::BTreeSet;

use aios_core::store::MAX_PAGE;
use aios_llm::budget::Spent;
use serde::Deserialize;

use super::journals::Journals;

/// The sums of all runs of a trial.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// The sum of the runs that no other run has called.
    pub(super) spent: Spent,
    /// The part of it that is an estimate, of all runs.
    pub(super) estimated: Spent,
    /// The sum of the subjects, and the keys of reservations that are open.
    of_subjects: Option<(Spent, BTreeSet<String>)>,
}

#[derive(Deserialize)]
struct Settled {
    amounts: Spent,
    #[serde(default)]
    is_estimate: bool,
}

/// The start of a run.
#[derive(Deserialize)]
struct Started {
    #[serde(default)]
    parent: Option<Parent>,
}

#[derive(Deserialize)]
struct Parent {
    run_id: String,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    amounts: Spent,
}

fn plus(one: &Spent, other: &Spent) -> Spent {
    let mut sum = *one;
    sum.requests += other.requests;
    sum.usage += other.usage;
    sum.cost += other.cost;
    sum.tool_calls += other.tool_calls;
    sum
}

impl Sums {
    pub(super) async fn of(journals: &Journals<'_>) -> Self {
        let mut sums = Self::default();
        // The runs that agents have called: their sums are in those of their callers.
        let mut called = BTreeSet::new();
        let mut agents = BTreeSet::new();
        for (run_id, recorded) in journals.events().await {
            let event = &recorded.event;
            // A fork has copies of what was charged to the run that it was forked from.
            if event.metadata.extra.contains("copy_of") {
                continue;
            }
            match event.event_type.as_str() {
                "llm.budget.settled" => {
                    let Settled { amounts, is_estimate } = event.data().unwrap();
                    if is_estimate {
                        sums.estimated = plus(&sums.estimated, &amounts);
                    }
                    if !called.contains(&run_id) {
                        sums.spent = plus(&sums.spent, &amounts);
                    }
                }
                it if it.ends_with(".started") => {
                    let Started { parent } = event.data().unwrap();
                    let is_called = parent.is_some_and(|parent| agents.contains(&parent.run_id));
                    if !it.starts_with("workflows.team") {
                        agents.insert(run_id.clone());
                    }
                    if is_called {
                        called.insert(run_id);
                    }
                }
                _ => {}
            }
        }
        sums.of_subjects = of_subjects(journals).await;
        sums
    }

    /// Faults of the sums of subjects.
    pub(super) fn found(&self) -> Vec<String> {
        let Some((spent, open)) = &self.of_subjects else { return Vec::new() };
        let mut found = Vec::new();
        if *spent != self.spent {
            found.push(format!("subjects were charged {spent:?}, and runs {:?}", self.spent));
        }
        if !open.is_empty() {
            found.push(format!("{} reservations are open", open.len()));
        }
        found
    }
}

/// The sums in the streams of subjects, if there are any.
async fn of_subjects(journals: &Journals<'_>) -> Option<(Spent, BTreeSet<String>)> {
    let (mut spent, mut open, mut after) = (None, BTreeSet::new(), journals.from);
    loop {
        let page = journals.store.read_log(after, MAX_PAGE).await.unwrap();
        let Some(last) = page.last() else { return spent.map(|spent| (spent, open)) };
        after = last.position;
        for recorded in &page {
            match recorded.event.event_type.as_str() {
                "llm.subject.reserved" => {
                    let Entry { key, .. } = recorded.event.data().unwrap();
                    open.insert(key);
                    spent.get_or_insert_default();
                }
                "llm.subject.settled" => {
                    let Entry { key, amounts } = recorded.event.data().unwrap();
                    open.remove(&key);
                    spent = Some(plus(&spent.unwrap_or_default(), &amounts));
                }
                _ => {}
            }
        }
    }
}
