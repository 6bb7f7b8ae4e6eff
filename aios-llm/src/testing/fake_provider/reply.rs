//! Replies of the fake provider: responses, and everything that goes wrong with real ones.

use std::time::Duration;

use crate::model::{ModelResponse, Usage};

/// A reply of a [`FakeProvider`](super::FakeProvider).
///
/// # Examples
///
/// ```
/// use aios_llm::{ModelResponse, testing::FakeReply};
///
/// // A client that retries gets the third one.
/// let script = [
///     FakeReply::overloaded(),
///     FakeReply::cut_off(ModelResponse::text("Once upon a time"), 2),
///     FakeReply::response(ModelResponse::text("Once upon a time")),
/// ];
/// # drop(script);
/// ```
#[derive(Clone, Debug)]
pub struct FakeReply(pub(super) Kind);

/// The kinds of replies.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A response; `cut_after` is the number of events after which the connection breaks.
    Response { response: ModelResponse, cut_after: Option<usize> },
    /// A response that stops after this many events; the connection stays open.
    Stalled { response: ModelResponse, events: usize },
    /// An error in the form of the protocol.
    Status { status: u16, message: String, retry_after: Option<Duration> },
    /// Status 200 with this body.
    Text(String),
    /// No answer.
    Hang,
}

impl FakeReply {
    /// A response.
    #[must_use]
    pub fn response(response: ModelResponse) -> Self {
        Self(Kind::Response { response, cut_after: None })
    }

    /// A response whose connection breaks: of a stream after this many pieces, of any other response
    /// in the middle of the body.
    #[must_use]
    pub fn cut_off(response: ModelResponse, pieces: usize) -> Self {
        Self(Kind::Response { response, cut_after: Some(pieces) })
    }

    /// A response that stops: a stream after this many pieces, any other response before it begins. The
    /// connection stays open until the client gives up.
    #[must_use]
    pub fn stalled(response: ModelResponse, pieces: usize) -> Self {
        Self(Kind::Stalled { response, events: pieces })
    }

    /// A response that reports other usage than it has.
    #[must_use]
    pub fn wrong_usage(response: ModelResponse, usage: Usage) -> Self {
        Self::response(response.with_usage(usage))
    }

    /// An error with this status.
    #[must_use]
    pub fn status(status: u16, message: impl Into<String>) -> Self {
        Self(Kind::Status { status, message: message.into(), retry_after: None })
    }

    /// Status 429 with the header `Retry-After`, in whole seconds.
    #[must_use]
    pub fn rate_limited(retry_after: Duration) -> Self {
        let status = 429;
        let message = "Rate limit reached".to_owned();
        Self(Kind::Status { status, message, retry_after: Some(retry_after) })
    }

    /// Status 529.
    #[must_use]
    pub fn overloaded() -> Self {
        Self::status(529, "Overloaded")
    }

    /// Status 400 because the request is longer than the context of the model.
    #[must_use]
    pub fn context_overflow() -> Self {
        Self::status(400, "prompt is too long: 250000 tokens > 200000 maximum")
    }

    /// Status 200 with a body that is not JSON.
    #[must_use]
    pub fn malformed() -> Self {
        Self(Kind::Text("{\"id\": \"broken".to_owned()))
    }

    /// No reply at all, until the client gives up.
    #[must_use]
    pub fn hang() -> Self {
        Self(Kind::Hang)
    }
}
