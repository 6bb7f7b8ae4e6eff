//! A handle of a run over the API.
//!
//! Waiting for a result is a loop of requests in which the service waits, each for some seconds.
//! The run may move between processes in the meantime; every process of the service can answer.

use std::{fmt, sync::Arc, time::Duration};

use aios_core::{
    catalog::codes,
    event::{EventId, Payload},
    failure::Failure,
    retry::Backoff,
    store::{RecordedEvent, RunStatus},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use super::{
    Client, ClientError, EventStream, OutputStream, Page, PageQuery, ResultError, Run,
    convert::{encode, recorded},
    resources::RunResult,
};

/// How long the service is asked to wait for the end of a run in one request.
const WAIT: Duration = Duration::from_secs(20);
/// Pause between two such requests, so that a service that shuts down is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(100);
/// Pauses while the service is unavailable, in addition to those between the attempts of a request.
const OUTAGE: Backoff = Backoff::new(PAUSE, Duration::from_secs(5));

/// A run of the service, whichever process executes it.
///
/// # Examples
///
/// A run that waits for approval. The signal is kept if it is sent before the workflow waits for
/// it:
///
/// ```no_run
/// use aios_service::client::{Client, PageQuery};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let run = client.start("expense", &serde_json::json!({ "cents": 120_000 })).id("expense-7").await?;
/// run.signal("approved", &serde_json::json!({ "by": "ada" })).await?;
/// println!("{:?}", run.status().await?.status);
///
/// for recorded in run.journal(&PageQuery::new().with_limit(100)).await?.items {
///     println!("{} {}", recorded.version, recorded.event.event_type);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RunHandle {
    /// The service.
    client: Client,
    /// Of the run.
    id: String,
    /// See [`started`](Self::started).
    started: Option<Arc<Run>>,
}

impl RunHandle {
    /// A handle. Sends nothing.
    pub(super) fn new(client: Client, id: String) -> Self {
        Self { client, id, started: None }
    }

    /// The handle of a run that was started.
    pub(super) fn of(client: Client, run: Run) -> Self {
        Self { client, id: run.id.clone(), started: Some(Arc::new(run)) }
    }

    /// The run as the service returned it when this handle was made by starting, retrying or forking it:
    /// as it was created, or as it stood if it existed before. `None` for a handle created with
    /// [`Client::run`](super::Client::run). It is not read again; see [`status`](Self::status).
    #[must_use]
    pub fn started(&self) -> Option<&Run> {
        self.started.as_deref()
    }

    /// Id of the run.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same run, for requests in a W3C trace context; see [`Client::with_traceparent`].
    #[must_use]
    pub fn with_traceparent(&self, traceparent: &str) -> Self {
        Self { client: self.client.with_traceparent(traceparent), ..self.clone() }
    }

    /// Follows an output stream of the run: the items after an offset, from 0, and then new ones.
    #[must_use]
    pub fn stream(&self, name: &str, after: u64) -> OutputStream {
        let path = ["runs", &self.id, "streams", name].map(ToOwned::to_owned).to_vec();
        OutputStream::new(self.client.clone(), path, after)
    }

    /// The current state of the run.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_NOT_FOUND` if there is no such run.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn status(&self) -> Result<Run, ClientError> {
        let connection = &self.client.connection;
        connection.one(&connection.get(&["runs", &self.id])?).await
    }

    /// Waits until the run ends, without a limit, and returns its result. Follows a run that continues
    /// as another one. Keeps waiting while the service or its store is unavailable, once a request of the
    /// client has succeeded. To limit the wait, drop the future.
    ///
    /// # Errors
    ///
    /// [`ResultError`] if the run ended without a result or is blocked, or a request failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; the run continues.
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, ResultError> {
        let connection = &self.client.connection;
        let mut outage = OUTAGE.initial_delay;
        loop {
            let pause = match self.result_within(WAIT).await {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => {
                    debug!(run_id = self.id, "waits for the end of a run");
                    outage = OUTAGE.initial_delay;
                    PAUSE
                }
                Err(ResultError::Client(error)) => {
                    let Some(pause) = connection.outage(&error, outage) else {
                        return Err(error.into());
                    };
                    let code = error.code();
                    warn!(code, run_id = self.id, ?pause, "waits for the service of a run");
                    outage = OUTAGE.next(outage);
                    pause
                }
                Err(error) => return Err(error),
            };
            connection.clock.sleep(pause).await;
        }
    }

    /// Waits until the run ends, at most about this long, and returns its result; `None` if it has not
    /// ended. The service may wait for less.
    ///
    /// # Errors
    ///
    /// See [`result`](Self::result).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use aios_service::client::Client;
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run = client.start("report", "2026-03").id("report-2026-03").await?;
    /// match run.result_within::<String>(Duration::from_secs(10)).await? {
    ///     Some(report) => println!("{report}"),
    ///     None => println!("still working; ask again for {}", run.id()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn result_within<T: DeserializeOwned>(
        &self,
        wait: Duration,
    ) -> Result<Option<T>, ResultError> {
        let connection = &self.client.connection;
        let request = connection.get(&["runs", &self.id, "result"])?.with_wait(wait);
        let Some(ended) = connection.awaited(&request).await? else { return Ok(None) };
        let RunResult { id, status, result, failure } = ended;
        let failure = |text: &str| failure.unwrap_or_else(|| Failure::new(codes::RUN_FAILED, text));
        match status {
            RunStatus::Completed => result
                .unwrap_or_default()
                .decode()
                .map(Some)
                .map_err(|source| ResultError::InvalidResult { run_id: id, source }),
            RunStatus::Failed => {
                Err(ResultError::Failed { run_id: id, failure: failure("the run failed") })
            }
            RunStatus::Cancelled => Err(ResultError::Cancelled {
                run_id: id,
                failure: failure("the run was cancelled"),
            }),
            RunStatus::Blocked => {
                Err(ResultError::Blocked { run_id: id, failure: failure("the run is blocked") })
            }
            _ => Ok(None),
        }
    }

    /// A page of the events of the run. [`Page::next`] is the version after which the next page begins.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_NOT_FOUND` if there is no such run.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn journal(&self, page: &PageQuery) -> Result<Page<RecordedEvent>, ClientError> {
        let connection = &self.client.connection;
        let request = connection.get(&["runs", &self.id, "journal"])?;
        recorded(connection.page(&request.with_query(page.parameters())).await?)
    }

    /// Follows the events of the run with a position in the log above `after`, up to the event that
    /// ends it; 0 stands for all of them.
    #[must_use]
    pub fn events(&self, after: u64) -> EventStream {
        let path = ["runs", &self.id, "events"].map(ToOwned::to_owned).to_vec();
        EventStream::new(self.client.clone(), path, Vec::new(), Some(after))
    }

    /// Sends a signal. It is kept until the workflow waits for it. Returns the run as it stands then, as all
    /// these commands do.
    ///
    /// The id under which it is recorded derives from the key of the request, so a repeated attempt records
    /// it once. Two calls are two signals: to repeat a call, use [`signal_with_id`](Self::signal_with_id).
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_ENDED` if the run has ended.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the request.
    pub async fn signal<T: Serialize + ?Sized>(
        &self,
        name: &str,
        payload: &T,
    ) -> Result<Run, ClientError> {
        self.send(&SignalBody { name, payload: encode(payload)?, id: None }).await
    }

    /// Sends a signal with an id. A signal with the same id is sent to the run only once.
    ///
    /// # Errors
    ///
    /// See [`signal`](Self::signal).
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the request.
    pub async fn signal_with_id<T: Serialize + ?Sized>(
        &self,
        id: &str,
        name: &str,
        payload: &T,
    ) -> Result<Run, ClientError> {
        self.send(&SignalBody { name, payload: encode(payload)?, id: Some(id) }).await
    }

    /// Sends a signal.
    async fn send(&self, body: &SignalBody<'_>) -> Result<Run, ClientError> {
        let request = self.client.connection.post(&self.action("signal"), body)?;
        self.client.connection.one(&request).await
    }

    /// Requests cancellation. The run compensates and ends as cancelled.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use aios_service::client::{Client, ResultError};
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run = client.run("expense-7");
    /// run.cancel("entered twice").await?;
    /// if let Err(ResultError::Cancelled { failure, .. }) = run.result::<()>().await {
    ///     println!("compensated: {}", failure.message);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_ENDED` if the run has ended.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the request.
    pub async fn cancel(&self, reason: &str) -> Result<Run, ClientError> {
        self.act("cancel", &json!({ "reason": reason })).await
    }

    /// Ends the run as cancelled at once, without the rest of its compensations. Prefer
    /// [`cancel`](Self::cancel), which lets them finish.
    ///
    /// # Errors
    ///
    /// See [`cancel`](Self::cancel).
    ///
    /// # Cancel safety
    ///
    /// See [`cancel`](Self::cancel).
    pub async fn terminate(&self, reason: &str) -> Result<Run, ClientError> {
        self.act("cancel", &json!({ "reason": reason, "terminate": true })).await
    }

    /// Pauses the run. Tasks in progress continue, and their results are recorded.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_ENDED` if the run has ended.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the request.
    pub async fn pause(&self) -> Result<Run, ClientError> {
        self.act("pause", &Value::Object(Map::new())).await
    }

    /// Resumes a paused run, and tries a blocked one again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_ENDED` if the run has ended.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have sent the request.
    pub async fn resume(&self) -> Result<Run, ClientError> {
        self.act("resume", &Value::Object(Map::new())).await
    }

    /// Starts a new run with a copy of the journal up to an operation, which continues from there with
    /// the current code. The new run gets an id of its own if `new_id` is `None`.
    ///
    /// Operations before this number keep their results, and this one and all later ones are done
    /// again. The run itself does not change.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `OPERATION_NOT_FOUND` if the journal has no such operation, and
    /// with `RUN_EXISTS` if a run with the new id exists.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have started the new run.
    pub async fn fork(&self, operation: u64, new_id: Option<&str>) -> Result<Self, ClientError> {
        let new_id = new_id.map_or_else(|| EventId::generate().to_string(), ToOwned::to_owned);
        let body = json!({ "operation": operation, "run_id": new_id });
        let request = self.client.connection.post(&self.action("fork"), &body)?;
        let run: Run = self.client.connection.one(&request).await?;
        Ok(Self::of(self.client.clone(), run))
    }

    /// Retries a failed run from the operation with which it failed: starts a new run with a copy of the
    /// journal up to that operation. The new run gets an id of its own if `new_id` is `None`.
    ///
    /// # Examples
    ///
    /// After a deployment that removes the cause of a failure:
    ///
    /// ```no_run
    /// use aios_service::client::{Client, RunQuery};
    /// use aios_core::store::RunStatus;
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let failed = RunQuery::new().with_workflow("report").with_statuses([RunStatus::Failed]);
    /// for run in client.runs(&failed).await?.items {
    ///     let again = format!("{}-again", run.id);
    ///     client.run(run.id).retry(Some(&again)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `RUN_NOT_FAILED` if the run has not failed, with
    /// `NO_FAILED_OPERATION` if none of its operations has failed, and with `RUN_EXISTS` if a run with
    /// the new id exists.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have started the new run.
    pub async fn retry(&self, new_id: Option<&str>) -> Result<Self, ClientError> {
        let new_id = new_id.map_or_else(|| EventId::generate().to_string(), ToOwned::to_owned);
        let body = json!({ "run_id": new_id });
        let request = self.client.connection.post(&self.action("retry"), &body)?;
        let run: Run = self.client.connection.one(&request).await?;
        Ok(Self::of(self.client.clone(), run))
    }

    /// The path of an action.
    fn action<'a>(&'a self, name: &'a str) -> [&'a str; 4] {
        ["runs", &self.id, "actions", name]
    }

    /// An action that has no further effect if it is repeated.
    async fn act(&self, name: &str, body: &Value) -> Result<Run, ClientError> {
        let request = self.client.connection.post(&self.action(name), body)?;
        self.client.connection.one(&request).await
    }
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RunHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The body of a signal.
#[derive(Serialize)]
struct SignalBody<'a> {
    name: &'a str,
    payload: Payload,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}
