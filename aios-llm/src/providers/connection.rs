//! The HTTP side of all adapters: one client per model, with a timeout for the whole request, no
//! redirects and no retries. A redirect would send the key elsewhere. A retry of the client would
//! be a request that no budget has reserved.
//!
//! The key is in a header that is marked as sensitive, and is removed from the body of an error
//! before that becomes a message, whatever its status is. Responses are limited to 64 MiB.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{
    Client, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{
    ProviderOptions, body,
    error::{invalid_response, of_status, of_transport, tells_of_error},
    key::ApiKey,
    options::is_local,
    signer::Signer,
};
use crate::model::{ModelError, ModelErrorKind, check_real_requests};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest response that is read, in bytes.
pub(super) const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// A client for a provider.
pub(super) struct Connection {
    /// Name of the model in errors: `<provider>:<model>` unless it is set.
    pub(super) name: String,
    /// Name of the model at the provider.
    pub(super) model: String,
    /// Uses rustls with ring, and the certificates of the system.
    client: Client,
    /// The base URL, without a slash at its end.
    base: String,
    /// The host of the base URL.
    pub(super) host: String,
    /// Whether the URL is one of this machine, which the switch for real requests allows.
    is_local: bool,
    /// Sent with each request.
    headers: HeaderMap,
    /// Hidden in errors.
    pub(super) api_key: ApiKey,
    /// Signs each request, if the provider needs that.
    signer: Option<Signer>,
}

impl Connection {
    /// A client that posts to paths under the base URL.
    pub(super) fn new(
        options: ProviderOptions,
        provider: &str,
        default_url: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Self, ModelError> {
        let model = options.model;
        let api_key = ApiKey::new(options.api_key);
        let name = options.name.unwrap_or_else(|| format!("{provider}:{model}"));
        let base = options.base_url.as_deref().unwrap_or(default_url).trim_end_matches('/');
        let url: Url =
            base.parse().map_err(|error| invalid(&name, "the base URL is invalid", error))?;
        let mut all = HeaderMap::new();
        for (header, value) in headers {
            let mut value: HeaderValue = value
                .parse()
                .map_err(|error| invalid(&name, "the key contains invalid characters", error))?;
            value.set_sensitive(true);
            all.insert(*header, value);
        }
        let client = client(options.timeout, &name)?;
        let base = base.to_owned();
        let host = url.host_str().unwrap_or_default().to_owned();
        let is_local = is_local(&url);
        Ok(Self { name, model, client, base, host, is_local, headers: all, api_key, signer: None })
    }

    /// Signs requests.
    pub(super) fn with_signer(mut self, signer: Signer) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Posts a request to a path. A response whose status is no success is an error.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Response, ModelError> {
        self.post_with(path, body, None).await
    }

    /// Posts a request with another header.
    pub(super) async fn post_with(
        &self,
        path: &str,
        body: &Value,
        header: Option<(&'static str, &'static str)>,
    ) -> Result<Response, ModelError> {
        if !self.is_local {
            check_real_requests(&self.name)?;
        }
        let url: Url = format!("{}/{path}", self.base)
            .parse()
            .map_err(|error| invalid(&self.name, "the name of the model is invalid", error))?;
        let body = body::write(body);
        let mut headers = self.headers.clone();
        if let Some(signer) = &self.signer {
            let signed = signer.sign(&url, body.as_bytes());
            headers.extend(signed.map_err(|error| {
                invalid(&self.name, "the credentials contain invalid characters", error)
            })?);
        }
        headers.extend(
            header.map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            }),
        );
        let request = self.client.post(url).headers(headers);
        let request = request.header("content-type", "application/json").body(body);
        let response = request.send().await.map_err(|error| of_transport(&self.name, error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        // The status alone says what happened if the body cannot be read.
        let body = self.text(response).await.unwrap_or_default();
        Err(of_status(&self.name, status, &headers, &self.api_key.hidden_in_text(&body)))
    }

    /// Posts a request and reads the whole response, which may be an error.
    pub(super) async fn post_whole(&self, path: &str, body: &Value) -> Result<Value, ModelError> {
        self.whole(self.post(path, body).await?).await
    }

    /// Reads the whole response, which may be an error.
    pub(super) async fn whole(&self, response: Response) -> Result<Value, ModelError> {
        self.read(&self.text(response).await?)
    }

    /// Reads a whole response, which may be an error.
    pub(super) fn read(&self, json: &str) -> Result<Value, ModelError> {
        let body = body::read(json.as_bytes())
            .map_err(|_| invalid_response(&self.name, "is not valid JSON"))?;
        Ok(if tells_of_error(&body) { self.api_key.hidden_in(body) } else { body })
    }

    /// Reads a body up to the limit.
    async fn text(&self, mut response: Response) -> Result<String, ModelError> {
        let mut bytes = Vec::new();
        loop {
            let chunk = response.chunk().await.map_err(|error| of_transport(&self.name, error))?;
            let Some(chunk) = chunk else { break };
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_RESPONSE_BYTES {
                return Err(invalid_response(&self.name, "is too large"));
            }
        }
        String::from_utf8(bytes).map_err(|_| invalid_response(&self.name, "is not UTF-8"))
    }
}

/// Builds the client. The provider of cryptography is passed explicitly, so nothing depends on what
/// the process has installed.
fn client(timeout: Duration, name: &str) -> Result<Client, ModelError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Certificates of the system that can't be read are left out: requests that need one fail with
    // a transport error.
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(name, "the TLS configuration is invalid", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(timeout)
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()
        .map_err(|error| invalid(name, "the HTTP client cannot be created", error))
}

/// The error of an option that can't be used. No request was made.
fn invalid(
    name: &str,
    reason: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> ModelError {
    let reason = format!("{name}: {reason}");
    ModelError::new(ModelErrorKind::InvalidRequest, reason).with_source(error)
}

/// The headers, which contain the key, are not shown.
impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Connection").field(&self.name).finish()
    }
}
