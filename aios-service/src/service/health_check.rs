//! The health check of a container without other programs.
//!
//! It speaks plain HTTP over a socket, with a time limit and a limit of the size. A client library
//! would make the program larger for one request.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use aios_core::clock::{Clock, SystemClock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::config::Settings;

/// How long the process may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Size of the longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Why a service is not healthy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthCheckError {
    /// Nothing answers at the address.
    #[error("no service answers at {address}; is AIOS_HTTP_LISTEN the address of the service?")]
    #[non_exhaustive]
    Unreachable {
        /// The address.
        address: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The service took more than 5 s.
    #[error("the service at {address} does not answer within 5 s")]
    #[non_exhaustive]
    Timeout {
        /// The address.
        address: String,
    },
    /// The service answered that a check failed, or it does not speak HTTP without TLS.
    #[error("the service is not healthy: {answer}")]
    #[non_exhaustive]
    Unhealthy {
        /// Its answer, which names the checks that failed.
        answer: String,
    },
}

/// Asks the service that listens at `http.listen` on this machine whether it is ready: the health
/// check of a container that has no other program. Needs a server without TLS.
///
/// # Errors
///
/// [`HealthCheckError`] says why the service is not ready. It always answers within 5 s.
///
/// # Cancel safety
///
/// A cancelled call has no effect.
///
/// # Examples
///
/// A program that checks itself, as `HEALTHCHECK` of an image without a shell:
///
/// ```no_run
/// use aios_service::{check_health, config::Settings};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = Settings::load()?;
/// if std::env::args().any(|argument| argument == "--health-check") {
///     return Ok(check_health(&settings).await?);
/// }
/// # Ok(())
/// # }
/// ```
pub async fn check_health(settings: &Settings) -> Result<(), HealthCheckError> {
    let address = reachable(&settings.http().listen);
    let answer = tokio::select! {
        biased;
        answer = ask(&address) => answer,
        () = SystemClock.sleep(TIMEOUT) => return Err(HealthCheckError::Timeout { address }),
    };
    match answer {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or(&*answer, |(_, body)| body);
            Err(HealthCheckError::Unhealthy { answer: body.trim().to_owned() })
        }
        Err(source) => Err(HealthCheckError::Unreachable { address, source }),
    }
}

/// Asks for readiness, and returns the whole answer.
async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// An address that listens on all interfaces is reached on the loopback interface.
///
/// A host name is used as it is. Port 0 stays 0, so a service on any free port cannot be checked in
/// this way.
fn reachable(listen: &str) -> String {
    let Ok(mut address) = listen.parse::<SocketAddr>() else { return listen.to_owned() };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address.to_string()
}
