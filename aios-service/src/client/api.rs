//! The methods of the client: one request each, or a builder that is awaited.

use std::sync::Arc;

use aios_core::{broker::Address, store::RecordedEvent};
use serde::Serialize;

use super::{
    Agent, AgentQuery, Caller, Client, ClientError, ClientOptions, DeadLetters, Engine, EventQuery,
    EventStream, Page, PageQuery, Projection, ProjectionHandle, Publish, Run, RunHandle, RunQuery,
    Shard, SignalWithStart, StartRun, StartTask, Task, TaskQuery, Workflow,
    connection::Connection,
    convert::{encode, recorded},
};

impl Client {
    /// Creates a client of the service at a URL: the path at which the API is mounted, such as
    /// `https://aios.example.com/api/v1`. Does not connect yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_service::client::{Client, ClientError, ClientOptions};
    ///
    /// # fn main() -> Result<(), ClientError> {
    /// let options = ClientOptions::new().with_api_key("d9c8…, 32 random bytes");
    /// assert!(Client::new("https://aios.example.com/api/v1", options).is_ok());
    ///
    /// // Credentials in a URL would be logged, so they are refused.
    /// let error = Client::new("https://ada:secret@aios.example.com", ClientOptions::new()).unwrap_err();
    /// assert_eq!(error.code(), "INVALID_CLIENT_CONFIGURATION");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidConfiguration`] if the URL, a credential or the retry policy is invalid.
    pub fn new(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        Ok(Self { connection: Arc::new(Connection::new(url, options)?) })
    }

    /// The same client for requests in a W3C trace context. Everything that they start, signal, cancel or publish
    /// is passed the context; so are handles of runs that come from it. A start with a
    /// [trace context](StartRun::traceparent) of its own has that one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use aios_service::client::{Client, ClientError};
    ///
    /// /// Handles a webhook, whose caller has sent `traceparent`.
    /// async fn paid(client: &Client, order: &str, traceparent: &str) -> Result<(), ClientError> {
    ///     let client = client.with_traceparent(traceparent);
    ///     client.run(order).signal("paid", &serde_json::json!({ "cents": 500 })).await?;
    ///     Ok(())
    /// }
    /// # let _ = paid;
    /// ```
    #[must_use]
    pub fn with_traceparent(&self, traceparent: &str) -> Self {
        Self { connection: Arc::new(self.connection.with_traceparent(traceparent)) }
    }

    /// Starts a run of the latest version of a workflow. Await it to get a [`RunHandle`].
    ///
    /// An input that cannot be serialised is an error of the awaited call, not of this one.
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
    ///
    /// # Examples
    ///
    /// A handle from an id that another program has stored:
    ///
    /// ```no_run
    /// use aios_service::client::{Client, ResultError};
    ///
    /// # async fn example(client: Client, id: String) -> Result<(), Box<dyn std::error::Error>> {
    /// match client.run(id).result::<String>().await {
    ///     Ok(text) => println!("{text}"),
    ///     Err(ResultError::Failed { failure, .. }) => println!("{}: {}", failure.code, failure.message),
    ///     Err(ResultError::Blocked { .. }) => println!("deploy the code that the run was started with"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn run(&self, id: impl Into<String>) -> RunHandle {
        RunHandle::new(self.clone(), id.into())
    }

    /// A page of runs.
    ///
    /// Their order is fixed, and is that of time only with a filter by time.
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
    /// # Examples
    ///
    /// The whole log, a page at a time. A page may be empty although there are more events, so only
    /// `next` tells the end:
    ///
    /// ```no_run
    /// use aios_service::client::{Client, ClientError, EventQuery};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut query = EventQuery::new().with_pattern("workflows.*.failed");
    /// loop {
    ///     let page = client.log(&query, 1_000).await?;
    ///     for recorded in &page.items {
    ///         println!("{} {}", recorded.position, recorded.stream);
    ///     }
    ///     let Some(next) = page.next.and_then(|next| next.parse().ok()) else { break };
    ///     query = query.with_after(next);
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// Sends no request: an address without a queue is an error of the methods of the result.
    pub fn dead_letters(&self, address: impl Into<Address>) -> DeadLetters {
        DeadLetters::new(self.clone(), &address.into())
    }

    /// A page of the engines that are alive.
    ///
    /// An engine that has died is part of the page until its lease expires.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use aios_service::client::{Client, ClientError, PageQuery};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// for engine in client.engines(&PageQuery::new()).await?.items {
    ///     println!("{} owns {} shards until {}", engine.id, engine.shards.len(), engine.expires_at);
    /// }
    /// let unowned = client.shards().await?.iter().filter(|shard| shard.engine_id.is_none()).count();
    /// println!("{unowned} shards have no owner: their runs do not progress");
    /// # Ok(())
    /// # }
    /// ```
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

    /// A page of the projections that have a saved position, in the order of their names.
    ///
    /// # Errors
    ///
    /// [`ClientError`] if the request fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn projections(&self, page: &PageQuery) -> Result<Page<Projection>, ClientError> {
        let request = self.connection.get(&["projections"])?.with_query(page.parameters());
        self.connection.page(&request).await
    }

    /// A handle of a projection. Sends no request.
    pub fn projection(&self, name: impl Into<String>) -> ProjectionHandle {
        ProjectionHandle::new(self.clone(), name.into())
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
    /// # Examples
    ///
    /// A program that fails at its start, and not at its first request, if it lacks a permission:
    ///
    /// ```no_run
    /// use aios_service::{auth::Permissions, client::Client};
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let caller = client.me().await?;
    /// let permissions = Permissions::parse(caller.permissions.iter().map(String::as_str))?;
    /// if !permissions.allow("runs:start") {
    ///     return Err(format!("{} may not start runs", caller.id).into());
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
