//! A connection that is closed unless it is returned on purpose.
//!
//! A future that is dropped in the middle of a statement leaves a connection on which the answer is
//! still to come. The next user of such a connection would read the wrong answer, so the safe
//! default is to close.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{PgConnection, Postgres, pool::PoolConnection};

/// Time limit for returning a connection to the pool, which pings it first.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection of the pool. It only returns to the pool by [`release`](Self::release). If it is dropped,
/// it is closed instead: after a statement that was cancelled or lost, its state is unknown.
pub(crate) struct ConnectionGuard {
    connection: PoolConnection<Postgres>,
    /// Whether the connection goes back to the pool.
    is_released: bool,
}

impl ConnectionGuard {
    /// Guards a connection of the pool.
    pub(crate) fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, is_released: false }
    }

    /// Returns the connection to the pool. The driver pings it first without a time limit, so a
    /// half-open connection would occupy the pool until the operating system gives up on it.
    pub(crate) fn release(mut self) {
        self.is_released = true;
        let returning = self.connection.return_to_pool();
        tokio::spawn(tokio::time::timeout(RETURN_TIMEOUT, returning));
    }
}

impl Deref for ConnectionGuard {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for ConnectionGuard {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if !self.is_released {
            self.connection.close_on_drop();
        }
    }
}
