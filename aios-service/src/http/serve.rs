use std::{io, pin::pin, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use axum::{Router, extract::ConnectInfo};
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::Shutdown;

/// Connections that are open at the same time; further ones wait.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take to send the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of the headers of a request.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// How long requests may take to end once the shutdown has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted, for example because the process has too many
/// open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router over HTTP/1.1 until `shutdown` begins and its
/// [delay](Shutdown::with_accept_delay) is over; then takes no more connections and waits up to 30 s
/// for requests to end.
///
/// A client has 10 s to send the headers of a request, at most 64 KiB of them. At most 16,384
/// connections are open at a time. Handlers get the address of the client as
/// `ConnectInfo<SocketAddr>`.
///
/// # Errors
///
/// Never at present: a connection that cannot be accepted is logged, and the next one is tried.
///
/// # Cancel safety
///
/// A cancelled call takes no more connections; open ones continue in the background.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    let (graceful, clock) = (GracefulShutdown::new(), SystemClock);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut end = pin!(async {
        shutdown.begun().await;
        clock.sleep(shutdown.accept_delay()).await;
    });
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&connections).acquire_owned().await.ok();
            listener.accept().await.map(|accepted| (permit, accepted))
        };
        let (permit, (stream, peer)) = tokio::select! {
            biased;
            () = &mut end => break,
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "failed to accept a connection");
                    clock.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "failed to set TCP_NODELAY");
        }
        let service = router.clone().layer(axum::Extension(ConnectInfo(peer)));
        let service = TowerToHyperService::new(service.map_request(body));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(connection.map(move |ended| {
            if let Err(error) = ended {
                debug!(%error, %peer, "a connection ended with an error");
            }
            drop(permit);
        }));
    }
    drop(listener);
    tokio::select! {
        biased;
        () = graceful.shutdown() => {}
        () = clock.sleep(DRAIN_TIMEOUT) => warn!("requests did not end within {DRAIN_TIMEOUT:?}"),
    }
    Ok(())
}

fn body(request: hyper::Request<hyper::body::Incoming>) -> hyper::Request<axum::body::Body> {
    request.map(axum::body::Body::new)
}
