//! A provider on this machine, for tests of clients and adapters.
//!
//! | module | contents |
//! |---|---|
//! | `serve`, `http` | connections, and which protocol a path belongs to |
//! | `openai`, `responses`, `anthropic`, `gemini`, `bedrock` | one protocol each: bodies, errors and events |
//! | `reply` | what a test scripts |
//!
//! The provider is strict where the real ones are: it checks keys, required fields and combinations
//! that they reject. So a test that passes here has sent a request that the real provider accepts
//! in that respect.

mod anthropic;
mod bedrock;
mod gemini;
mod http;
mod openai;
mod reply;
mod responses;
mod serve;

use std::{
    collections::VecDeque,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

pub use self::reply::FakeReply;

/// A server on a free port of this machine that speaks the chat completions and responses of `OpenAI`,
/// the messages of Anthropic, Gemini, and the Converse API of Bedrock, including streams. It answers with a
/// script of replies, faults included.
///
/// It stops when it is dropped.
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_llm::{ModelResponse, testing::{FakeProvider, FakeReply}};
///
/// # async fn example() -> std::io::Result<()> {
/// let provider = FakeProvider::start([
///     FakeReply::rate_limited(Duration::from_secs(1)),
///     FakeReply::response(ModelResponse::text("Paris")),
/// ])
/// .await?;
/// println!("use {} as the base URL of an OpenAI client", provider.openai_url());
/// # Ok(())
/// # }
/// ```
pub struct FakeProvider {
    /// On the loopback interface.
    address: SocketAddr,
    /// Shared with the connections.
    script: Arc<Script>,
    /// Aborted when the provider is dropped.
    server: JoinHandle<()>,
}

/// A request that a [`FakeProvider`] received.
///
/// # Examples
///
/// ```no_run
/// use aios_llm::{ModelResponse, testing::{FakeProvider, FakeReply}};
///
/// # async fn example() -> std::io::Result<()> {
/// let provider = FakeProvider::start([FakeReply::response(ModelResponse::text("Paris"))]).await?;
/// // … let the client under test make its request …
/// for request in provider.requests() {
///     assert!(request.header("authorization").is_some());
///     assert_eq!(request.body["model"], "gpt-5");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FakeRequest {
    /// Path, for example `/v1/messages`.
    pub path: String,
    /// Names, in lower case, and values of the headers.
    pub headers: Vec<(String, String)>,
    /// The body; null if it is not JSON.
    pub body: Value,
}

impl FakeRequest {
    /// The value of a header, whose name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Gives the reply to a request.
type Responder = dyn Fn(&FakeRequest) -> FakeReply + Send + Sync;

/// The replies that are left, and the requests so far.
#[derive(Default)]
struct Script {
    /// Those that are left, in order.
    replies: Mutex<VecDeque<FakeReply>>,
    /// Gives the reply when no other is left.
    responder: Option<Box<Responder>>,
    /// In the order in which they arrived.
    requests: Mutex<Vec<FakeRequest>>,
}

impl Script {
    /// Adds a request.
    fn record(&self, request: FakeRequest) {
        self.requests.lock().push(request);
    }

    /// The reply to a request: from the script, else from the function.
    fn next(&self, request: &FakeRequest) -> Option<FakeReply> {
        let next = self.replies.lock().pop_front();
        next.or_else(|| self.responder.as_ref().map(|responder| responder(request)))
    }
}

impl FakeProvider {
    /// Starts a provider with these replies, in order. A request without a reply gets status 500.
    ///
    /// # Errors
    ///
    /// Errors of opening a port.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn start(replies: impl IntoIterator<Item = FakeReply>) -> io::Result<Self> {
        Self::start_on(0, replies).await
    }

    /// Starts a provider on a port.
    ///
    /// # Errors
    ///
    /// Errors of opening the port.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn start_on(
        port: u16,
        replies: impl IntoIterator<Item = FakeReply>,
    ) -> io::Result<Self> {
        let replies = Mutex::new(replies.into_iter().collect());
        Self::serve(port, Script { replies, ..Script::default() }).await
    }

    /// Starts a provider that calls a function for each request.
    ///
    /// # Errors
    ///
    /// Errors of opening a port.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn respond_with(
        responder: impl Fn(&FakeRequest) -> FakeReply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let responder: Option<Box<Responder>> = Some(Box::new(responder));
        Self::serve(0, Script { responder, ..Script::default() }).await
    }

    /// Opens the port and starts to serve.
    async fn serve(port: u16, script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(script);
        let server = tokio::spawn(serve::serve(listener, Arc::clone(&script)));
        Ok(Self { address, script, server })
    }

    /// Base URL for `OpenAI` clients, which add `chat/completions` or `responses`.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1/", self.address)
    }

    /// Base URL for Anthropic clients, which add `v1/messages`.
    #[must_use]
    pub fn anthropic_url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Base URL for clients of Gemini, which add `v1beta/models/…`.
    #[must_use]
    pub fn gemini_url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Base URL for clients of Bedrock, which add `model/…/converse`.
    #[must_use]
    pub fn bedrock_url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<FakeRequest> {
        self.script.requests.lock().clone()
    }

    /// Adds a reply to the script.
    pub fn push(&self, reply: FakeReply) {
        self.script.replies.lock().push_back(reply);
    }

    /// The number of replies that were not requested yet.
    #[must_use]
    pub fn replies_left(&self) -> usize {
        self.script.replies.lock().len()
    }

    /// Checks that every reply was requested.
    ///
    /// # Panics
    ///
    /// If replies are left.
    #[track_caller]
    pub fn assert_finished(&self) {
        let left = self.replies_left();
        assert!(left == 0, "{left} replies of the provider were never requested");
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for FakeProvider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FakeProvider")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Seconds as in the header `Retry-After`, rounded up.
fn seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}
