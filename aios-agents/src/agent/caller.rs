use std::{
    collections::HashMap,
    fmt,
    future::IntoFuture,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_core::{
    BoxFuture,
    agent::{Segment, TaskAssigned, TaskCompleted, TaskError, TaskFailed, TaskId},
    broker::{Broker, BrokerError, BrokerExt, Deliveries, Mailbox, Poison, Publish, Subscription},
    clock::{Clock, ClockExt},
    event::{Event, EventError, EventId, EventType, Metadata, Payload},
    failure::Failure,
    retry::RetryPolicy,
};
use serde::Serialize;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{AgentError, backoff::Backoff, codes, events::mailbox_of};

type Answer = Result<Payload, TaskError>;

/// Gives tasks straight to agents and waits for their answers, without a journal.
///
/// Nothing here outlives the process: if it dies, the answer is lost, and nobody tries a failed
/// task again. Tasks that have to be done are given from a workflow; they are durable.
///
/// Clones share one mailbox and one reader of it, however many tasks are under way.
///
/// # Examples
///
/// ```no_run
/// # async fn example(caller: aios_agents::agent::Caller) -> Result<(), aios_core::agent::TaskError> {
/// let answer = caller.task("upper", "hello").await?;
/// assert_eq!(answer.decode::<String>()?, "HELLO");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Caller(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    source: Arc<str>,
    mailbox: Arc<str>,
    pending: Arc<Pending>,
    router: JoinHandle<()>,
}

impl Caller {
    /// How long a task may take, unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    /// Opens a mailbox for answers.
    ///
    /// `source` becomes the source of the tasks' events.
    ///
    /// # Errors
    ///
    /// [`AgentError::Broker`] if the broker refuses the mailbox.
    pub async fn new(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        source: impl Into<Arc<str>>,
    ) -> Result<Self, AgentError> {
        let mailbox = Mailbox::new(format!("callers.{}", EventId::generate()))?;
        let name = mailbox.as_str().into();
        let subscription = Subscription::mailbox(mailbox).with_poison(Poison::Discard).temporary();
        let deliveries = broker.subscribe(subscription.clone()).await?;
        let pending = Arc::new(Pending::default());
        let (router_broker, router_clock) = (Arc::clone(&broker), Arc::clone(&clock));
        let router = Router {
            broker: router_broker,
            clock: router_clock,
            subscription,
            pending: Arc::clone(&pending),
        };
        let router = tokio::spawn(router.run(deliveries));
        let source = source.into();
        Ok(Self(Arc::new(Inner { broker, clock, source, mailbox: name, pending, router })))
    }

    /// Gives a task to any agent of a type; awaiting the call sends it and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the agent answers, and [`AGENT_NOT_FOUND`](codes::AGENT_NOT_FOUND) if nobody takes such
    /// tasks (a subscriber to everything counts as somebody, then it is a time-out),
    /// [`TASK_TIMEOUT`](codes::TASK_TIMEOUT), or the code of a
    /// [`BrokerError`](BrokerError::code). A lost connection may mean that the task is done all the
    /// same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops the answer; a task that was sent is done all the same.
    pub fn task<T: Serialize + ?Sized>(&self, agent_type: &str, parameters: &T) -> TaskCall {
        TaskCall {
            inner: Arc::clone(&self.0),
            agent_type: agent_type.to_owned(),
            agent_id: None,
            parameters: Payload::encode(parameters),
            timeout: Self::DEFAULT_TIMEOUT,
            metadata: Metadata::default(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.router.abort();
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Caller").field("mailbox", &self.0.mailbox).finish_non_exhaustive()
    }
}

/// A task that is about to be given; see [`Caller::task`].
#[must_use = "a task is only given when it is awaited"]
pub struct TaskCall {
    inner: Arc<Inner>,
    agent_type: String,
    agent_id: Option<String>,
    parameters: Result<Payload, EventError>,
    timeout: Duration,
    metadata: Metadata,
}

impl TaskCall {
    /// Gives the task to this one agent of the type.
    pub fn to_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets how long the task may take, for the agent and for the wait. In whole milliseconds.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets correlation, user and trace of the task.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    async fn call(self) -> Answer {
        let inner = Arc::clone(&self.inner);
        let timeout = self.timeout;
        let task_id = TaskId::new(EventId::generate().to_string());
        let publish = self.publish(&task_id)?;
        let (waiting, answer) = Waiting::new(&inner.pending, task_id);
        inner.broker.publish_one(publish).await.map_err(|error| refused(&error))?;
        let answer = tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(refused(&BrokerError::Closed))),
            () = inner.clock.sleep(timeout) => Err(timed_out(timeout)),
        };
        drop(waiting);
        answer
    }

    fn publish(self, task_id: &TaskId) -> Result<Publish, TaskError> {
        let agent_type =
            Segment::new(&self.agent_type).map_err(terminal(codes::AGENT_NOT_FOUND))?;
        let action = if self.agent_id.is_some() { "task_directed" } else { "task_assigned" };
        let event_type = EventType::new("agents", agent_type.as_str(), action)
            .map_err(terminal(codes::AGENT_NOT_FOUND))?;
        let mailbox = self.agent_id.as_deref().map(|id| mailbox_of(&agent_type, id)).transpose();
        let to = mailbox.map_err(terminal(codes::AGENT_NOT_FOUND))?;
        let data = TaskAssigned {
            task_id: task_id.clone(),
            agent_id: self.agent_id,
            parameters: self.parameters.map_err(terminal(codes::INVALID_PARAMETERS))?,
            attempt: 1,
            timeout_ms: Some(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)),
        };
        let mut metadata = self.metadata;
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

fn terminal<E: std::error::Error + 'static>(code: &'static str) -> impl Fn(E) -> TaskError {
    move |error| TaskError::terminal(Failure::from_error(code, &error))
}

fn refused(error: &BrokerError) -> TaskError {
    let code = match error {
        BrokerError::Unroutable { .. } => codes::AGENT_NOT_FOUND,
        error => error.code(),
    };
    TaskError { failure: Failure::from_error(code, error), retryable: error.is_retryable() }
}

fn timed_out(after: Duration) -> TaskError {
    let message = format!("no answer came within {after:?}");
    TaskError::retryable(Failure::new(codes::TASK_TIMEOUT, message))
}

/// The calls that wait for an answer.
#[derive(Default)]
struct Pending(Mutex<HashMap<TaskId, oneshot::Sender<Answer>>>);

impl Pending {
    fn take(&self, task_id: &TaskId) -> Option<oneshot::Sender<Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task_id)
    }

    fn complete(&self, task_id: &TaskId, answer: Answer) {
        if let Some(waiting) = self.take(task_id) {
            // Whoever waited may have gone meanwhile.
            drop(waiting.send(answer));
        }
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A call's place among those that wait; dropping it gives it up.
struct Waiting<'a> {
    pending: &'a Pending,
    task_id: TaskId,
}

impl<'a> Waiting<'a> {
    fn new(pending: &'a Pending, task_id: TaskId) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut calls = pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(task_id.clone(), sender);
        drop(calls);
        (Self { pending, task_id }, receiver)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.take(&self.task_id);
    }
}

/// Reads the mailbox and hands answers to the calls that wait for them.
struct Router {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    subscription: Subscription,
    pending: Arc<Pending>,
}

impl Router {
    async fn run(self, mut deliveries: Deliveries) {
        let mut backoff = Backoff::new(&RetryPolicy::default());
        while let Some(error) = self.route_all(&mut deliveries).await {
            match self.subscribe_again(error, &mut backoff).await {
                Some(again) => deliveries = again,
                None => break,
            }
        }
        self.pending.clear();
    }

    /// Subscribes until it succeeds; `None` once the broker is closed.
    async fn subscribe_again(
        &self,
        mut error: BrokerError,
        backoff: &mut Backoff,
    ) -> Option<Deliveries> {
        while !matches!(error, BrokerError::Closed) {
            tracing::warn!(code = error.code(), "answers can't be read; subscribing again");
            backoff.wait(&*self.clock).await;
            match self.broker.subscribe(self.subscription.clone()).await {
                Ok(deliveries) => return Some(deliveries),
                Err(again) => error = again,
            }
        }
        None
    }

    async fn route_all(&self, deliveries: &mut Deliveries) -> Option<BrokerError> {
        while let Some(item) = deliveries.next().await {
            let delivery = match item {
                Ok(delivery) => delivery,
                Err(error) => return Some(error),
            };
            self.route(&delivery.event);
            if let Err(error) = delivery.ack().await {
                tracing::warn!(code = error.code(), "an answer was not acknowledged");
            }
        }
        None
    }

    /// Answers other than completions and failures, and answers that nobody waits for, are of no
    /// interest.
    fn route(&self, event: &Event) {
        let routed = match event.event_type.action() {
            "task_completed" => event.data().map(|TaskCompleted { task_id, output, .. }| {
                self.pending.complete(&task_id, Ok(output));
            }),
            "task_failed" => {
                event.data().map(|TaskFailed { task_id, failure, retryable, .. }| {
                    self.pending.complete(&task_id, Err(TaskError { failure, retryable }));
                })
            }
            _ => Ok(()),
        };
        if let Err(error) = routed {
            tracing::warn!(code = error.code(), event_id = %event.id, "an answer is unreadable");
        }
    }
}
