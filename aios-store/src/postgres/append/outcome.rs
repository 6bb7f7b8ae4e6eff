//! From the row of a call to the result of each append.
//!
//! | code | meaning | result |
//! |---|---|---|
//! | 0 | accepted | version and position, counted from the heads before the batch |
//! | 1 | all events were stored before | the first result |
//! | 2 | another version than expected | `Conflict` with the actual version |
//! | 3 | the shard has another epoch | `Fenced` |
//! | 4 | an id is stored elsewhere | `DuplicateEvent` |
//! | 5 | the run has ended | `StreamClosed` |
//!
//! An answer that does not fit the batch, such as an unknown code, is an error of the whole batch
//! and not of one append: nothing can be said about any of them.

use aios_core::{
    Cause,
    store::{Append, Appended, StoreError},
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::batch::Batch;
use crate::postgres::error::BACKEND;

/// The result of each append of a batch, in order.
pub(crate) type AppendResults = Vec<Result<Appended, StoreError>>;

/// The row that the SQL function `append` returns.
///
/// The server returns the heads from before the batch, and does not return a version and position for each
/// accepted append. They are computed here by counting the accepted events in order, as the server did.
pub(crate) struct AppendOutcomes {
    /// The head of the log and the heads of the streams: at first those before the batch, then advanced
    /// by each accepted append.
    head: i64,
    pub(crate) heads: Vec<i64>,
    /// A code for each append. `None` if all were accepted; the following columns are then `None`
    /// too.
    outcomes: Option<Vec<i16>>,
    versions: Option<Vec<Option<i64>>>,
    positions: Option<Vec<Option<i64>>>,
    duplicates: Option<Vec<Option<Uuid>>>,
}

impl AppendOutcomes {
    /// The outcomes of a batch that was accepted completely, given the heads before the batch.
    pub(crate) fn all_accepted(head: i64, heads: Vec<i64>) -> Self {
        Self { head, heads, outcomes: None, versions: None, positions: None, duplicates: None }
    }

    /// Reads the row of `append`.
    pub(crate) fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            head: row.try_get(0)?,
            heads: row.try_get(1)?,
            outcomes: row.try_get(2)?,
            versions: row.try_get(3)?,
            positions: row.try_get(4)?,
            duplicates: row.try_get(5)?,
        })
    }

    /// Returns the result of each append. Afterwards, [`heads`](Self::heads) are those after the batch.
    pub(crate) fn results(&mut self, batch: &Batch) -> sqlx::Result<AppendResults> {
        let appends = batch.appends().enumerate();
        appends.map(|(index, (append, stream))| self.result(index, append, stream)).collect()
    }

    /// Whether every append of the batch was accepted.
    pub(crate) fn are_all_accepted(&self) -> bool {
        self.outcomes.is_none()
    }

    /// Only the first append to a stream can be a conflict, so the head of its stream is still the
    /// one from before the batch.
    fn result(
        &mut self,
        index: usize,
        append: &Append,
        stream: usize,
    ) -> sqlx::Result<Result<Appended, StoreError>> {
        let outcome = at(self.outcomes.as_ref(), index).unwrap_or_default();
        Ok(match outcome {
            0 => Ok(self.accepted(append, stream)?),
            1 => Ok(self.stored(index)?),
            2 => Err(StoreError::Conflict {
                stream: append.stream.clone(),
                actual: unsigned(at(Some(&self.heads), stream))?,
            }),
            3 => Err(fenced(append)),
            4 => Err(self.duplicate(index, append)?),
            5 => Err(StoreError::StreamClosed { stream: append.stream.clone() }),
            other => return Err(corrupt(format!("unknown outcome {other}"))),
        })
    }

    /// Counts the events of an accepted append, as the server did: in order, without refused appends.
    fn accepted(&mut self, append: &Append, stream: usize) -> sqlx::Result<Appended> {
        let length = i64::try_from(append.events.len()).map_err(corrupt)?;
        let version =
            self.heads.get_mut(stream).ok_or_else(|| corrupt("missing head of a stream"))?;
        *version += length;
        self.head += length;
        Ok(Appended {
            version: unsigned(Some(*version))?,
            position: unsigned(Some(self.head))?,
            repeated: false,
        })
    }

    /// The first result of an append that was stored before.
    fn stored(&self, index: usize) -> sqlx::Result<Appended> {
        Ok(Appended {
            version: unsigned(at(self.versions.as_ref(), index).flatten())?,
            position: unsigned(at(self.positions.as_ref(), index).flatten())?,
            repeated: true,
        })
    }

    /// The error for an append with a stored id. The server names the key; the error shows the id
    /// as it was written.
    fn duplicate(&self, index: usize, append: &Append) -> sqlx::Result<StoreError> {
        let key = at(self.duplicates.as_ref(), index).flatten();
        let event = append.events.iter().find(|event| Some(event.id.key()) == key);
        let event = event.ok_or_else(|| corrupt("duplicate id of an event that was not sent"))?;
        Ok(StoreError::DuplicateEvent { id: event.id.clone() })
    }
}

/// The error for an append whose shard has another epoch.
fn fenced(append: &Append) -> StoreError {
    match append.fence {
        Some(fence) => StoreError::Fenced { shard: fence.shard, epoch: fence.epoch },
        None => StoreError::Backend {
            backend: BACKEND,
            operation: "append",
            retryable: false,
            source: Cause::new(corrupt("fenced append without a fence")),
        },
    }
}

/// The element of a column, if there is such a column.
fn at<T: Copy>(column: Option<&Vec<T>>, index: usize) -> Option<T> {
    column?.get(index).copied()
}

/// Converts a version or position of the server.
fn unsigned(number: Option<i64>) -> sqlx::Result<u64> {
    let number = number.ok_or_else(|| corrupt("missing version or position"))?;
    u64::try_from(number).map_err(corrupt)
}

/// The error for an answer that this version of the SQL functions can't give.
fn corrupt(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(cause.into())
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Event,
        store::{Epoch, Fence, Shard},
    };

    use super::*;
    use crate::postgres::append::valid::ValidAppend;

    fn append(stream: &str, events: usize) -> Append {
        let event = || Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        Append::new(stream.parse().unwrap(), (0..events).map(|_| event()).collect())
    }

    #[test]
    fn should_count_accepted_appends_in_order() {
        let fence = Fence { shard: Shard::new(1).unwrap(), epoch: Epoch(1) };
        let appends = [
            append("a", 2),
            append("b", 1).with_fence(fence),
            append("a", 1),
            append("c", 1),
            append("d", 1),
            append("e", 1),
        ];
        let key = appends[4].events[0].id.key();
        let mut batch = Batch::default();
        appends.into_iter().for_each(|append| batch.push(ValidAppend::new(append, 100).unwrap()));
        let mut outcomes = AppendOutcomes {
            head: 10,
            heads: vec![5, 0, 7, 0, 3],
            outcomes: Some(vec![0, 3, 0, 2, 4, 5]),
            versions: Some(vec![None; 6]),
            positions: Some(vec![None; 6]),
            duplicates: Some(vec![None, None, None, None, Some(key), None]),
        };
        let results = outcomes.results(&batch).unwrap();
        assert_eq!(
            results[0].as_ref().unwrap(),
            &Appended { version: 7, position: 12, repeated: false }
        );
        assert_eq!(
            results[2].as_ref().unwrap(),
            &Appended { version: 8, position: 13, repeated: false }
        );
        let codes: Vec<&str> =
            results.iter().filter_map(|result| Some(result.as_ref().err()?.code())).collect();
        assert_eq!(codes, ["FENCED", "CONFLICT", "DUPLICATE_EVENT", "STREAM_CLOSED"]);
    }
}
