//! A server for routers.
//!
//! `axum::serve` has no limits for slow clients and for the number of connections, so this server
//! has its own loop over hyper's connections. One task accepts; each connection has a task.
//!
//! **Refusals.** A request that cannot be read, or whose headers or target are too long, reaches no handler.
//! It is answered in the shape of errors too.
//!
//! **The end.** After the shutdown has begun, connections are still accepted for its delay, while
//! readiness reports that the process is draining. Then the listener is closed, idle connections
//! end at once, busy ones after their request, and the rest after the drain timeout.

mod body;
mod connections;
mod options;
mod protocol;
mod refusals;
mod timed_stream;
#[cfg(feature = "tls")]
mod tls;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tracing::{debug, warn};

pub use self::options::ServeOptions;
#[cfg(feature = "tls")]
pub use self::tls::{InvalidCertificate, Tls};
use self::{connections::Connections, protocol::Server};
use super::Shutdown;

/// Pause after a connection could not be accepted, for example because the process has too many
/// open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router over HTTP/1.1, with the default [`ServeOptions`]. See [`serve_with`].
///
/// # Examples
///
/// ```no_run
/// use aios_service::http::{Shutdown, serve};
/// use axum::{Router, routing::get};
/// use tokio::net::TcpListener;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let router = Router::new().route("/hello", get(|| async { "Hello!" }));
/// serve(TcpListener::bind("127.0.0.1:8080").await?, router, Shutdown::on_signals()?).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// See [`serve_with`].
///
/// # Cancel safety
///
/// See [`serve_with`].
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    serve_with(listener, router, ServeOptions::new(), shutdown).await
}

/// Serves a router until `shutdown` begins and its [delay](Shutdown::with_accept_delay) is over; then
/// accepts no more connections and waits for requests to end.
///
/// Handlers get the address of the client as `ConnectInfo<SocketAddr>`. A client that sends or takes
/// nothing is disconnected after the times of the options, and clients that hold connections without
/// requests do not keep others out. Requests that have not ended after the drain timeout are cut off.
///
/// A request that cannot be read is answered with 400, one whose headers exceed the limits with 431, and one
/// whose target is longer than 65,534 bytes with 414: each with an error in the shape of the API, even if the
/// router has no API. Over HTTP/2, there is one exception: headers that exceed the limit by more than 16 KiB
/// are answered with the status alone.
///
/// # Examples
///
/// A server on the internet without a proxy before it. Slow clients are disconnected sooner than by
/// default:
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_service::http::{ServeOptions, Shutdown, serve_with};
/// use axum::Router;
/// use tokio::net::TcpListener;
///
/// # async fn example(router: Router) -> Result<(), Box<dyn std::error::Error>> {
/// let options = ServeOptions::new()
///     .with_header_timeout(Duration::from_secs(5))
///     .with_body_timeout(Duration::from_secs(10))
///     .with_max_connections(2_000);
/// let shutdown = Shutdown::on_signals()?;
/// serve_with(TcpListener::bind("0.0.0.0:8080").await?, router, options, shutdown).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Never at present: a connection that cannot be accepted is logged, and the next one is tried.
///
/// # Cancel safety
///
/// A cancelled call accepts no more connections, and closes those that are open.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    shutdown: Shutdown,
) -> io::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(options.max_connections, Arc::clone(&clock));
    let idle_timeout = options.idle_timeout;
    let drain_timeout = options.drain_timeout;
    let background = background(&options, &connections, &*clock);
    let mut background = pin!(background);
    // Closes the connections when this function ends or is dropped.
    let mut open = JoinSet::new();
    let server = Server::new(router, options.clone(), Arc::clone(&clock));
    let mut end = pin!(async {
        shutdown.begun().await;
        clock.sleep(shutdown.accept_delay()).await;
    });
    debug!(?idle_timeout, "serving");
    loop {
        let accepted = async {
            let (stream, peer) = accept(&listener, &*clock).await;
            (stream, peer, connections.add().await)
        };
        let (stream, peer, connection) = tokio::select! {
            biased;
            () = &mut end => break,
            () = &mut background => break,
            accepted = accepted => accepted,
        };
        let serving = server.connection(stream, peer, connection, graceful.watcher());
        open.spawn(serving);
        while open.try_join_next().is_some() {}
    }
    drop(listener);
    tokio::select! {
        biased;
        () = graceful.shutdown() => {}
        () = clock.sleep(drain_timeout) => warn!("requests did not end within {drain_timeout:?}"),
    }
    Ok(())
}

/// The next connection.
async fn accept(listener: &TcpListener, clock: &dyn Clock) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "failed to set TCP_NODELAY");
                }
                return (stream, peer);
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection");
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Closes connections without requests, and reads new certificates. Never ends.
async fn background(options: &ServeOptions, connections: &Connections, clock: &dyn Clock) {
    let close_idle = async {
        loop {
            clock.sleep((options.idle_timeout / 4).max(Duration::from_millis(10))).await;
            connections.close_idle(options.idle_timeout);
        }
    };
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        futures_util::future::join(tls.watch(clock), close_idle).await;
        return;
    }
    close_idle.await;
}
