//! The file of a database: its names, its locks, and its disappearance.

use std::{fs, path::Path, time::Duration};

use aios_core::{
    event::Event,
    store::{
        Append, EventStore, EventStoreExt, Leases, OwnerId, PageRequest, ReadModels, RunFilter,
        Shard, StoreError, StreamId,
    },
};
use aios_store::sqlite::{SqliteOptions, SqliteStore, backup};
use tempfile::TempDir;

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::connect_with(SqliteOptions::file(path)).await
}

fn append() -> Append {
    let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
    Append::new(StreamId::new("orders").unwrap(), vec![event])
}

/// Locks a file through another handle, which works like a lock of another process.
fn lock_of_another_process(path: &Path) -> fs::File {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.lock().unwrap();
    file
}

#[cfg(unix)]
#[tokio::test]
async fn should_refuse_a_database_that_is_open_under_another_name() {
    let folder = TempDir::new().unwrap();
    let (other, path) = (folder.path().join("other"), folder.path().join("a.db"));
    fs::create_dir(&other).unwrap();
    let store = open(&path).await.unwrap();
    std::os::unix::fs::symlink(&path, folder.path().join("symbolic.db")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("folder")).unwrap();
    fs::hard_link(&path, folder.path().join("hard.db")).unwrap();
    fs::hard_link(&path, other.join("hard.db")).unwrap();
    let names = ["a.db", "./a.db", "symbolic.db", "folder/a.db", "hard.db", "other/hard.db"];
    for name in names {
        let error = open(&folder.path().join(name)).await.unwrap_err();
        assert_eq!(error.code(), "STORE_LOCKED", "{name}");
        store.append_one(append()).await.unwrap();
    }
    drop(store);
    for name in names {
        drop(open(&folder.path().join(name)).await.unwrap());
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn should_refuse_a_database_that_another_process_has_open_under_another_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.db");
    drop(open(&path).await.unwrap());
    let held = lock_of_another_process(&path);
    fs::hard_link(&path, folder.path().join("hard.db")).unwrap();
    let error = open(&folder.path().join("hard.db")).await.unwrap_err();
    assert_eq!(error.code(), "STORE_LOCKED");
    held.unlock().unwrap();
    open(&path).await.unwrap();
}

/// The reader keeps the path by which the file is opened from being written into it.
#[cfg(unix)]
#[tokio::test]
async fn should_open_a_moved_database_that_another_program_reads() {
    let folder = TempDir::new().unwrap();
    let (before, path) = (folder.path().join("before.db"), folder.path().join("a.db"));
    drop(open(&before).await.unwrap());
    fs::rename(&before, &path).unwrap();
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    for _ in 0..2 {
        let store = open(&path).await.unwrap();
        store.append_one(append()).await.unwrap();
        drop(store);
    }
    drop(reader);
    // The record has reached the file.
    drop(open(&path).await.unwrap());
    let recorded = rusqlite::Connection::open(&path).unwrap();
    let recorded: Vec<u8> =
        recorded.query_row("SELECT path FROM opened_as", [], |row| row.get(0)).unwrap();
    assert_eq!(recorded, fs::canonicalize(&path).unwrap().as_os_str().as_encoded_bytes());
}

/// Runs a test in a process of its own, which gets the path of a database and aborts.
#[cfg(unix)]
fn run_in_process(test: &str, path: &Path, limit: &str) -> std::process::Output {
    std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -c 0; {limit} exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([&format!("sqlite::file::{test}"), "--exact", "--nocapture"])
        .env(DATABASE, path)
        .output()
        .unwrap()
}

/// Tells a test that it runs in a process of its own.
#[cfg(unix)]
const DATABASE: &str = "AIOS_TEST_DATABASE";

/// Appends through one hard link, and dies.
#[cfg(unix)]
#[tokio::test]
async fn should_refuse_another_hard_link_until_the_log_of_a_crash_is_written_back() {
    if let Some(path) = std::env::var_os(DATABASE) {
        let store = open(path.as_ref()).await.unwrap();
        store.append_one(append()).await.unwrap();
        std::process::abort();
    }
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("other?#%");
    fs::create_dir(&other).unwrap();
    let folder_path = fs::canonicalize(folder.path()).unwrap();
    let (path, link) = (folder_path.join("a.db"), other.join("hard ü.db"));
    drop(open(&path).await.unwrap());
    fs::hard_link(&path, &link).unwrap();
    let test = "should_refuse_another_hard_link_until_the_log_of_a_crash_is_written_back";
    for (used, unused, head) in [(&path, &link, 1), (&link, &path, 2)] {
        let used = fs::canonicalize(used).unwrap();
        assert!(!run_in_process(test, &used, "").status.success());
        let name = format!("open the database as {}", used.display());
        let refused = |error: StoreError| {
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{error}");
            assert!(error.to_string().ends_with(&name), "{error}");
        };
        refused(open(unused).await.unwrap_err());
        let options = SqliteOptions::file(unused);
        refused(backup(&options, folder.path().join("copy.db")).await.unwrap_err());
        let url = format!("sqlite:{}", folder.path().join("symbolic.db").display());
        std::os::unix::fs::symlink(unused, folder.path().join("symbolic.db")).unwrap();
        refused(aios_store::schema_version(&url).await.unwrap_err());
        fs::remove_file(folder.path().join("symbolic.db")).unwrap();
        assert_eq!(open(&used).await.unwrap().head().await.unwrap(), head);
        assert_eq!(open(unused).await.unwrap().head().await.unwrap(), head);
    }
}

/// Readers open their connections when needed, and the process may have no file left then.
#[cfg(unix)]
#[tokio::test]
async fn should_read_again_once_there_are_files_left() {
    let test = "should_read_again_once_there_are_files_left";
    let Some(path) = std::env::var_os(DATABASE) else {
        let folder = TempDir::new().unwrap();
        let output = run_in_process(test, &folder.path().join("a.db"), "ulimit -n 64;");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    };
    let store = open(path.as_ref()).await.unwrap();
    store.append_one(append()).await.unwrap();
    let files: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    let error = store.read_log(0, 10).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("STORE_BACKEND", true), "{error:?}");
    drop(files);
    assert_eq!(store.read_log(0, 10).await.unwrap().len(), 1);
}

/// Closing a file drops the locks that SQLite of this process holds on it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn should_keep_the_locks_of_a_reader_when_another_process_has_the_database_open() {
    use std::os::unix::fs::MetadataExt;

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.db");
    drop(open(&path).await.unwrap());
    let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
    let is_locked = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|lock| lock.contains("POSIX") && lock.contains(&inode))
    };
    let _held = lock_of_another_process(&folder.path().join("a.db-lock"));
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    assert!(is_locked());
    assert_eq!(open(&path).await.unwrap_err().code(), "STORE_LOCKED");
    assert!(is_locked());
}

#[cfg(unix)]
#[tokio::test]
async fn should_give_a_backup_no_more_permissions_than_the_database_has() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.db");
    drop(open(&path).await.unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (database, left) in [(0o600, false), (0o600, true), (0o640, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(database)).unwrap();
        let (copy, partial) = (folder.path().join("b.db"), folder.path().join("b.db-partial"));
        if left {
            // By a process that died.
            fs::write(&partial, "half").unwrap();
            fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).unwrap();
        }
        backup(&SqliteOptions::file(&path), &copy).await.unwrap();
        assert_eq!(mode(&copy) & !(database | 0o600), 0, "{:o}", mode(&copy));
        assert_eq!(open(&copy).await.unwrap().head().await.unwrap(), 0);
        remove(&copy, &["", "-lock"]);
    }
}

/// A reader keeps the log from being written back, so that it grows.
#[tokio::test]
async fn should_shorten_the_log_after_a_large_append_and_a_long_read() {
    let folder = TempDir::new().unwrap();
    let (path, log) = (folder.path().join("a.db"), folder.path().join("a.db-wal"));
    let store = open(&path).await.unwrap();
    let large = "x".repeat(12 << 20);
    let reader = rusqlite::Connection::open(&path).unwrap();
    for reads in [false, true] {
        if reads {
            reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
        }
        for _ in 0..3 {
            let event = Event::new("orders.order.placed".parse().unwrap(), "test", &large).unwrap();
            let stream = StreamId::new("large").unwrap();
            store.append_one(Append::new(stream, vec![event])).await.unwrap();
        }
        if reads {
            assert!(fs::metadata(&log).unwrap().len() > 36 << 20);
            reader.execute_batch("ROLLBACK").unwrap();
        }
        // One commit writes the log back, and the next one begins it again.
        for _ in 0..2 {
            store.append_one(append()).await.unwrap();
        }
        assert!(fs::metadata(&log).unwrap().len() <= 8 << 20, "{reads}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn should_create_a_database_through_a_symbolic_link() {
    let folder = TempDir::new().unwrap();
    let (link, path) = (folder.path().join("link.db"), folder.path().join("real.db"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let store = open(&link).await.unwrap();
    store.append_one(append()).await.unwrap();
    assert_eq!(open(&path).await.unwrap_err().code(), "STORE_LOCKED");
    drop(store);
    assert_eq!(open(&path).await.unwrap().head().await.unwrap(), 1);
}

/// An operation on the files of an open database.
type Operation = fn(&Path);

const OPERATIONS: [(&str, Operation); 4] = [
    ("deleted", |path| remove(path, &["", "-wal", "-shm"])),
    ("deleted without its log", |path| remove(path, &[""])),
    ("moved", |path| fs::rename(path, path.with_extension("old")).unwrap()),
    ("replaced", |path| {
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).unwrap();
        fs::rename(copy, path).unwrap();
    }),
];

fn remove(path: &Path, suffixes: &[&str]) {
    for suffix in suffixes {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        fs::remove_file(name).unwrap();
    }
}

#[cfg(unix)]
#[tokio::test]
async fn should_refuse_appends_once_the_file_is_gone() {
    for (name, operation) in OPERATIONS {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.db");
        let store = open(&path).await.unwrap();
        store.append_one(append()).await.unwrap();
        operation(&path);
        for _ in 0..3 {
            let error = store.append_one(append()).await.unwrap_err();
            assert_eq!((error.code(), error.is_retryable()), ("STORE_GONE", false), "{name}");
            assert!(error.to_string().contains("a.db"), "{error}");
        }
        let lease = store
            .acquire(&[Shard::new(1).unwrap()], &OwnerId::new("me"), Duration::from_secs(9))
            .await;
        assert_eq!(lease.unwrap_err().code(), "STORE_GONE", "{name}");
        assert_eq!(store.head().await.unwrap(), 1, "{name}");
    }
}

/// Another copy of SQLite in this process deletes the log when it closes the database.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn should_keep_everything_when_the_log_is_deleted() {
    let folder = TempDir::new().unwrap();
    let (path, copy) = (folder.path().join("a.db"), folder.path().join("copy.db"));
    let store = open(&path).await.unwrap();
    let hour = Duration::from_secs(3600);
    let lease = store
        .acquire(&[Shard::new(1).unwrap()], &OwnerId::new("me"), hour)
        .await
        .unwrap()
        .remove(0);
    for round in 1..=5 {
        remove(&path, &["-wal"]);
        store.append_one(append().with_fence(lease.fence())).await.unwrap();
        // Every acknowledged append is in the database file, even if the process ended here.
        fs::copy(&path, &copy).unwrap();
        assert_eq!(open(&copy).await.unwrap().head().await.unwrap(), 2 * round - 1);
        assert_eq!(store.read_log(0, 100).await.unwrap().len() as u64, 2 * round - 1);
        store.append_one(append().with_fence(lease.fence())).await.unwrap();
        assert_eq!(store.read_log(0, 100).await.unwrap().len() as u64, 2 * round);
    }
    assert_eq!(store.leases().await.unwrap().len(), 1);
    drop(store);
    assert!(!folder.path().join("a.db-wal").exists());
    assert_eq!(open(&path).await.unwrap().read_log(0, 100).await.unwrap().len(), 10);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn should_report_why_the_database_cannot_be_opened_again_until_it_can() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.db");
    let store = open(&path).await.unwrap();
    store.append_one(append()).await.unwrap();
    remove(&path, &["-wal"]);
    fs::create_dir(folder.path().join("a.db-wal")).unwrap();
    store.append_one(append()).await.unwrap();
    for _ in 0..2 {
        let error = store.append_one(append()).await.unwrap_err();
        assert_eq!(error.code(), "STORE_BACKEND", "{error}");
        assert!(error.to_string().contains("open the database"), "{error}");
    }
    fs::remove_dir(folder.path().join("a.db-wal")).unwrap();
    assert_eq!(store.append_one(append()).await.unwrap().position, 3);
}

/// Readers open their connections when needed, and check which file they opened.
#[cfg(unix)]
#[tokio::test]
async fn should_not_read_from_a_file_that_replaced_the_database() {
    let folder = TempDir::new().unwrap();
    let (path, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    let store = open(&path).await.unwrap();
    store.append_one(append()).await.unwrap();
    drop(open(&other).await.unwrap());
    remove(&path, &["", "-wal", "-shm"]);
    fs::rename(&other, &path).unwrap();
    let error = store.read_log(0, 10).await.unwrap_err();
    assert_eq!(error.code(), "STORE_GONE");
    let error = store.runs(&RunFilter::default(), &PageRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), "STORE_GONE");
}

#[tokio::test]
async fn should_accept_any_file_name() {
    let folder = TempDir::new().unwrap();
    let base = folder.path().display();
    for (escaped, name) in [
        ("q%3Fmark.db", "q?mark.db"),
        ("hash%23tag.db", "hash#tag.db"),
        ("hash#tag.db", "hash#tag.db"),
        ("per%25cent%20.db", "per%cent .db"),
        ("with space ☃.db", "with space ☃.db"),
        ("'quoted';\".db", "'quoted';\".db"),
    ] {
        let store = SqliteStore::connect(&format!("sqlite://{base}/{escaped}")).await.unwrap();
        store.append_one(append()).await.unwrap();
        drop(store);
        assert!(folder.path().join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn should_name_the_missing_folder() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("no/such/a.db");
    let error = open(&path).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION");
    let missing = folder.path().join("no/such").display().to_string();
    assert!(error.to_string().contains(&missing), "{error}");
    let error = open(folder.path()).await.unwrap_err();
    assert!(error.to_string().ends_with("is a folder"), "{error}");
}
