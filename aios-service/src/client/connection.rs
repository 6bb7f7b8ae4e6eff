//! Requests, and what comes back.
//!
//! ```text
//! Request ─► attempt ─► answer
//!               │ failed
//!               ├ may be repeated? (retryable, and repeatable or certainly without effect)
//!               │    yes ─► pause: the policy, or Retry-After if it is longer ─► attempt
//!               └    no  ─► error
//! ```
//!
//! A process that is killed keeps the key of the request it was handling for as long as a request may take.
//! Attempts in that time are not counted, unless the policy allows only one.
//!
//! Every POST has an idempotency key, which is the same in all attempts, so most requests may be
//! repeated after any failure. A request that is marked `once` is repeated only if it certainly had
//! no effect: it was not sent, for example because there was no token, or was refused for its rate.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_core::{Chain, clock::Clock, event::EventId, retry::RetryPolicy};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, header::IntoHeaderName};
use reqwest::{Response, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use super::{
    ClientError, ClientOptions, Page,
    query::Parameters,
    resources::Attributes,
    response::{read, refusal, request_id, unreachable},
    tokens::Tokens,
};
use crate::https::http_client;

/// Longest `Retry-After` that a request waits for; a longer one fails at once.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Longest wait that the service accepts. It waits for less.
const MAX_WAIT: Duration = Duration::from_millis(999_999_999);

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The method.
    method: Method,
    /// With the path and the query.
    url: Url,
    /// JSON.
    body: Option<String>,
    /// Whether a second attempt has no second effect.
    is_repeatable: bool,
    /// In addition to those of the connection.
    headers: HeaderMap,
    /// How long the service is asked to wait.
    wait: Duration,
}

impl Request {
    /// Adds parameters.
    pub(super) fn with_query(mut self, parameters: Parameters) -> Self {
        if !parameters.is_empty() {
            self.url.query_pairs_mut().extend_pairs(parameters);
        }
        self
    }

    /// Asks the service to wait, and gives the attempt as much more time.
    pub(super) fn with_wait(mut self, wait: Duration) -> Self {
        let wait = wait.min(MAX_WAIT);
        self.wait = wait;
        self.with_query(vec![("wait", format!("{}ms", wait.as_millis()))])
    }

    /// Adds a header.
    pub(super) fn with_header(mut self, name: impl IntoHeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets the trace context, instead of the one that the request has.
    pub(super) fn with_traceparent(self, traceparent: Option<&str>) -> Result<Self, ClientError> {
        let Some(traceparent) = traceparent else { return Ok(self) };
        let value = HeaderValue::try_from(traceparent).map_err(|error| {
            ClientError::InvalidArgument { name: "the trace context", reason: error.to_string() }
        })?;
        Ok(self.with_header("traceparent", value))
    }

    /// Sets the body.
    pub(super) fn with_json<T: Serialize + ?Sized>(
        mut self,
        body: &T,
    ) -> Result<Self, ClientError> {
        self.body = Some(aios_core::event::Payload::encode(body)?.as_str().to_owned());
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self)
    }

    /// Marks a request whose second attempt could have a second effect.
    pub(super) fn once(mut self) -> Self {
        self.is_repeatable = false;
        self
    }
}

/// Sends requests to one service. Clones share everything but the trace context.
#[derive(Clone)]
pub(super) struct Connection {
    /// Pools the connections.
    http: reqwest::Client,
    /// Where the API is mounted.
    base: Url,
    headers: HeaderMap,
    /// Tokens that are renewed; they replace a token among the headers.
    tokens: Option<Arc<Tokens>>,
    /// Of each attempt.
    pub(super) timeout: Duration,
    /// How often and with what pauses requests are repeated.
    pub(super) retry: RetryPolicy,
    /// Timeouts and pauses.
    pub(super) clock: Arc<dyn Clock>,
    /// Whether a request has succeeded, so that the URL is that of a service.
    has_succeeded: Arc<AtomicBool>,
    /// W3C trace context of requests that have no other one.
    traceparent: Option<Arc<str>>,
}

impl Connection {
    /// Checks the URL and the options. Nothing is sent.
    pub(super) fn new(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let invalid = |reason: String| ClientError::InvalidConfiguration { reason };
        let mut base = Url::parse(url).map_err(|error| invalid(format!("the URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(invalid("the URL must begin with http:// or https://".to_owned()));
        }
        if !base.username().is_empty() || base.password().is_some() {
            let reason = "the URL contains credentials; use `with_token` or `with_api_key`";
            return Err(invalid(reason.to_owned()));
        }
        base.set_query(None);
        base.set_fragment(None);
        options.retry.validate().map_err(|error| invalid(format!("the retry policy: {error}")))?;
        let http = http_client().map_err(invalid)?;
        let headers = options.headers()?;
        let ClientOptions { timeout, retry, clock, grant, .. } = options;
        let tokens = grant.map(Tokens::new).transpose()?.map(Arc::new);
        let has_succeeded = Arc::new(AtomicBool::new(false));
        let traceparent = None;
        Ok(Self { http, base, headers, tokens, timeout, retry, clock, has_succeeded, traceparent })
    }

    /// The same connection for requests with a trace context.
    pub(super) fn with_traceparent(&self, traceparent: &str) -> Self {
        Self { traceparent: Some(traceparent.into()), ..self.clone() }
    }

    /// A request to the path with these parts.
    pub(super) fn request(&self, method: Method, path: &[&str]) -> Result<Request, ClientError> {
        let mut url = self.base.clone();
        for part in path {
            // A URL cannot have these as parts of its path, however they are encoded.
            if matches!(*part, "" | "." | "..") {
                let reason = format!("{part:?} cannot be part of a URL");
                return Err(ClientError::InvalidArgument { name: "an id", reason });
            }
        }
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        let (wait, headers) = (Duration::ZERO, HeaderMap::new());
        let request = Request { method, url, body: None, is_repeatable: true, headers, wait };
        request.with_traceparent(self.traceparent.as_deref())
    }

    /// A GET of a path with these parts.
    pub(super) fn get(&self, path: &[&str]) -> Result<Request, ClientError> {
        self.request(Method::GET, path)
    }

    /// A request with a JSON body and a new idempotency key.
    pub(super) fn post<T: Serialize + ?Sized>(
        &self,
        path: &[&str],
        body: &T,
    ) -> Result<Request, ClientError> {
        let mut request = self.request(Method::POST, path)?.with_json(body)?;
        if let Ok(key) = HeaderValue::try_from(EventId::generate().to_string()) {
            request.headers.insert("idempotency-key", key);
        }
        Ok(request)
    }

    /// The resource that a request is answered with.
    pub(super) async fn one<A: Attributes>(&self, request: &Request) -> Result<A, ClientError> {
        Ok(self.tagged(request).await?.0)
    }

    /// The resource that a request is answered with, and its tag.
    pub(super) async fn tagged<A: Attributes>(
        &self,
        request: &Request,
    ) -> Result<(A, Option<String>), ClientError> {
        let Answer { body, request_id, tag, .. } = self.body(request).await?;
        let document: Document<'_> = parse(&body, &request_id)?;
        Ok((attributes(document.data, &request_id)?, tag))
    }

    /// The resource that a request is answered with; `None` with 202, which says that there is none yet.
    pub(super) async fn awaited<A: Attributes>(
        &self,
        request: &Request,
    ) -> Result<Option<A>, ClientError> {
        let Answer { body, request_id, status, .. } = self.body(request).await?;
        if status == StatusCode::ACCEPTED {
            return Ok(None);
        }
        let document: Document<'_> = parse(&body, &request_id)?;
        attributes(document.data, &request_id).map(Some)
    }

    /// The page that a request is answered with.
    pub(super) async fn page<A: Attributes>(
        &self,
        request: &Request,
    ) -> Result<Page<A>, ClientError> {
        let Answer { body, request_id, .. } = self.body(request).await?;
        let Listing { data, meta } = parse(&body, &request_id)?;
        let items = data.into_iter().map(|resource| attributes(resource, &request_id));
        let items = items.collect::<Result<_, _>>()?;
        Ok(Page { items, next: meta.next, unreadable: meta.unreadable })
    }

    /// Sends a request until it succeeds or must not be repeated, and reads the body.
    async fn body(&self, request: &Request) -> Result<Answer, ClientError> {
        let mut attempt = 1;
        let mut open_until = None;
        loop {
            let timeout = self.timeout.saturating_add(request.wait);
            let mut is_sent = false;
            let answered = tokio::select! {
                biased;
                answered = self.attempt(request, &mut is_sent) => answered,
                () = self.clock.sleep(timeout) => Err(ClientError::Timeout { timeout }),
            };
            let error = match answered {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let is_repeatable = request.is_repeatable || !is_sent;
            let is_open = self.is_open(&error, &mut open_until);
            let number = if is_open { 1 } else { attempt };
            let Some(pause) = self.pause(&error, is_repeatable, number) else {
                return Err(error);
            };
            warn!(code = error.code(), error = %Chain(&error), attempt, ?pause, "repeats a request");
            self.clock.sleep(pause).await;
            attempt += u32::from(!is_open);
        }
    }

    /// Whether an earlier attempt may still be handled. The first answer that says so tells until when.
    fn is_open(&self, error: &ClientError, open_until: &mut Option<Duration>) -> bool {
        let now = self.clock.elapsed();
        error.open_for().is_some_and(|open_for| {
            now < *open_until.get_or_insert_with(|| now.saturating_add(open_for))
        })
    }

    /// How long to wait before the next attempt; `None` if there is none.
    ///
    /// The pause is that of the policy, or what the service asks for if that is longer. A service
    /// that asks for more than a minute is not waited for: the caller gets the error and can
    /// decide.
    pub(super) fn pause(
        &self,
        error: &ClientError,
        is_repeatable: bool,
        attempt: u32,
    ) -> Option<Duration> {
        let may_repeat = error.is_retryable() && (is_repeatable || error.is_without_effect());
        if !may_repeat || !self.retry.allows(error.code()) {
            return None;
        }
        let asked = error.retry_after().unwrap_or_default();
        let delay = self.retry.delay_after(attempt, chance())?;
        (asked <= MAX_RETRY_AFTER).then(|| delay.max(asked))
    }

    /// How long to wait, after all attempts of a request, for a service that is away and that was there before;
    /// `None` if the error is another one. `pause` is the time unless the service asks for more.
    pub(super) fn outage(&self, error: &ClientError, pause: Duration) -> Option<Duration> {
        let may_end = error.is_retryable() && self.retry.allows(error.code());
        let is_outage = may_end && self.has_succeeded.load(Ordering::Relaxed);
        is_outage.then(|| error.retry_after().unwrap_or_default().max(pause))
    }

    /// Sends a request, and reads the body of a success.
    async fn attempt(&self, request: &Request, is_sent: &mut bool) -> Result<Answer, ClientError> {
        let response = self.send(request, is_sent).await?;
        let (request_id, status) = (request_id(&response), response.status());
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let tag = tag.map(ToOwned::to_owned);
        Ok(Answer { body: read(response, &request_id).await?, status, request_id, tag })
    }

    /// Sends a request once, or twice if the token has been refused. An answer that is not a success is
    /// an error.
    ///
    /// A token that was refused is replaced once in each attempt. A second 401 is the answer: the
    /// account has lost its access, and another token would not help.
    ///
    /// `is_sent` is set while the request may have an effect: it is not while a token is requested.
    pub(super) async fn send(
        &self,
        request: &Request,
        is_sent: &mut bool,
    ) -> Result<Response, ClientError> {
        let Some(tokens) = &self.tokens else {
            *is_sent = true;
            return self.send_with(request, None).await;
        };
        let token = tokens.header(&self.http, self.clock.elapsed()).await?;
        *is_sent = true;
        match self.send_with(request, Some(token.clone())).await {
            Err(ClientError::Service { status: 401, .. }) => {
                *is_sent = false;
                tokens.forget(&token).await;
                let token = tokens.header(&self.http, self.clock.elapsed()).await?;
                *is_sent = true;
                self.send_with(request, Some(token)).await
            }
            answered => answered,
        }
    }

    /// Sends a request once, with this token.
    async fn send_with(
        &self,
        request: &Request,
        token: Option<HeaderValue>,
    ) -> Result<Response, ClientError> {
        let mut sent = self.http.request(request.method.clone(), request.url.clone());
        sent = sent.headers(self.headers.clone()).headers(request.headers.clone());
        if let Some(body) = &request.body {
            sent = sent.body(body.clone());
        }
        if let Some(token) = token {
            // `header` would add a second one.
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, token);
            sent = sent.headers(headers);
        }
        let response = sent.send().await.map_err(|error| unreachable(&error))?;
        match response.status().is_success() {
            true => {
                self.has_succeeded.store(true, Ordering::Relaxed);
                Ok(response)
            }
            false => Err(refusal(response).await),
        }
    }
}

/// An answer that is a success.
struct Answer {
    /// JSON.
    body: Vec<u8>,
    /// A status from 200 to 299.
    status: StatusCode,
    /// As the service logs it.
    request_id: Option<String>,
    /// The `ETag`.
    tag: Option<String>,
}

/// Credentials, which are headers, are not shown.
impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// A number from 0 to 1.
///
/// The pauses of many clients spread over time, which needs no generator that is safe for secrets.
fn chance() -> f64 {
    // Every `RandomState` has random keys.
    let random = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// Reads a body.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], id: &Option<String>) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::InvalidResponse {
        reason: error.to_string(),
        request_id: id.clone(),
    })
}

/// Reads a resource: first the envelope, then the attributes.
pub(super) fn attributes<A: Attributes>(
    resource: Resource<'_>,
    id: &Option<String>,
) -> Result<A, ClientError> {
    let mut attributes: A = parse(resource.attributes.get().as_bytes(), id)?;
    attributes.identify(resource.id);
    Ok(attributes)
}

/// An answer with one resource.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    data: Resource<'a>,
}

/// An answer with a page.
#[derive(Deserialize)]
struct Listing<'a> {
    #[serde(borrow)]
    data: Vec<Resource<'a>>,
    meta: ListMeta,
}

/// The parts of `meta` that a client needs.
#[derive(Deserialize)]
struct ListMeta {
    next: Option<String>,
    #[serde(default)]
    unreadable: Vec<String>,
}

/// A resource whose attributes are not read yet.
#[derive(Deserialize)]
pub(super) struct Resource<'a> {
    id: String,
    #[serde(borrow)]
    attributes: &'a RawValue,
}
