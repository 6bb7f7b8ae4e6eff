//! Leases, with the rules in SQL and the clock of the server.
//!
//! `acquire` is a function of the migrations. If a shard changes its owner, it takes the append
//! lock. After it has returned, no append under an earlier epoch can commit, because an append
//! checks its fence under the same lock. `renew` and `release` do not change an epoch, so they lock
//! only the rows.
//!
//! A server that has not issued the last epoch skips a random number of epochs. After a failover that lost the
//! commit of a lease, its owner is therefore fenced as soon as the shard has another owner.
//!
//! Leases expire by `clock_timestamp()` of the server. The clocks of the processes may differ by
//! more than a lease lasts.
//!
//! The names of owners are escaped, because a text of PostgreSQL can't have NUL.
//!
//! All calls may be repeated on another connection: acquiring what the owner has keeps its epoch.

use std::time::Duration;

use aios_core::store::{Epoch, Lease, Leases, OwnerId, Shard, StoreError};
use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};

use super::{
    PostgresStore,
    connection::{Database, Statement},
    nul_escape::{escape, unescape},
    read,
    timestamp::PgTimestamp,
};

/// Takes the shards that are free, expired, or the owner's.
const ACQUIRE: &str =
    "SELECT shard, epoch, owner, expires_at FROM {schema}.acquire($1, $2, $3) ORDER BY shard";

/// Sets the expiry of leases. A released lease expires at the Unix epoch, so that it is free whatever the
/// clock says. Rows are locked in the order of their shards, so that two calls never deadlock.
const EXTEND: &str = "\
    WITH held AS (
        SELECT l.shard
        FROM unnest($1::integer[], $2::bigint[], $3::text[]) AS h (shard, epoch, owner)
        JOIN {schema}.leases l USING (shard, epoch, owner)
        ORDER BY l.shard
        FOR UPDATE OF l
    ), extended AS (
        UPDATE {schema}.leases l
        SET expires_at = coalesce(
            clock_timestamp() + $4::bigint * interval '1 microsecond', to_timestamp(0)
        )
        FROM held WHERE l.shard = held.shard
        RETURNING l.shard, l.epoch, l.owner, l.expires_at
    )
    SELECT shard, epoch, owner, expires_at FROM extended ORDER BY shard";

/// The leases that have not expired.
const LIVE: &str = "\
    SELECT shard, epoch, owner, expires_at FROM {schema}.leases
    WHERE {primary} AND expires_at > clock_timestamp() ORDER BY shard";

#[async_trait]
impl Leases for PostgresStore {
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        let shards: Vec<i32> = shards.iter().map(|shard| shard.number().into()).collect();
        let query = Statement::new(self.0.database.schema().fill(ACQUIRE))
            .bind(shards)
            .bind(escape(owner.as_str().to_owned()))
            .bind(micros(time_to_live));
        fetch(&self.0.database, "acquire leases", query).await
    }

    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError> {
        self.extend("renew leases", leases, Some(micros(time_to_live))).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.extend("release leases", leases, None).await?;
        self.0.head.on_release();
        // The notification is only a hint. Other processes also poll for free leases.
        let _ = read::notify_release(&self.0.database, &self.0.head).await;
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let query = Statement::new(self.0.database.schema().fill(LIVE));
        fetch(&self.0.database, "read leases", query).await
    }

    async fn wait_for_release(&self, seen: u64) -> Result<u64, StoreError> {
        self.0.head.wait_for_release(seen).await
    }
}

impl PostgresStore {
    /// Sets the expiry of the leases that their owner still holds, and returns them. `None` expires them.
    async fn extend(
        &self,
        operation: &'static str,
        leases: &[Lease],
        micros: Option<i64>,
    ) -> Result<Vec<Lease>, StoreError> {
        let shards: Vec<i32> = leases.iter().map(|lease| lease.shard.number().into()).collect();
        let epochs: Vec<i64> =
            leases.iter().map(|lease| i64::try_from(lease.epoch.0).unwrap_or(i64::MAX)).collect();
        let owners: Vec<String> =
            leases.iter().map(|lease| escape(lease.owner.as_str().to_owned())).collect();
        let query = Statement::new(self.0.database.schema().fill(EXTEND))
            .bind(shards)
            .bind(epochs)
            .bind(owners)
            .bind(micros);
        fetch(&self.0.database, operation, query).await
    }
}

/// Runs a statement that returns leases.
async fn fetch(
    database: &Database,
    operation: &'static str,
    query: Statement,
) -> Result<Vec<Lease>, StoreError> {
    let rows = database.fetch_all(operation, query).await?;
    rows.iter().map(|row| lease(row).map_err(|error| database.error(operation, error))).collect()
}

/// Decodes a row.
fn lease(row: &PgRow) -> sqlx::Result<Lease> {
    let corrupt = |error: std::num::TryFromIntError| sqlx::Error::Decode(Box::new(error));
    let number = u16::try_from(row.try_get::<i32, _>(0)?).map_err(corrupt)?;
    Ok(Lease {
        shard: Shard::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        epoch: Epoch(u64::try_from(row.try_get::<i64, _>(1)?).map_err(corrupt)?),
        owner: OwnerId::new(unescape(row.try_get(2)?)),
        expires_at: row.try_get::<PgTimestamp, _>(3)?.0,
    })
}

/// Converts a duration to microseconds, at most 100 years: a longer interval may overflow a timestamp.
pub(super) fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 366 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_micros()).unwrap_or(CENTURY).min(CENTURY)
}
