use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{PgConnection, Postgres, pool::PoolConnection};

/// How long a connection has to show that it is alive when it goes back to the pool.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection of the pool, which goes back only when it is given back. Otherwise it is closed: after
/// a statement that was cancelled or lost nobody knows what it is waiting for.
pub(crate) struct ConnectionGuard {
    connection: PoolConnection<Postgres>,
    is_released: bool,
}

impl ConnectionGuard {
    pub(crate) fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, is_released: false }
    }

    /// Lets others use it. The driver asks it for a sign of life first, without a limit of its own; a
    /// dead connection would keep its place in the pool for as long as the system believes in it.
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
