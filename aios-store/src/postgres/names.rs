use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use sqlx::{PgConnection, Row};

use super::{
    pool::Database,
    schema::Schema,
    statement::{Sql, Statement},
};

/// Names whose number is remembered; more than that start anew.
const REMEMBERED: usize = 16_384;

/// The numbers of names that are written once and never deleted, such as the types of events.
///
/// What is remembered was committed, so it is right as long as the server is the same.
pub(super) struct Names {
    known: RwLock<HashMap<Arc<str>, i32>>,
    find: Sql,
    insert: Sql,
}

impl Names {
    pub(super) fn new(schema: &Schema, table: &str) -> Self {
        let find = format!("SELECT id, name FROM {{schema}}.{table} WHERE name = ANY ($1)");
        let insert = format!(
            "INSERT INTO {{schema}}.{table} (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
        );
        Self { known: RwLock::default(), find: schema.fill(&find), insert: schema.fill(&insert) }
    }

    /// The number of each event's name, in order; gives one to names that have none, at once and for
    /// ever.
    pub(super) async fn numbers(
        &self,
        connection: &mut PgConnection,
        database: &Database,
        used: &UsedNames,
    ) -> sqlx::Result<Vec<i32>> {
        let mut numbers = self.known(&used.names);
        let unknown = unknown(&used.names, &numbers);
        if !unknown.is_empty() {
            let found = self.intern(connection, database, &unknown).await?;
            for (number, name) in numbers.iter_mut().zip(&used.names) {
                *number = number.or_else(|| found.get(name).copied());
            }
            self.remember(found);
        }
        let number = |place: &usize| numbers.get(*place).copied().flatten();
        let numbers = used.places.iter().map(|place| number(place).ok_or(sqlx::Error::RowNotFound));
        numbers.collect()
    }

    /// Forgets everything: the next connection may lead to a server that gives the numbers to others.
    pub(super) fn forget(&self) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn known(&self, names: &[Arc<str>]) -> Vec<Option<i32>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        names.iter().map(|name| known.get(name).copied()).collect()
    }

    fn remember(&self, found: HashMap<Arc<str>, i32>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() + found.len() > REMEMBERED {
            known.clear();
        }
        known.extend(found);
    }

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
pub(super) struct UsedNames {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, usize>,
    /// Place of each event's name among [`names`](Self::names).
    places: Vec<usize>,
}

impl UsedNames {
    /// Adds the name of the next event.
    pub(super) fn push(&mut self, name: &str) {
        let last = self.places.last().filter(|last| self.name(**last) == Some(name));
        let known = last.or_else(|| self.by_name.get(name)).copied();
        let place = known.unwrap_or_else(|| self.add(name.into()));
        self.places.push(place);
    }

    fn name(&self, place: usize) -> Option<&str> {
        self.names.get(place).map(|name| &**name)
    }

    fn add(&mut self, name: Arc<str>) -> usize {
        let place = self.names.len();
        self.names.push(Arc::clone(&name));
        self.by_name.insert(name, place);
        place
    }
}

fn unknown<'a>(names: &'a [Arc<str>], numbers: &[Option<i32>]) -> Vec<&'a str> {
    let pairs = names.iter().zip(numbers);
    pairs.filter(|(_, number)| number.is_none()).map(|(name, _)| &**name).collect()
}
