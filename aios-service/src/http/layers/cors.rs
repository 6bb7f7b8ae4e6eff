//! Requests of web pages: cross-origin resource sharing.
//!
//! A browser that has a page of another origin sends the `Origin` of the page with its requests.
//! The check is therefore on the server: a request of another origin is refused before anything is
//! read from it, whether or not the browser asked first. Credentials are never cookies, so a page
//! can't use those of its visitor.

use std::{sync::Arc, time::Duration};

use aios_core::catalog::codes;
use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{self, HOST, ORIGIN, VARY},
    },
    response::{IntoResponse, Response},
};

use crate::http::ApiError;

/// Methods that pages may use.
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// Request headers that pages may send.
const REQUEST_HEADERS: &str = "authorization, content-type, idempotency-key, if-match, if-none-match, \
     last-event-id, traceparent, tracestate, x-api-key, x-request-id";
/// Response headers that pages may read.
const RESPONSE_HEADERS: &str =
    "etag, idempotent-replayed, location, retry-after, traceresponse, x-request-id";

/// The origins whose web pages may use the API from a browser (cross-origin resource sharing).
///
/// A page of the same origin as the API needs no permission. Requests from pages of any other origin
/// are refused with `ORIGIN_NOT_ALLOWED`, before their credentials are checked. Programs other than
/// browsers send no `Origin` and are not affected. Cookies are never used: pages send a token or a key
/// in a header.
///
/// ```
/// use aios_service::http::{ApiOptions, Cors};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = ApiOptions::new().with_cors(Cors::new(["https://console.example"])?);
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cors {
    /// As browsers send them.
    origins: Arc<[HeaderValue]>,
    /// How long a browser may cache the response to a preflight request.
    max_age: Duration,
}

/// A text that is not the origin of a web page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not the origin of a page: that is `http://host` or `https://host`, in lower case \
     and without a pattern, with a port if it is not the default one of the scheme"
)]
#[non_exhaustive]
pub struct InvalidOrigin {
    /// The refused text.
    pub text: String,
}

impl Cors {
    /// Default of [`with_max_age`](Self::with_max_age).
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(600);

    /// Allows pages of these origins, and of no other. An origin is compared with what the browser
    /// sends, for example `https://console.example` or `http://localhost:3000`; there are no patterns.
    ///
    /// # Errors
    ///
    /// [`InvalidOrigin`] names the first text that is not an origin.
    pub fn new<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidOrigin> {
        let origins = origins.into_iter().map(origin).collect::<Result<_, _>>()?;
        Ok(Self { origins, max_age: Self::DEFAULT_MAX_AGE })
    }

    /// Sets how long a browser may cache the response to a preflight request. The default is 10 minutes.
    ///
    /// A page of an origin that is removed later can send requests until then, and they are refused
    /// by the server: the origin of each request is checked.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Allows no other origin than that of the API.
    pub(crate) fn none() -> Self {
        Self { origins: Arc::new([]), max_age: Self::DEFAULT_MAX_AGE }
    }

    /// Where a request comes from.
    pub(crate) fn source(&self, request: &Request) -> Source {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Source::NoPage };
        if origins.next().is_some() {
            return Source::Refused;
        }
        if self.origins.contains(origin) {
            let is_preflight = request.method() == Method::OPTIONS
                && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
            return Source::Allowed { origin: origin.clone(), is_preflight };
        }
        match is_same_origin(origin, request) {
            true => Source::NoPage,
            false => Source::Refused,
        }
    }
}

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Not a page, or one of the same origin.
    NoPage,
    /// A page of an allowed origin. Before most requests, a browser sends a preflight request.
    Allowed { origin: HeaderValue, is_preflight: bool },
    /// Any other page.
    Refused,
}

impl Source {
    /// The response to a request that is not passed to a handler.
    pub(crate) fn answer(&self, cors: &Cors) -> Option<Response> {
        match self {
            Self::Refused => {
                let message = "pages of this origin may not use the API; see `Cors`";
                Some(ApiError::new(codes::ORIGIN_NOT_ALLOWED, message).into_response())
            }
            Self::Allowed { is_preflight: true, .. } => {
                let mut response = StatusCode::NO_CONTENT.into_response();
                let headers = response.headers_mut();
                let age = HeaderValue::from(cors.max_age.as_secs());
                headers.insert(header::ACCESS_CONTROL_MAX_AGE, age);
                let mut insert = |name: HeaderName, value: &'static str| {
                    headers.insert(name, HeaderValue::from_static(value));
                };
                insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
                Some(response)
            }
            Self::NoPage | Self::Allowed { .. } => None,
        }
    }

    /// Lets an allowed page read the answer.
    pub(crate) fn permit(self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Self::Allowed { origin, .. } = self {
            let exposed = HeaderValue::from_static(RESPONSE_HEADERS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

/// Whether a page has the same host as the request. A page cannot choose `Sec-Fetch-Site`, which is
/// right also behind a proxy that changes the host.
///
/// Without `Sec-Fetch-Site`, which old browsers do not send, the host of the page is compared with
/// that of the request. The schemes are not: a proxy before this server may end TLS.
fn is_same_origin(origin: &HeaderValue, request: &Request) -> bool {
    let headers = request.headers();
    if headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin") {
        return true;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| Some(request.uri().authority()?.as_str()));
    let page = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    page.zip(host).is_some_and(|(page, host)| page.eq_ignore_ascii_case(host))
}

/// Checks that a text is an origin, in the form in which browsers send it.
fn origin(text: &str) -> Result<HeaderValue, InvalidOrigin> {
    let invalid = || InvalidOrigin { text: text.chars().take(100).collect() };
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    let authority = uri.authority().map(|authority| authority.as_str());
    let is_origin = matches!(uri.scheme_str(), Some("http" | "https"))
        && authority.is_some_and(|it| text.ends_with(it) && !it.contains('@'))
        && !matches!(
            (uri.scheme_str(), uri.port_u16()),
            (Some("http"), Some(80)) | (Some("https"), Some(443))
        )
        && text.chars().all(|it| !it.is_ascii_uppercase() && it != '*');
    match is_origin {
        true => HeaderValue::from_str(text).map_err(|_| invalid()),
        false => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_accept_only_origins() {
        for text in ["https://a.example", "http://localhost:3000", "http://[::1]:443"] {
            assert_eq!(origin(text).unwrap(), text);
        }
        for text in [
            "",
            "*",
            "null",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/path",
            "https://A.example",
            "https://user@a.example",
            "https://*.a.example",
            "https://a.example:443",
            "http://a.example:80",
            "ftp://a.example",
        ] {
            assert!(origin(text).is_err(), "{text:?}");
        }
    }
}
