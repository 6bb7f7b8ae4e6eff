//! The cost of an interrupted model call, as the process that made it knows it.
//!
//! A run that is cancelled settles the request in progress. If another process than that of the engine
//! makes the request, it records in the store what the provider has reported, as soon as the task is
//! cancelled. The engine waits a moment for the record. A process without a store records nothing, and one
//! that has died does not either; then the reserved input is settled.
//!
//! A record does not name its request. If an earlier request of the run was interrupted as well, for example
//! because its heartbeats were missed, its record may be settled for the one in progress.

use std::time::Duration;

use aios_agents::workflow::StepContext;
use aios_core::{
    agent::{TaskContext, TaskError},
    clock::{Clock, SystemClock},
    event::{Event, EventType},
    store::{Append, EventStoreExt, MAX_PAGE, Store, StoreError, StreamId},
};
use sha2::{Digest, Sha256};

use super::meters::Meters;
use crate::model::Usage;

/// How long an engine waits for the record: longer than a host gives cancelled code by default.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const POLL: Duration = Duration::from_millis(50);

/// Records the usage of a request that this process interrupts.
pub(in crate::agent) async fn record(context: &TaskContext, usage: Usage) {
    let metadata = context.metadata();
    let (Some(store), Some(run_id)) = (context.store(), metadata.run_id.as_deref()) else { return };
    let incarnation = metadata.incarnation.as_deref().unwrap_or_default();
    if let Err(error) = append(&**store, run_id, incarnation, usage).await {
        tracing::warn!(%error, run_id, "the usage of a request is not recorded");
    }
}

/// The usage of the request that a run has interrupted; nothing if no process says it in time.
pub(in crate::agent) async fn usage(meters: &Meters, run_id: &str, step: &StepContext) -> Usage {
    if let Some(usage) = meters.reported(run_id) {
        return usage;
    }
    let Some(store) = step.store() else { return Usage::default() };
    let incarnation = step.idempotency_key().rsplit_once('@').map_or("", |(_, it)| it);
    let mut waited = Duration::ZERO;
    loop {
        match read(&**store, run_id, incarnation).await {
            Ok(Some(usage)) => return usage,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, run_id, "the usage of a request is not read");
            }
        }
        if waited >= PATIENCE {
            return Usage::default();
        }
        SystemClock.sleep(POLL).await;
        waited += POLL;
    }
}

/// Appends the record.
async fn append(
    store: &dyn Store,
    run_id: &str,
    incarnation: &str,
    usage: Usage,
) -> Result<(), TaskError> {
    let event_type = EventType::new("llm", "request", "interrupted")?;
    let event = Event::new(event_type, "aios", &usage)?;
    store.append_one(Append::new(stream_of(run_id, incarnation)?, vec![event])).await?;
    Ok(())
}

/// The latest record of a run.
async fn read(
    store: &dyn Store,
    run_id: &str,
    incarnation: &str,
) -> Result<Option<Usage>, TaskError> {
    let events = store.read_stream(&stream_of(run_id, incarnation)?, 0, MAX_PAGE).await?;
    Ok(events.last().map(|recorded| recorded.event.data()).transpose()?)
}

/// The stream of the records of a run. Ids of runs can be longer than names of streams.
fn stream_of(run_id: &str, incarnation: &str) -> Result<StreamId, StoreError> {
    let hash = Sha256::digest(format!("{run_id}@{incarnation}").as_bytes());
    let hex = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    StreamId::new(format!("llm/requests/{hex}"))
}
