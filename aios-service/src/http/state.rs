//! The state of every handler, and the answers that they give.

use std::{ops::Deref, sync::Arc};

use aios_agents::Runtime;
use aios_core::{BoxFuture, catalog::codes, event::Timestamp, store::Store};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    ApiError, ApiOptions,
    layers::{AuditLog, Limiter},
    protocol::{Document, ListMeta, Listing, Meta, Operations, Resource, VERSION, json},
};
use crate::auth::Identity;

/// The state of every handler. Clones share it: each request makes several.
#[derive(Clone, Debug)]
pub(crate) struct Api(Arc<Parts>);

/// The parts of the state.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Starts and changes runs, tasks and agents.
    pub(crate) runtime: Arc<Runtime>,
    /// The options, completed.
    pub(crate) options: ApiOptions,
    /// Stores the audit events, if the process has a store.
    pub(crate) audit_log: Option<Arc<AuditLog>>,
    /// The query parameters and permissions of each operation.
    pub(crate) operations: Operations,
    /// Counts the requests of callers.
    limiter: Limiter,
}

impl Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Api {
    /// Builds the state.
    pub(crate) fn new(runtime: Arc<Runtime>, options: ApiOptions, operations: Operations) -> Self {
        let options = options.finished();
        let clock = || Arc::clone(&options.clock);
        let audit_log = runtime.store().map(|it| Arc::new(AuditLog::new(Arc::clone(it), clock())));
        let limiter = Limiter::new(clock());
        Self(Arc::new(Parts { runtime, options, audit_log, operations, limiter }))
    }

    /// Counts a request of a caller.
    pub(crate) fn admit(&self, identity: &Identity) -> Result<(), ApiError> {
        let Some(limit) = self.options.limits.rate_limit() else { return Ok(()) };
        let caller = (&identity.scope, &identity.subject);
        self.limiter.admit(limit, caller).map_err(ApiError::rate_limited)
    }

    /// The time of the API.
    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// When a stream ends: after its lifetime, or with the credentials of its caller.
    ///
    /// A caller whose credentials have expired in the meantime gets a stream that ends at once.
    pub(crate) fn stream_end(&self, identity: &Identity) -> BoxFuture<'static, ()> {
        let rest = identity.expires_at.map(|end| end.duration_since(self.now()));
        let lifetime = self.options.stream_lifetime;
        self.options.clock.sleep(rest.map_or(lifetime, |rest| rest.min(lifetime)))
    }

    /// The store; fails with `NO_STORE` in a process without one.
    pub(crate) fn store(&self) -> Result<&Arc<dyn Store>, ApiError> {
        let missing = || ApiError::new(codes::NO_STORE, "the process that answers has no store");
        self.runtime.store().ok_or_else(missing)
    }

    /// An answer with one resource.
    pub(crate) fn document<A: Serialize>(&self, status: StatusCode, data: Resource<A>) -> Response {
        let meta = Meta { timestamp: self.now(), version: VERSION };
        json(status, &Document { data, meta })
    }

    /// A document about something that was started, and where to find it.
    pub(crate) fn accepted<A: Serialize>(&self, data: Resource<A>, location: &str) -> Response {
        self.located(StatusCode::ACCEPTED, data, location)
    }

    /// A document about something that was created, and where to find it.
    pub(crate) fn created<A: Serialize>(&self, data: Resource<A>, location: &str) -> Response {
        self.located(StatusCode::CREATED, data, location)
    }

    /// A document with the header `location`.
    fn located<A: Serialize>(
        &self,
        status: StatusCode,
        data: Resource<A>,
        location: &str,
    ) -> Response {
        match HeaderValue::from_str(location) {
            Ok(location) => {
                let mut response = self.document(status, data);
                response.headers_mut().insert(header::LOCATION, location);
                response
            }
            Err(error) => ApiError::panicked().with_cause(error.to_string()).into_response(),
        }
    }

    /// An answer with a page of resources.
    pub(crate) fn listing<A: Serialize>(
        &self,
        data: Vec<Resource<A>>,
        next: Option<String>,
        unreadable: Vec<String>,
    ) -> Response {
        let meta = ListMeta { timestamp: self.now(), version: VERSION, next, unreadable };
        json(StatusCode::OK, &Listing { data, meta })
    }
}
