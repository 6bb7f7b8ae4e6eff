//! One direct call: its options, the event that assigns the task, and the wait for the answer.
//!
//! The order within a call:
//!
//! 1. It is registered in `pending`. The answer may arrive before the publish returns.
//! 2. The assignment is published with `require_route`, so that a type without agents fails at once
//!    instead of after the timeout.
//! 3. It waits for the router or for its timeout, whichever comes first.
//!
//! Dropping the call at any point drops its registration. If the broker may have the task by then,
//! the task is remembered, and the last clone of the client cancels it.

use std::{fmt, future::IntoFuture, sync::Arc, time::Duration};

use aios_core::{
    BoxFuture,
    agent::{Name, TaskAssigned, TaskError, TaskId},
    broker::{BrokerError, BrokerExt, Mailbox, Publish},
    catalog::{agent, codes},
    event::{Event, EventError, EventId, EventType, Metadata, Payload},
    failure::Failure,
};

use super::{
    Answer, Inner, TaskClient,
    pending::{Expected, Waiting},
};
use crate::{
    agent::names::{mailbox_of, no_agent},
    options::{check_timeout, refused as refused_options},
};

/// A task to be sent; see [`TaskClient::task`].
///
/// Setters have bare names, because awaiting the call is the action. Nothing is sent before that.
///
/// # Cancel safety
///
/// If it is cancelled, the task may or may not have been sent. The last clone of the client cancels the
/// task when it is dropped.
///
/// # Examples
///
/// ```no_run
/// # async fn example(client: aios_agents::agent::TaskClient) -> Result<(), aios_core::agent::TaskError> {
/// use std::time::Duration;
///
/// let answer = client
///     .task("renderer", "logo.svg")
///     .to_agent("rack-7")
///     .timeout(Duration::from_secs(5))
///     .await?;
/// println!("{}", answer.decode::<String>()?);
/// # Ok(())
/// # }
/// ```
#[must_use = "a task is sent only when the call is awaited"]
pub struct TaskCall {
    inner: Arc<Inner>,
    agent_type: String,
    /// The mailbox to send the task to; `None`: the group of the type.
    agent_id: Option<String>,
    /// An encoding error is kept until the call is awaited, because setters cannot fail.
    parameters: Result<Payload, EventError>,
    /// Limits the agent and the wait alike, so an agent does not work longer than its caller waits.
    timeout: Duration,
    metadata: Metadata,
}

impl TaskCall {
    /// A call with the default timeout to any agent of the type.
    pub(super) fn new(
        inner: Arc<Inner>,
        agent_type: &str,
        parameters: Result<Payload, EventError>,
    ) -> Self {
        Self {
            inner,
            agent_type: agent_type.to_owned(),
            agent_id: None,
            parameters,
            timeout: TaskClient::DEFAULT_TIMEOUT,
            metadata: Metadata::default(),
        }
    }

    /// Sends the task to this one agent of the type.
    pub fn to_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets the timeout of the task, both for the agent and for waiting for the answer. Rounded
    /// down to whole milliseconds. The default is
    /// [`DEFAULT_TIMEOUT`](TaskClient::DEFAULT_TIMEOUT), 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the correlation id, user and trace context of the task.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sends the task and waits; see the order at the top of this file.
    async fn call(self) -> Answer {
        let inner = Arc::clone(&self.inner);
        let timeout = self.timeout;
        let task_id = TaskId::new(EventId::generate().to_string());
        let publish = self.publish(&task_id)?;
        let expected = Expected {
            event_type: publish.event.event_type.clone(),
            assignment: publish.event.id.clone(),
        };
        let (mut waiting, answer) = Waiting::new(&inner.pending, task_id, expected)?;
        let event_type = publish.event.event_type.clone();
        let to = publish.to.clone();
        // If the call is dropped during the publish, the broker may still have the task.
        waiting.is_sent = true;
        if let Err(error) = inner.broker.publish_one(publish).await {
            waiting.is_sent = matches!(error, BrokerError::Uncertain | BrokerError::Timeout { .. });
            return Err(not_sent(&error, &event_type, to.as_ref()));
        }
        let answer = tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(refused(&BrokerError::Closed))),
            () = inner.clock.sleep(timeout) => Err(timed_out(timeout)),
        };
        // After a timeout, this remembers the task as one without an answer.
        drop(waiting);
        answer
    }

    /// The assignment, addressed to the group of the type or to the mailbox of one agent. A name
    /// that no agent can have is reported as an agent that does not exist.
    fn publish(self, task_id: &TaskId) -> Result<Publish, TaskError> {
        check_timeout(Some(self.timeout)).map_err(|it| TaskError::terminal(refused_options(it)))?;
        let agent_type = Name::new(&self.agent_type).map_err(terminal(codes::AGENT_NOT_FOUND))?;
        let action =
            if self.agent_id.is_some() { agent::TASK_DIRECTED } else { agent::TASK_ASSIGNED };
        let event_type = EventType::new(agent::DOMAIN, agent_type.as_str(), action)
            .map_err(terminal(codes::AGENT_NOT_FOUND))?;
        let mailbox = self.agent_id.as_deref().map(|id| mailbox_of(&agent_type, id)).transpose();
        let to = mailbox.map_err(terminal(codes::AGENT_NOT_FOUND))?;
        let parameters = self.parameters.map_err(terminal(codes::INVALID_PARAMETERS))?;
        let mut data = TaskAssigned::new(task_id.clone(), parameters, 1);
        data.agent_id = self.agent_id;
        data.timeout_ms = Some(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX));
        let mut metadata = self.metadata;
        // The task belongs to no run, even if the caller passes on the metadata of one that does.
        metadata.incarnation = None;
        metadata.reply_to = Some(Arc::clone(&self.inner.mailbox));
        let event = Event::new(event_type, Arc::clone(&self.inner.source), &data)
            .map_err(terminal(codes::INVALID_PARAMETERS))?
            .with_timestamp(self.inner.clock.now())
            .with_metadata(metadata);
        Ok(Publish { event, to, require_route: true })
    }
}

impl IntoFuture for TaskCall {
    type Output = Answer;
    type IntoFuture = BoxFuture<'static, Answer>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.call())
    }
}

impl fmt::Debug for TaskCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TaskCall")
            .field("agent_type", &self.agent_type)
            .field("agent_id", &self.agent_id)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Turns an error in the arguments of a call into a terminal failure with this code: the same call
/// can never succeed.
fn terminal<E: std::error::Error + 'static>(code: &'static str) -> impl Fn(E) -> TaskError {
    move |error| TaskError::terminal(Failure::from_error(code, &error))
}

/// The failure of a task that the broker did not accept.
fn not_sent(error: &BrokerError, event_type: &EventType, to: Option<&Mailbox>) -> TaskError {
    let mut refused = refused(error);
    if let BrokerError::Unroutable { .. } = error {
        let message = no_agent(event_type.entity(), to);
        refused.failure = Failure::new(codes::AGENT_NOT_FOUND, message);
    }
    refused
}

/// The failure with which a call ends because of the broker. It keeps the code and the retryability
/// of the broker's error.
pub(super) fn refused(error: &BrokerError) -> TaskError {
    let failure = Failure::from_error(error.code(), error);
    TaskError::retryable(failure).with_retryable(error.is_retryable())
}

/// The failure of a call that got no answer in time. Retryable, although the task may have been
/// done.
fn timed_out(after: Duration) -> TaskError {
    let message = format!("no answer within {after:?}");
    TaskError::retryable(Failure::new(codes::TASK_TIMEOUT, message))
}
