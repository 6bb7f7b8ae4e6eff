//! Reads of the log and the tables.

use aios_core::{
    event::Payload,
    store::{AgentFilter, PageRequest, RunFilter, RunStatus, TaskFilter},
};

use crate::{
    calls::Answer,
    convert::{errors::ErrorInfo, records},
    session::{SessionSlot, open_session},
};

pub(super) fn page_request(after: Option<String>, limit: usize) -> PageRequest {
    PageRequest { after, limit }
}

/// The statuses with these names.
pub(super) fn statuses(names: Vec<String>) -> Result<Vec<RunStatus>, ErrorInfo> {
    let parse = |name: String| {
        let unknown = || {
            let message = format!("unknown run status {name:?}");
            ErrorInfo::new("runtime", "INVALID_CONFIGURATION", message)
        };
        RunStatus::parse(&name).ok_or_else(unknown)
    };
    names.into_iter().map(parse).collect()
}

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

pub(super) async fn head(slot: SessionSlot) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(Payload::encode(&store.head().await?)?))
}

pub(super) async fn runs(
    slot: SessionSlot,
    filter: RunFilter,
    page: PageRequest,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.runs(&filter, &page).await?, records::run)?))
}

pub(super) async fn agents(
    slot: SessionSlot,
    filter: AgentFilter,
    page: PageRequest,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.agents(&filter, &page).await?, records::agent)?))
}

pub(super) async fn tasks(
    slot: SessionSlot,
    filter: TaskFilter,
    page: PageRequest,
) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.tasks(&filter, &page).await?, records::task)?))
}

pub(super) async fn workflows(slot: SessionSlot, page: PageRequest) -> Result<Answer, ErrorInfo> {
    let store = open_session(slot.read().await.as_ref())?.store()?;
    Ok(Answer::Json(records::page(&store.workflows(&page).await?, records::workflow)?))
}
