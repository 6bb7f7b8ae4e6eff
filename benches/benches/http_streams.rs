//! 10,000 idle event streams: how much more memory the service needs, and how long an event takes to reach
//! all of them. The service is a process of its own. Needs 10,100 open files in each process.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first error, prints, and measures real time"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use aios_benches::{
    figure,
    http::{Connection, find, listen, runtime},
};
use aios_service::http::ApiOptions;
use axum::Router;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};

const STREAMS: usize = 10_000;
const SERVE: &str = "serve";
/// Longest time for anything.
const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|argument| argument == SERVE) {
        tokio.block_on(serve());
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut service = Command::new(program).arg(SERVE).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    tokio.block_on(measure(line.trim().parse().unwrap(), &service));
    service.kill().unwrap();
    service.wait().unwrap();
}

async fn serve() {
    let runtime = runtime(aios_store::connect("memory://").await.unwrap()).await;
    println!("{}", listen(runtime, ApiOptions::new(), Router::new()).await);
    std::future::pending::<()>().await;
}

async fn measure(address: SocketAddr, service: &Child) {
    let before = resident(service);
    let idle = Arc::new(Barrier::new(STREAMS + 1));
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        // One after the other: a listener has a short queue.
        let stream = follow(address).await;
        streams.spawn(wait(stream, Arc::clone(&idle)));
    }
    idle.wait().await;
    let mebibytes = (resident(service) - before) as f64 / 1024.0;
    figure(&format!("http_streams/{STREAMS}/memory"), mebibytes, "MiB");
    let mut connection = Connection::open(address).await;
    let begin = Instant::now();
    let path = "/api/v1/workflows/noted/actions/execute";
    connection.ask("POST", path, r#"{"input": "x", "run_id": "run-1"}"#, 202).await;
    tokio::time::timeout(LIMIT, async { while streams.join_next().await.is_some() {} })
        .await
        .unwrap();
    let millis = begin.elapsed().as_secs_f64() * 1e3;
    figure(&format!("http_streams/{STREAMS}/event_reaches_all"), millis, "ms");
}

/// Opens a stream, and reads its first message.
async fn follow(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let path = "/api/v1/events/stream?pattern=workflows.noted.started";
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, b"id:").await;
    stream
}

/// Waits for an event.
async fn wait(mut stream: TcpStream, idle: Arc<Barrier>) {
    idle.wait().await;
    until(&mut stream, b"data:").await;
}

async fn until(stream: &mut TcpStream, text: &[u8]) {
    let mut read = Vec::with_capacity(1024);
    while find(&read, text).is_none() {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "the service hangs up");
    }
}

/// Resident memory of a process, in KiB.
fn resident(process: &Child) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
