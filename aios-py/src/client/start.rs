//! Operations that start work: runs, tasks, calls and subscriptions; and publishing.

use std::{sync::Arc, time::Duration};

use aios_agents::workflow::Target;
use aios_core::{
    broker::BrokerExt,
    event::{Event, Metadata, Payload},
    retry::RetryPolicy,
};

use crate::{
    calls::{Answer, Calls, NativeEventStream, NativeRunHandle},
    convert::errors::ErrorInfo,
    session::{SessionSlot, caller, open_session},
};

/// A run to start.
pub(super) struct StartRequest {
    pub(super) workflow: String,
    pub(super) input: Payload,
    pub(super) run_id: Option<String>,
    pub(super) delay: Option<Duration>,
    /// Whether the workflow is registered in this process.
    pub(super) is_registered: bool,
    pub(super) version: Option<u32>,
    pub(super) signal: Option<(String, Payload)>,
    pub(super) metadata: Metadata,
}

/// A task to run with a journal.
pub(super) struct TaskRun {
    pub(super) target: Target,
    pub(super) parameters: Payload,
    pub(super) run_id: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) total_timeout: Option<Duration>,
    pub(super) retry: RetryPolicy,
    pub(super) metadata: Metadata,
}

/// A task to call without a journal.
pub(super) struct TaskCall {
    pub(super) agent_type: String,
    pub(super) agent_id: Option<String>,
    pub(super) parameters: Payload,
    pub(super) timeout: Duration,
    pub(super) metadata: Metadata,
}

/// An agent of the type, or exactly the one with the id.
pub(super) fn target(agent_type: &str, agent_id: Option<String>) -> Target {
    agent_id.map_or_else(|| agent_type.into(), |id| Target::agent(agent_type, id))
}

/// Starts a run. A workflow that is not registered in this process is started by a runtime that
/// knows only its name and version, of which other processes have the code.
pub(super) async fn start_run(
    slot: SessionSlot,
    calls: Arc<Calls>,
    request: StartRequest,
) -> Result<Answer, ErrorInfo> {
    let StartRequest { workflow, input, .. } = request;
    let start = {
        let guard = slot.read().await;
        let session = open_session(guard.as_ref())?;
        if request.is_registered {
            session.runtime.start(&workflow, &input)
        } else {
            let version = session.version_of(&workflow, request.version).await?;
            let runtime = session.runtime_for_unregistered(&workflow, version);
            Box::pin(runtime).await?.start(&workflow, &input)
        }
    };
    let start = match request.delay {
        Some(delay) => start.after(delay),
        None => start,
    };
    let start = match request.run_id {
        Some(run_id) => start.id(run_id),
        None => start,
    };
    let start = match request.signal {
        Some((name, payload)) => start.signal(name, &payload),
        None => start,
    };
    Ok(NativeRunHandle::answer(&calls, start.metadata(request.metadata).await?))
}

/// Starts a run of one task.
pub(super) async fn start_task(
    slot: SessionSlot,
    calls: Arc<Calls>,
    request: TaskRun,
) -> Result<Answer, ErrorInfo> {
    let TaskRun { target, parameters, .. } = request;
    let task = open_session(slot.read().await.as_ref())?.runtime.task(target, &parameters);
    let task = task.retry(request.retry).metadata(request.metadata);
    let task = match request.timeout {
        Some(timeout) => task.timeout(timeout),
        None => task,
    };
    let task = match request.total_timeout {
        Some(timeout) => task.total_timeout(timeout),
        None => task,
    };
    let task = match request.run_id {
        Some(run_id) => task.id(run_id),
        None => task,
    };
    Ok(NativeRunHandle::answer(&calls, task.await?))
}

/// Calls an agent, and waits for its answer. Nothing of it is stored.
pub(super) async fn call_agent(slot: SessionSlot, request: TaskCall) -> Result<Answer, ErrorInfo> {
    let caller = caller(&slot).await?;
    let call = caller.task(&request.agent_type, &request.parameters);
    let call = call.timeout(request.timeout).metadata(request.metadata);
    let call = match request.agent_id {
        Some(agent_id) => call.to_agent(agent_id),
        None => call,
    };
    Ok(Answer::Json(call.await?))
}

/// The handle of a run.
pub(super) async fn find_run(
    slot: SessionSlot,
    calls: Arc<Calls>,
    run_id: String,
) -> Result<Answer, ErrorInfo> {
    let handle = open_session(slot.read().await.as_ref())?.runtime.handle(&run_id).await?;
    Ok(NativeRunHandle::answer(&calls, handle))
}

/// Publishes an event with the broker. Returns its id.
pub(super) async fn publish(slot: SessionSlot, event: Event) -> Result<Answer, ErrorInfo> {
    let broker = Arc::clone(&open_session(slot.read().await.as_ref())?.broker);
    let id = event.id.to_string();
    broker.publish_event(event).await?;
    Ok(Answer::Json(Payload::encode(&id)?))
}

/// Subscribes with the broker.
pub(super) async fn subscribe(
    slot: SessionSlot,
    calls: Arc<Calls>,
    patterns: Vec<String>,
    group: Option<String>,
) -> Result<Answer, ErrorInfo> {
    let broker = Arc::clone(&open_session(slot.read().await.as_ref())?.broker);
    NativeEventStream::subscribe(broker, patterns, group, calls).await
}
