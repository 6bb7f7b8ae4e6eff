//! Connections through PgBouncer, which assigns a server connection per transaction.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use aios_store::postgres::{Pooler, PostgresOptions};
use aios_tests::postgres::PostgresServer;

use super::{hints, limits};

const PROGRAMS: [&str; 2] = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];

/// Runs PgBouncer, not as root, until the test process ends, which closes the pipe that `cat` reads.
const KEEPER: &str = r#"
trap '' INT TERM HUP
[ "$(id -u)" = 0 ] && as='setpriv --reuid=postgres --regid=postgres --clear-groups'
$as "$1" -q "$2/pgbouncer.ini" &
cat > /dev/null
kill -9 $!
rm -rf "$2"
"#;

/// The shared server, and the port of a pooler in front of it. `None` if one of them is not installed.
fn shared() -> Option<(&'static PostgresServer, u16)> {
    static SHARED: OnceLock<Option<u16>> = OnceLock::new();
    let server = PostgresServer::shared()?;
    let port = SHARED.get_or_init(|| start(server.port()));
    port.map(|port| (server, port))
}

fn start(server_port: u16) -> Option<u16> {
    let Some(program) = PROGRAMS.iter().find(|program| Path::new(program).exists()) else {
        aios_tests::skip("PgBouncer is not installed");
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::TempDir::new().unwrap().keep();
    configure(&folder, port, server_port);
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "keeper", program]).arg(folder);
    keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Keeps the pipe open until this process ends.
    std::mem::forget(keeper.spawn().unwrap().stdin.take());
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::yield_now();
    }
    Some(port)
}

/// Configures fewer server connections than the stores have connections, so that transactions of a store
/// use different server connections.
fn configure(folder: &Path, port: u16, server_port: u16) {
    let settings = format!(
        "[databases]\n* = host=127.0.0.1 port={server_port} user=aios\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\n\
         max_client_conn = 1000\n"
    );
    fs::write(folder.join("pgbouncer.ini"), settings).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Options that connect through the pooler, except for the listening connection.
fn pooled(server: &PostgresServer, port: u16) -> PostgresOptions {
    let url = server.url().replace(&server.port().to_string(), &port.to_string());
    let options = PostgresOptions::new(&url).with_listen_url(&server.url());
    options.with_pooler(Pooler::TransactionUnprepared)
}

#[tokio::test(flavor = "multi_thread")]
async fn should_receive_notifications_behind_a_pooler() {
    let Some((server, port)) = shared() else { return };
    hints::receive_notifications(pooled(server, port).with_schema(&server.new_name())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_apply_timeouts_behind_a_pooler() {
    let Some((server, port)) = shared() else { return };
    let options = pooled(server, port).with_lock_timeout(limits::SHORT);
    let message = limits::lock_error(server, options).await;
    assert!(message.contains("lock timeout"), "{message}");
    let options = pooled(server, port).with_statement_timeout(limits::SHORT);
    let message = limits::lock_error(server, options).await;
    assert!(message.contains("statement timeout"), "{message}");
}

mod conformance {
    use super::{super::PostgresFixture, pooled, shared};

    aios_core::store_conformance!(match shared() {
        Some((server, port)) => PostgresFixture::through(server, pooled(server, port)),
        None => return,
    });
}
