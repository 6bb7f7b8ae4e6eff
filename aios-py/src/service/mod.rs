//! The HTTP API of a runtime, for ASGI servers and on a socket; clients and settings of a service.
//!
//! The API is that of `aios-service`: a router that answers requests from the runtime of the
//! session. It is reached in two ways:
//!
//! - `aios.asgi` is an ASGI application. A server in Python, such as uvicorn, calls it for each
//!   request; `exchange` turns the call into a request to the router, and the response back.
//! - `listen` opens a socket in this process, without Python taking part in a request.
//!
//! In both, requests enter through `gate`, which finds the session and the end of it.
//!
//! | module | contents |
//! |---|---|
//! | `api`, `options` | the API with its options, as Python creates it |
//! | `exchange` | one request of an ASGI server |
//! | `listen` | a socket |
//! | `gate` | answers the requests of a session |
//! | `requests` | the requests in progress, and how they end before the runtime |
//! | `traces`, `metrics` | export to a collector |
//! | `settings` | settings of a service for `aios.Settings` |
//! | `remote` | clients of a service |

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
    metrics::{MetricsExport, record_metrics},
    options::hash_api_key,
    remote::{
        NativeRemoteClient, RemoteEventStream, RemoteOutputStream, RemoteRunHandle, remote_agent,
        remote_agent_types, remote_create_agent, remote_dead_letters, remote_delete_agent,
        remote_handle_dead_letters, remote_replace_agent, remote_restart_agent,
    },
    requests::Requests,
    settings::{is_redacted, load_settings},
    traces::{Traces, collector, end_traces},
};
