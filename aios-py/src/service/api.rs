//! The API of a client, as `aios.asgi` creates it.

use std::sync::Arc;

use pyo3::prelude::*;

use super::{
    exchange::{self, Incoming, NativeExchange},
    listen,
    options::{ApiArguments, IssuerArg, KeyArg, LimitValues, RawOptions},
};
use crate::{client::NativeClient, convert::seconds};

/// The native part of `aios.asgi`.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeApi {
    /// The options, which were checked when the API was created.
    arguments: Arc<ApiArguments>,
}

#[pymethods]
impl NativeApi {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "called only by aios._service.asgi")]
    #[pyo3(signature = (prefix, health, metrics, keys, issuers, loopback, max_body_bytes, request_timeout, stream_lifetime, rate_limit, cors_origins))]
    fn new(
        py: Python<'_>,
        prefix: String,
        health: bool,
        metrics: bool,
        keys: Vec<KeyArg>,
        issuers: Vec<IssuerArg>,
        loopback: bool,
        max_body_bytes: usize,
        request_timeout: f64,
        stream_lifetime: f64,
        rate_limit: Option<(u32, f64)>,
        cors_origins: Vec<String>,
    ) -> PyResult<Self> {
        let options = RawOptions {
            prefix,
            health,
            metrics,
            keys,
            issuers,
            loopback,
            max_body_bytes,
            request_timeout,
            stream_lifetime,
            rate_limit,
            cors_origins,
        };
        Ok(Self { arguments: Arc::new(options.check(py)?) })
    }

    /// The routes of health checks, and `/metrics` if wanted, without an API.
    #[staticmethod]
    fn health_alone(metrics: bool) -> Self {
        Self { arguments: Arc::new(ApiArguments::health_alone(metrics)) }
    }

    /// Sets limits of requests, including requests in progress.
    #[pyo3(signature = (max_body_bytes, request_timeout, rate_limit))]
    fn set_limits(
        &self,
        py: Python<'_>,
        max_body_bytes: usize,
        request_timeout: f64,
        rate_limit: Option<(u32, f64)>,
    ) -> PyResult<()> {
        let values = LimitValues::check(py, max_body_bytes, request_timeout, rate_limit)?;
        self.arguments.set_limits(values);
        Ok(())
    }

    /// Begins a request of an ASGI server. `body` is its first part; `more` says whether others follow.
    /// `root` is the path at which the server has mounted the API.
    #[allow(clippy::too_many_arguments, reason = "called only by aios._service.asgi")]
    #[pyo3(signature = (client, method, target, headers, peer, root, body, more))]
    fn request(
        &self,
        client: &NativeClient,
        method: String,
        target: String,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        peer: Option<(String, u16)>,
        root: String,
        body: Vec<u8>,
        more: bool,
    ) -> NativeExchange {
        let incoming = Incoming { method, target, headers, peer, root, body, more };
        exchange::begin(client, &self.arguments, incoming)
    }

    /// How many requests of all servers of the client are in progress; 0 if it is closed.
    #[staticmethod]
    fn in_progress(client: &NativeClient) -> usize {
        let slot = client.slot();
        // Locked for writing only while the client is opened or closed.
        let count =
            slot.try_read().ok().and_then(|session| Some(session.as_ref()?.requests.in_progress()));
        count.unwrap_or_default()
    }

    /// Listens at `address` until the client is closed, and for `accept_delay` seconds after that has
    /// begun; returns the address with its port.
    fn listen<'py>(
        &self,
        py: Python<'py>,
        client: &NativeClient,
        address: String,
        accept_delay: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let accept_delay = seconds(py, "accept_delay", accept_delay)?;
        listen::listen(py, client, Arc::clone(&self.arguments), address, accept_delay)
    }
}
