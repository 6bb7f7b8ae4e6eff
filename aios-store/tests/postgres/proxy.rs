//! A way to the server that a test can cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Passes bytes on, until it is told to lose the answers of the next connections that ask something.
#[derive(Clone)]
pub(super) struct Proxy {
    address: SocketAddr,
    losses: Arc<AtomicU32>,
}

impl Proxy {
    pub(super) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let losses = Arc::new(AtomicU32::new(0));
        let proxy = Self { address, losses };
        let accept = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
                tokio::spawn(accept.clone().pass(client, server));
            }
        });
        proxy
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The server gets the next question; its answer is lost, and so is the connection.
    pub(super) fn lose_answers(&self, count: u32) {
        self.losses.store(count, Ordering::SeqCst);
    }

    async fn pass(self, mut client: TcpStream, mut server: TcpStream) {
        let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
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
