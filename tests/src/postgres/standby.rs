//! Standbys, which follow a server and take over from it.

use std::process::Command;

use super::{PostgresServer, as_server, janitor, new_folder, run};

impl PostgresServer {
    /// A hot standby that follows this server, on its own port. From this call, the server confirms
    /// no commit before the standby has it.
    ///
    /// # Panics
    ///
    /// If it cannot be created.
    #[must_use]
    pub fn standby(&self) -> Self {
        let folder = new_folder();
        let mut standby = Self {
            programs: self.programs.clone(),
            janitor: janitor(&folder),
            folder,
            port: 0,
            settings: self.settings.clone(),
        };
        let mut copy = as_server(self.programs.join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-U", "aios", "-R", "-c", "fast", "-p"]);
        copy.arg(self.port.to_string()).arg("-D").arg(standby.folder.join("data"));
        run(&mut copy).expect("pg_basebackup succeeds");
        standby.restart();
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("SELECT pg_reload_conf()");
        standby
    }

    /// Starts this server again on the port of another one that is gone.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn take_place_of(&mut self, other: &Self) {
        self.stop("fast");
        self.port = other.port;
        self.revive();
    }

    /// Promotes a standby, which then accepts writes.
    ///
    /// # Panics
    ///
    /// If it is not a standby.
    pub fn promote(&self) {
        let mut promote: Command = as_server(self.programs.join("pg_ctl"));
        promote.args(["promote", "-w", "-t", "60", "-D"]).arg(self.folder.join("data"));
        run(&mut promote).expect("pg_ctl promotes it");
    }
}
