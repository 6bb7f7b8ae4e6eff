//! One request of an ASGI server, and its response.
//!
//! The router runs on the native threads, and the ASGI application on the event loop. Between them
//! is a [`NativeExchange`] with three channels:
//!
//! | channel | from | to |
//! |---|---|---|
//! | body of the request | `feed` | the router |
//! | head of the response | the router | `head` |
//! | body of the response | the router | `next` |
//!
//! The body channels hold [`PARTS`] parts, so a side that is slow holds the other one back: `feed`
//! waits while the router does not read, and the router waits while the client of the server does
//! not. A request whose body is complete at once, and a response whose length is known, need no
//! body channel. `next` passes parts that are ready on together, up to [`TOGETHER`] bytes, because
//! each call from Python has a cost.
//!
//! # The end
//!
//! - The application drops the exchange, because the client is gone: the receivers close, and the
//!   task that answers ends.
//! - The application stops before the body is complete: the task has a sender of the body too, so
//!   the body does not end there, and the router does not take a part of a body for a whole one.
//! - The session closes: the response is cut off where it is. `head` fails with `RUNTIME_CLOSED` if
//!   there was no response yet.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use aios_core::catalog::codes;
use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use pyo3::{
    prelude::*,
    types::{PyBytes, PyList},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    gate::{self, closed, refusal, whole},
    options::ApiArguments,
};
use crate::{
    calls::{Answer, Calls},
    client::NativeClient,
    convert::errors::ErrorInfo,
    session::SessionSlot,
};

/// Parts of a body that are in memory at the same time, in each direction.
const PARTS: usize = 8;
/// After how many bytes parts are no longer passed on together.
const TOGETHER: usize = 64 * 1024;

/// A part of the body of a request; `None` at its end.
type Part = Option<Bytes>;

/// The beginning of a response, with its body if that is complete.
struct Head {
    /// The status code.
    status: u16,
    /// Names and values, as ASGI has them.
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole body, if its length was known.
    body: Option<Vec<u8>>,
}

/// The end of a response that Python reads.
struct Reader {
    /// `None` once the head was read.
    head: Option<oneshot::Receiver<Head>>,
    /// The body.
    parts: mpsc::Receiver<Bytes>,
}

/// The native part of a request. When it is dropped, the request ends.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativeExchange {
    calls: Arc<Calls>,
    body: Mutex<Option<mpsc::Sender<Part>>>,
    reader: Arc<tokio::sync::Mutex<Reader>>,
}

/// A request as an ASGI server passes it.
pub(super) struct Incoming {
    /// The method.
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Names and values.
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Host and port of the client, if the server knows them.
    pub(super) peer: Option<(String, u16)>,
    /// The path at which the server has mounted the API.
    pub(super) root: String,
    /// The first part of the body.
    pub(super) body: Vec<u8>,
    /// Whether other parts follow.
    pub(super) more: bool,
}

/// Begins a request.
pub(super) fn begin(
    client: &NativeClient,
    arguments: &Arc<ApiArguments>,
    mut incoming: Incoming,
) -> NativeExchange {
    let first = Bytes::from(std::mem::take(&mut incoming.body));
    let (sender, body) = match incoming.more {
        false => (None, Body::from(first)),
        true => {
            let (sender, receiver) = mpsc::channel(PARTS);
            let first = stream::iter([Ok::<_, Infallible>(first)]);
            let rest = stream::unfold(receiver, |mut receiver| async move {
                let part: Part = receiver.recv().await?;
                Some((Ok(part?), receiver))
            });
            (Some(sender), Body::from_stream(first.chain(rest)))
        }
    };
    let (head_sender, head) = oneshot::channel();
    let (parts_sender, parts) = mpsc::channel(PARTS);
    let outgoing = Outgoing { head: head_sender, parts: parts_sender, root: incoming.root.clone() };
    let request = build(incoming, body);
    // A body that the client does not finish must not seem to be complete.
    let unfinished = sender.clone();
    client.calls().tokio().spawn(answer(
        client.slot(),
        Arc::clone(arguments),
        request,
        unfinished,
        outgoing,
    ));
    let reader = Arc::new(tokio::sync::Mutex::new(Reader { head: Some(head), parts }));
    NativeExchange { calls: client.shared_calls(), body: Mutex::new(sender), reader }
}

/// The end of a response that Rust writes.
struct Outgoing {
    /// Closed once the exchange was dropped.
    head: oneshot::Sender<Head>,
    /// The body.
    parts: mpsc::Sender<Bytes>,
    /// Put before paths in the header `Location`.
    root: String,
}

/// Answers a request, until the response is sent or Python has dropped the exchange.
async fn answer(
    slot: SessionSlot,
    arguments: Arc<ApiArguments>,
    request: Option<Request>,
    unfinished: Option<mpsc::Sender<Part>>,
    mut outgoing: Outgoing,
) {
    let Some(request) = request else { return outgoing.send(malformed()).await };
    let Some(entry) = gate::enter(&slot, &arguments).await else {
        return outgoing.send(closed()).await;
    };
    let (response, mut cut) = tokio::select! {
        biased;
        answered = entry.answer(request) => answered,
        // The client is gone.
        () = outgoing.head.closed() => return,
    };
    drop(unfinished);
    let parts = outgoing.parts.clone();
    tokio::select! {
        biased;
        () = outgoing.send(response) => {}
        () = parts.closed() => {}
        _ = cut.wait_for(|is_cut| *is_cut) => {}
    }
}

impl Outgoing {
    /// Sends a response to Python, no faster than that reads.
    async fn send(self, response: Response) {
        let response = match whole(response).await {
            Ok((empty, body)) => {
                // An error means that the exchange was dropped.
                let _ = self.head.send(head_of(&empty, &self.root, Some(body)));
                return;
            }
            Err(response) => response,
        };
        if self.head.send(head_of(&response, &self.root, None)).is_err() {
            return;
        }
        let mut body = response.into_body().into_data_stream();
        while let Some(Ok(part)) = body.next().await {
            if self.parts.send(part).await.is_err() {
                return;
            }
        }
    }
}

/// The request; `None` if it is not valid HTTP.
fn build(incoming: Incoming, body: Body) -> Option<Request> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(incoming.method.as_bytes()).ok()?;
    *request.uri_mut() = incoming.target.parse::<Uri>().ok()?;
    for (name, value) in incoming.headers {
        let name = HeaderName::from_bytes(&name).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(&value).ok()?);
    }
    // Names of hosts, as some test clients have, are not addresses.
    if let Some((host, port)) = incoming.peer
        && let Ok(host) = host.parse::<IpAddr>()
    {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((host, port))));
    }
    Some(request)
}

/// The answer to a request that is not valid HTTP.
fn malformed() -> Response {
    refusal(StatusCode::BAD_REQUEST, codes::MALFORMED_REQUEST, "the request cannot be read")
}

/// The head as Python takes it. A body of known length gets the header `content-length`, except
/// where a status has no body.
fn head_of<B>(response: &Response<B>, root: &str, body: Option<Vec<u8>>) -> Head {
    let headers = response.headers().iter().map(|(name, value)| {
        let value = match *name == header::LOCATION && value.as_bytes().starts_with(b"/") {
            // The router does not know the path at which the server has mounted it.
            true => [root.as_bytes(), value.as_bytes()].concat(),
            false => value.as_bytes().to_vec(),
        };
        (name.as_str().as_bytes().to_vec(), value)
    });
    let mut headers: Vec<_> = headers.collect();
    if let Some(body) = &body
        && !response.headers().contains_key(header::CONTENT_LENGTH)
        && !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        headers.push((b"content-length".to_vec(), body.len().to_string().into_bytes()));
    }
    Head { status: response.status().as_u16(), headers, body }
}

#[pymethods]
impl NativeExchange {
    /// Passes on a part of the body of the request. Resolves to whether it is still read.
    fn feed<'py>(&self, py: Python<'py>, part: Vec<u8>, more: bool) -> PyResult<Bound<'py, PyAny>> {
        let mut body = self.body.lock();
        let sender = if more { body.clone() } else { body.take() };
        drop(body);
        self.calls.call(py, async move {
            let is_read = match sender {
                Some(sender) => {
                    let is_read = sender.send(Some(part.into())).await.is_ok();
                    is_read && (more || sender.send(None).await.is_ok())
                }
                None => false,
            };
            Ok::<_, ErrorInfo>(Answer::Object(Box::new(move |py| {
                Ok(is_read.into_pyobject(py)?.to_owned().into_any().unbind())
            })))
        })
    }

    /// Resolves to status, headers, and the body if it is complete.
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move {
            let mut reader = reader.lock().await;
            let head = match &mut reader.head {
                Some(head) => head.await.ok(),
                None => None,
            };
            reader.head = None;
            let head = head.ok_or_else(ended)?;
            Ok(Answer::Object(Box::new(move |py| head.into_object(py))))
        })
    }

    /// Resolves to the next parts of the body of the response; to `None` at its end.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reader = Arc::clone(&self.reader);
        self.calls.call(py, async move {
            let mut reader = reader.lock().await;
            let Some(first) = reader.parts.recv().await else {
                return Ok::<_, ErrorInfo>(Answer::Nothing);
            };
            let mut bytes = first.to_vec();
            while bytes.len() < TOGETHER
                && let Ok(part) = reader.parts.try_recv()
            {
                bytes.extend_from_slice(&part);
            }
            Ok(Answer::Object(Box::new(move |py| Ok(PyBytes::new(py, &bytes).into_any().unbind()))))
        })
    }
}

/// The error of a request without a response.
fn ended() -> ErrorInfo {
    let message = "the runtime was closed before the request was answered";
    ErrorInfo::new("runtime", codes::RUNTIME_CLOSED, message)
}

impl Head {
    /// The head as a tuple. Called on the loop's thread.
    fn into_object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let headers = PyList::empty(py);
        for (name, value) in &self.headers {
            headers.append((PyBytes::new(py, name), PyBytes::new(py, value)))?;
        }
        let body = self.body.map(|body| PyBytes::new(py, &body));
        Ok((self.status, headers, body).into_pyobject(py)?.into_any().unbind())
    }
}
