//! The methods of the client: one request each, or a builder that is awaited.

use std::sync::Arc;

use aios_core::{broker::Address, store::RecordedEvent};
use serde::Serialize;

use super::{
    Agent, AgentQuery, Caller, Client, ClientError, ClientOptions, DeadLetters, Engine, EventQuery,
    EventStream, Page, PageQuery, Publish, Run, RunHandle, RunQuery, Shard, SignalWithStart,
    StartRun, StartTask, Task, TaskQuery, Workflow,
    connection::Connection,
    convert::{encode, recorded},
};

impl Client {
    /// Creates a client of the service at a URL: the path at which the API is mounted, such as
    /// `https://aios.example.com/api/v1`. Does not connect yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidConfiguration`] if the URL, a credential or the retry policy is invalid.
    pub fn new(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        Ok(Self { connection: Arc::new(Connection::new(url, options)?) })
    }

    /// Starts a run of the latest version of a workflow. Await it to get a [`RunHandle`].
    pub fn start<T: Serialize + ?Sized>(&self, workflow: &str, input: &T) -> StartRun {
        StartRun::new(self.clone(), workflow, encode(input))
    }

    /// Sends a signal to a run, and starts the run first if it does not exist. Await it to get a
    /// [`RunHandle`].
    pub fn signal_with_start<I: Serialize + ?Sized, P: Serialize + ?Sized>(
        &self,
        workflow: &str,
        run_id: impl Into<String>,
        input: &I,
        signal: impl Into<String>,
        payload: &P,
    ) -> SignalWithStart {
        let signal = (signal.into(), encode(payload));
        SignalWithStart::new(self.clone(), workflow, run_id.into(), encode(input), signal)
    }

    /// Assigns a task to agents of a type, as a run with a single task. Await it to get a
    /// [`RunHandle`].
    pub fn task<T: Serialize + ?Sized>(&self, agent_type: &str, parameters: &T) -> StartTask {
        StartTask::new(self.clone(), agent_type, encode(parameters))
    }

    /// A handle of a run. Sends no request, so it also returns one if there is no such run.
    pub fn run(&self, id: impl Into<String>) -> RunHandle {
        RunHandle::new(self.clone(), id.into())
    }

    /// A page of runs.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn runs(&self, query: &RunQuery) -> Result<Page<Run>, ClientError> {
        let request = self.connection.get(&["runs"])?.with_query(query.parameters());
        self.connection.page(&request).await
    }

    /// A page of tasks.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, ClientError> {
        let request = self.connection.get(&["tasks"])?.with_query(query.parameters());
        self.connection.page(&request).await
    }

    /// A task.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `TASK_NOT_FOUND` if there is no such task.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn task_with_id(&self, id: &str) -> Result<Task, ClientError> {
        self.connection.one(&self.connection.get(&["tasks", id])?).await
    }

    /// A page of agents.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn agents(&self, query: &AgentQuery) -> Result<Page<Agent>, ClientError> {
        let request = self.connection.get(&["agents"])?.with_query(query.parameters());
        self.connection.page(&request).await
    }

    /// An agent.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `AGENT_NOT_FOUND` if there is no such agent.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn agent(&self, id: &str) -> Result<Agent, ClientError> {
        self.connection.one(&self.connection.get(&["agents", id])?).await
    }

    /// A page of the versions of workflows.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn workflows(&self, page: &PageQuery) -> Result<Page<Workflow>, ClientError> {
        let request = self.connection.get(&["workflows"])?.with_query(page.parameters());
        self.connection.page(&request).await
    }

    /// A version of a workflow (`name@version`), or its highest version (`name`).
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `WORKFLOW_NOT_FOUND` if there is no such workflow.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn workflow(&self, id: &str) -> Result<Workflow, ClientError> {
        self.connection.one(&self.connection.get(&["workflows", id])?).await
    }

    /// A page of the log: at most `limit` events, 1 to 1,000. [`Page::next`] is the position after
    /// which the next page begins. A page with a pattern may have fewer events although there are
    /// more.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn log(
        &self,
        query: &EventQuery,
        limit: usize,
    ) -> Result<Page<RecordedEvent>, ClientError> {
        let mut parameters = query.filter();
        parameters.push(("limit", limit.to_string()));
        parameters.extend(query.times());
        parameters.extend(query.after().map(|after| ("after", after.to_string())));
        let request = self.connection.get(&["events"])?.with_query(parameters);
        recorded(self.connection.page(&request).await?)
    }

    /// Follows the log: events that exist, if the query has a position after which to begin, and then
    /// new ones.
    #[must_use]
    pub fn events(&self, query: &EventQuery) -> EventStream {
        let path = ["events", "stream"].map(ToOwned::to_owned).to_vec();
        EventStream::new(self.clone(), path, query.filter(), query.after())
    }

    /// Publishes an event to the broker. Await it to get the event.
    pub fn publish<T: Serialize + ?Sized>(&self, event_type: &str, data: &T) -> Publish {
        Publish::new(self.clone(), event_type, encode(data))
    }

    /// The dead letters of a group or a mailbox.
    pub fn dead_letters(&self, address: impl Into<Address>) -> DeadLetters {
        DeadLetters::new(self.clone(), &address.into())
    }

    /// A page of the engines that are alive.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn engines(&self, page: &PageQuery) -> Result<Page<Engine>, ClientError> {
        let request = self.connection.get(&["engines"])?.with_query(page.parameters());
        self.connection.page(&request).await
    }

    /// All shards of the runs, with the engine that owns each.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn shards(&self) -> Result<Vec<Shard>, ClientError> {
        Ok(self.connection.page(&self.connection.get(&["shards"])?).await?.items)
    }

    /// The owner of the credentials of this client, with what they allow.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `UNAUTHENTICATED` if the credentials are not valid.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn me(&self) -> Result<Caller, ClientError> {
        self.connection.one(&self.connection.get(&["me"])?).await
    }
}
