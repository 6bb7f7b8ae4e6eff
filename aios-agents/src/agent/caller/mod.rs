//! Gives tasks to agents without a journal.

mod call;
mod pending;
mod router;

use std::{fmt, sync::Arc, time::Duration};

use aios_core::{
    agent::TaskError,
    broker::{Broker, Mailbox, OnExhausted, Subscription},
    clock::Clock,
    event::{EventId, Payload},
    failure::Failure,
};
use serde::Serialize;
use tokio::sync::watch;

pub use self::call::TaskCall;
use self::{pending::Pending, router::Router};
use super::AgentError;
use crate::task;

/// What an agent says to a task.
type Answer = Result<Payload, TaskError>;

/// Gives tasks straight to agents and waits for their answers, without a journal.
///
/// Nothing here outlives the process: if it dies, the answer is lost, and nobody tries a failed
/// task again. Tasks that have to be done are given from a workflow; they are durable.
///
/// Clones share one mailbox and one reader of it, however many tasks are under way. When the last of
/// them is dropped, the mailbox goes, and tasks whose calls ended without an answer, the latest 4,096,
/// are cancelled: nobody would take their answers.
///
/// If the broker refuses for good to let the mailbox be read, every call fails from then on with what it
/// said, and so says [`failure`](Self::failure).
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

struct Inner {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    source: Arc<str>,
    mailbox: Arc<str>,
    pending: Arc<Pending>,
    /// Dropping it ends what reads the mailbox.
    _open: watch::Sender<()>,
}

impl TaskClient {
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
        let subscription =
            Subscription::mailbox(mailbox).with_on_exhausted(OnExhausted::Discard).temporary();
        let deliveries = broker.subscribe(subscription.clone()).await?;
        let pending = Arc::new(Pending::default());
        let (open, is_open) = watch::channel(());
        let source: Arc<str> = source.into();
        let router = Router {
            broker: Arc::clone(&broker),
            clock: Arc::clone(&clock),
            source: Arc::clone(&source),
            subscription,
            pending: Arc::clone(&pending),
        };
        task::spawn(router.run(deliveries, is_open));
        Ok(Self(Arc::new(Inner { broker, clock, source, mailbox: name, pending, _open: open })))
    }

    /// Gives a task to any agent of a type; awaiting the call sends it and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the agent answers, and [`AGENT_NOT_FOUND`](super::codes::AGENT_NOT_FOUND) if nobody takes such
    /// tasks (a subscriber to everything counts as somebody, then it is a time-out),
    /// [`TASK_TIMEOUT`](super::codes::TASK_TIMEOUT), or the code of a
    /// [`BrokerError`](aios_core::broker::BrokerError::code). A lost connection may mean that the task is done all the
    /// same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops the answer; a task that was sent is done all the same, as long as a clone
    /// of this caller is there.
    pub fn task<T: Serialize + ?Sized>(&self, agent_type: &str, parameters: &T) -> TaskCall {
        TaskCall::new(Arc::clone(&self.0), agent_type, Payload::encode(parameters))
    }

    /// Why no answer can be read any more, if none can: the broker was closed, or refuses it for good.
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
