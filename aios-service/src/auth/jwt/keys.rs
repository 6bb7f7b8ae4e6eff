//! Public keys of an issuer (RFC 7517), and the verification of signatures.
//!
//! A key has one algorithm: the one that it names, or the one that its type implies. A token can't
//! choose another one, which is what most attacks on JSON Web Tokens rely on. Shared secrets are
//! not read at all, so a public key can never be used as one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

use crate::auth::AuthError;

/// Public keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

/// A public key, with the only algorithm that it is used with.
#[derive(Debug)]
pub(super) struct Key {
    /// The `kid`.
    id: Option<String>,
    /// Name of the algorithm, as tokens write it.
    algorithm: &'static str,
    /// The key.
    material: Material,
}

/// A key in the form that the verification needs.
#[derive(Debug)]
enum Material {
    /// The numbers of an RSA key, of 2048 to 8192 bits.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8>, parameters: &'static RsaParameters },
    /// A point of an elliptic curve.
    Point { bytes: Vec<u8>, verification: &'static dyn signature::VerificationAlgorithm },
}

/// A key set in JSON. Each entry is read by itself.
#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

/// A key in JSON. Members of other kinds of keys are missing.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a key set. Keys of other kinds, such as shared secrets, are left out.
    ///
    /// A set may have keys of kinds that this version does not know, so they are not an error, and
    /// neither is an entry that is not a key (RFC 7517, section 5), which is logged. Whether any is left is
    /// for the caller to check.
    pub(super) fn from_json(json: &str) -> Result<Self, AuthError> {
        let set: JwkSet = serde_json::from_str(json).map_err(|error| AuthError::Unavailable {
            reason: format!("the key set cannot be read: {error}"),
        })?;
        Ok(Self(set.keys.into_iter().filter_map(jwk).filter_map(Key::new).collect()))
    }

    /// Whether no key can verify a token.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of usable keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key with this id. Without an id, the only key.
    ///
    /// Of several keys with the same id, the first one is used. If a token has no `kid` and the set
    /// has several keys, none of them is tried.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.0.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
        }
    }
}

impl Key {
    /// Reads a key; `None` if it is for encryption, of another kind, or names an algorithm that
    /// does not fit its type.
    fn new(jwk: Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let (algorithm, material) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => rsa(&jwk)?,
            ("EC", Some("P-256")) => {
                ("ES256", point(&jwk, 32, &signature::ECDSA_P256_SHA256_FIXED)?)
            }
            ("EC", Some("P-384")) => {
                ("ES384", point(&jwk, 48, &signature::ECDSA_P384_SHA384_FIXED)?)
            }
            ("OKP", Some("Ed25519")) => {
                let bytes = decode(jwk.x.as_deref())?;
                ("EdDSA", Material::Point { bytes, verification: &signature::ED25519 })
            }
            _ => return None,
        };
        if jwk.alg.as_deref().is_some_and(|named| named != algorithm) {
            return None;
        }
        Some(Self { id: jwk.kid, algorithm, material })
    }

    /// The only algorithm that the key is used with.
    pub(super) fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// Whether the signature of a message is from the owner of the key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Rsa { modulus, exponent, parameters } => {
                RsaPublicKeyComponents { n: modulus, e: exponent }
                    .verify(parameters, message, signature)
            }
            Material::Point { bytes, verification } => {
                UnparsedPublicKey::new(*verification, bytes).verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

/// Reads an entry of a key set; `None` if it is not a key.
fn jwk(entry: Value) -> Option<Jwk> {
    let read = serde_json::from_value(entry);
    read.inspect_err(|error| warn!(%error, "ignored an entry of a key set that is not a key")).ok()
}

/// An RSA key; of RS256 if it names no algorithm.
fn rsa(jwk: &Jwk) -> Option<(&'static str, Material)> {
    let (algorithm, parameters) = match jwk.alg.as_deref().unwrap_or("RS256") {
        "RS256" => ("RS256", &signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => ("RS384", &signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => ("RS512", &signature::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => ("PS256", &signature::RSA_PSS_2048_8192_SHA256),
        "PS384" => ("PS384", &signature::RSA_PSS_2048_8192_SHA384),
        "PS512" => ("PS512", &signature::RSA_PSS_2048_8192_SHA512),
        _ => return None,
    };
    let modulus = number(jwk.n.as_deref())?;
    let exponent = number(jwk.e.as_deref())?;
    Some((algorithm, Material::Rsa { modulus, exponent, parameters }))
}

/// A point of a curve, uncompressed.
fn point(
    jwk: &Jwk,
    size: usize,
    verification: &'static dyn signature::VerificationAlgorithm,
) -> Option<Material> {
    let x = decode(jwk.x.as_deref())?;
    let y = decode(jwk.y.as_deref())?;
    let is_point = x.len() == size && y.len() == size;
    is_point.then(|| Material::Point { bytes: [vec![4], x, y].concat(), verification })
}

/// Reads a number. Some issuers write zeros before it, although RFC 7518 (section 6.3.1.1) forbids it.
fn number(text: Option<&str>) -> Option<Vec<u8>> {
    let bytes = decode(text)?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Reads base64url, with or without padding.
fn decode(text: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok()
}
