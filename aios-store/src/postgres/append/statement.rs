//! The calls of the SQL functions `append` and `append_known`.

use aios_core::store::StoreError;

use super::{
    arguments::{AppendArguments, signed},
    batch::Batch,
    cache::{StreamHeads, StreamHints},
};
use crate::postgres::connection::{Sql, Statement};

/// The ids of the types and sources of a batch's events.
pub(crate) struct NameIds {
    pub(crate) types: Vec<i32>,
    pub(crate) sources: Vec<i32>,
}

impl AppendArguments {
    /// Returns the call for a batch whose streams are all cached.
    ///
    /// # Errors
    ///
    /// If the changes of the read models cannot be serialised to JSON, or the call would be too long.
    ///
    /// The versions of the events are computed here, from the cached heads.
    pub(crate) fn known_statement(
        &self,
        sql: Sql,
        batch: &Batch,
        name_ids: &NameIds,
        heads: &StreamHeads,
    ) -> sqlx::Result<Statement> {
        let stream_ids: Vec<_> = self.per_event(&heads.ids).collect();
        let versions: Vec<_> = self
            .per_event(&heads.heads)
            .zip(&self.offsets)
            .map(|(head, offset)| Some(head?.saturating_add((*offset).into())))
            .collect();
        let (shards, epochs) = fences(batch);
        Ok(Statement::new(sql)
            .bind(stream_ids)
            .bind(versions)
            .bind(&self.ids)
            .bind(self.foreign_ids.column())
            .bind(&name_ids.types)
            .bind(&name_ids.sources)
            .bind(&self.timestamps)
            .bind(&self.payloads)
            .bind(self.metadata.column())
            .bind(shards)
            .bind(epochs)
            .bind(self.changes(batch)?)
            .bind(heads.expirations))
    }

    /// Returns, for each event, the value of its stream in a column of streams.
    fn per_event(&self, column: &[i64]) -> impl Iterator<Item = Option<i64>> {
        self.event_streams.iter().map(move |stream| {
            let index = usize::try_from(stream.checked_sub(1)?).ok()?;
            column.get(index).copied()
        })
    }

    /// Returns the call for any other batch.
    ///
    /// # Errors
    ///
    /// If the changes of the read models cannot be serialised to JSON, or the call would be too long.
    pub(crate) fn statement(
        &self,
        sql: Sql,
        batch: &Batch,
        name_ids: &NameIds,
        hints: &StreamHints,
    ) -> sqlx::Result<Statement> {
        let streams: Vec<&str> = batch.streams().iter().map(|stream| stream.id.as_str()).collect();
        let expected: Vec<Option<i64>> =
            batch.streams().iter().map(|stream| stream.expected.map(signed)).collect();
        let (shards, epochs) = fences(batch);
        Ok(Statement::new(sql)
            .bind(streams)
            .bind(expected)
            .bind(shards)
            .bind(epochs)
            .bind(&self.append_streams)
            .bind(&self.append_sizes)
            .bind(&self.append_fences)
            .bind(&self.event_streams)
            .bind(&self.offsets)
            .bind(&self.ids)
            .bind(self.foreign_ids.column())
            .bind(&name_ids.types)
            .bind(&name_ids.sources)
            .bind(&self.timestamps)
            .bind(&self.payloads)
            .bind(self.metadata.column())
            .bind(self.changes(batch)?)
            .bind(&hints.ids)
            .bind(&hints.heads)
            .bind(hints.expirations)
            .bind(hints.verify))
    }

    /// The changes of the read models as JSON; `None` if there are none.
    fn changes(&self, batch: &Batch) -> sqlx::Result<Option<String>> {
        let refused = |error: StoreError| sqlx::Error::Encode(error.into());
        batch.check_changes(self.changes.weight()).map_err(refused)?;
        let changes = self.changes.to_json().map_err(|error| sqlx::Error::Encode(error.into()))?;
        batch.check_length(changes.as_ref().map_or(0, String::len)).map_err(refused)?;
        Ok(changes)
    }
}

/// Returns the shards and the epochs of the batch's fences.
fn fences(batch: &Batch) -> (Vec<i32>, Vec<i64>) {
    let fences = batch.fences().iter();
    fences.map(|fence| (i32::from(fence.shard.number()), signed(fence.epoch.0))).unzip()
}

/// The call that [`AppendArguments::known_statement`] makes.
pub(crate) const KNOWN_CALL: &str =
    "SELECT {schema}.append_known($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// The call that [`AppendArguments::statement`] makes.
pub(crate) const CALL: &str = "\
    SELECT head, heads, verdicts, versions, positions, doubles, stream_ids, expirations \
    FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
        $18, $19, $20, $21)";
