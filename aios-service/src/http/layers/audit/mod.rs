//! Audit events: the caller, the change, the origin and the outcome of each call.
//!
//! A call leaves two events: `requested` before its effect, and `called`, which it causes, with the
//! outcome. So a process that is killed at any time leaves at least the first one of every call that has
//! had an effect.
//!
//! No call waits for the first event, which would cost a commit before the one of the effect. It is handed
//! to the store before the effect instead ([`after_announcing`]), and a store commits appends in the order in which
//! it gets them from a task ([`EventStore`](aios_core::store::EventStore)): in the commit of the effect, or
//! in an earlier one. If the store does not take it at first, the call does nothing more until it is
//! stored, for at most 5 s. What the call has handed over by then may still be committed before it.
//!
//! A route whose effect is not in the store waits for the event ([`AuditStored`]). The second event is
//! appended when the first one is stored, even if the request was cut off before ([`Announcement`]).
//!
//! The other designs cost more. An event in the transaction of the effect would need appends to several
//! streams, and a way for every call of the runtime to take one along. Events that are derived from the
//! journals at the next start would need a scan of the log, and the address and program of the caller in
//! the events of users; what is not in a journal, such as a purge of dead letters, would be lost.

mod log;

use std::{net::SocketAddr, pin::pin, sync::Arc};

use aios_core::{catalog::system::ApiCalled, clock::Clock, event::Metadata, store::StoreError};
use axum::{
    extract::{
        ConnectInfo, FromRequestParts, MatchedPath, OriginalUri, Request,
        connect_info::MockConnectInfo,
    },
    http::{HeaderMap, header, request::Parts},
    response::Response,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::info;

use self::log::Announcement;
pub(crate) use self::log::AuditLog;
use super::{request_id::RequestId, trace::metadata};
use crate::{
    auth::Identity,
    http::{ApiError, Audit, state::Api},
};

/// Longest text that is taken from a request, in characters.
const MAX_TEXT: usize = 500;

/// The call that a request makes. Its outcome is recorded once; when the last clone is dropped, it is
/// recorded that there is none.
#[derive(Clone)]
pub(crate) struct AuditedCall(Arc<Mutex<Call>>);

impl AuditedCall {
    /// Begins the call of a request that may change something. It is recorded even if its client or the
    /// time limit ends it.
    pub(crate) fn begin(api: &Api, request: &mut Request) -> Option<Self> {
        if request.method().is_safe() {
            return None;
        }
        let mut call = Call::new(api, request)?;
        call.announce();
        let call = Self(Arc::new(Mutex::new(call)));
        request.extensions_mut().insert(call.clone());
        Some(call)
    }

    /// The event that is stored before the call has an effect, if audit events are stored.
    pub(crate) fn announcement(&self) -> Option<Announcement> {
        self.0.lock().announcement.clone()
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
    /// The caller, the request and its origin; later the outcome.
    data: ApiCalled,
    /// User and trace, and the first event as the cause of the second one.
    metadata: Metadata,
    /// Where it is recorded; a line of the log without it.
    log: Option<Arc<AuditLog>>,
    /// The first event of the call; `None` if audit events go to the log lines.
    announcement: Option<Announcement>,
    /// Whether the outcome was recorded. It is recorded once, by whichever comes first: the handler
    /// with an idempotency key, the guard, or the drop.
    is_recorded: bool,
}

impl Call {
    /// Describes the call that a request makes; `None` without a caller. Texts of the client are
    /// shortened.
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
        data.scope = Some(identity.scope.to_string());
        data.route = extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
        data.peer = peer.map(|peer| peer.ip().to_string());
        data.forwarded_for = text(headers, "x-forwarded-for");
        data.user_agent = text(headers, header::USER_AGENT.as_str());
        data.request_id = extensions.get::<RequestId>().map(|id| id.0.to_string());
        Some(Self {
            data,
            metadata: metadata(identity, headers, None),
            log: api.audit_log.clone().filter(|_| api.options.audit == Audit::Events),
            announcement: None,
            is_recorded: false,
        })
    }

    /// Prepares the first event of the call, which is the cause of the one with its outcome. Both have the same
    /// data apart from the outcome, so if the first one cannot be encoded, the second one cannot either.
    fn announce(&mut self) {
        let announced =
            self.log.as_ref().map(|log| log.announce(&self.data, self.metadata.clone()));
        if let Some(Ok((id, announcement))) = announced {
            self.metadata.causation_id = Some(id.to_string().into());
            self.announcement = Some(announcement);
        }
    }

    /// Begins to record the call. It is recorded even if its request is cancelled.
    fn record(&mut self) -> Option<oneshot::Receiver<()>> {
        self.is_recorded = true;
        let Some(log) = &self.log else {
            info!(target: "aios_service::audit", call = ?self.data, "the API was called");
            return None;
        };
        Some(log.record(self.data.clone(), self.metadata.clone(), self.announcement.clone()))
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

/// Runs work that an announcement must precede in the store. Each poll polls the announcement first, so the
/// store gets it before anything that the work appends, even if its queue is full. The work does not wait
/// for it, unless the store fails to take the event at first.
pub(crate) async fn after_announcing<T>(
    announcement: Option<Announcement>,
    clock: &dyn Clock,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    if let Some(announcement) = announcement {
        tokio::select! {
            biased;
            _ = announcement.stored() => {}
            () = announcement.failed() => {
                tokio::select! {
                    biased;
                    _ = announcement.stored() => {}
                    () = clock.sleep(log::TIMEOUT) => {}
                }
            }
            done = &mut work => return done,
        }
    }
    work.await
}

/// Extracted once the first event of the call is stored. For routes whose effect is not in the store.
///
/// If the event can't be stored, the call is refused: its effect would leave no trace in the log.
#[derive(Debug)]
pub(crate) struct AuditStored;

impl FromRequestParts<Api> for AuditStored {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let call = parts.extensions.get::<AuditedCall>();
        let Some(announcement) = call.and_then(AuditedCall::announcement) else {
            return Ok(Self);
        };
        let stored = tokio::select! {
            biased;
            stored = announcement.stored() => stored,
            () = api.options.clock.sleep(log::TIMEOUT) => {
                let operation = "append the audit event of the call";
                Err(StoreError::Timeout { operation, after: log::TIMEOUT })
            }
        };
        Ok(stored.map(|()| Self)?)
    }
}

/// The beginning of a header.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(MAX_TEXT).collect())
}
