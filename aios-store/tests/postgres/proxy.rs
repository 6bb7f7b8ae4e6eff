//! A way to the server that a test can cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use aios_tests::postgres::PostgresServer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The server's word for a password that is wrong, by which it ends a connection.
const REFUSAL: &[u8] = b"E\0\0\0\x1cSFATAL\0C28P01\0Mnot you\0\0";

/// Passes bytes on, until it is told to lose the answers of the next connections that ask something.
#[derive(Clone)]
pub(super) struct Proxy {
    address: SocketAddr,
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
            losses: Arc::default(),
            refuses: Arc::default(),
            refused: Arc::default(),
            accepted: Arc::default(),
            silence: Arc::new(watch::Sender::new(())),
        };
        let accept = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(accept.clone().serve(client, server_port));
            }
        });
        proxy
    }

    /// URL of a server's database through this proxy.
    pub(super) fn url(&self, server: &PostgresServer) -> String {
        server.url().replace(&server.port().to_string(), &self.address.port().to_string())
    }

    /// The server gets the next question; its answer is lost, and so is the connection.
    pub(super) fn lose_answers(&self, count: u32) {
        self.losses.store(count, Ordering::SeqCst);
    }

    /// Whether new connections are refused, as if the password were wrong.
    pub(super) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// How many connections were refused.
    pub(super) fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }

    /// How many connections were passed on.
    pub(super) fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// From now on nothing comes through the connections that there are, though they stay open.
    pub(super) fn silence(&self) {
        self.silence.send_replace(());
    }

    async fn serve(self, mut client: TcpStream, server_port: u16) {
        if self.refuses.load(Ordering::SeqCst) {
            // The client may be gone.
            drop(client.read(&mut [0; 1024]).await);
            drop(client.write_all(REFUSAL).await);
            self.refused.fetch_add(1, Ordering::SeqCst);
            return;
        }
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
        self.pass(client, server).await;
    }

    async fn pass(self, mut client: TcpStream, mut server: TcpStream) {
        let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
        let mut silence = self.silence.subscribe();
        loop {
            tokio::select! {
                _ = silence.changed() => std::future::pending().await,
                read = client.read(&mut asked) => match read {
                    Ok(bytes @ 1..) => server.write_all(&asked[..bytes]).await.unwrap(),
                    _ => return,
                },
                read = server.read(&mut answered) => match read {
                    Ok(bytes @ 1..) if !self.loses() => {
                        if client.write_all(&answered[..bytes]).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
            }
        }
    }

    fn loses(&self) -> bool {
        let take = |left: u32| left.checked_sub(1);
        self.losses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }
}
