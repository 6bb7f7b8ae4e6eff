//! Reads the events of one run, and waits for new ones.
//!
//! The reader ends after the event that ends the run. That event is recognised by its type, so no
//! read is needed after it. A reader that begins after that event would wait without end; it
//! therefore looks at the row of the run once, before it waits for the first time.

use std::{collections::VecDeque, time::Duration};

use aios_core::{
    catalog::ending,
    store::{EventStore, RecordedEvent, StreamId},
};

use super::RuntimeError;
use crate::workflow::journal::{JournalError, Journals};

/// How many events are read at once.
const PAGE: usize = 500;
/// Initial and maximum pause after the log has grown by events of other runs.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// The events of one run, in order: first existing events, then new ones. Ends after the event that
/// ends the run.
///
/// A run that continues as a new one ends with the event `continued`, whose data names the new run.
/// Each run has its own stream of versions, so follow the new run from version 0.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
///
/// async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     context.run("greet", || async { format!("Hello, {name}!") }).await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = Runtime::builder()
/// #     .store(aios_store::connect("memory://").await?)
/// #     .broker(aios_broker::connect("memory://").await?)
/// #     .workflow("welcome", welcome)
/// #     .start()
/// #     .await?;
/// let run = runtime.start("welcome", "Ada").await?;
/// let mut events = run.events(0); // after a reconnect: the version of the last event seen
/// let mut actions = Vec::new();
/// while let Some(recorded) = events.next().await? {
///     actions.push(recorded.event.event_type.action().to_owned());
/// }
/// assert_eq!(actions, ["started", "step_completed", "completed"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RunEvents {
    /// Access to the store and the clock.
    journals: Journals,
    /// Exactly this run.
    run_id: String,
    /// The stream of the run, once it was found.
    stream: Option<Following>,
    /// Version of the event that was read last.
    read: u64,
    /// Events that were read and not returned yet.
    page: VecDeque<RecordedEvent>,
    /// Whether the last event was returned.
    has_ended: bool,
}

/// Found when the first event is read.
#[derive(Debug)]
struct Following {
    /// The stream of the run.
    id: StreamId,
    /// Its name, to recognise the event that ends the run.
    workflow: String,
    /// The log was read up to this position.
    seen: u64,
    /// Whether the event that ends the run, if there is one, comes after `read`.
    is_before_end: bool,
    /// The pause after the log has grown. It doubles while the growth has no event of this run.
    pause: Duration,
}

impl RunEvents {
    /// Reads nothing yet.
    pub(super) fn new(journals: Journals, run_id: &str, after: u64) -> Self {
        let run_id = run_id.to_owned();
        Self {
            journals,
            run_id,
            stream: None,
            read: after,
            page: VecDeque::new(),
            has_ended: false,
        }
    }

    /// Returns the next event, waiting for it if necessary, or `None` after the event that ends the
    /// run.
    ///
    /// Appends of this process wake it at once. Appends of other processes wake it as soon as
    /// [`wait_for`](EventStore::wait_for) reports them, even if no engine runs in this process.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::UnknownRun`] if there is no such run; errors of the store. The next call
    /// continues from the same event.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Result<Option<RecordedEvent>, RuntimeError> {
        loop {
            if let Some(recorded) = self.page.pop_front() {
                self.has_ended = self.is_end(&recorded);
                return Ok(Some(recorded));
            }
            if self.has_ended {
                return Ok(None);
            }
            self.read_more().await?;
        }
    }

    /// Whether an event ends the run.
    fn is_end(&self, recorded: &RecordedEvent) -> bool {
        let following = self.stream.as_ref();
        following.is_some_and(|it| {
            ending(&it.id, &recorded.event.event_type) == Some(it.workflow.as_str())
        })
    }

    /// Reads the next page, or waits until the log has grown.
    async fn read_more(&mut self) -> Result<(), RuntimeError> {
        let following = match &mut self.stream {
            Some(following) => following,
            none => none.insert(begin(&self.journals, &self.run_id).await?),
        };
        let store = &self.journals.store;
        let page = store.read_stream(&following.id, self.read, PAGE).await?;
        if let Some(last) = page.last() {
            (self.read, following.is_before_end) = (last.version, true);
            following.pause = PAUSE.0;
            self.page = page.into();
            return Ok(());
        }
        if !following.is_before_end {
            // The last event that was read may be the end, or the end was appended between the two
            // reads.
            let has_ended = self.journals.row(&self.run_id).await?.status.is_final();
            let page = store.read_stream(&following.id, self.read, 1).await?;
            following.is_before_end = !has_ended || !page.is_empty();
            self.has_ended = !following.is_before_end;
            return Ok(());
        }
        following.seen = store.wait_for(following.seen).await?;
        // Read events that are appended in quick succession together, so that a busy log is not
        // read once per event.
        self.journals.clock.sleep(following.pause).await;
        following.pause = (following.pause * 2).min(PAUSE.1);
        Ok(())
    }
}

/// Finds the run. The head of the log is read first, so that events that are appended in between
/// are noticed.
async fn begin(journals: &Journals, run_id: &str) -> Result<Following, RuntimeError> {
    let id = StreamId::of_run(run_id)?;
    let seen = journals.store.head().await?;
    let first = journals.store.read_stream(&id, 0, 1).await?.pop();
    let unknown = || JournalError::UnknownRun { run_id: run_id.to_owned() };
    let workflow = first.ok_or_else(unknown)?.event.event_type.entity().to_owned();
    Ok(Following { id, workflow, seen, is_before_end: false, pause: PAUSE.0 })
}
