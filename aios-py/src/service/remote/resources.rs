//! Agents as resources, types of agents and dead letters of a service.

use aios_core::{
    broker::{Address, DeadLetterFilter, Group, Mailbox},
    event::{EventId, Payload},
};
use aios_service::client::{AgentType, Client, ClientError, DeadLetter, VersionedAgent};
use pyo3::prelude::*;

use super::{NativeRemoteClient, pages::collect, rows};
use crate::{
    calls::Answer,
    convert::{errors::ErrorInfo, json},
};

/// The `asyncio` future of a request.
type Called<'py> = PyResult<Bound<'py, PyAny>>;

impl NativeRemoteClient {
    /// Makes a request with the client.
    fn ask<'py, F>(&self, py: Python<'py>, ask: impl FnOnce(Client) -> F) -> Called<'py>
    where
        F: Future<Output = Result<Answer, ErrorInfo>> + Send + 'static,
    {
        self.calls.call(py, ask(self.client.clone()))
    }
}

/// An agent as `[row, version]`.
fn versioned(found: Result<VersionedAgent, ClientError>) -> Result<Answer, ErrorInfo> {
    let VersionedAgent { agent, version, .. } = found?;
    Ok(Answer::Json(Payload::encode(&(rows::agent(&agent), version))?))
}

/// Creates an agent.
#[pyfunction]
#[pyo3(signature = (client, agent_type, name, config, id))]
pub(crate) fn remote_create_agent<'py>(
    client: &NativeRemoteClient,
    agent_type: &str,
    name: &str,
    config: &Bound<'py, PyAny>,
    id: Option<String>,
) -> Called<'py> {
    let config_json = json::write_as(config, || format!("the config of agent {name:?}"))?;
    let create = client.client.create_agent(agent_type, name, &config_json);
    let create = match id {
        Some(id) => create.id(id),
        None => create,
    };
    client.ask(config.py(), |_| async move { versioned(create.await) })
}

/// An agent with its version.
#[pyfunction]
pub(crate) fn remote_agent<'py>(
    py: Python<'py>,
    client: &NativeRemoteClient,
    id: String,
) -> Called<'py> {
    client.ask(py, |client| async move { versioned(client.versioned_agent(&id).await) })
}

/// Replaces the name and the config of an agent.
#[pyfunction]
pub(crate) fn remote_replace_agent<'py>(
    client: &NativeRemoteClient,
    id: String,
    name: String,
    config: &Bound<'py, PyAny>,
    version: String,
) -> Called<'py> {
    let written = json::write_as(config, || format!("the config of agent {name:?}"))?;
    client.ask(config.py(), |client| async move {
        versioned(client.replace_agent(&id, &name, &written, &version).await)
    })
}

/// Deletes an agent.
#[pyfunction]
pub(crate) fn remote_delete_agent<'py>(
    py: Python<'py>,
    client: &NativeRemoteClient,
    id: String,
    version: String,
) -> Called<'py> {
    client.ask(py, |client| async move {
        let agent = client.delete_agent(&id, &version).await?;
        Ok(Answer::Json(Payload::encode(&rows::agent(&agent))?))
    })
}

/// Lets every process that hosts an agent create it again.
#[pyfunction]
pub(crate) fn remote_restart_agent<'py>(
    py: Python<'py>,
    client: &NativeRemoteClient,
    id: String,
) -> Called<'py> {
    client.ask(py, |client| async move {
        let agent = client.restart_agent(&id).await?;
        Ok(Answer::Json(Payload::encode(&rows::agent(&agent))?))
    })
}

/// The types of agents, as `[name, config schema, parameters schema, output schema]`.
#[pyfunction]
pub(crate) fn remote_agent_types<'py>(py: Python<'py>, client: &NativeRemoteClient) -> Called<'py> {
    client.ask(py, |client| async move {
        let row = |it: AgentType| (it.id, it.config_schema, it.parameters_schema, it.output_schema);
        let types = client.agent_types().await?.into_iter().map(row);
        Ok(Answer::Json(Payload::encode(&types.collect::<Vec<_>>())?))
    })
}

/// The address of dead letters: `group` or `mailbox`.
fn address(py: Python<'_>, kind: &str, name: &str) -> PyResult<Address> {
    let address = match kind {
        "group" => Group::new(name).map(Address::Group),
        _ => Mailbox::new(name).map(Address::Mailbox),
    };
    address.map_err(|error| ErrorInfo::from(error).into_error(py))
}

/// A page of the dead letters of a group or a mailbox.
#[pyfunction]
#[pyo3(signature = (client, kind, name, after, limit))]
pub(crate) fn remote_dead_letters<'py>(
    py: Python<'py>,
    client: &NativeRemoteClient,
    kind: &str,
    name: &str,
    after: Option<String>,
    limit: usize,
) -> Called<'py> {
    let letters = client.client.dead_letters(address(py, kind, name)?);
    client.ask(py, move |_| async move {
        let fetch = async |page| letters.list(&page).await;
        let found: (Vec<DeadLetter>, _) = collect(limit, after, fetch).await?;
        Ok(Answer::Json(Payload::encode(&found)?))
    })
}

/// Sends dead letters back, or deletes them; returns how many. Without ids, all of them.
#[pyfunction]
#[pyo3(signature = (client, kind, name, ids, purge))]
pub(crate) fn remote_handle_dead_letters<'py>(
    py: Python<'py>,
    client: &NativeRemoteClient,
    kind: &str,
    name: &str,
    ids: Option<Vec<String>>,
    purge: bool,
) -> Called<'py> {
    let letters = client.client.dead_letters(address(py, kind, name)?);
    client.ask(py, move |_| async move {
        let filter = match ids {
            None => DeadLetterFilter::All,
            Some(ids) => {
                let ids = ids.iter().map(|id| id.parse::<EventId>());
                DeadLetterFilter::Ids(ids.collect::<Result<_, _>>()?)
            }
        };
        let count = match purge {
            true => letters.purge(&filter).await?,
            false => letters.redrive(&filter).await?,
        };
        Ok(Answer::Json(Payload::encode(&count)?))
    })
}
