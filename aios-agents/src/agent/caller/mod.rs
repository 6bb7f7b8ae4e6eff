//! Sends tasks to agents without a journal.
//!
//! | module | contents |
//! |---|---|
//! | `call` | one call: publishes its assignment and waits |
//! | `pending` | the calls that wait, and the tasks whose calls ended without an answer |
//! | `router` | the only reader of the mailbox: passes each answer to its call |
//!
//! A client has a temporary mailbox and one spawned reader. Clones share both. Calls and reader
//! meet in `pending`, under one lock that is never held across an await. Dropping the last clone
//! drops the sender of a watch channel, and the reader ends.

mod call;
mod pending;
mod router;

use std::{fmt, sync::Arc, time::Duration};

use aios_core::{
    agent::TaskError,
    broker::{Broker, Mailbox, OnExhausted, Subscription},
    clock::Clock,
    event::{Event, EventId, Payload},
    failure::Failure,
};
use serde::Serialize;
use tokio::sync::watch;

pub use self::call::TaskCall;
use self::{pending::Pending, router::Router};
use super::{AgentError, subscriber::Subscriber};
use crate::task;

/// The answer of an agent to a task.
type Answer = Result<Payload, TaskError>;

/// Sends tasks directly to agents and waits for their answers, without a journal.
///
/// Nothing here outlives the process: if it dies, the answer is lost, and a failed task is not
/// retried. For tasks that must be done, use a workflow: its tasks are durable.
///
/// Clones share one mailbox and one reader, regardless of how many tasks are in flight. Dropping
/// the last clone removes the mailbox and cancels the latest 4,096 tasks whose calls ended without
/// an answer, because their answers have no receiver.
///
/// If the broker permanently refuses to deliver from the mailbox, every later call fails with the
/// broker's error, which [`failure`](Self::failure) returns.
///
/// # Examples
///
/// ```no_run
/// # async fn example(caller: aios_agents::agent::TaskClient) -> Result<(), aios_core::agent::TaskError> {
/// let answer = caller.task("upper", "hello").await?;
/// assert_eq!(answer.decode::<String>()?, "HELLO");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TaskClient(Arc<Inner>);

/// Shared by all clones of a client.
struct Inner {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    /// Source of the assignments and cancellations.
    source: Arc<str>,
    /// Name of the mailbox for answers, sent as `reply_to`.
    mailbox: Arc<str>,
    pending: Arc<Pending>,
    /// Dropping it stops the reader of the mailbox.
    _open: watch::Sender<()>,
}

impl TaskClient {
    /// Default timeout of a task.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    /// Opens a mailbox for answers.
    ///
    /// `source` is the source of the events that assign the tasks.
    ///
    /// # Errors
    ///
    /// [`AgentError::InvalidConfiguration`] if `source` is not 1 to 255 bytes;
    /// [`AgentError::Broker`] if the broker refuses the mailbox.
    ///
    /// # Cancel safety
    ///
    /// See [`Broker::subscribe`].
    pub async fn new(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        source: impl Into<Arc<str>>,
    ) -> Result<Self, AgentError> {
        let source: Arc<str> = source.into();
        Event::check_source(&source)
            .map_err(|error| AgentError::InvalidConfiguration { reason: error.to_string() })?;
        let mailbox = Mailbox::new(format!("callers.{}", EventId::generate()))?;
        let name = mailbox.as_str().into();
        let subscription =
            Subscription::mailbox(mailbox).with_on_exhausted(OnExhausted::Discard).temporary();
        let (reader, timer) = (Arc::clone(&broker), Arc::clone(&clock));
        let mut subscriber = Subscriber::new(reader, timer, subscription, "answers");
        subscriber.subscribe().await?;
        let pending = Arc::new(Pending::default());
        let (open, is_open) = watch::channel(());
        let router = Router {
            broker: Arc::clone(&broker),
            clock: Arc::clone(&clock),
            source: Arc::clone(&source),
            pending: Arc::clone(&pending),
        };
        task::spawn(router.run(subscriber, is_open));
        Ok(Self(Arc::new(Inner { broker, clock, source, mailbox: name, pending, _open: open })))
    }

    /// Sends a task to any agent of a type. Awaiting the call sends the task and waits for the
    /// answer.
    ///
    /// # Errors
    ///
    /// Returns the failure that the agent answers;
    /// [`AGENT_NOT_FOUND`](aios_core::catalog::codes::AGENT_NOT_FOUND) if no subscriber takes such tasks (with a
    /// subscriber to all events, the call times out instead);
    /// [`TASK_TIMEOUT`](aios_core::catalog::codes::TASK_TIMEOUT); or the code of a
    /// [`BrokerError`](aios_core::broker::BrokerError::code). After a lost connection, the task may
    /// have been done nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops the answer. A task that was sent is still done, as long as a clone
    /// of this client exists.
    pub fn task<T: Serialize + ?Sized>(&self, agent_type: &str, parameters: &T) -> TaskCall {
        TaskCall::new(Arc::clone(&self.0), agent_type, Payload::encode(parameters))
    }

    /// Why no more answers can be read, if that is so: the broker was closed, or it refuses
    /// permanently.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.0.pending.closed().map(|error| error.failure)
    }
}

impl fmt::Debug for TaskClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TaskClient")
            .field("mailbox", &self.0.mailbox)
            .finish_non_exhaustive()
    }
}
