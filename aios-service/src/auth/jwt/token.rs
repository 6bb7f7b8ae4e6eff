//! The compact form of a token.
//!
//! Checks that need no key come first, in this order: the length, three parts, the header, `crit`,
//! `typ`, the signature's encoding, and the claims. A token that fails one of them never reaches
//! the keys of an issuer.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Claims, invalid, keys::Key};
use crate::auth::AuthError;

/// Longest token that is read, in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// A token in its compact form (RFC 7515), not verified yet.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// Names the key and the algorithm.
    header: Header,
    /// The claims, which nothing has verified yet.
    claims: Claims,
    /// The signed part: header and claims, as they were sent.
    message: &'a str,
    /// Over the message.
    signature: Vec<u8>,
}

/// The protected header. `crit` names extensions that have to be understood; none is.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl<'a> Token<'a> {
    /// Takes a token apart. Nothing in it is verified.
    ///
    /// `typ` may be missing, `JWT` or `at+jwt` (RFC 9068). Another type means that the token was
    /// issued for another purpose, such as `logout+jwt`, although its signature is valid.
    pub(super) fn parse(text: &'a str) -> Result<Self, AuthError> {
        if text.len() > MAX_BYTES {
            return Err(invalid("the token is too long"));
        }
        let parts = text.rsplit_once('.').and_then(|(message, signature)| {
            let (header, claims) = message.split_once('.')?;
            Some((message, header, claims, signature))
        });
        let (message, header, claims, signature) =
            parts.ok_or_else(|| invalid("the token does not have three parts"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature);
        let header: Header = json(header)?;
        if header.crit.is_some() {
            return Err(invalid("the token has critical extensions"));
        }
        let is_access_token = |typ: &str| {
            let typ = typ.strip_prefix("application/").unwrap_or(typ);
            typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt")
        };
        if header.typ.as_deref().is_some_and(|typ| !is_access_token(typ)) {
            return Err(invalid("the token is of another type"));
        }
        let signature = signature.map_err(|_| invalid("the signature is not base64url"))?;
        Ok(Self { header, claims: json(claims)?, message, signature })
    }

    /// The id of the key that the token was signed with.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The claims. Until [`verify`](Self::verify) succeeds, anyone may have written them.
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Checks the signature. The key decides the algorithm, not the token.
    pub(super) fn verify(&self, key: &Key) -> Result<(), AuthError> {
        if self.header.alg != key.algorithm() {
            return Err(invalid("the algorithm of the token is not the algorithm of its key"));
        }
        match key.verifies(self.message.as_bytes(), &self.signature) {
            true => Ok(()),
            false => Err(invalid("the signature is invalid")),
        }
    }
}

/// Reads a part: base64url of JSON. The error names the member that cannot be read.
fn json<T: DeserializeOwned>(part: &str) -> Result<T, AuthError> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    let bytes = bytes.map_err(|_| invalid("a part of the token is not base64url"))?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        invalid(&format!("a part of the token cannot be read, at {}", error.path()))
    })?;
    json.end().map_err(|_| invalid("a part of the token is not JSON"))?;
    Ok(value)
}
