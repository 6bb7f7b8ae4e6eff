//! The example `service` as a process, and requests to it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use aios_core::clock::{Clock, SystemClock};
use aios_tests::{postgres::PostgresServer, program::program, rabbitmq::RabbitMqServer};

/// How long something may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// A private PostgreSQL and a private RabbitMQ.
pub(crate) struct Servers {
    pub(crate) postgres: PostgresServer,
    pub(crate) rabbitmq: RabbitMqServer,
}

impl Servers {
    pub(crate) fn start() -> Option<Self> {
        Some(Self { postgres: PostgresServer::start()?, rabbitmq: RabbitMqServer::start()? })
    }

    /// The program with these roles, which logs errors only.
    pub(crate) fn command(&self, roles: &str) -> Command {
        command(roles, &self.postgres.url(), &self.rabbitmq.url())
    }

    /// A process that has started.
    pub(crate) fn process(&self, roles: &str) -> Process {
        Process::start(roles, self.command(roles))
    }
}

/// A process, which is killed when dropped.
pub(crate) struct Process {
    /// Its roles, as its name in messages.
    pub(crate) roles: String,
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts a program that prints its URL, on a free port unless the command has an address.
    pub(crate) fn start(roles: &str, mut command: Command) -> Self {
        let has_address = command.get_envs().any(|(name, _)| name == "AIOS_HTTP_LISTEN");
        if !has_address {
            command.env("AIOS_HTTP_LISTEN", "127.0.0.1:0");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("http://")?;
            Some(address.trim().parse().unwrap())
        });
        let address = address.unwrap_or_else(|| panic!("{roles} has no address"));
        Self { roles: roles.to_owned(), child, address }
    }

    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        assert!(kill.args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for the end, which must be a success.
    pub(crate) fn join(mut self) {
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}: {printed}", self.roles);
        assert!(printed.ends_with("stopped\n"), "{printed}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with these roles, store and broker. It logs errors only.
pub(crate) fn command(roles: &str, store: &str, broker: &str) -> Command {
    let mut command = Command::new(program("service"));
    command
        .env("AIOS_PROCESS_ROLES", roles)
        .env("AIOS_BROKER_URL", broker)
        .env("AIOS_LOG_LEVEL", "error")
        .env("AIOS_SHUTDOWN_ACCEPT_DELAY", "2s")
        .env("AIOS_SHUTDOWN_DEADLINE", "30s");
    // Agents need no store.
    if roles != "agents" {
        command.env("AIOS_DATABASE_URL", store);
    }
    command
}

/// The status and body of an answer, or nothing if there is none in time.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    timeout: Duration,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = SystemClock.elapsed();
    while !holds() {
        assert!(SystemClock.elapsed() - begun < PATIENCE, "{what}");
        thread::sleep(PAUSE);
    }
}
