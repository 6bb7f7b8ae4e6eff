//! Numbers of event types and sources.
//!
//! The names of events repeat, so the log stores numbers. A new name is inserted in a transaction
//! of its own, before the batch that uses it. If the batch inserted it and were rolled back, the
//! cache would have a number that the database does not have or has given to another name. A name
//! whose batch is refused afterwards does no harm.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use sqlx::{PgConnection, Row};

use crate::postgres::{
    connection::{Database, Sql, Statement},
    schema::Schema,
};

/// Capacity of the cache. It is cleared when it would grow beyond that.
const CAPACITY: usize = 16_384;

/// A cache of the ids of names that are written once and never deleted, such as the types of events.
///
/// Names are committed before they are cached, so the cache is correct as long as the server is the same.
pub(crate) struct NameCache {
    /// Number of each name. The writer is its only user; the lock lets it be shared by reference.
    cached: RwLock<HashMap<Arc<str>, i32>>,
    /// Finds the numbers of names.
    find: Sql,
    /// Inserts names, unless they exist.
    insert: Sql,
}

impl NameCache {
    /// Creates an empty cache of the names in this table.
    pub(crate) fn new(schema: &Schema, table: &str) -> Self {
        let find = format!("SELECT id, name FROM {{schema}}.{table} WHERE name = ANY ($1)");
        let insert = format!(
            "INSERT INTO {{schema}}.{table} (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
        );
        Self { cached: RwLock::default(), find: schema.fill(&find), insert: schema.fill(&insert) }
    }

    /// Returns the id of each event's name, in order. Inserts new names and commits them at once.
    pub(crate) async fn ids(
        &self,
        connection: &mut PgConnection,
        database: &Database,
        used: &BatchNames,
    ) -> sqlx::Result<Vec<i32>> {
        let mut ids = self.cached(&used.names);
        let unknown = unknown(&used.names, &ids);
        if !unknown.is_empty() {
            let found = self.intern(connection, database, &unknown).await?;
            for (id, name) in ids.iter_mut().zip(&used.names) {
                *id = id.or_else(|| found.get(name).copied());
            }
            self.remember(found);
        }
        let ids = used.indexes.iter().map(|index| ids.get(*index).copied().flatten());
        ids.map(|id| id.ok_or(sqlx::Error::RowNotFound)).collect()
    }

    /// Clears the cache. Called when the connection was lost, because the next one may lead to a server
    /// that lost the last commits and has assigned the ids to other names.
    pub(crate) fn clear(&self) {
        self.cached.write().clear();
    }

    /// Returns the cached number of each name.
    fn cached(&self, names: &[Arc<str>]) -> Vec<Option<i32>> {
        let cached = self.cached.read();
        names.iter().map(|name| cached.get(name).copied()).collect()
    }

    /// Caches numbers. A full cache is cleared, because it takes a program that invents names to
    /// fill it.
    fn remember(&self, found: HashMap<Arc<str>, i32>) {
        let mut cached = self.cached.write();
        if cached.len() + found.len() > CAPACITY {
            cached.clear();
        }
        cached.extend(found);
    }

    /// Returns the numbers of names that are not cached. Inserts those that do not exist, and then
    /// reads again: another process may have inserted one at the same time, and `DO NOTHING`
    /// returns no row for it.
    async fn intern(
        &self,
        connection: &mut PgConnection,
        database: &Database,
        names: &[&str],
    ) -> sqlx::Result<HashMap<Arc<str>, i32>> {
        let found = self.find(connection, database, names).await?;
        if found.len() == names.len() {
            return Ok(found);
        }
        let missing: Vec<&str> =
            names.iter().copied().filter(|name| !found.contains_key(*name)).collect();
        let insert = Statement::new(self.insert.clone()).bind(missing);
        database.run(connection, insert).await?;
        self.find(connection, database, names).await
    }

    /// Returns the numbers of the names that exist.
    async fn find(
        &self,
        connection: &mut PgConnection,
        database: &Database,
        names: &[&str],
    ) -> sqlx::Result<HashMap<Arc<str>, i32>> {
        let find = Statement::new(self.find.clone()).bind(names);
        let rows = database.run(connection, find).await?;
        rows.iter().map(|row| Ok((row.try_get::<String, _>(1)?.into(), row.try_get(0)?))).collect()
    }
}

/// The names of a batch's events, each once.
#[derive(Debug, Default)]
pub(crate) struct BatchNames {
    /// The distinct names.
    names: Vec<Arc<str>>,
    /// Index of each name in `names`.
    by_name: HashMap<Arc<str>, usize>,
    /// For each event, the index of its name in [`names`](Self::names).
    indexes: Vec<usize>,
}

impl BatchNames {
    /// Adds the name of the next event.
    pub(crate) fn push(&mut self, name: &str) {
        // Most events have the name of the event before, so this saves a look-up.
        let last = self.indexes.last().filter(|last| self.name(**last) == Some(name));
        let known = last.or_else(|| self.by_name.get(name)).copied();
        let index = known.unwrap_or_else(|| self.add(name.into()));
        self.indexes.push(index);
    }

    /// A distinct name.
    fn name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(|name| &**name)
    }

    /// Adds a distinct name. Returns its index.
    fn add(&mut self, name: Arc<str>) -> usize {
        let index = self.names.len();
        self.names.push(Arc::clone(&name));
        self.by_name.insert(name, index);
        index
    }
}

/// Returns the names without a number.
fn unknown<'a>(names: &'a [Arc<str>], ids: &[Option<i32>]) -> Vec<&'a str> {
    let pairs = names.iter().zip(ids);
    pairs.filter(|(_, id)| id.is_none()).map(|(name, _)| &**name).collect()
}
