//! Servers for the client, and a proxy that cuts connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_core::retry::RetryPolicy;
use aios_service::{
    client::{Client, ClientOptions},
    http::{ApiOptions, Shutdown, api, serve},
};
use axum::Router;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::Service;

/// Options that repeat without long pauses.
pub(super) fn options() -> ClientOptions {
    let delay = Duration::from_millis(1);
    ClientOptions::new().with_retry(RetryPolicy::fixed(5, delay))
}

/// Serves a router; returns its address.
pub(super) async fn listen(router: Router, shutdown: Shutdown) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, shutdown));
    address
}

/// A service, and where it listens.
pub(super) struct Server {
    pub(super) service: Service,
    pub(super) address: SocketAddr,
    pub(super) shutdown: Shutdown,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(ApiOptions::new()).await
    }

    pub(super) async fn with(options: ApiOptions) -> Self {
        let (service, shutdown) = (Service::in_memory().await, Shutdown::new());
        let options = options.with_shutdown(shutdown.clone());
        let router = Router::new().nest("/api/v1", api(Arc::clone(&service.runtime), options));
        let address = listen(router, shutdown.clone()).await;
        Self { service, address, shutdown }
    }

    pub(super) fn client(&self) -> Client {
        client(self.address)
    }

    /// Ends all runs and returns their positions in the log.
    pub(super) async fn head(&self) -> u64 {
        self.service.runtime.store().unwrap().head().await.unwrap()
    }
}

pub(super) fn client(address: SocketAddr) -> Client {
    Client::new(&format!("http://{address}/api/v1"), options()).unwrap()
}

/// Passes connections on to a server, and cuts each of them after some bytes of its answers.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub(super) async fn start(
        server: SocketAddr,
        limit: impl Fn(usize) -> usize + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((incoming, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(incoming, server, limit(number)));
            }
        });
        Self { address, connections }
    }

    /// How many connections there were.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn pass(mut incoming: TcpStream, server: SocketAddr, mut limit: usize) {
    let mut outgoing = TcpStream::connect(server).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 4096], vec![0; 4096]);
    while limit > 0 {
        tokio::select! {
            length = incoming.read(&mut asked) => match length {
                Ok(length @ 1..) => outgoing.write_all(&asked[..length]).await.unwrap(),
                _ => return,
            },
            length = outgoing.read(&mut answered) => {
                let Ok(length @ 1..) = length else { return };
                let length = length.min(limit);
                limit -= length;
                if incoming.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
