//! Services from settings.

mod dropped;
mod parts;
mod reload;
mod roles;
#[cfg(unix)]
mod signals;

use aios_agents::prelude::*;
use aios_service::{
    Service,
    config::{Settings, SettingsBuilder},
    http::Shutdown,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.task("greeter", &name).retry(RetryPolicy::never()).await
}

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        if name == "silent" {
            std::future::pending::<()>().await;
        }
        Ok(format!("Hello, {name}!"))
    }
}

/// Settings of a service on any free port.
fn settings() -> SettingsBuilder {
    Settings::builder()
        .environment::<&str, &str>([])
        .value("database.url", "memory://")
        .value("broker.url", "memory://")
        .value("http.listen", "127.0.0.1:0")
}

/// A service that ends with a shutdown of its own, not with a signal.
fn service(settings: &Settings) -> Service {
    Service::from_settings(settings)
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .shutdown(Shutdown::new())
        .without_telemetry()
        .agent("greeter", Greeter)
        .workflow("welcome", welcome)
}

/// Sends a request without a body, and returns the whole answer.
async fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "Host: localhost\r\nConnection: close";
    stream
        .write_all(format!("{method} {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
