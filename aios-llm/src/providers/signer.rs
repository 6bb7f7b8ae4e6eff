//! Signatures of requests to AWS: Signature Version 4.
//!
//! The steps, as AWS documents them:
//!
//! 1. a canonical request: method, path, query, headers, their names, and the hash of the body;
//! 2. a text to sign: algorithm, time, scope (date, region, service), and the hash of the canonical
//!    request;
//! 3. a key for the scope, derived from the secret by four steps of HMAC;
//! 4. the signature: HMAC of the text with that key, in the header `authorization`.
//!
//! The time is that of the injected clock, so tests can compare with the vectors of AWS.

use std::{fmt, sync::Arc};

use aios_core::clock::{Clock, SystemClock};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue, InvalidHeaderValue},
};
use ring::{digest, hmac};

/// Credentials of AWS.
///
/// # Examples
///
/// ```
/// use aios_llm::providers::AwsCredentials;
///
/// let temporary = AwsCredentials::new("AKIDEXAMPLE", "secret").with_session_token("token");
/// // The secret and the token are not shown.
/// assert!(!format!("{temporary:?}").contains("secret"));
/// ```
#[derive(Clone)]
pub struct AwsCredentials {
    /// Not secret; part of each request.
    access_key_id: String,
    /// Never sent.
    secret_access_key: String,
    /// Sent with each request, if the credentials are temporary.
    session_token: Option<String>,
}

impl AwsCredentials {
    /// Credentials without a session token.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
        }
    }

    /// Sets the session token of temporary credentials.
    #[must_use]
    pub fn with_session_token(mut self, token: impl Into<String>) -> Self {
        self.session_token = Some(token.into());
        self
    }
}

/// Only the id is shown.
impl fmt::Debug for AwsCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AwsCredentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Gives the credentials of a request.
pub(super) type Credentials = dyn Fn() -> AwsCredentials + Send + Sync;

/// Signs requests to one service in one region.
pub(super) struct Signer {
    /// Called for each request, because temporary credentials expire.
    credentials: Arc<Credentials>,
    /// Part of the scope.
    region: String,
    /// Part of the scope.
    service: &'static str,
    /// The time of signatures. AWS rejects those that are some minutes off.
    clock: Arc<dyn Clock>,
}

impl Signer {
    /// A signer on the system clock.
    pub(super) fn new(
        credentials: Arc<Credentials>,
        region: impl Into<String>,
        service: &'static str,
    ) -> Self {
        Self { credentials, region: region.into(), service, clock: Arc::new(SystemClock) }
    }

    /// The headers that sign a POST request with this body.
    pub(super) fn sign(&self, url: &Url, body: &[u8]) -> Result<HeaderMap, InvalidHeaderValue> {
        let credentials = (self.credentials)();
        let time = basic_format(&self.clock.now().to_string());
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, None) => host.to_owned(),
            (host, Some(port)) => format!("{host}:{port}"),
        };
        // Sorted by name, as the signature wants them.
        let mut signed = vec![("host", host), ("x-amz-date", time.clone())];
        if let Some(token) = &credentials.session_token {
            signed.push(("x-amz-security-token", token.clone()));
        }
        let canonical = canonical_request(url, &signed, body);
        let authorization = self.authorization(&credentials, &time, &signed, &canonical);
        let mut headers = HeaderMap::new();
        // The client sends `host` itself.
        for (name, value) in signed.into_iter().skip(1).chain([("authorization", authorization)]) {
            let mut value: HeaderValue = value.parse()?;
            value.set_sensitive(name != "x-amz-date");
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// The header that carries the signature.
    fn authorization(
        &self,
        credentials: &AwsCredentials,
        time: &str,
        signed: &[(&str, String)],
        canonical: &str,
    ) -> String {
        let date = time.get(..8).unwrap_or_default();
        let region = self.region.as_str();
        let service = self.service;
        let scope = format!("{date}/{region}/{service}/aws4_request");
        let hash = sha256(canonical.as_bytes());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let first = format!("AWS4{}", credentials.secret_access_key).into_bytes();
        let key = [date, region, service, "aws4_request"]
            .into_iter()
            .fold(first, |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, text.as_bytes()));
        let id = &credentials.access_key_id;
        let names = names(signed);
        format!(
            "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
    }
}

/// Step 1. The query is expected to be in canonical order already.
fn canonical_request(url: &Url, signed: &[(&str, String)], body: &[u8]) -> String {
    let path: Vec<_> = url.path().split('/').map(encode).collect();
    let headers = signed.iter().map(|(name, value)| format!("{name}:{}\n", value.trim()));
    let path = path.join("/");
    let query = url.query().unwrap_or_default();
    let headers = headers.collect::<String>();
    let names = names(signed);
    let hash = sha256(body);
    format!("POST\n{path}\n{query}\n{headers}\n{names}\n{hash}")
}

/// The names of the signed headers.
fn names(signed: &[(&str, String)]) -> String {
    let names: Vec<_> = signed.iter().map(|(name, _)| *name).collect();
    names.join(";")
}

/// Encodes a segment of a path. Its percent signs are encoded again, as the signature wants it.
pub(super) fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `2015-08-30T12:36:00.000000Z` as `20150830T123600Z`.
fn basic_format(time: &str) -> String {
    let seconds = time.split('.').next().unwrap_or_default().trim_end_matches('Z');
    let digits = seconds.chars().filter(|letter| !matches!(letter, '-' | ':'));
    digits.chain(['Z']).collect()
}

/// HMAC with SHA-256.
fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// A hash in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use aios_core::clock::VirtualClock;

    use super::*;

    fn signed(url: &str, body: &str, token: Option<&str>) -> HeaderMap {
        let mut credentials =
            AwsCredentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        credentials.session_token = token.map(str::to_owned);
        let mut signer = Signer::new(Arc::new(move || credentials.clone()), "us-east-1", "bedrock");
        signer.clock = Arc::new(VirtualClock::new("2015-08-30T12:36:00Z".parse().unwrap()));
        signer.sign(&url.parse().unwrap(), body.as_bytes()).unwrap()
    }

    fn authorization(headers: &HeaderMap) -> &str {
        headers.get("authorization").unwrap().to_str().unwrap()
    }

    #[test]
    fn should_sign_as_botocore_does() {
        let url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-v1%3A0/converse";
        let prefix = "AWS4-HMAC-SHA256 \
                      Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, ";
        let headers = signed(url, r#"{"messages":[]}"#, None);
        assert_eq!(headers.get("x-amz-date").unwrap(), "20150830T123600Z");
        assert_eq!(
            authorization(&headers),
            format!(
                "{prefix}SignedHeaders=host;x-amz-date, Signature=618f9f3aeabc3bbdf9115da57a45025d1e2d06aab20aa80d9f2b7ccd3f8df0d3"
            )
        );
        let headers = signed(url, r#"{"messages":[]}"#, Some("token"));
        assert_eq!(headers.get("x-amz-security-token").unwrap(), "token");
        assert_eq!(
            authorization(&headers),
            format!(
                "{prefix}SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=9fe6c6ce8dabcfe868587042de67790a04df05da6aeef101164cc6aaa9c7ba88"
            )
        );
    }

    #[test]
    fn should_not_show_secrets() {
        let credentials = AwsCredentials::new("AKID", "hidden").with_session_token("hidden");
        let shown = format!("{credentials:?}");
        assert!(shown.contains("AKID") && !shown.contains("hidden"), "{shown}");
        let headers = signed("http://localhost:1/model/m/converse", "", Some("hidden"));
        assert!(!format!("{headers:?}").contains("hidden"));
    }

    #[test]
    fn should_encode_names_of_models() {
        assert_eq!(encode("anthropic.claude-v1:0"), "anthropic.claude-v1%3A0");
        assert_eq!(encode("arn:aws:x/y"), "arn%3Aaws%3Ax%2Fy");
    }
}
