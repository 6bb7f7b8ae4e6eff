//! Ids that a repeated request derives again.

use std::{convert::Infallible, sync::Arc};

use aios_core::event::EventId;
use axum::{extract::FromRequestParts, http::request::Parts};

use crate::http::state::Api;

/// The ids of what a request creates. With an `Idempotency-Key`, they derive from it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestIds(Option<Arc<str>>);

impl RequestIds {
    /// Ids of a request with a key.
    pub(crate) fn derived(digest: &str) -> Self {
        Self(Some(digest.into()))
    }

    /// The id of the one thing of this kind that the request creates.
    pub(crate) fn id_of(&self, kind: &str) -> EventId {
        match &self.0 {
            Some(digest) => EventId::derive(&format!("requests/{digest}/{kind}")),
            None => EventId::generate(),
        }
    }

    /// The id of the request, if it has a key.
    pub(crate) fn request(&self) -> Option<Arc<str>> {
        self.0.clone()
    }
}

impl FromRequestParts<Api> for RequestIds {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
