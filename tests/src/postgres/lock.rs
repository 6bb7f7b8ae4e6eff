use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use super::PostgresServer;

/// A session that holds a lock, until it is dropped.
#[derive(Debug)]
pub struct TableLock(Child);

impl PostgresServer {
    /// Locks a table, so that no other session reads or writes it.
    ///
    /// # Panics
    ///
    /// If it can't be locked.
    #[must_use]
    pub fn lock(&self, table: &str) -> TableLock {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]);
        psql.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut lock = TableLock(psql.spawn().expect("psql starts"));
        let code =
            format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;\nSELECT 'locked';\n");
        let input = lock.0.stdin.as_mut().expect("it has an input");
        input.write_all(code.as_bytes()).expect("psql reads");
        let output = lock.0.stdout.take().expect("it has an output");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("psql answers");
        assert_eq!(line, "locked\n");
        lock
    }

    /// Whether a session waits for a lock.
    #[must_use]
    pub fn has_waiting_session(&self) -> bool {
        self.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0"
    }
}

impl Drop for TableLock {
    fn drop(&mut self) {
        // Both fail if it has ended. The server ends the session when its client is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
