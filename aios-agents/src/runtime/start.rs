use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aios_core::{
    event::{EventError, EventId, Metadata, Payload, Timestamp},
    store::{EventStore, StreamId},
};
use serde::Serialize;

use super::{Client, RunHandle, RuntimeError};
use crate::workflow::journal::{Entry, JournalError, Started, decode};

/// A run to be started. Awaiting it gives a [`RunHandle`] once the start is durable.
#[derive(Debug)]
#[must_use = "a run starts when this is awaited"]
pub struct StartRun {
    client: Result<Client, RuntimeError>,
    workflow: String,
    input: Result<Payload, EventError>,
    run_id: Option<String>,
    start_at: Option<Timestamp>,
    delay: Option<Duration>,
    metadata: Metadata,
}

impl StartRun {
    pub(super) fn new<T: Serialize + ?Sized>(
        client: Result<Client, RuntimeError>,
        workflow: &str,
        input: &T,
    ) -> Self {
        Self {
            client,
            workflow: workflow.to_owned(),
            input: Payload::encode(input),
            run_id: None,
            start_at: None,
            delay: None,
            metadata: Metadata::default(),
        }
    }

    /// Sets the id of the run, 1 to 200 bytes; a fresh UUID is the default. Starting a run again
    /// under the same id gives a handle for the one that exists, if workflow and input are the same.
    pub fn with_id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// Lets the run begin at a time.
    pub fn at(mut self, start_at: Timestamp) -> Self {
        self.start_at = Some(start_at);
        self
    }

    /// Lets the run begin after a delay.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets correlation, user and trace of everything that the run causes.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    async fn start(self) -> Result<RunHandle, RuntimeError> {
        let client = self.client?;
        let journals = &client.journals;
        let registered = journals.registry.latest(&self.workflow);
        let unknown = || RuntimeError::UnknownWorkflow { workflow: self.workflow.clone() };
        let version = registered.ok_or_else(unknown)?.workflow.version();
        let run_id: Arc<str> =
            self.run_id.unwrap_or_else(|| EventId::generate().to_string()).into();
        let start_at = self.start_at.or(self.delay.map(|delay| journals.clock.now() + delay));
        let input = self.input?;
        let started =
            Started { version, input: input.clone(), start_at, parent: None, forked_from: None };
        match journals.start(&run_id, &self.workflow, started, self.metadata).await {
            Ok(first) => {
                if let Some(engine) = &client.engine {
                    engine.begin(&run_id, vec![first]);
                }
            }
            Err(JournalError::Exists { .. }) => {
                same_start(&client, &run_id, &self.workflow, &input).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(RunHandle::new(client, run_id))
    }
}

/// Checks that the run that exists is the one that was to be started.
async fn same_start(
    client: &Client,
    run_id: &str,
    workflow: &str,
    input: &Payload,
) -> Result<(), RuntimeError> {
    let stream = StreamId::of_run(run_id)?;
    let first = client.journals.store.read_stream(&stream, 0, 1).await?.pop();
    let exists = || RuntimeError::RunExists { run_id: run_id.to_owned() };
    let first = first.ok_or_else(exists)?;
    match decode(&first.event)? {
        Entry::Started(started)
            if first.event.event_type.entity() == workflow && started.input == *input =>
        {
            Ok(())
        }
        _ => Err(exists()),
    }
}

impl IntoFuture for StartRun {
    type Output = Result<RunHandle, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
