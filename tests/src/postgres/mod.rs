//! Private PostgreSQL servers, started from the installed programs on a free port. They and their
//! files are removed when the test's process ends, even if it is killed.

mod lock;
mod standby;

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

pub use self::lock::TableLock;

/// Where Debian and Red Hat install the server's programs, one folder per version.
const FOLDERS: [&str; 2] = ["/usr/lib/postgresql", "/usr"];

/// Attempts to start a server: another process may take the port, and the backends of a killed one
/// need some time to end.
const ATTEMPTS: u32 = 50;

/// Ends the server and removes its folder as soon as the test's process is gone, which closes the
/// pipe that `cat` reads.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat > /dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2> /dev/null) && kill -9 "$pid"
while [ -n "$pid" ] && kill -0 "$pid"; do sleep 0.05; done
rm -rf "$1"
"#;

/// A private server.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    /// A process whose end tells the janitor to clean up.
    janitor: Child,
}

impl PostgresServer {
    /// Starts a server, or reports that the test is skipped because PostgreSQL is not installed.
    ///
    /// # Panics
    ///
    /// If it can't be started, or is not installed and `AIOS_REQUIRE_SERVICES` is `1`.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Like [`start`](Self::start), with settings such as
    /// `shared_preload_libraries=pg_stat_statements`.
    ///
    /// # Panics
    ///
    /// The same as [`start`](Self::start).
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Option<Self> {
        Self::launch(settings, false)
    }

    /// Like [`start`](Self::start), with a self-signed certificate, so that clients can use
    /// encryption.
    ///
    /// # Panics
    ///
    /// The same as [`start`](Self::start).
    #[must_use]
    pub fn start_encrypted() -> Option<Self> {
        Self::launch(&[], true)
    }

    fn launch(settings: &[&str], is_encrypted: bool) -> Option<Self> {
        let Some(programs) = programs() else {
            crate::skip("PostgreSQL is not installed");
            return None;
        };
        let folder = new_folder();
        let janitor = janitor(&folder);
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self { programs, folder, port: 0, settings, janitor };
        server.initialise();
        if is_encrypted {
            server.encrypt();
        }
        server.restart();
        Some(server)
    }

    /// A server that the tests of one process share.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<PostgresServer>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// URL of the default database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://aios:secret@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// Like [`url`](Self::url), over TLS; for a server that was [started with
    /// encryption](Self::start_encrypted).
    #[must_use]
    pub fn encrypted_url(&self) -> String {
        self.url().replace("sslmode=disable", "sslmode=require")
    }

    /// Like [`url`](Self::url), over the server's Unix socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        format!("{}&host={}", self.url(), self.folder.display())
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A name for a schema that is unique in this process.
    #[must_use]
    pub fn new_name(&self) -> String {
        static NAMES: AtomicU32 = AtomicU32::new(0);
        format!("test_{}", NAMES.fetch_add(1, Ordering::Relaxed))
    }

    /// Kills the server at once, as a power failure would, except that the disk keeps its cache.
    pub fn kill(&self) {
        let Some(pid) = self.pid() else { return };
        run(Command::new("kill").args(["-9", &pid])).ok();
        while run(Command::new("kill").args(["-0", &pid])).is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the server: `fast` disconnects its clients first, `immediate` leaves everything to the
    /// recovery of the next start. Does nothing if it is not running.
    pub fn stop(&self, mode: &str) {
        let mut stop = as_server(self.programs.join("pg_ctl"));
        stop.args(["stop", "-w", "-t", "60", "-m", mode, "-D"]).arg(self.folder.join("data"));
        run(&mut stop).ok();
    }

    /// Starts the server again, on the same port, after [`kill`](Self::kill) or [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn revive(&self) {
        let start = || self.try_start(self.port).inspect_err(|_| pause());
        (0..ATTEMPTS).find_map(|_| start().ok()).expect("the server starts again");
    }

    /// Runs SQL with `psql`, and returns its output, one line per row.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-c", sql]);
        let output = run(&mut psql).expect("psql succeeds");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs SQL that is too long for a command line, such as a dump.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn script(&self, sql: &str) {
        let file = self.folder.join("script.sql");
        fs::write(&file, sql).expect("the script is written");
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-f"]).arg(&file);
        run(&mut psql).expect("psql succeeds");
    }

    fn initialise(&self) {
        let data = self.folder.join("data");
        let mut initdb = as_server(self.programs.join("initdb"));
        initdb.args(["--username=aios", "--auth=trust", "--no-sync", "--encoding=UTF8"]);
        run(initdb.args(["--locale=C", "-D"]).arg(data)).expect("initdb succeeds");
    }

    /// Creates a key and a certificate, which the server uses from its next start.
    fn encrypt(&mut self) {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let (key, certificate) = (file("server.key"), file("server.pem"));
        let mut openssl = as_server(PathBuf::from("openssl"));
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
        openssl.args(["-subj", "/CN=localhost", "-keyout", &key, "-out", &certificate]);
        run(&mut openssl).expect("openssl succeeds");
        self.settings.extend([
            "ssl=on".to_owned(),
            format!("ssl_key_file={key}"),
            format!("ssl_cert_file={certificate}"),
        ]);
    }

    fn restart(&mut self) {
        for _ in 0..ATTEMPTS {
            let port = free_port();
            if self.try_start(port).is_ok() {
                self.port = port;
                return;
            }
            pause();
        }
        panic!("the server does not start: {}", self.log());
    }

    fn try_start(&self, port: u16) -> io::Result<Output> {
        let mut options =
            format!("-p {port} -c listen_addresses=127.0.0.1 -k {}", self.folder.display());
        for setting in &self.settings {
            options.push_str(&format!(" -c {setting}"));
        }
        let mut start = as_server(self.programs.join("pg_ctl"));
        start.args(["start", "-w", "-t", "60", "-o", &options, "-D"]).arg(self.folder.join("data"));
        run(start.arg("-l").arg(self.folder.join("log")))
    }

    /// The log of the server so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn pid(&self) -> Option<String> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next().map(ToOwned::to_owned)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // If this fails, the folder remains; nothing can be done about that here.
        self.janitor.wait().ok();
    }
}

/// The folder that `AIOS_POSTGRES_PROGRAMS` names, or that of the newest programs installed.
fn programs() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("AIOS_POSTGRES_PROGRAMS") {
        return Some(folder.into());
    }
    let candidates = FOLDERS.iter().flat_map(|folder| {
        let versions = fs::read_dir(folder).into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin")).chain([Path::new(folder).join("bin")])
    });
    let mut found: Vec<PathBuf> =
        candidates.filter(|folder| folder.join("pg_ctl").exists()).collect();
    found.sort_by_key(|folder| version(folder));
    found.pop()
}

fn version(folder: &Path) -> u32 {
    let name = folder.parent().and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().parse().unwrap_or_default()
}

/// A new folder that belongs to the server's user.
fn new_folder() -> PathBuf {
    let template = std::env::temp_dir().join("aios-postgres-XXXXXX");
    let output = run(Command::new("mktemp").arg("-d").arg(template)).expect("mktemp succeeds");
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(&folder)).expect("chown succeeds");
    }
    folder
}

fn janitor(folder: &Path) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", JANITOR, "janitor"]).arg(folder);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().expect("a shell starts")
}

/// A command that runs as the server's user: PostgreSQL refuses to run as root.
fn as_server(program: PathBuf) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

fn is_root() -> bool {
    let output = run(Command::new("id").arg("-u"));
    output.is_ok_and(|output| output.stdout == b"0\n")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a listener has an address").port()
}

/// Runs a command, which must succeed. The output of a server that it leaves running is discarded,
/// so that no reader waits for it.
fn run(command: &mut Command) -> io::Result<Output> {
    let output = command.current_dir("/").stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{command:?} ended with {}", output.status)));
    }
    Ok(output)
}

#[allow(clippy::disallowed_methods, reason = "it waits for a process, not for a clock")]
fn pause() {
    thread::sleep(Duration::from_millis(100));
}
