//! The API on a socket of this process.
//!
//! The server keeps the slot and not the session: it is given to the session, which ends it when it
//! is closed. Requests in between find no session and get the answer of [`gate::serve`] for that.

use std::{convert::Infallible, sync::Arc, time::Duration};

use aios_core::{catalog::codes, event::Payload};
use aios_service::http::serve;
use axum::{Router, extract::Request};
use pyo3::prelude::*;
use tokio::net::TcpListener;
use tower::service_fn;
use tracing::error;

use super::{gate, options::ApiArguments};
use crate::{calls::Answer, client::NativeClient, convert::errors::ErrorInfo};

/// Listens until the client is closed, and for `accept_delay` after that has begun; resolves to the
/// address with its port.
pub(super) fn listen<'py>(
    py: Python<'py>,
    client: &NativeClient,
    arguments: Arc<ApiArguments>,
    address: String,
    accept_delay: Duration,
) -> PyResult<Bound<'py, PyAny>> {
    client.with(py, |slot, _| async move {
        let bound = async {
            let listener = TcpListener::bind(&address).await?;
            std::io::Result::Ok((listener.local_addr()?, listener))
        };
        let (local, listener) = bound.await.map_err(|error| {
            let message = format!("cannot listen at {address:?}: {error}");
            ErrorInfo::new("runtime", codes::INVALID_CONFIGURATION, message)
        })?;
        let inner = Arc::clone(&slot);
        let router = Router::new().fallback_service(service_fn(move |request: Request| {
            let slot = Arc::clone(&inner);
            let arguments = Arc::clone(&arguments);
            async move { Ok::<_, Infallible>(gate::serve(slot, arguments, request).await) }
        }));
        let guard = slot.read().await;
        let requests = &guard.as_ref().ok_or_else(ErrorInfo::closed)?.requests;
        let shutdown = requests.shutdown(accept_delay);
        requests.add_server(tokio::spawn(async move {
            if let Err(error) = serve(listener, router, shutdown).await {
                error!(%error, "the HTTP server ended");
            }
        }));
        Ok(Answer::Json(Payload::encode(&local.to_string())?))
    })
}
