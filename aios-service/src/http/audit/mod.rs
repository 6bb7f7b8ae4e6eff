//! Audit events: who changed what, from where, and with which outcome.

mod log;

use std::{net::SocketAddr, sync::Arc};

use aios_core::{catalog::system::ApiCalled, event::Metadata};
use axum::{
    extract::{ConnectInfo, MatchedPath, OriginalUri, Request, connect_info::MockConnectInfo},
    http::{HeaderMap, header},
    response::Response,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::info;

pub(super) use self::log::AuditLog;
use super::{ApiError, Audit, request_id::RequestId, state::Api, trace::metadata};
use crate::auth::Identity;

/// Longest text that is taken from a request, in characters.
const MAX_TEXT: usize = 500;

/// The call that a request makes. It is recorded once: with its outcome, or without one when the last
/// clone is dropped.
#[derive(Clone)]
pub(crate) struct AuditedCall(Arc<Mutex<Call>>);

impl AuditedCall {
    /// Begins the call of a request that may change something. It is recorded also if its client or the
    /// time limit ends it.
    pub(crate) fn begin(api: &Api, request: &mut Request) -> Option<Self> {
        if request.method().is_safe() {
            return None;
        }
        let call = Self(Arc::new(Mutex::new(Call::new(api, request)?)));
        request.extensions_mut().insert(call.clone());
        Some(call)
    }

    /// Begins to record the call with its outcome, unless that has begun before. The returned receiver
    /// completes when the event is stored.
    pub(crate) fn record(&self, response: &Response) -> Option<oneshot::Receiver<()>> {
        let mut call = self.0.lock();
        if call.is_recorded {
            return None;
        }
        let error = response.extensions().get::<ApiError>();
        call.data.status = Some(response.status().as_u16());
        call.data.code = error.map(|error| error.code.clone().into_owned());
        call.record()
    }
}

/// A call that has begun. Dropping it records it.
struct Call {
    data: ApiCalled,
    metadata: Metadata,
    /// Where it is recorded; a line of the log without it.
    log: Option<Arc<AuditLog>>,
    is_recorded: bool,
}

impl Call {
    fn new(api: &Api, request: &Request) -> Option<Self> {
        let extensions = request.extensions();
        let identity = extensions.get::<Identity>()?;
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
        let peer =
            peer.or_else(|| extensions.get::<MockConnectInfo<SocketAddr>>().map(|peer| peer.0));
        let headers = request.headers();
        // A nested router sees the rest of the path alone.
        let path = extensions.get::<OriginalUri>().map_or(request.uri(), |uri| &uri.0).path();
        let mut data = ApiCalled::new(
            identity.subject.to_string(),
            request.method().to_string(),
            path.chars().take(MAX_TEXT).collect(),
        );
        data.route = extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
        data.peer = peer.map(|peer| peer.ip().to_string());
        data.forwarded_for = text(headers, "x-forwarded-for");
        data.user_agent = text(headers, header::USER_AGENT.as_str());
        data.request_id = extensions.get::<RequestId>().map(|id| id.0.to_string());
        Some(Self {
            data,
            metadata: metadata(identity, headers, None),
            log: api.audit_log.clone().filter(|_| api.options.audit == Audit::Events),
            is_recorded: false,
        })
    }

    /// Begins to record the call. It is recorded even if its request is cancelled.
    fn record(&mut self) -> Option<oneshot::Receiver<()>> {
        self.is_recorded = true;
        let Some(log) = &self.log else {
            info!(target: "aios_service::audit", call = ?self.data, "the API was called");
            return None;
        };
        Some(log.record(self.data.clone(), self.metadata.clone()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Without a runtime, the process ends, and there is nothing left to spawn on.
        if !self.is_recorded && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.record());
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(MAX_TEXT).collect())
}
