//! Requests for tokens (RFC 6749).
//!
//! Two grants are supported: client credentials, and the password of a user. Errors have the shape
//! and the codes of the standard and not those of the API, because OAuth2 clients read them.
//!
//! | `grant_type` | subject | permissions |
//! |---|---|---|
//! | `client_credentials` | the id of the client | at most those of the client |
//! | `password` | the name of the user | at most those of the user; the client is optional |
//!
//! Credentials of the client come from `Authorization: Basic` or from the form. If both are
//! present, the header counts. The standard says to encode both parts of the header as in a form; many
//! clients do not, so they are tried decoded and as they are.

use aios_core::event::{EventId, Timestamp};
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json as value};

use super::{TokenEndpoint, json};
use crate::auth::{Permission, Permissions};

/// The form of a request. Fields that it does not have here are ignored, as the standard says.
#[derive(Deserialize)]
struct Form {
    grant_type: Option<String>,
    scope: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// Why no token is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The caller is on another machine.
    Stranger,
    /// The body is not a form.
    MediaType,
    /// A field is missing or unreadable.
    Form,
    /// Another grant was asked for.
    GrantType,
    /// The client is not known, or its secret is wrong.
    Client,
    /// The user is not known, or the password is wrong.
    User,
    /// A permission was asked for that the account does not have.
    Scope,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (code, description) = match self {
            Self::Stranger => ("access_denied", "only callers on the same machine are answered"),
            Self::MediaType => {
                ("invalid_request", "the body must be a form: application/x-www-form-urlencoded")
            }
            Self::Form => ("invalid_request", "a field of the form is missing or cannot be read"),
            Self::GrantType => {
                ("unsupported_grant_type", "`grant_type` is `client_credentials` or `password`")
            }
            Self::Client => ("invalid_client", "the client is unknown, or its secret is wrong"),
            Self::User => ("invalid_grant", "the user is unknown, or the password is wrong"),
            Self::Scope => ("invalid_scope", "the account lacks a permission that `scope` names"),
        };
        let status = match self {
            Self::Stranger => StatusCode::FORBIDDEN,
            Self::Client => StatusCode::UNAUTHORIZED,
            _ => StatusCode::BAD_REQUEST,
        };
        let body = value!({ "error": code, "error_description": description });
        let mut response = json(status, &body);
        if self == Self::Client {
            let basic = HeaderValue::from_static("Basic realm=\"aios\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl TokenEndpoint {
    /// Grants a token to a client or a user.
    pub(super) fn grant(&self, headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
        let form = form(headers, body)?;
        let (subject, permissions) = self.account(headers, &form)?;
        let scope = scope(permissions, form.scope.as_deref())?;
        let now = self.clock.now();
        let lifetime = self.lifetime;
        let claims = value!({
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "iat": seconds(now),
            "exp": seconds(now + lifetime),
            "jti": EventId::generate().to_string(),
            "scope": scope,
        });
        Ok(value!({
            "access_token": self.signer.token(&claims),
            "token_type": "Bearer",
            "expires_in": lifetime.as_secs(),
            "scope": scope,
        }))
    }

    /// The account that gets the token. A client that authenticates has to be right, also with the
    /// grant of a password.
    fn account(&self, headers: &HeaderMap, form: &Form) -> Result<(String, &Permissions), Refusal> {
        let client = match credentials(headers, form)? {
            Some(credentials) => Some(self.client(credentials).ok_or(Refusal::Client)?),
            None => None,
        };
        match form.grant_type.as_deref() {
            Some("client_credentials") => client.ok_or(Refusal::Client),
            Some("password") => {
                let account = form.username.as_deref().zip(form.password.as_deref());
                let (name, password) = account.ok_or(Refusal::Form)?;
                let permissions = self.users.check(name, password).ok_or(Refusal::User)?;
                Ok((name.to_owned(), permissions))
            }
            Some(_) => Err(Refusal::GrantType),
            None => Err(Refusal::Form),
        }
    }

    /// The client with one of these pairs of id and secret.
    fn client(&self, credentials: Vec<Credentials>) -> Option<(String, &Permissions)> {
        let mut pairs = credentials.into_iter();
        pairs.find_map(|(id, secret)| self.clients.check(&id, &secret).map(|found| (id, found)))
    }
}

/// The id and the secret of a client.
type Credentials = (String, String);

/// Reads the form.
fn form(headers: &HeaderMap, body: &[u8]) -> Result<Form, Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::MediaType);
    }
    serde_urlencoded::from_bytes(body).map_err(|_| Refusal::Form)
}

/// The id and the secret of the client, in the ways in which they may be meant: from `Authorization: Basic`,
/// or from the form. `None` if there are none.
fn credentials(headers: &HeaderMap, form: &Form) -> Result<Option<Vec<Credentials>>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return match (&form.client_id, &form.client_secret) {
            (Some(id), Some(secret)) => Ok(Some(vec![(id.clone(), secret.clone())])),
            (_, None) => Ok(None),
            (None, Some(_)) => Err(Refusal::Client),
        };
    };
    let basic = value.to_str().ok().and_then(|value| value.split_once(' '));
    let basic = basic.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let bytes = basic.and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(Refusal::Client)?;
    let (id, secret) = text.split_once(':').ok_or(Refusal::Client)?;
    let raw = (id.to_owned(), secret.to_owned());
    Ok(Some(vec![(decoded(id), decoded(secret)), raw]))
}

/// A part that is encoded as a value of a form.
fn decoded(part: &str) -> String {
    let spaced = part.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// The permissions of the token: those that were asked for, or all of the account.
fn scope(permissions: &Permissions, asked: Option<&str>) -> Result<String, Refusal> {
    let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else {
        return Ok(permissions.iter().map(Permission::as_str).collect::<Vec<_>>().join(" "));
    };
    let is_allowed = |scope: &&str| scope.parse::<Permission>().is_ok() && permissions.allow(scope);
    let scopes: Vec<_> = asked.split_ascii_whitespace().collect();
    match scopes.iter().all(is_allowed) {
        true => Ok(scopes.join(" ")),
        false => Err(Refusal::Scope),
    }
}

/// A time in the unit of claims.
fn seconds(at: Timestamp) -> i64 {
    at.as_micros() / 1_000_000
}
