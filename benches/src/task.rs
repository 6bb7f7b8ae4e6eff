//! The task that the benchmarks assign, and the agent that runs it.

use aios_agents::agent::TaskClient;
use aios_core::{
    agent::{Agent, TaskAssigned, TaskCompleted, TaskContext, TaskError, TaskId},
    event::{Event, EventId, Metadata, Payload},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The agent's type.
pub const REVIEWER: &str = "reviewer";
/// The type of the event that assigns a task.
pub const ASSIGNED: &str = "agents.reviewer.task_assigned";
/// The type of the event with the answer.
pub const COMPLETED: &str = "agents.reviewer.task_completed";

/// The parameters of a review.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Review {
    title: String,
    #[schemars(range(min = 1, max = 5))]
    priority: u8,
    files: Vec<String>,
}

/// The result of a review.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    summary: String,
    accepted: bool,
}

/// The parameters of every call.
#[must_use]
pub fn review() -> Review {
    let files = vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()];
    Review { title: "a change".to_owned(), priority: 3, files }
}

fn judge(review: &Review) -> Verdict {
    Verdict { summary: format!("{} files", review.files.len()), accepted: review.priority > 1 }
}

/// Runs the task with next to no work.
#[derive(Clone, Copy, Debug)]
pub struct Reviewer;

impl Agent for Reviewer {
    type Parameters = Review;
    type Output = Verdict;

    async fn process_task(&self, _: &TaskContext, review: Review) -> Result<Verdict, TaskError> {
        Ok(judge(&review))
    }
}

/// One implementation of calling a task.
pub trait Contender: Clone + Send + Sync + 'static {
    /// Assigns a task, and waits for its answer.
    fn call(&self) -> impl Future<Output = Verdict> + Send;
}

impl Contender for TaskClient {
    async fn call(&self) -> Verdict {
        self.task(REVIEWER, &review()).await.unwrap().decode().unwrap()
    }
}

/// The event that assigns a new task, as a program without aios would create it.
#[must_use]
pub fn assign(reply_to: &str) -> (TaskId, Event) {
    let task_id = TaskId::new(EventId::generate().to_string());
    let parameters = Payload::encode(&review()).unwrap();
    let mut data = TaskAssigned::new(task_id.clone(), parameters, 1);
    data.timeout_ms = Some(60_000);
    let metadata = Metadata { reply_to: Some(reply_to.into()), ..Metadata::default() };
    let event = Event::new(ASSIGNED.parse().unwrap(), "bench", &data).unwrap();
    (task_id, event.with_metadata(metadata))
}

/// Runs a task as a program without aios would; returns the event with the answer.
#[must_use]
pub fn serve(event: &Event) -> Event {
    let assigned: TaskAssigned = event.data().unwrap();
    let output = Payload::encode(&judge(&assigned.parameters.decode().unwrap())).unwrap();
    let data = TaskCompleted::new(assigned.task_id, output);
    Event::new(COMPLETED.parse().unwrap(), "bench", &data).unwrap().caused_by(event)
}
