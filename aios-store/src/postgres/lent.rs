use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{PgConnection, Postgres, pool::PoolConnection};

/// How long a connection has to show that it is alive when it goes back to the pool.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection of the pool, which goes back only when it is given back. Otherwise it is closed: after
/// a statement that was cancelled or lost nobody knows what it is waiting for.
pub(super) struct Lent {
    connection: PoolConnection<Postgres>,
    is_given_back: bool,
}

impl Lent {
    pub(super) fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, is_given_back: false }
    }

    /// Lets others use it. The driver asks it for a sign of life first, without a limit of its own; a
    /// dead connection would keep its place in the pool for as long as the system believes in it.
    pub(super) fn give_back(mut self) {
        self.is_given_back = true;
        let returning = self.connection.return_to_pool();
        tokio::spawn(tokio::time::timeout(RETURN_TIMEOUT, returning));
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.connection.close_on_drop();
        }
    }
}
