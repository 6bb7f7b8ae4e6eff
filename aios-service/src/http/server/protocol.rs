//! Serves one connection: TLS if configured, then HTTP/1.1 or HTTP/2.
//!
//! Each connection is raced against the order to close it, which comes only while it has no
//! request. Limits of HTTP/2 are far below the defaults of hyper: its streams multiply what one
//! connection may keep in memory, and cheap resets are a known attack.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use aios_core::clock::Clock;
use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, header},
};
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower::ServiceExt;
use tracing::debug;

use super::{
    ServeOptions,
    body::{CountedBody, TimedBody},
    connections::Connection,
    refusals::{Refusals, oversized},
    timed_stream::TimedStream,
};

/// The parts that all connections share.
#[derive(Clone)]
pub(super) struct Server(Arc<Parts>);

/// The router, the limits and the clock.
struct Parts {
    /// Cloned for each request.
    router: Router,
    /// The limits.
    options: ServeOptions,
    /// The clock of the limits.
    clock: Arc<dyn Clock>,
}

impl Server {
    /// Serves this router.
    pub(super) fn new(router: Router, options: ServeOptions, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Parts { router, options, clock }))
    }

    /// Serves a connection until it ends or is asked to close.
    pub(super) fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        connection: Connection,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send + 'static {
        let server = self.clone();
        let connection = Arc::new(connection);
        async move {
            let options = &server.0.options;
            let clock = Arc::clone(&server.0.clock);
            let receiving = Arc::clone(&connection);
            let stream = TimedStream::new(stream, options.write_timeout, clock, receiving);
            let closed = Arc::clone(&connection);
            tokio::select! {
                biased;
                () = server.serve(stream, peer, connection, watcher) => {}
                () = closed.closed() => debug!(%peer, "closed a connection without a request"),
            }
        }
    }

    #[cfg(feature = "tls")]
    async fn serve(
        &self,
        stream: TimedStream,
        peer: SocketAddr,
        connection: Arc<Connection>,
        watcher: Watcher,
    ) {
        let Parts { options, clock, .. } = &*self.0;
        let Some(tls) = &options.tls else {
            return self.http1(stream, peer, connection, watcher).await;
        };
        let handshake = tokio_rustls::TlsAcceptor::from(tls.config()).accept(stream);
        let stream = tokio::select! {
            biased;
            stream = handshake => stream,
            () = clock.sleep(options.header_timeout) => {
                return debug!(%peer, "a client did not finish the TLS handshake in time");
            }
        };
        match stream {
            Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.http2(stream, peer, connection, watcher).await;
            }
            Ok(stream) => self.http1(stream, peer, connection, watcher).await,
            Err(error) => debug!(%error, %peer, "a TLS handshake failed"),
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn serve(
        &self,
        stream: TimedStream,
        peer: SocketAddr,
        connection: Arc<Connection>,
        watcher: Watcher,
    ) {
        self.http1(stream, peer, connection, watcher).await;
    }

    /// Serves HTTP/1.1. The timeout of hyper for headers also runs while a client sends nothing between two
    /// requests, so it is the longer one, and the connection notes when headers begin.
    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
        connection: Arc<Connection>,
        watcher: Watcher,
    ) {
        let options = &self.0.options;
        let stream = Refusals::new(stream, Arc::clone(&connection), options.max_header_bytes);
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout.max(options.idle_timeout))
            .max_buf_size(options.max_header_bytes)
            .serve_connection(TokioIo::new(stream), self.service(peer, Arc::clone(&connection)));
        tokio::select! {
            biased;
            () = finish(watcher, serving, peer) => {}
            () = connection.unfinished(options.header_timeout) => {
                debug!(%peer, "a client did not finish its headers in time");
            }
        }
    }

    /// Serves HTTP/2. Pings find a client that is gone. A client that answers them can still take nothing,
    /// because it sets how much the server may send, and is disconnected.
    #[cfg(feature = "tls")]
    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: SocketAddr,
        connection: Arc<Connection>,
        watcher: Watcher,
    ) {
        use hyper_util::rt::TokioExecutor;

        let headers = self.0.options.max_header_bytes.saturating_add(REFUSED_HEADER_BYTES);
        let headers = u32::try_from(headers).unwrap_or(u32::MAX);
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(headers)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .max_send_buf_size(MAX_SEND_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .serve_connection(TokioIo::new(stream), self.service(peer, Arc::clone(&connection)));
        let timeout = self.0.options.write_timeout;
        tokio::select! {
            biased;
            () = finish(watcher, serving, peer) => {}
            () = connection.stalled(timeout) => debug!(%peer, "a client took nothing for {timeout:?}"),
        }
    }

    /// Passes requests on to the router.
    fn service(
        &self,
        peer: SocketAddr,
        connection: Arc<Connection>,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<CountedBody>,
        Error = Infallible,
        Future: Send + 'static,
    > + Send
    + 'static {
        let parts = Arc::clone(&self.0);
        service_fn(move |request: Request<Incoming>| {
            let parts = Arc::clone(&parts);
            let counted = connection.begin();
            async move {
                let Parts { router, options, clock } = &*parts;
                let timed =
                    |body| Body::new(TimedBody::new(body, options.body_timeout, Arc::clone(clock)));
                let mut request = request.map(timed);
                request.extensions_mut().insert(ConnectInfo(peer));
                name_host(&mut request);
                let response = match oversized(&request, options.max_header_bytes) {
                    Some(refusal) => refusal,
                    None => router.clone().oneshot(request).await?,
                };
                Ok(response.map(|body| CountedBody::new(body, counted)))
            }
        })
    }
}

/// Names the host in `host`, where handlers look for it. HTTP/2 has it in the URI, and so has an absolute
/// request target, which is what counts then (RFC 9112, section 3.2.2). Several `host` are left to be refused.
fn name_host(request: &mut Request<Body>) {
    if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
        return;
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// Requests of an HTTP/2 connection at the same time.
#[cfg(feature = "tls")]
const MAX_STREAMS: u32 = 128;
/// How much larger than the limit the headers of a request over HTTP/2 may be to be refused with an error.
#[cfg(feature = "tls")]
const REFUSED_HEADER_BYTES: usize = 16 * 1024;
/// Streams of an HTTP/2 connection that were reset and are not dealt with yet.
#[cfg(feature = "tls")]
const MAX_RESETS: usize = 64;
/// Bytes of each stream of an HTTP/2 connection that wait to be sent.
#[cfg(feature = "tls")]
const MAX_SEND_BYTES: usize = 64 * 1024;
/// Time between two pings of an HTTP/2 connection, and how long the answer may take.
#[cfg(feature = "tls")]
const PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(20);

/// Serves until the connection ends, or gracefully until its request is answered once the shutdown
/// has begun. Errors of clients are not errors of this program, so they are logged at debug level.
async fn finish<C>(watcher: Watcher, serving: C, peer: SocketAddr)
where
    C: GracefulConnection<Error: std::fmt::Display>,
{
    if let Err(error) = watcher.watch(serving).await {
        debug!(%error, %peer, "a connection ended with an error");
    }
}
