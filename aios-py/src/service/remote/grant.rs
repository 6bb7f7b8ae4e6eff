//! The grant by which a client gets tokens.

use aios_service::client::TokenGrant;
use pyo3::prelude::*;

/// `aios.TokenGrant`.
#[derive(FromPyObject)]
pub(super) struct GrantArg {
    url: String,
    /// The user and the password for a grant of a user, otherwise the client and its secret.
    is_user: bool,
    subject: String,
    secret: String,
    scope: Option<String>,
    audience: Option<String>,
}

impl GrantArg {
    /// The grant for the client, which gets a token when it needs one.
    pub(super) fn into_grant(self) -> TokenGrant {
        let grant = match self.is_user {
            true => TokenGrant::password(self.url, self.subject, self.secret),
            false => TokenGrant::client_credentials(self.url, self.subject, self.secret),
        };
        let grant = match self.scope {
            Some(scope) => grant.with_scope(scope),
            None => grant,
        };
        match self.audience {
            Some(audience) => grant.with_parameter("audience", audience),
            None => grant,
        }
    }
}
