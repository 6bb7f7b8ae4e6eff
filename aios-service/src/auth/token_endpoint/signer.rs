//! The key that signs the tokens of the issuer for development.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::hex;

/// A key that cannot sign tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot sign tokens: {reason}")]
#[cfg_attr(docsrs, doc(cfg(feature = "token-endpoint")))]
#[non_exhaustive]
pub struct InvalidSigningKey {
    /// The reason.
    pub reason: String,
}

/// An Ed25519 key. Its id is derived from its public half.
pub(super) struct Signer {
    /// Both halves.
    pair: Ed25519KeyPair,
    /// The `kid`: the beginning of the hash of the public half, so that the same key has the same
    /// id after a restart.
    id: String,
}

impl Signer {
    /// A new key.
    pub(super) fn generate() -> Result<Self, InvalidSigningKey> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 =
            pkcs8.map_err(|_| InvalidSigningKey { reason: "no random numbers".to_owned() })?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// A key of the user.
    pub(super) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, InvalidSigningKey> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
        let pair = pair.map_err(|error| InvalidSigningKey { reason: error.to_string() })?;
        let hash = Sha256::digest(pair.public_key().as_ref());
        let id = hex::encode(&hash).chars().take(16).collect();
        Ok(Self { pair, id })
    }

    /// The public half, for verification.
    pub(super) fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": x })
    }

    /// Signs claims.
    pub(super) fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": self.id });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// The key is not shown.
impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Signer").field(&self.id).finish()
    }
}
