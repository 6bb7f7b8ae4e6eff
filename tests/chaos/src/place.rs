//! The environment in which the processes under test are started.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aios_tests::{postgres::PostgresServer, rabbitmq::RabbitMqServer};
use clap::ValueEnum;

use crate::{
    history::History,
    network::Namespace,
    plant::Plant,
    process::{Clock, Process, Role},
    proxy::Proxy,
};

/// Where Debian and Fedora install the library that fakes the time of multi-threaded programs.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];
/// The environment in which processes are started.
pub(crate) struct Place<'a> {
    /// The lease time of the engines, in seconds.
    pub(crate) lease: f64,
    /// Multiplies the time that processes may take to be ready and to end.
    pub(crate) patience: f64,
    /// Whether they log everything.
    pub(crate) verbose: bool,
    /// How the processes misbehave.
    pub(crate) plant: &'a [Plant],
    /// The folder for their logs.
    pub(crate) out: &'a Path,
    /// Where they report their effects.
    pub(crate) socket: &'a Path,
    /// Where their exits are recorded.
    pub(crate) history: &'a Arc<History>,
}

impl Place<'_> {
    /// A process that is not started yet.
    pub(crate) async fn process(
        &self,
        role: Role,
        number: usize,
        has_clock: bool,
        namespace: Option<Namespace>,
        postgres: &PostgresServer,
        rabbitmq: &[RabbitMqServer],
    ) -> Arc<Process> {
        let name = match role {
            Role::Engine => format!("engine-{number}"),
            Role::Agent => format!("agent-{number}"),
        };
        let host = namespace.as_ref().map_or("127.0.0.1", |namespace| namespace.host.as_str());
        let ports = rabbitmq.iter().map(RabbitMqServer::port).collect();
        let store = Proxy::new(host, vec![postgres.port()]).await.expect("a port for a proxy");
        let broker = Proxy::new(host, ports).await.expect("a port for a proxy");
        let through = |url: String, to: u16| {
            let (user, rest) = url.split_once('@').unwrap_or_default();
            let (_, path) = rest.split_once('/').unwrap_or_default();
            format!("{user}@{host}:{to}/{path}")
        };
        let url = rabbitmq.first().map(RabbitMqServer::url).unwrap_or_default();
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--socket={}", self.socket.display()),
            format!("--lease={}", self.lease),
            // Less than the time in which all queues have to be empty.
            format!("--broker={}?temporary_expiry=15", through(url, broker.port)),
        ];
        if self.verbose {
            arguments.push("--verbose".to_owned());
        }
        for plant in self.plant {
            let value = plant.to_possible_value();
            let name = value.as_ref().map_or("", |value| value.get_name());
            arguments.push(format!("--plant={name}"));
        }
        if role == Role::Engine {
            arguments.push(format!("--store={}", through(postgres.url(), store.port)));
        }
        let library = LIBRARIES.iter().map(PathBuf::from).find(|library| library.exists());
        let clock = library.filter(|_| has_clock);
        Arc::new(Process {
            clock: clock.map(|library| Clock::new(library, self.out, &name)),
            log: self.out.join(format!("{name}.log")),
            patience: self.patience,
            name,
            role,
            namespace,
            store,
            broker,
            arguments,
            history: Arc::clone(self.history),
            life: tokio::sync::Mutex::default(),
            pid: 0.into(),
            first_memory: Arc::default(),
            most_memory: 0.into(),
        })
    }
}
