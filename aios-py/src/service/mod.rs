//! The HTTP API of a runtime, for ASGI servers and on a socket; and clients of a service.

mod api;
mod exchange;
mod gate;
mod listen;
mod options;
mod remote;

pub(crate) use self::{
    api::NativeApi,
    exchange::NativeExchange,
    gate::Requests,
    options::hash_api_key,
    remote::{NativeRemoteClient, RemoteEventStream, RemoteRunHandle},
};
