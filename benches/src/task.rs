//! The task that the benchmarks give, and the agent that does it.

use aios_agents::agent::TaskClient;
use aios_core::{
    agent::{Agent, TaskAssigned, TaskCompleted, TaskContext, TaskError, TaskId, TaskResult},
    event::{Event, EventId, Metadata, Payload},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The agent's type.
pub const REVIEWER: &str = "reviewer";
/// The type of the event that gives a task.
pub const ASSIGNED: &str = "agents.reviewer.task_assigned";
/// The type of the event that brings the answer.
pub const COMPLETED: &str = "agents.reviewer.task_completed";

/// What is to be reviewed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Review {
    title: String,
    #[schemars(range(min = 1, max = 5))]
    priority: u8,
    files: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    summary: String,
    accepted: bool,
}

/// What is given to the agent each time.
#[must_use]
pub fn review() -> Review {
    let files = vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()];
    Review { title: "a change".to_owned(), priority: 3, files }
}

fn judge(review: &Review) -> Verdict {
    Verdict { summary: format!("{} files", review.files.len()), accepted: review.priority > 1 }
}

/// Does the task with next to no work.
#[derive(Clone, Copy, Debug)]
pub struct Reviewer;

impl Agent for Reviewer {
    type Parameters = Review;
    type Output = Verdict;

    async fn process_task(&self, _: &TaskContext, review: Review) -> Result<Verdict, TaskError> {
        Ok(judge(&review))
    }
}

/// One way to have a task done.
pub trait Contender: Clone + Send + Sync + 'static {
    /// Gives a task, and waits for its answer.
    fn call(&self) -> impl Future<Output = Verdict> + Send;
}

impl Contender for TaskClient {
    async fn call(&self) -> Verdict {
        self.task(REVIEWER, &review()).await.unwrap().decode().unwrap()
    }
}

/// The event that gives a new task, as somebody without aios would make it.
#[must_use]
pub fn assign(reply_to: &str) -> (TaskId, Event) {
    let task_id = TaskId::new(EventId::generate().to_string());
    let data = TaskAssigned {
        task_id: task_id.clone(),
        agent_id: None,
        parameters: Payload::encode(&review()).unwrap(),
        attempt: 1,
        timeout_ms: Some(60_000),
    };
    let metadata = Metadata { reply_to: Some(reply_to.into()), ..Metadata::default() };
    let event = Event::new(ASSIGNED.parse().unwrap(), "bench", &data).unwrap();
    (task_id, event.with_metadata(metadata))
}

/// Does a task, as somebody without aios would do it; the event with the answer.
#[must_use]
pub fn serve(event: &Event) -> Event {
    let assigned: TaskAssigned = event.data().unwrap();
    let output = Payload::encode(&judge(&assigned.parameters.decode().unwrap())).unwrap();
    let data = TaskCompleted { task_id: assigned.task_id, result: TaskResult::Success, output };
    Event::new(COMPLETED.parse().unwrap(), "bench", &data).unwrap().caused_by(event)
}
