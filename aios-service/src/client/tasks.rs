//! Requests about single tasks and agents.

use std::time::Duration;

use serde_json::json;

use super::{Client, ClientError, EventStream, Task, TaskResult};

impl Client {
    /// Waits until a task ends, at most about this long, and returns how; `None` if it has not ended. The
    /// service may wait for less.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use aios_service::client::{Client, ClientError};
    ///
    /// # async fn example(client: Client, id: &str) -> Result<(), ClientError> {
    /// match client.task_result(id, Duration::from_secs(10)).await? {
    ///     Some(ended) => println!("{}: {:?}", ended.status.as_str(), ended.output),
    ///     None => println!("an agent still works on it"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `TASK_NOT_FOUND` if there is no such task.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; the task continues.
    pub async fn task_result(
        &self,
        id: &str,
        wait: Duration,
    ) -> Result<Option<TaskResult>, ClientError> {
        let request = self.connection.get(&["tasks", id, "result"])?.with_wait(wait);
        self.connection.awaited(&request).await
    }

    /// Requests cancellation of a task that was assigned outside of a workflow, together with its run.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `TASK_NOT_FOUND` if there is no such task, with `TASK_OF_WORKFLOW` if it
    /// belongs to a workflow, and with `RUN_ENDED` if it has ended.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the request.
    pub async fn cancel_task(&self, id: &str, reason: &str) -> Result<Task, ClientError> {
        let path = ["tasks", id, "actions", "cancel"];
        let request = self.connection.post(&path, &json!({ "reason": reason }))?;
        self.connection.one(&request).await
    }

    /// Follows the events about an agent, and about the tasks that are assigned to this one agent: those
    /// after a position in the log, if there is one, and then new ones.
    #[must_use]
    pub fn agent_events(&self, id: &str, after: Option<u64>) -> EventStream {
        let path = ["agents", id, "events"].map(ToOwned::to_owned).to_vec();
        EventStream::new(self.clone(), path, Vec::new(), after)
    }
}
