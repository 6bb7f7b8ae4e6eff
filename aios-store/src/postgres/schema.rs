//! The schema: its name in statements, its locks, and its migrations.
//!
//! All migrations run in one transaction under an advisory lock. Any number of processes may start
//! at once: one migrates, the others wait for the lock and then find nothing to do. If the process
//! dies in the middle, PostgreSQL rolls everything back.
//!
//! The migrations hold the append lock too. Otherwise an append of a running process and a migration
//! could each have locked a table that the other one needs. Readers take no such lock, so a deadlock
//! with several of their statements is still possible; the server then ends one of the transactions, and
//! if it is the migration, it is repeated.
//!
//! During a rolling upgrade, processes of the older version continue on the newer schema, and a
//! restart of one of them is refused with `NewerSchema`.
//!
//! Statements of this module use the simple query protocol, which needs no prepared statements and
//! allows several statements in one message. It returns all values as text, hence the casts.

use std::{str::FromStr, sync::Arc, time::Duration};

use aios_core::store::StoreError;
use sqlx::{Connection, Executor, PgConnection};
use tracing::warn;

use super::{
    connection::Sql,
    error::{is_deadlock, is_undefined},
};
use crate::schema_version::SchemaVersion;

/// All migrations in order. The version of a migration is its number in this list, from 1.
const MIGRATIONS: [(&str, &str); 23] = [
    ("event_log", include_str!("../../migrations/postgres/0001_event_log.sql")),
    ("read_models", include_str!("../../migrations/postgres/0002_read_models.sql")),
    ("append", include_str!("../../migrations/postgres/0003_append.sql")),
    ("acquire", include_str!("../../migrations/postgres/0004_acquire.sql")),
    ("retention", include_str!("../../migrations/postgres/0005_retention.sql")),
    ("append_one", include_str!("../../migrations/postgres/0006_append_one.sql")),
    ("append_known", include_str!("../../migrations/postgres/0007_append_known.sql")),
    ("closed_streams", include_str!("../../migrations/postgres/0008_closed_streams.sql")),
    ("final_statuses", include_str!("../../migrations/postgres/0009_final_statuses.sql")),
    ("chains", include_str!("../../migrations/postgres/0010_chains.sql")),
    ("waits", include_str!("../../migrations/postgres/0011_waits.sql")),
    ("usual_metadata", include_str!("../../migrations/postgres/0012_usual_metadata.sql")),
    ("ended_runs", include_str!("../../migrations/postgres/0013_ended_runs.sql")),
    ("requests", include_str!("../../migrations/postgres/0014_requests.sql")),
    ("lists", include_str!("../../migrations/postgres/0015_lists.sql")),
    ("rare_statuses", include_str!("../../migrations/postgres/0016_rare_statuses.sql")),
    ("predecessors", include_str!("../../migrations/postgres/0017_predecessors.sql")),
    ("journals", include_str!("../../migrations/postgres/0018_journals.sql")),
    ("conditions", include_str!("../../migrations/postgres/0019_conditions.sql")),
    ("standbys", include_str!("../../migrations/postgres/0020_standbys.sql")),
    ("lost_events", include_str!("../../migrations/postgres/0021_lost_events.sql")),
    ("epochs", include_str!("../../migrations/postgres/0022_epochs.sql")),
    ("ended_pages", include_str!("../../migrations/postgres/0023_ended_pages.sql")),
];

/// How long the migrations may take, and how long other processes wait for them. Migrations of a large
/// log rewrite read models, which takes longer than any other statement.
pub(super) const MIGRATION_LIMIT: Duration = Duration::from_secs(3600);

/// How often the migrations are tried if the server ends them to resolve a deadlock.
const ATTEMPTS: u32 = 5;

/// Lifts the limits of a whole transaction, which a role or a database may have, for the current one. Older
/// servers do not have all of them.
pub(super) const UNLIMITED: &str = "SELECT set_config(name, '0', true) FROM pg_settings \
     WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')";

/// A condition that fails on a standby.
const PRIMARY: &str =
    "(SELECT CASE WHEN pg_is_in_recovery() THEN {schema}.refuse_standby() ELSE true END)";

/// A condition that also fails if the log lacks the event with the position `$1` and the key `$2`. The key may
/// be null, and retention may have removed the event, but it keeps the last one of the log.
const KNOWN: &str = "(SELECT CASE
    WHEN pg_is_in_recovery() THEN {schema}.refuse_standby()
    WHEN $1 > coalesce((SELECT max(position) FROM {schema}.events), 0)
        OR $2 <> (SELECT id FROM {schema}.events WHERE position = $1)
    THEN {schema}.refuse_log($1)
    ELSE true
    END)";

/// Maximum length of a name in bytes: the 63 of PostgreSQL, less room for the suffix of the channel.
const MAX_NAME: usize = 48;

/// Name of the schema. It has no character that ends a quoted name, so it can be inserted into statements in
/// quotes. Without them, a reserved word such as `order` would be no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schema(Arc<str>);

impl Schema {
    /// The name, for statements and errors.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Fills a template: replaces `{schema}` by the name in quotes, `{lock}` by the key of the append lock, under
    /// which positions are assigned, `{primary}` by a condition that fails on a standby, and `{known}` by one
    /// that also fails if the log lacks the event with the position `$1` and the key `$2`.
    pub(super) fn fill(&self, template: &str) -> Sql {
        let text = template.replace("{primary}", PRIMARY).replace("{known}", KNOWN);
        let text = text.replace("{schema}", &format!("\"{}\"", self.0));
        text.replace("{lock}", &self.lock("append").to_string()).into()
    }

    /// Name of the notification channel.
    pub(super) fn channel(&self) -> String {
        format!("{}_events", self.0)
    }

    /// Key of an advisory lock: FNV-1a of its purpose and of the schema. Every version of aios has to use
    /// the same key.
    fn lock(&self, purpose: &str) -> i64 {
        let name = format!("aios:{purpose}:{}", self.0);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.cast_signed()
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self("aios".into())
    }
}

impl FromStr for Schema {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Self, StoreError> {
        if is_valid_name(name) {
            return Ok(Self(name.into()));
        }
        Err(StoreError::InvalidConfiguration { reason: format!("invalid schema name {name:?}") })
    }
}

/// Whether a name has only lower-case letters, digits and `_`, and none that PostgreSQL reserves for itself.
fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.starts_with("pg_")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Refuses a database whose encoding can't hold every text. The server converts texts from and to `UTF8`; a
/// database with `SQL_ASCII` stores their bytes.
pub(super) async fn check_encoding(connection: &mut PgConnection) -> sqlx::Result<()> {
    let row = connection.fetch_one("SHOW server_encoding").await?;
    let encoding: String = sqlx::Row::try_get(&row, 0)?;
    if matches!(&*encoding, "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let reason = format!(
        "the database has the encoding {encoding}, which can't hold every text; create one with UTF8, for \
         example with: createdb --encoding UTF8 --template template0 NAME"
    );
    Err(sqlx::Error::Encode(StoreError::InvalidConfiguration { reason }.into()))
}

/// Why the schema could not be migrated.
pub(super) enum MigrateError {
    /// A newer version of aios has migrated it.
    Newer { found: u32, known: u32 },
    /// A statement failed. The transaction is rolled back.
    Driver(sqlx::Error),
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

/// The version of the schema in the database, if it is older than this version of aios needs.
pub(super) async fn outdated(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<Option<u32>, MigrateError> {
    let found = refuse_newer(version(connection, schema).await?)?;
    Ok((found < known()).then_some(found))
}

/// The versions of the schema in the database and of this version of aios. Changes nothing.
pub(super) async fn versions(
    connection: &mut PgConnection,
    schema: &Schema,
) -> sqlx::Result<SchemaVersion> {
    Ok(SchemaVersion { found: version(connection, schema).await?, known: known() })
}

/// Migrates the schema. Any number of processes may do this at the same time: an advisory lock admits one
/// of them, and the others then find an up-to-date schema. The appends of all processes wait.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<(), MigrateError> {
    let mut attempt = 1;
    loop {
        match try_to_migrate(connection, schema).await {
            Err(MigrateError::Driver(error)) if is_deadlock(&error) && attempt < ATTEMPTS => {
                warn!(
                    schema = schema.name(),
                    attempt,
                    "the migration of the schema was rolled back, because of a deadlock with another \
                     session; it is repeated"
                );
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Runs the transaction. It is rolled back before the next statement if this fails.
async fn try_to_migrate(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<(), MigrateError> {
    let mut transaction = connection.begin_with(format!("BEGIN; {UNLIMITED}")).await?;
    prepare(&mut transaction, schema).await?;
    let found = refuse_newer(version(&mut transaction, schema).await?)?;
    if found < known() {
        transaction.execute(&*schema.fill("SELECT pg_advisory_xact_lock({lock})")).await?;
    }
    for (version, (name, sql)) in (1_u32..).zip(MIGRATIONS) {
        if version > found {
            transaction.execute(&*schema.fill(sql)).await?;
            record(&mut transaction, schema, version, name).await?;
        }
    }
    Ok(transaction.commit().await?)
}

/// The version that this version of aios needs.
fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Refuses a version that this version of aios does not know.
fn refuse_newer(found: u32) -> Result<u32, MigrateError> {
    let known = known();
    if found > known { Err(MigrateError::Newer { found, known }) } else { Ok(found) }
}

/// Takes the lock of migrations, and creates the schema and the table of migrations. The time
/// limits are set for this transaction only.
async fn prepare(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<()> {
    let limit = MIGRATION_LIMIT.as_millis();
    let lock = schema.lock("migrate");
    let lock = format!(
        "SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = {limit}; \
         SELECT pg_advisory_xact_lock({lock})"
    );
    connection.execute(&*lock).await?;
    if !exists(connection, schema).await? {
        connection.execute(&*schema.fill("CREATE SCHEMA {schema}")).await?;
    }
    let sql = "CREATE TABLE IF NOT EXISTS {schema}.migrations (
            version integer PRIMARY KEY,
            name text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )";
    connection.execute(&*schema.fill(sql)).await.map(drop)
}

/// Whether the schema exists. This is checked first, because `CREATE SCHEMA IF NOT EXISTS` needs the
/// CREATE privilege on the database even if the schema exists.
async fn exists(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<bool> {
    let sql = "SELECT (to_regnamespace('{schema}') IS NOT NULL)::text";
    let row = connection.fetch_one(&*schema.fill(sql)).await?;
    Ok(sqlx::Row::try_get::<String, _>(&row, 0)? == "true")
}

/// The version of the schema; 0 if there is none. Fails on a standby, also before the migration that
/// creates `refuse_standby`.
async fn version(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<u32> {
    let sql = "DO $$ BEGIN IF pg_is_in_recovery() THEN
            RAISE 'the server is a standby' USING ERRCODE = 'read_only_sql_transaction';
        END IF; END $$;
        SELECT coalesce(max(version), 0)::text FROM {schema}.migrations";
    match connection.fetch_one(&*schema.fill(sql)).await {
        Ok(row) => parse_version(&row),
        Err(error) if is_undefined(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Parses the text of a version.
fn parse_version(row: &sqlx::postgres::PgRow) -> sqlx::Result<u32> {
    let text: String = sqlx::Row::try_get(row, 0)?;
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Notes a migration, in the transaction that applies it.
async fn record(
    connection: &mut PgConnection,
    schema: &Schema,
    version: u32,
    name: &str,
) -> sqlx::Result<()> {
    let sql =
        format!("INSERT INTO {{schema}}.migrations (version, name) VALUES ({version}, '{name}')");
    connection.execute(&*schema.fill(&sql)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_accept_names_of_letters_digits_and_underscores() {
        for name in ["aios", "_a1", "tenant_7", "order", &"x".repeat(48)] {
            assert_eq!(name.parse::<Schema>().unwrap().name(), name);
        }
        for name in ["", "1a", "Aios", "a-b", "a b", "a;drop", "pg_x", "ä", &"x".repeat(49)] {
            let error = name.parse::<Schema>().unwrap_err();
            assert_eq!(error.code(), "INVALID_STORE_CONFIGURATION", "{name:?}");
        }
    }

    #[test]
    fn should_use_different_locks_for_different_schemas() {
        let one = Schema::default();
        let two: Schema = "tenant".parse().unwrap();
        assert_ne!(one.lock("append"), two.lock("append"));
        assert_ne!(one.lock("append"), one.lock("migrate"));
        assert_eq!(one.fill("a {schema}.b"), r#"a "aios".b"#.into());
    }
}
