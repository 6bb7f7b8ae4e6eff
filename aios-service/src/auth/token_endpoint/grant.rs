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
//! present, the header counts.

use aios_core::event::{EventId, Timestamp};
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
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
        let client = client(headers, form)?;
        let permissions = client
            .as_ref()
            .map(|(id, secret)| self.clients.check(id, secret).ok_or(Refusal::Client))
            .transpose()?;
        match form.grant_type.as_deref() {
            Some("client_credentials") => {
                let (id, _) = client.ok_or(Refusal::Client)?;
                Ok((id, permissions.ok_or(Refusal::Client)?))
            }
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
}

/// Reads the form.
fn form(headers: &HeaderMap, body: &[u8]) -> Result<Form, Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::MediaType);
    }
    read(std::str::from_utf8(body).map_err(|_| Refusal::Form)?)
}

/// Reads a text that is encoded as a form, in the same way as a query.
fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    let uri: Uri = format!("/?{text}").parse().map_err(|_| Refusal::Form)?;
    let query = axum::extract::Query::try_from_uri(&uri).map_err(|_| Refusal::Form)?;
    Ok(query.0)
}

/// The id and the secret of the client: from `Authorization: Basic`, or from the form.
fn client(headers: &HeaderMap, form: &Form) -> Result<Option<(String, String)>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return match (&form.client_id, &form.client_secret) {
            (Some(id), Some(secret)) => Ok(Some((id.clone(), secret.clone()))),
            (_, None) => Ok(None),
            (None, Some(_)) => Err(Refusal::Client),
        };
    };
    let basic = value.to_str().ok().and_then(|value| value.split_once(' '));
    let basic = basic.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let bytes = basic.and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(Refusal::Client)?;
    let (id, secret) = text.split_once(':').ok_or(Refusal::Client)?;
    // The standard says to encode both as in a form before. Many clients do not.
    let decoded = read(&format!("id={id}&secret={secret}"));
    let decoded = decoded.map(|Basic { id, secret }| (id, secret));
    Ok(Some(decoded.unwrap_or_else(|_| (id.to_owned(), secret.to_owned()))))
}

/// The two parts of `Authorization: Basic`, encoded as a form.
#[derive(Deserialize)]
struct Basic {
    id: String,
    secret: String,
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
