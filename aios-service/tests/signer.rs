//! The issuer of the tokens of the tests.

use aios_core::{
    clock::{Clock, VirtualClock},
    event::Timestamp,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "aios";
/// A key that signs nothing but the tokens of these tests.
const RSA: &[u8] = include_bytes!("fixtures/rsa.pk8");

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The private half of a key of the issuer.
pub(crate) enum Signer {
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub(crate) fn rsa(encoding: &'static dyn signature::RsaEncoding) -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(RSA).unwrap(), encoding)
    }

    pub(crate) fn p256() -> Self {
        let (random, kind) = (SystemRandom::new(), &signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(crate) fn jwk(&self, id: &str, algorithm: &str) -> Value {
        match self {
            Self::Rsa(pair, _) => {
                let public: signature::RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
                let (n, e) = (encode(public.n), encode(public.e));
                json!({ "kty": "RSA", "kid": id, "alg": algorithm, "use": "sig", "n": n, "e": e })
            }
            Self::P256(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = (encode(&point[..32]), encode(&point[32..]));
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "alg": algorithm, "x": x, "y": y })
            }
            Self::Ed25519(pair) => {
                let x = encode(pair.public_key());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "alg": algorithm, "x": x })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair, encoding) => {
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut bytes).unwrap();
                bytes
            }
            Self::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.sign(message.as_bytes())))
    }
}

pub(crate) fn seconds(at: Timestamp) -> i64 {
    at.as_micros() / 1_000_000
}

pub(crate) fn claims(clock: &VirtualClock) -> Value {
    let now = seconds(clock.now());
    let (begin, end) = (now, now + 300);
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "nbf": begin, "exp": end, "scope": "openid runs:read" })
}

pub(crate) fn keys(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
