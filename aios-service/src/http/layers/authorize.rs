//! Authentication and authorisation of requests.
//!
//! **Authentication** happens once per request, in the guard. The authenticators are asked in
//! order; the first one that recognises the credentials decides. An authenticator that can't decide
//! for now, for example because the keys of an issuer are unreachable, ends the request with 503
//! and not with 401, because a client would throw away good credentials otherwise.
//!
//! **Authorisation** is a part of the signature of each handler: it takes a [`Caller`] of the
//! permission that it requires. The refusal names the permission.

use std::{marker::PhantomData, net::SocketAddr};

use aios_core::catalog::codes;
use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, connect_info::MockConnectInfo},
    http::request::Parts,
};
use serde_json::json;

use crate::{
    auth::{AuthError, Credentials, Identity},
    http::{ApiError, Challenge, state::Api},
};

/// Identifies the caller, and adds it to the request. Fails without valid credentials, and above the rate
/// limit of the caller.
pub(crate) async fn authenticate(api: &Api, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let identity = identify(api, &parts).await?;
    api.admit(&identity)?;
    parts.extensions.insert(identity);
    Ok(Request::from_parts(parts, body))
}

/// Headers that a request may have only once: those with credentials, and that of the host.
const GIVEN_ONCE: [&str; 3] = ["authorization", "x-api-key", "host"];

/// Asks the authenticators for the caller.
async fn identify(api: &Api, parts: &Parts) -> Result<Identity, ApiError> {
    // A proxy in front of this server may have read another one of them.
    let is_repeated = |name: &&str| parts.headers.get_all(*name).iter().nth(1).is_some();
    if let Some(name) = GIVEN_ONCE.into_iter().find(is_repeated) {
        let message = format!("the request has the header `{name}` more than once");
        return Err(ApiError::new(codes::MALFORMED_REQUEST, message));
    }
    let extensions = &parts.extensions;
    let connected = extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let peer =
        connected.or_else(|| extensions.get::<MockConnectInfo<SocketAddr>>().map(|peer| peer.0));
    let (now, elapsed) = (api.now(), api.options.clock.elapsed());
    let credentials = Credentials { headers: &parts.headers, peer, now, elapsed };
    for authenticator in &api.options.authenticators {
        match authenticator.authenticate(credentials).await {
            Ok(Some(identity)) => return Ok(identity),
            Ok(None) => {}
            Err(AuthError::Unavailable { reason }) => {
                let message = "the credentials cannot be checked for now";
                return Err(
                    ApiError::new(codes::AUTHENTICATION_UNAVAILABLE, message).with_cause(reason)
                );
            }
            Err(error @ AuthError::Invalid { .. }) => {
                tracing::debug!(%error, "refused a request");
                return Err(unauthenticated(&credentials));
            }
        }
    }
    Err(unauthenticated(&credentials))
}

/// The refusal. It does not say why credentials are invalid, which is in the log.
fn unauthenticated(credentials: &Credentials<'_>) -> ApiError {
    let is_token = credentials.bearer().is_some();
    let message = match is_token || credentials.api_key().is_some() {
        true => "the credentials of the request are not valid",
        false => "the request has no credentials; send `Authorization: Bearer …` or `X-API-Key`",
    };
    let error = ApiError::new(codes::UNAUTHENTICATED, message);
    if is_token { error.with_challenge(Challenge::InvalidToken) } else { error }
}

/// Fails if a caller lacks a permission.
pub(crate) fn require(identity: &Identity, permission: &str) -> Result<(), ApiError> {
    if identity.permissions.allow(permission) {
        return Ok(());
    }
    let message = format!("the caller lacks the permission {permission}");
    let details = json!({ "required": permission });
    let error = ApiError::new(codes::PERMISSION_DENIED, message).with_details(details);
    Err(error.with_challenge(Challenge::InsufficientScope(permission.to_owned())))
}

/// A permission that a route requires.
pub(crate) trait Required: Send + Sync + 'static {
    /// Name of the permission, `resource:action`.
    const PERMISSION: &'static str;
}

/// Defines a type for each permission, so that a handler can require it in its signature.
macro_rules! permissions {
    ($($name:ident = $text:literal,)+) => {
        $(
            #[derive(Debug)]
            pub(crate) struct $name;

            impl Required for $name {
                const PERMISSION: &'static str = $text;
            }
        )+
    };
}

permissions! {
    RunsRead = "runs:read",
    RunsStart = "runs:start",
    RunsSignal = "runs:signal",
    RunsCancel = "runs:cancel",
    RunsPause = "runs:pause",
    RunsResume = "runs:resume",
    RunsFork = "runs:fork",
    RunsRetry = "runs:retry",
    WorkflowsRead = "workflows:read",
    TasksRead = "tasks:read",
    TasksCreate = "tasks:create",
    TasksCancel = "tasks:cancel",
    AgentsRead = "agents:read",
    AgentsCreate = "agents:create",
    AgentsReplace = "agents:replace",
    AgentsDelete = "agents:delete",
    AgentsRestart = "agents:restart",
    EventsRead = "events:read",
    EventsPublish = "events:publish",
    EnginesRead = "engines:read",
    ProjectionsRead = "projections:read",
    ProjectionsRetire = "projections:retire",
    ProjectionsRedrive = "projections:redrive",
    DeadLettersRead = "dead_letters:read",
    DeadLettersRedrive = "dead_letters:redrive",
    DeadLettersPurge = "dead_letters:purge",
}

/// The caller of a route, with the permission that the route requires.
#[derive(Debug)]
pub(crate) struct Caller<P> {
    /// The caller, as the authenticator described it.
    pub(crate) identity: Identity,
    /// The permission that was checked.
    required: PhantomData<P>,
}

impl<P: Required> FromRequestParts<Api> for Caller<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        let identity = parts.extensions.get::<Identity>().cloned();
        let identity = identity
            .ok_or_else(|| ApiError::panicked().with_cause("a route without authentication"))?;
        require(&identity, P::PERMISSION)?;
        Ok(Self { identity, required: PhantomData })
    }
}
