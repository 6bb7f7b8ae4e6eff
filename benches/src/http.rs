//! The HTTP API in this process, and a client that keeps its connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::store::Store;
use aios_service::http::{ApiOptions, Shutdown, api, serve};
use axum::Router;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn noted(_: WorkflowContext, input: String) -> Result<String, WorkflowError> {
    Ok(input)
}

/// A runtime with the workflow `noted`, which returns its input.
pub async fn runtime(store: Arc<dyn Store>) -> Arc<Runtime> {
    let runtime = Runtime::builder()
        .store(store)
        .broker(Arc::new(MemoryBroker::new()))
        .workflow("noted", noted)
        .start();
    Arc::new(runtime.await.unwrap())
}

/// Serves the API at `/api/v1` and other routes beside it.
pub async fn listen(runtime: Arc<Runtime>, options: ApiOptions, beside: Router) -> SocketAddr {
    let options = options.with_request_timeout(Duration::from_secs(60));
    let router = beside.nest("/api/v1", api(runtime, options));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, Shutdown::new()));
    address
}

/// A connection that sends one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends a request and reads its answer, which must have this status.
    pub async fn ask(&mut self, method: &str, path: &str, body: &str, status: u16) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        let kind = "content-type: application/json";
        let request = format!("{head}{kind}\r\ncontent-length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.buffer.clear();
        let (head, length) = loop {
            self.read().await;
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                break (end + 4, length.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            }
        };
        while self.buffer.len() < head + length {
            self.read().await;
        }
        let expected = format!("HTTP/1.1 {status}");
        assert!(
            self.buffer.starts_with(expected.as_bytes()),
            "{}",
            String::from_utf8_lossy(&self.buffer)
        );
    }

    async fn read(&mut self) {
        assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server hangs up");
    }
}

/// Where a text begins.
#[must_use]
pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
