//! The commit of a batch in one round trip.
//!
//! The fast calls trust what this process remembers about streams, event types and sources. The
//! server checks it in the same transaction. A memory that is outdated costs one more round trip,
//! and never a wrong result.
//!
//! ```text
//! verify? ── yes ──────────────────────────────────────────────► append, looks everything up
//!    │ no                                                           ▲        ▲
//!    ├─ one event, stream cached ──► append_one ────┐ outdated      │        │
//!    ├─ all streams cached ────────► append_known ──┴───────────────┤        │
//!    └─ otherwise ─────────────────► append with hints ─────────────┴────────┘
//!                                         a unique index refused the batch
//! ```
//!
//! An outdated fence or retention makes a fast call return NULL, and the batch goes to `append`
//! with the same hints. A unique index that refuses the batch, because of another process or a
//! stored id, makes it go to `append` without hints.

use sqlx::{PgConnection, Row};

use super::{
    batch::Batch,
    cache::{StreamCache, StreamHeads, StreamHints},
    names::NameCache,
    outcome::{AppendOutcomes, AppendResults},
    single::{self, SingleAppend},
    statement::{CALL, KNOWN_CALL, NameIds},
};
use crate::postgres::{
    connection::{Database, Sql},
    error::is_unique_violation,
};

/// The results of a committed batch.
pub(crate) struct Committed {
    pub(crate) results: AppendResults,
    /// Whether every append was stored by this commit: none was refused, and none was stored before.
    pub(crate) is_as_sent: bool,
}

/// Commits batches, each in one round trip.
///
/// There are three calls, from fast to general: `append_one` for a [`SingleAppend`], `append_known` for a
/// batch whose streams are all cached, and `append` for any batch. The fast calls trust the caches. If a
/// cache is outdated, they change nothing, and the batch is sent again by `append`, which finds out the
/// results.
pub(crate) struct Committer {
    /// The statement of `append`.
    call: Sql,
    /// The statement of `append_known`.
    call_known: Sql,
    /// The statement of `append_one`.
    call_one: Sql,
    database: Database,
    /// Numbers of event types.
    types: NameCache,
    /// Numbers of event sources.
    sources: NameCache,
    /// Ends of streams.
    streams: StreamCache,
}

impl Committer {
    /// Creates a committer with empty caches.
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

    /// Commits a batch. After a lost connection, it is unknown whether the batch is stored. It can then be
    /// sent again with `verify`: the server looks the ids of the events up and returns the first results
    /// for events that are stored.
    pub(crate) async fn commit(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        verify: bool,
    ) -> sqlx::Result<Committed> {
        let hints = if verify { StreamHints::none() } else { self.streams.hints(batch) };
        match self.commit_with_hints(connection, batch, &hints).await {
            Err(error) if !hints.verify && is_unique_violation(&error) => {
                self.call(connection, batch, &StreamHints::none()).await
            }
            result => result,
        }
    }

    /// Commits a batch by the fastest call that its hints allow.
    async fn commit_with_hints(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        hints: &StreamHints,
    ) -> sqlx::Result<Committed> {
        let committed = if let Some(single) = SingleAppend::of(batch, hints) {
            self.call_one(connection, batch, &single).await?
        } else if let Some(heads) = hints.complete() {
            self.call_known(connection, batch, &heads).await?
        } else {
            None
        };
        match committed {
            Some(committed) => Ok(committed),
            None => self.call(connection, batch, hints).await,
        }
    }

    /// Clears the caches. Call this after a lost connection.
    pub(crate) fn clear_caches(&mut self) {
        self.types.clear();
        self.sources.clear();
        self.streams.clear();
    }

    /// Calls `append_one`. Returns `None` if a hint or the fence is outdated; nothing was changed then.
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
        let mut outcomes = AppendOutcomes::all_accepted(position - 1, vec![single.head]);
        let results = outcomes.results(batch)?;
        self.streams.update(
            single.expirations,
            batch,
            &[single.stream_id],
            &[single.head],
            &outcomes.heads,
        );
        Ok(Some(Committed { results, is_as_sent: true }))
    }

    /// Calls `append_known`. Returns `None` if a hint or a fence is outdated; nothing was changed then.
    async fn call_known(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        heads: &StreamHeads,
    ) -> sqlx::Result<Option<Committed>> {
        let ids = self.ids(connection, batch).await?;
        let sql = self.call_known.clone();
        let statement = batch.arguments().known_statement(sql, batch, &ids, heads)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let Some(head) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
        let mut outcomes = AppendOutcomes::all_accepted(head, heads.heads.clone());
        let results = outcomes.results(batch)?;
        self.streams.update(heads.expirations, batch, &heads.ids, &heads.heads, &outcomes.heads);
        Ok(Some(Committed { results, is_as_sent: true }))
    }

    /// Returns the numbers of the batch's types and sources. Only a new name costs a round trip.
    async fn ids(&self, connection: &mut PgConnection, batch: &Batch) -> sqlx::Result<NameIds> {
        let arguments = batch.arguments();
        let types = self.types.ids(connection, &self.database, &arguments.types).await?;
        let sources = self.sources.ids(connection, &self.database, &arguments.sources).await?;
        Ok(NameIds { types, sources })
    }

    /// Calls `append`, which finds out the result of every append.
    async fn call(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        hints: &StreamHints,
    ) -> sqlx::Result<Committed> {
        let ids = self.ids(connection, batch).await?;
        let statement = batch.arguments().statement(self.call.clone(), batch, &ids, hints)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let mut outcomes = AppendOutcomes::read(row)?;
        let before = outcomes.heads.clone();
        let results = outcomes.results(batch)?;
        let stream_ids: Vec<i64> = row.try_get(6)?;
        let expirations: i64 = row.try_get(7)?;
        self.streams.update(expirations, batch, &stream_ids, &before, &outcomes.heads);
        self.streams.remove_closed(batch, &results);
        Ok(Committed { results, is_as_sent: outcomes.are_all_accepted() })
    }
}
