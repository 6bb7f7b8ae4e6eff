//! A TCP proxy in front of the server that injects faults.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
    },
};

use aios_tests::postgres::PostgresServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The server's error message for a wrong password, after which it closes the connection.
const REFUSAL: &[u8] = b"E\0\0\0\x1cSFATAL\0C28P01\0Mnot you\0\0";

/// Forwards bytes in both directions.
#[derive(Clone)]
pub(super) struct Proxy {
    address: SocketAddr,
    server_port: Arc<AtomicU16>,
    losses: Arc<AtomicU32>,
    refuses: Arc<AtomicBool>,
    refused: Arc<AtomicU32>,
    accepted: Arc<AtomicU32>,
    silence: Arc<watch::Sender<()>>,
}

impl Proxy {
    pub(super) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            server_port: Arc::new(AtomicU16::new(server_port)),
            losses: Arc::default(),
            refuses: Arc::default(),
            refused: Arc::default(),
            accepted: Arc::default(),
            silence: Arc::new(watch::Sender::new(())),
        };
        let accept = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(accept.clone().serve(client));
            }
        });
        proxy
    }

    /// URL of a server's database through this proxy.
    pub(super) fn url(&self, server: &PostgresServer) -> String {
        server.url().replace(&server.port().to_string(), &self.address.port().to_string())
    }

    /// Closes each of the next `count` connections on which the server answers, and drops that answer. The
    /// server still processes the request.
    pub(super) fn lose_answers(&self, count: u32) {
        self.losses.store(count, Ordering::SeqCst);
    }

    /// Sets whether new connections are refused, as if the password were wrong.
    pub(super) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Leads new connections to another server. The existing ones still lead to the former server.
    pub(super) fn lead_to(&self, server_port: u16) {
        self.server_port.store(server_port, Ordering::SeqCst);
    }

    /// Number of refused connections.
    pub(super) fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Number of forwarded connections.
    pub(super) fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Stops forwarding on all existing connections, but keeps them open.
    pub(super) fn silence(&self) {
        self.silence.send_replace(());
    }

    async fn serve(self, mut client: TcpStream) {
        if self.refuses.load(Ordering::SeqCst) {
            // Reading and writing fail if the client has closed the connection.
            let _ = client.read(&mut [0; 1024]).await;
            let _ = client.write_all(REFUSAL).await;
            self.refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let server_port = self.server_port.load(Ordering::SeqCst);
        let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
        self.forward(client, server).await;
    }

    async fn forward(self, mut client: TcpStream, mut server: TcpStream) {
        let mut request = vec![0; 65_536];
        let mut answer = vec![0; 65_536];
        let mut silence = self.silence.subscribe();
        loop {
            tokio::select! {
                _ = silence.changed() => std::future::pending().await,
                read = client.read(&mut request) => match read {
                    Ok(bytes @ 1..) => server.write_all(&request[..bytes]).await.unwrap(),
                    _ => return,
                },
                read = server.read(&mut answer) => match read {
                    Ok(bytes @ 1..) if !self.takes_loss() => {
                        if client.write_all(&answer[..bytes]).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
            }
        }
    }

    /// Counts down the losses. Returns whether this answer is lost.
    fn takes_loss(&self) -> bool {
        self.losses
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
    }
}
