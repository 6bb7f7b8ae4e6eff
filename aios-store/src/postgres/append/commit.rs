use sqlx::{PgConnection, Row};

use super::{
    arguments::{CALL, KNOWN_CALL, NameIds},
    batch::Batch,
    cache::{StreamCache, StreamHeads, StreamHints},
    names::NameCache,
    outcome::{AppendOutcomes, AppendResults},
    single::{self, SingleAppend},
};
use crate::postgres::{
    connection::{Database, Sql},
    error::is_unique_violation,
};

/// A batch that the server has dealt with.
pub(crate) struct Committed {
    pub(crate) results: AppendResults,
    /// Whether all of it is stored as it was sent: nothing was refused, and nothing stored before.
    pub(crate) is_as_sent: bool,
}

/// Commits batches, each in one round trip.
pub(crate) struct Committer {
    call: Sql,
    call_known: Sql,
    call_one: Sql,
    database: Database,
    types: NameCache,
    sources: NameCache,
    streams: StreamCache,
}

impl Committer {
    pub(crate) fn new(database: &Database) -> Self {
        let schema = database.schema();
        Self {
            call: schema.fill(CALL),
            call_known: schema.fill(KNOWN_CALL),
            call_one: schema.fill(single::CALL),
            database: database.clone(),
            types: NameCache::new(schema, "event_types"),
            sources: NameCache::new(schema, "event_sources"),
            streams: StreamCache::new(),
        }
    }

    /// Commits a batch. After an error of the connection it may be stored or not; sent again, and
    /// then checked, it is answered by what is stored, because every event has an id.
    pub(crate) async fn commit(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        verify: bool,
    ) -> sqlx::Result<Committed> {
        let known = if verify { StreamHints::none() } else { self.streams.known(batch) };
        match self.commit_with_hints(connection, batch, &known).await {
            Err(error) if !known.verify && is_unique_violation(&error) => {
                self.call(connection, batch, &StreamHints::none()).await
            }
            result => result,
        }
    }

    /// Commits a batch with what is known, by a shorter call where possible.
    async fn commit_with_hints(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        known: &StreamHints,
    ) -> sqlx::Result<Committed> {
        let committed = if let Some(single) = SingleAppend::of(batch, known) {
            self.call_one(connection, batch, &single).await?
        } else if let Some(ends) = known.ends() {
            self.call_known(connection, batch, &ends).await?
        } else {
            None
        };
        match committed {
            Some(committed) => Ok(committed),
            None => self.call(connection, batch, known).await,
        }
    }

    /// Forgets what it knows of the log; to be called when the connection is lost.
    pub(crate) fn forget(&mut self) {
        self.types.forget();
        self.sources.forget();
        self.streams.forget();
    }

    /// `None` if the log is not as it is believed to be, and nothing was done.
    async fn call_one(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        single: &SingleAppend<'_>,
    ) -> sqlx::Result<Option<Committed>> {
        let NameIds { types, sources } = self.ids(connection, batch).await?;
        let (&[event_type], &[source]) = (&*types, &*sources) else { return Ok(None) };
        let statement = single.statement(self.call_one.clone(), event_type, source);
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let Some(position) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
        let (ids, heads) = ([single.stream_id], [single.head]);
        let mut outcomes = AppendOutcomes::all_accepted(position - 1, heads.to_vec());
        let results = outcomes.results(batch)?;
        self.streams.remember(single.expirations, batch, &ids, &heads, &outcomes.heads);
        Ok(Some(Committed { results, is_as_sent: true }))
    }

    /// `None` if the log is not as it is believed to be, and nothing was done.
    async fn call_known(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        ends: &StreamHeads,
    ) -> sqlx::Result<Option<Committed>> {
        let (sql, ids) = (self.call_known.clone(), self.ids(connection, batch).await?);
        let statement = batch.arguments().known_statement(sql, batch, &ids, ends)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let Some(head) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
        let mut outcomes = AppendOutcomes::all_accepted(head, ends.heads.clone());
        let results = outcomes.results(batch)?;
        self.streams.remember(ends.expirations, batch, &ends.ids, &ends.heads, &outcomes.heads);
        Ok(Some(Committed { results, is_as_sent: true }))
    }

    async fn ids(&self, connection: &mut PgConnection, batch: &Batch) -> sqlx::Result<NameIds> {
        let (arguments, database) = (batch.arguments(), &self.database);
        let types = self.types.ids(connection, database, &arguments.types).await?;
        let sources = self.sources.ids(connection, database, &arguments.sources).await?;
        Ok(NameIds { types, sources })
    }

    async fn call(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        known: &StreamHints,
    ) -> sqlx::Result<Committed> {
        let (sql, ids) = (self.call.clone(), self.ids(connection, batch).await?);
        let statement = batch.arguments().statement(sql, batch, &ids, known)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let mut outcomes = AppendOutcomes::read(row)?;
        let before = outcomes.heads.clone();
        let results = outcomes.results(batch)?;
        let (ids, expirations): (Vec<i64>, i64) = (row.try_get(6)?, row.try_get(7)?);
        self.streams.remember(expirations, batch, &ids, &before, &outcomes.heads);
        self.streams.forget_closed(batch, &results);
        Ok(Committed { results, is_as_sent: outcomes.are_all_accepted() })
    }
}
