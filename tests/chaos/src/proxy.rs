//! A TCP proxy between one process and one server.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

/// The handling of data that passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is forwarded at once.
    Pass,
    /// It is forwarded after this delay.
    Delay(Duration),
    /// It is held back, without any notification.
    Hold,
}

/// The proxy; it ends with the harness.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) port: u16,
    mode: watch::Sender<Mode>,
    connections: Arc<Mutex<BTreeMap<u64, AbortHandle>>>,
}

impl Proxy {
    /// Listens for one process at an address, and forwards to a server with several ports.
    pub(crate) async fn new(address: &str, ports: Vec<u16>) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let proxy = Self {
            port: listener.local_addr()?.port(),
            mode: watch::Sender::new(Mode::Pass),
            connections: Arc::default(),
        };
        tokio::spawn(proxy.clone().accept(listener, ports.into()));
        Ok(proxy)
    }

    /// Sets the handling of data that passes through.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Cuts one connection, and returns whether there was one.
    pub(crate) fn cut_one(&self, chance: u64) -> bool {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u64::try_from(connections.len()).unwrap_or_default().max(1);
        let chosen = usize::try_from(chance % count).unwrap_or_default();
        let found = connections.values().nth(chosen);
        found.inspect(|connection| connection.abort()).is_some()
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.values().for_each(AbortHandle::abort);
    }

    async fn accept(self, listener: TcpListener, ports: Arc<[u16]>) {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        while let Ok((stream, _)) = listener.accept().await {
            let (number, mode) = (NUMBERS.fetch_add(1, Ordering::Relaxed), self.mode.subscribe());
            let (connections, ports) = (Arc::clone(&self.connections), Arc::clone(&ports));
            let mut lock = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let task = tokio::spawn(async move {
                let entry = Entry { number, connections };
                forward(stream, &ports, number, mode).await.ok();
                drop(entry);
            });
            lock.insert(number, task.abort_handle());
        }
    }
}

/// Removes a connection that has ended.
struct Entry {
    number: u64,
    connections: Arc<Mutex<BTreeMap<u64, AbortHandle>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

async fn forward(
    process: TcpStream,
    ports: &[u16],
    number: u64,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    passes(&mut mode).await;
    let server = connect(ports, number).await?;
    process.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_process, to_process), (from_server, to_server)) =
        (process.into_split(), server.into_split());
    // The side that closes first closes both.
    tokio::select! {
        ended = pump(from_process, to_server, mode.clone()) => ended,
        ended = pump(from_server, to_process, mode) => ended,
    }
}

/// Connects to one of the ports in turn, and to another one if it is closed.
async fn connect(ports: &[u16], number: u64) -> io::Result<TcpStream> {
    let count = ports.len().max(1);
    let first = usize::try_from(number).unwrap_or_default() % count;
    let mut refused = io::Error::other("there is no port");
    for port in ports.iter().cycle().skip(first).take(count) {
        match TcpStream::connect(("127.0.0.1", *port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let read = from.read(&mut buffer).await?;
        passes(&mut mode).await;
        match buffer.get(..read) {
            Some(bytes) if !bytes.is_empty() => to.write_all(bytes).await?,
            _ => return Ok(()),
        }
    }
}

/// Waits while data is held back, then for the configured delay.
#[allow(clippy::disallowed_methods, reason = "the delay is real")]
async fn passes(mode: &mut watch::Receiver<Mode>) {
    // The sender lives as long as the proxy.
    let found = mode.wait_for(|mode| *mode != Mode::Hold).await.map(|mode| *mode);
    if let Ok(Mode::Delay(time)) = found {
        tokio::time::sleep(time).await;
    }
}
