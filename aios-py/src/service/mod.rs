//! The HTTP API of a runtime, for ASGI servers and on a socket; clients and settings of a service.

mod api;
mod exchange;
mod gate;
mod listen;
mod metrics;
mod options;
mod remote;
mod requests;
mod settings;
mod traces;

pub(crate) use self::{
    api::NativeApi,
    exchange::NativeExchange,
    metrics::MetricsExport,
    options::hash_api_key,
    remote::{
        NativeRemoteClient, RemoteEventStream, RemoteOutputStream, RemoteRunHandle, remote_agent,
        remote_agent_types, remote_create_agent, remote_dead_letters, remote_delete_agent,
        remote_handle_dead_letters, remote_replace_agent, remote_restart_agent,
    },
    requests::Requests,
    settings::load_settings,
    traces::{Traces, collector, end_traces},
};
