//! Options that all providers share. Nothing is checked before the model is created.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use super::signer::{AwsCredentials, Credentials};
use crate::model::Capabilities;

/// Options of a model of a provider.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::providers::{OpenAiModel, ProviderOptions};
///
/// # fn main() -> Result<(), aios_llm::ModelError> {
/// let options = ProviderOptions::new("gpt-5.2")
///     .with_api_key("sk-example")
///     .with_timeout(Duration::from_secs(120));
/// let model = OpenAiModel::new(options)?;
/// # drop(model);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ProviderOptions {
    /// The provider's name of the model.
    pub(super) model: String,
    /// Name in price tables and traces; `None`: provider and model.
    pub(super) name: Option<String>,
    /// Empty for servers that need none.
    pub(super) api_key: String,
    /// `None`: that of the provider.
    pub(super) base_url: Option<String>,
    /// For the whole request.
    pub(super) timeout: Duration,
    /// `None`: what the protocol offers.
    pub(super) capabilities: Option<Capabilities>,
    /// For Amazon Bedrock.
    pub(super) region: Option<String>,
    /// For Amazon Bedrock, instead of a key.
    pub(super) aws_credentials: Option<Arc<Credentials>>,
}

impl ProviderOptions {
    /// Default timeout of a request, until the response is complete. It is shorter than the timeout of a
    /// [model call](crate::LlmAgent::model_timeout), so that the call ends with the error of the request.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(240);

    /// Options for a model, by the provider's name of it, without a key.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            name: None,
            api_key: String::new(),
            base_url: None,
            timeout: Self::DEFAULT_TIMEOUT,
            capabilities: None,
            region: None,
            aws_credentials: None,
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = key.into();
        self
    }

    /// Sets the base URL, as the official clients of the protocol expect it. For other providers that
    /// speak the same protocol, and for proxies.
    #[must_use]
    pub fn with_base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }

    /// Sets the name of the model in price tables and traces. The default is the provider and the
    /// model, as in `openai:gpt-5`.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the timeout of a request, until the response is complete. The default is
    /// [`DEFAULT_TIMEOUT`](Self::DEFAULT_TIMEOUT), 240 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the region, as in `eu-west-1`. For Amazon Bedrock.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Signs requests with credentials of AWS instead of a key. The function is called for each
    /// request, so that temporary credentials can be replaced; it must not block. For Amazon Bedrock.
    #[must_use]
    pub fn with_aws_credentials(
        mut self,
        credentials: impl Fn() -> AwsCredentials + Send + Sync + 'static,
    ) -> Self {
        self.aws_credentials = Some(Arc::new(credentials));
        self
    }

    /// Sets the features that the model supports.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }
}

/// The key is not shown.
impl fmt::Debug for ProviderOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ProviderOptions")
            .field("model", &self.model)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Whether requests to a URL stay on this machine.
pub(super) fn is_local(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether a base URL is one of `OpenAI`, or of its models at Azure.
pub(super) fn is_of_openai(url: &str) -> bool {
    let url = url.parse::<reqwest::Url>().ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    ["openai.com", "openai.azure.com"].iter().any(|known| {
        host.strip_suffix(known).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_recognise_urls_of_this_machine() {
        let is_local = |url: &str| is_local(&url.parse().unwrap());
        assert!(is_local("http://127.0.0.1:8080/v1") && is_local("http://localhost/"));
        assert!(is_local("http://[::1]:80/v1"));
        assert!(!is_local("https://api.openai.com/v1/"));
        assert!(!is_local("https://localhost.example.com/v1/"));
        assert!(!is_local("https://127.0.0.1@example.com/v1/"));
    }

    #[test]
    fn should_not_show_the_key() {
        let options = ProviderOptions::new("m").with_api_key("sk-secret");
        assert!(!format!("{options:?}").contains("sk-secret"));
    }
}
