//! Private RabbitMQ servers, started from the installed programs on free ports. They and their
//! files are removed when the test's process ends, even if it is killed.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// Where Debian and Red Hat install the server's programs, unless `AIOS_RABBITMQ_PROGRAMS` names
/// another folder; those on the `PATH` change the user.
const FOLDER: &str = "/usr/lib/rabbitmq/bin";

/// Attempts to start a server: another process may take a port.
const ATTEMPTS: u32 = 5;

/// Ends the server and removes its folder as soon as the test's process is gone, which closes the
/// pipe that `cat` reads.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat > /dev/null
pid=$(cat "$1/pid" 2> /dev/null) && kill -9 "$pid"
while [ -n "$pid" ] && kill -0 "$pid"; do sleep 0.05; done
rm -rf "$1"
"#;

/// The timeout of the check whether a server answers.
const GREETING: Duration = Duration::from_secs(1);

/// The Erlang cookie that the nodes of one cluster share.
const COOKIE: &str = "AIOS";

/// A private server with one node.
#[derive(Debug)]
pub struct RabbitMqServer {
    folder: PathBuf,
    node: String,
    port: u16,
    settings: Vec<String>,
    /// A process whose end tells the janitor to clean up.
    janitor: Child,
}

impl RabbitMqServer {
    /// Starts a server, or reports that the test is skipped because RabbitMQ is not installed.
    ///
    /// # Panics
    ///
    /// If it can't be started, or is not installed and `AIOS_REQUIRE_SERVICES` is `1`.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Like [`start`](Self::start), with settings in the form of `rabbitmq.conf`.
    ///
    /// # Panics
    ///
    /// The same as [`start`](Self::start).
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Option<Self> {
        if !programs().join("rabbitmq-server").exists() {
            crate::skip("RabbitMQ is not installed");
            return None;
        }
        let (folder, node) = new_folder();
        let janitor = janitor(&folder);
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self { folder, node, port: 0, settings, janitor };
        for _ in 0..ATTEMPTS {
            server.port = free_port();
            if server.try_start() {
                return Some(server);
            }
            server.kill();
        }
        panic!("the server does not start: {}", server.log());
    }

    /// A server that the tests of one process share.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<RabbitMqServer>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// The URL to connect to, as the default user.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of its node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether it answers a client.
    #[must_use]
    pub fn answers(&self) -> bool {
        let greet = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(GREETING))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            stream.read_exact(&mut [0])
        };
        greet().is_ok()
    }

    /// Kills the server at once, as a power failure would, except that the disk keeps its cache.
    pub fn kill(&self) {
        let Some(pid) = self.pid() else { return };
        signal("-9", &pid);
        while signal("-0", &pid) {
            thread::sleep(Duration::from_millis(5));
        }
        fs::remove_file(self.folder.join("pid")).ok();
    }

    /// Stops the server as an operator would.
    ///
    /// # Panics
    ///
    /// If it can't be stopped.
    pub fn stop(&self) {
        let _ = self.ctl(&["stop", &self.folder.join("pid").display().to_string()]);
        self.kill();
    }

    /// Removes all stored data of a stopped server, as if another one took its place.
    ///
    /// # Panics
    ///
    /// If it can't be removed.
    pub fn erase(&self) {
        fs::remove_dir_all(self.folder.join("data")).expect("removing the server's data");
    }

    /// Starts the server again, on the same port, after [`kill`](Self::kill) or [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn revive(&self) {
        let started = (0..ATTEMPTS).any(|_| self.try_start());
        assert!(started, "the server does not start again: {}", self.log());
    }

    /// Suspends the server's process as a debugger would: its sockets stay open, but nothing
    /// answers.
    pub fn pause(&self) {
        signal("-STOP", &self.pid().unwrap_or_default());
    }

    /// Resumes a paused server.
    pub fn resume(&self) {
        signal("-CONT", &self.pid().unwrap_or_default());
    }

    /// Runs code on each of its channels, bound to `Channel`, for which an Erlang condition on
    /// `Info` holds. `Info` is a function from names of properties to their values.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn on_channels(&self, condition: &str, code: &str) {
        let code = format!(
            "lists:foreach(fun(Channel) ->
                Info = fun(Name) -> [{{_, Value}}] = rabbit_channel:info(Channel, [Name]), Value end,
                case {condition} of true -> {code}; false -> ok end
            end, rabbit_channel:list_local())."
        );
        assert_eq!(self.ctl(&["eval", &code]), "ok");
    }

    /// Runs `rabbitmqctl`, and returns its output.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.run("rabbitmqctl", arguments);
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {out}{errors}");
        out.trim_end().to_owned()
    }

    fn try_start(&self) -> bool {
        let config = self.folder.join("rabbitmq.conf");
        let listen = format!("listeners.tcp.default = 127.0.0.1:{}", self.port);
        let mut lines = vec![
            listen.as_str(),
            "log.console = true",
            "log.file = false",
            // By default, half a gigabyte is allocated in advance.
            "raft.wal_max_size_bytes = 16777216",
        ];
        lines.extend(self.settings.iter().map(String::as_str));
        fs::write(&config, lines.join("\n") + "\n").expect("writing the configuration");
        let log = fs::File::create(self.folder.join("log")).expect("creating the log");
        let mut command = self.command("rabbitmq-server");
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("sharing the log")).stdout(log);
        // Signals from a terminal reach only the test.
        let mut child = command.process_group(0).spawn().expect("starting the server");
        // The exit status of a killed server has to be collected.
        thread::spawn(move || child.wait());
        let pid = self.folder.join("pid").display().to_string();
        self.run("rabbitmqctl", &["wait", "--timeout", "60", &pid]).status.success()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().expect("running a program of the server")
    }

    fn command(&self, program: &str) -> Command {
        let in_folder = |name: &str| self.folder.join(name);
        let mut command = Command::new(programs().join(program));
        command
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", (self.port.saturating_add(1)).to_string())
            .env("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", in_folder("advanced.config"))
            .env("RABBITMQ_CONF_ENV_FILE", in_folder("environment"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("plugins"))
            .env("RABBITMQ_MNESIA_BASE", in_folder("data"))
            .env("RABBITMQ_LOG_BASE", in_folder("logs"))
            .env("RABBITMQ_PID_FILE", in_folder("pid"))
            .env("LC_ALL", "C.UTF-8");
        command
    }

    fn pid(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("pid")).ok().map(|pid| pid.trim().to_owned())
    }

    /// Its log output since it was created.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// Private servers that form a cluster.
#[derive(Debug)]
pub struct RabbitMqCluster {
    /// Its nodes.
    pub nodes: Vec<RabbitMqServer>,
}

impl RabbitMqCluster {
    /// Starts a cluster, or reports that the test is skipped because RabbitMQ is not installed.
    ///
    /// # Panics
    ///
    /// The same as [`RabbitMqServer::start`].
    #[must_use]
    pub fn start(nodes: usize) -> Option<Self> {
        let starting: Vec<_> = (0..nodes).map(|_| thread::spawn(RabbitMqServer::start)).collect();
        let nodes: Option<Vec<_>> =
            starting.into_iter().map(|node| node.join().expect("starting a node")).collect();
        let cluster = Self { nodes: nodes? };
        let (first, rest) = cluster.nodes.split_first()?;
        for node in rest {
            for arguments in [&["stop_app"][..], &["join_cluster", first.node()], &["start_app"]] {
                let _ = node.ctl(arguments);
            }
        }
        Some(cluster)
    }
}

impl Drop for RabbitMqServer {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // If this fails, the folder remains; nothing can be done about that here.
        self.janitor.wait().ok();
    }
}

/// A new folder, and the name of its node.
fn new_folder() -> (PathBuf, String) {
    static FOLDERS: AtomicU32 = AtomicU32::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let name = format!("aios-rabbitmq-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(&name);
    fs::create_dir_all(&folder).expect("creating the server's folder");
    let cookie = folder.join(".erlang.cookie");
    fs::write(&cookie, COOKIE).expect("writing the cookie");
    fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).expect("hiding the cookie");
    (folder, format!("{name}@localhost"))
}

fn janitor(folder: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", JANITOR, "janitor"]).arg(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).spawn().expect("starting the janitor")
}

fn programs() -> PathBuf {
    std::env::var_os("AIOS_RABBITMQ_PROGRAMS").map_or_else(|| FOLDER.into(), PathBuf::from)
}

/// A port that is free, as is the next one, which other nodes of the cluster would use.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("finding a free port");
        let port = listener.local_addr().expect("reading the port").port();
        let next = port.checked_add(1).map(|next| TcpListener::bind(("127.0.0.1", next)));
        if matches!(next, Some(Ok(_))) {
            return port;
        }
    }
}

fn signal(signal: &str, pid: &str) -> bool {
    let status = Command::new("kill").args([signal, pid]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
