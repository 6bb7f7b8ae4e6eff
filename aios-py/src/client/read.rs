//! Reads of the log and the tables.
//!
//! Each function takes the store out of the session and reads with it. The lock of the slot is
//! released before the read, so that a read which waits for events does not keep the client from
//! closing.

use aios_core::{
    catalog::codes,
    event::Payload,
    store::{AgentFilter, PageRequest, RunFilter, RunStatus, TaskFilter},
};

use crate::{
    calls::Answer,
    convert::{errors::ErrorInfo, records},
    session::{SessionSlot, open_session},
};

/// The page after a row.
pub(super) fn page_request(after: Option<String>, limit: usize) -> PageRequest {
    PageRequest { after, limit }
}

/// The statuses with these names.
pub(super) fn statuses(names: Vec<String>) -> Result<Vec<RunStatus>, ErrorInfo> {
    let parse = |name: String| {
        let unknown = || {
            let message = format!("unknown run status {name:?}");
            ErrorInfo::new("runtime", codes::INVALID_CONFIGURATION, message)
        };
        RunStatus::parse(&name).ok_or_else(unknown)
    };
    names.into_iter().map(parse).collect()
}

/// A page of the log. With `wait`, waits first until there is an event after the position.
pub(super) async fn log(
    slot: SessionSlot,
    after: u64,
    limit: usize,
    wait: bool,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    if wait {
        store.wait_for(after).await?;
    }
    Ok(Answer::Json(records::events(&store.read_log(after, limit).await?)?))
}

/// Position of the last event of the log.
pub(super) async fn head(slot: SessionSlot) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(Payload::encode(&store.head().await?)?))
}

/// A page of runs.
pub(super) async fn runs(
    slot: SessionSlot,
    filter: RunFilter,
    page: PageRequest,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.runs(&filter, &page).await?, records::run)?))
}

/// A page of agents.
pub(super) async fn agents(
    slot: SessionSlot,
    filter: AgentFilter,
    page: PageRequest,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.agents(&filter, &page).await?, records::agent)?))
}

/// A page of tasks.
pub(super) async fn tasks(
    slot: SessionSlot,
    filter: TaskFilter,
    page: PageRequest,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.tasks(&filter, &page).await?, records::task)?))
}

/// A page of workflows.
pub(super) async fn workflows(slot: SessionSlot, page: PageRequest) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.workflows(&page).await?, records::workflow)?))
}
