use sqlx::{PgConnection, Row};

use super::{
    batch::Batch,
    columns::{CALL, KNOWN_CALL, Numbers},
    error::is_taken,
    names::Names,
    one::{self, One},
    pool::Database,
    statement::Sql,
    streams::{Ends, Known, Streams},
    verdicts::{Answers, Verdicts},
};

/// A batch that the server has dealt with.
pub(super) struct Committed {
    pub(super) answers: Answers,
    /// Whether all of it is stored as it was sent: nothing was refused, and nothing stored before.
    pub(super) is_as_sent: bool,
}

/// Commits batches, each in one round trip.
pub(super) struct Committer {
    call: Sql,
    call_known: Sql,
    call_one: Sql,
    database: Database,
    types: Names,
    sources: Names,
    streams: Streams,
}

impl Committer {
    pub(super) fn new(database: &Database) -> Self {
        let schema = database.schema();
        Self {
            call: schema.fill(CALL),
            call_known: schema.fill(KNOWN_CALL),
            call_one: schema.fill(one::CALL),
            database: database.clone(),
            types: Names::new(schema, "event_types"),
            sources: Names::new(schema, "event_sources"),
            streams: Streams::new(),
        }
    }

    /// Commits a batch. After an error of the connection it may be stored or not; sent again, and
    /// then checked, it is answered by what is stored, because every event has an id.
    pub(super) async fn commit(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        is_checked: bool,
    ) -> sqlx::Result<Committed> {
        let known = if is_checked { Known::nothing() } else { self.streams.known(batch) };
        match self.trust(connection, batch, &known).await {
            Err(error) if !known.is_checked && is_taken(&error) => {
                self.call(connection, batch, &Known::nothing()).await
            }
            result => result,
        }
    }

    /// Commits a batch with what is known, a short way if one will do.
    async fn trust(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        known: &Known,
    ) -> sqlx::Result<Committed> {
        let committed = if let Some(one) = One::of(batch, known) {
            self.call_one(connection, batch, &one).await?
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
    pub(super) fn forget(&mut self) {
        self.types.forget();
        self.sources.forget();
        self.streams.forget();
    }

    /// `None` if the log is not as it is believed to be, and nothing was done.
    async fn call_one(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        one: &One<'_>,
    ) -> sqlx::Result<Option<Committed>> {
        let Numbers { types, sources } = self.numbers(connection, batch).await?;
        let (&[event_type], &[source]) = (&*types, &*sources) else { return Ok(None) };
        let statement = one.statement(self.call_one.clone(), event_type, source);
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let Some(position) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
        let (ids, heads) = ([one.stream_id], [one.head]);
        let mut verdicts = Verdicts::all_accepted(position - 1, heads.to_vec());
        let answers = verdicts.answers(batch)?;
        self.streams.remember(one.expirations, batch, &ids, &heads, &verdicts.heads);
        Ok(Some(Committed { answers, is_as_sent: true }))
    }

    /// `None` if the log is not as it is believed to be, and nothing was done.
    async fn call_known(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        ends: &Ends,
    ) -> sqlx::Result<Option<Committed>> {
        let (sql, numbers) = (self.call_known.clone(), self.numbers(connection, batch).await?);
        let statement = batch.columns().known_statement(sql, batch, &numbers, ends)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let Some(head) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
        let mut verdicts = Verdicts::all_accepted(head, ends.heads.clone());
        let answers = verdicts.answers(batch)?;
        self.streams.remember(ends.expirations, batch, &ends.ids, &ends.heads, &verdicts.heads);
        Ok(Some(Committed { answers, is_as_sent: true }))
    }

    async fn numbers(&self, connection: &mut PgConnection, batch: &Batch) -> sqlx::Result<Numbers> {
        let (columns, database) = (batch.columns(), &self.database);
        let types = self.types.numbers(connection, database, &columns.types).await?;
        let sources = self.sources.numbers(connection, database, &columns.sources).await?;
        Ok(Numbers { types, sources })
    }

    async fn call(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        known: &Known,
    ) -> sqlx::Result<Committed> {
        let (sql, numbers) = (self.call.clone(), self.numbers(connection, batch).await?);
        let statement = batch.columns().statement(sql, batch, &numbers, known)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let mut verdicts = Verdicts::read(row)?;
        let before = verdicts.heads.clone();
        let answers = verdicts.answers(batch)?;
        let (ids, expirations): (Vec<i64>, i64) = (row.try_get(6)?, row.try_get(7)?);
        self.streams.remember(expirations, batch, &ids, &before, &verdicts.heads);
        self.streams.forget_closed(batch, &answers);
        Ok(Committed { answers, is_as_sent: verdicts.are_all_accepted() })
    }
}
