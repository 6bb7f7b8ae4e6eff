//! Requests that start runs.
//!
//! The id of the run is chosen here, before the first attempt. A repeated attempt then finds the
//! run that an earlier one has started, even after the service has forgotten the idempotency key.

use std::{future::IntoFuture, time::Duration};

use aios_core::{
    BoxFuture,
    event::{EventError, EventId, Payload, Timestamp},
    retry::RetryPolicy,
};
use serde::Serialize;

use super::{Client, ClientError, Run, RunHandle, connection::Request};

/// Starts a run. Await it.
///
/// # Cancel safety
///
/// If it is cancelled, the run may or may not have been started. Start it again with the same id.
///
/// # Examples
///
/// A run that begins tomorrow. A second call with the same id and input, for example after a crash
/// of the caller, returns the run that exists:
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_service::client::{Client, ClientError};
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let run = client
///     .start("reminder", &serde_json::json!({ "customer": 7 }))
///     .id("reminder-7")
///     .after(Duration::from_secs(24 * 3600))
///     .correlation_id("order-7")
///     .await?;
/// println!("{} is planned", run.id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is started until it is awaited"]
pub struct StartRun {
    client: Client,
    workflow: String,
    input: Result<Payload, EventError>,
    run_id: Option<String>,
    start_at: Option<Timestamp>,
    delay: Option<Duration>,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

/// The body of a start.
#[derive(Serialize)]
struct ExecuteBody {
    input: Payload,
    run_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
}

impl StartRun {
    pub(super) fn new(client: Client, workflow: &str, input: Result<Payload, EventError>) -> Self {
        let workflow = workflow.to_owned();
        Self {
            client,
            workflow,
            input,
            run_id: None,
            start_at: None,
            delay: None,
            correlation_id: None,
            traceparent: None,
        }
    }

    /// Sets the id of the run; a new UUID unless set. Starting again with the same id and input
    /// returns the run that exists.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.run_id = Some(id.into());
        self
    }

    /// Sets when the run begins; at once unless set.
    ///
    /// Replaces a delay that was set with [`after`](Self::after).
    pub fn at(mut self, time: Timestamp) -> Self {
        (self.start_at, self.delay) = (Some(time), None);
        self
    }

    /// Sets after which time the run begins; at once unless set.
    pub fn after(mut self, delay: Duration) -> Self {
        (self.start_at, self.delay) = (None, Some(delay));
        self
    }

    /// Sets the correlation id of all events that the run causes; the id of the run unless set.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the W3C trace context that is passed on to all that the run causes.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

impl IntoFuture for StartRun {
    type Output = Result<RunHandle, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let body = ExecuteBody {
                input: self.input?,
                run_id: id(self.run_id),
                start_at: self.start_at,
                delay_seconds: self.delay.map(|delay| delay.as_secs_f64()),
                correlation_id: self.correlation_id,
            };
            let path = ["workflows", &self.workflow, "actions", "execute"];
            let request = self.client.connection.post(&path, &body)?;
            started(&self.client, request.with_traceparent(self.traceparent.as_deref())?).await
        })
    }
}

/// Sends a signal, and starts the run first if it does not exist. Await it.
///
/// # Cancel safety
///
/// If it is cancelled, the signal may or may not have been sent. Send it again with the same
/// [`signal_id`](Self::signal_id).
///
/// # Examples
///
/// One run collects the items of a customer. The first item starts it, and later ones are signals
/// to it. An item that is sent again has the same id and is added once:
///
/// ```no_run
/// use aios_service::client::{Client, ClientError};
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// client
///     .signal_with_start("basket", "basket-7", &serde_json::json!({}), "add", "tea")
///     .signal_id("basket-7-item-1")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct SignalWithStart {
    client: Client,
    workflow: String,
    run_id: String,
    input: Result<Payload, EventError>,
    signal: (String, Result<Payload, EventError>),
    signal_id: Option<String>,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

/// The body of a start with a signal.
#[derive(Serialize)]
struct SignalWithStartBody {
    run_id: String,
    input: Payload,
    signal: SignalBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
}

/// The signal in that body.
#[derive(Serialize)]
struct SignalBody {
    name: String,
    payload: Payload,
    id: String,
}

impl SignalWithStart {
    pub(super) fn new(
        client: Client,
        workflow: &str,
        run_id: String,
        input: Result<Payload, EventError>,
        signal: (String, Result<Payload, EventError>),
    ) -> Self {
        let workflow = workflow.to_owned();
        Self {
            client,
            workflow,
            run_id,
            input,
            signal,
            signal_id: None,
            correlation_id: None,
            traceparent: None,
        }
    }

    /// Sets the id of the signal; a new UUID unless set. A signal with the same id is sent to the run
    /// only once.
    pub fn signal_id(mut self, id: impl Into<String>) -> Self {
        self.signal_id = Some(id.into());
        self
    }

    /// Sets the correlation id of all events that the run causes; the id of the run unless set.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the W3C trace context that is passed on to all that the run causes.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

impl IntoFuture for SignalWithStart {
    type Output = Result<RunHandle, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (name, payload) = self.signal;
            let signal = SignalBody { name, payload: payload?, id: id(self.signal_id) };
            let run_id = self.run_id;
            let input = self.input?;
            let correlation_id = self.correlation_id;
            let body = SignalWithStartBody { run_id, input, signal, correlation_id };
            let path = ["workflows", &self.workflow, "actions", "signal-with-start"];
            let request = self.client.connection.post(&path, &body)?;
            started(&self.client, request.with_traceparent(self.traceparent.as_deref())?).await
        })
    }
}

/// Assigns a task, as a run with a single task. Await it.
///
/// # Cancel safety
///
/// If it is cancelled, the task may or may not have been assigned. Assign it again with the same id.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_service::client::Client;
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let run = client
///     .task("researcher", &serde_json::json!({ "question": "When was tea first traded?" }))
///     .timeout(Duration::from_secs(60))
///     .total_timeout(Duration::from_secs(300))
///     .await?;
/// println!("{}", run.result::<serde_json::Value>().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is assigned until it is awaited"]
pub struct StartTask {
    client: Client,
    agent_type: String,
    agent_id: Option<String>,
    parameters: Result<Payload, EventError>,
    timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    retry: Option<RetryPolicy>,
    run_id: Option<String>,
    correlation_id: Option<String>,
    traceparent: Option<String>,
}

/// The body of a task.
#[derive(Serialize)]
struct TaskBody {
    agent_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    parameters: Payload,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_timeout_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryBody>,
    run_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
}

/// The retry policy of a task.
#[derive(Serialize)]
struct RetryBody {
    max_attempts: u32,
    initial_delay_seconds: f64,
    factor: f64,
    max_delay_seconds: f64,
    jitter: f64,
    non_retryable: Vec<String>,
}

impl From<RetryPolicy> for RetryBody {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            initial_delay_seconds: policy.initial_delay.as_secs_f64(),
            factor: policy.factor,
            max_delay_seconds: policy.max_delay.as_secs_f64(),
            jitter: policy.jitter,
            non_retryable: policy.non_retryable,
        }
    }
}

impl StartTask {
    pub(super) fn new(
        client: Client,
        agent_type: &str,
        parameters: Result<Payload, EventError>,
    ) -> Self {
        let agent_type = agent_type.to_owned();
        Self {
            client,
            agent_type,
            agent_id: None,
            parameters,
            timeout: None,
            total_timeout: None,
            retry: None,
            run_id: None,
            correlation_id: None,
            traceparent: None,
        }
    }

    /// Sets the one agent of the type that has to do it; any of them unless set.
    pub fn agent(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets the timeout of each attempt; none unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the timeout of all attempts together; none unless set.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = Some(timeout);
        self
    }

    /// Sets how often and when failed attempts are repeated; [`RetryPolicy::new`] unless set.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Sets the correlation id of all events that the task causes; the id of the run unless set.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the id of the run that does the task; a new UUID unless set.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.run_id = Some(id.into());
        self
    }

    /// Sets the W3C trace context that is passed on to all that the task causes.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }
}

impl IntoFuture for StartTask {
    type Output = Result<RunHandle, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let body = TaskBody {
                agent_type: self.agent_type,
                agent_id: self.agent_id,
                parameters: self.parameters?,
                timeout_seconds: self.timeout.map(|timeout| timeout.as_secs_f64()),
                total_timeout_seconds: self.total_timeout.map(|timeout| timeout.as_secs_f64()),
                retry: self.retry.map(Into::into),
                run_id: id(self.run_id),
                correlation_id: self.correlation_id,
            };
            let request = self.client.connection.post(&["tasks"], &body)?;
            started(&self.client, request.with_traceparent(self.traceparent.as_deref())?).await
        })
    }
}

/// The id that was set, or a new one, which is the same in every attempt.
fn id(given: Option<String>) -> String {
    given.unwrap_or_else(|| EventId::generate().to_string())
}

/// Sends a request that starts a run, and returns its handle.
async fn started(client: &Client, request: Request) -> Result<RunHandle, ClientError> {
    let run: Run = client.connection.one(&request).await?;
    Ok(RunHandle::of(client.clone(), run))
}
