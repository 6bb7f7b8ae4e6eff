use std::sync::Arc;

use aios_core::store::{Append, Appended, StoreError};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::batch::Batch;
use crate::postgres::error::BACKEND;

/// What became of each append of a batch, in order.
pub(crate) type AppendResults = Vec<Result<Appended, StoreError>>;

/// What the SQL function `append` says of a batch.
pub(crate) struct AppendOutcomes {
    /// Head of the log, and where streams end: before the batch, then with what was counted so far.
    head: i64,
    pub(crate) heads: Vec<i64>,
    /// Where something was refused: for each append what became of it.
    outcomes: Option<Vec<i16>>,
    versions: Option<Vec<Option<i64>>>,
    positions: Option<Vec<Option<i64>>>,
    doubles: Option<Vec<Option<Uuid>>>,
}

impl AppendOutcomes {
    /// Nothing was refused by a log that ended here, with streams that ended there.
    pub(crate) fn all_accepted(head: i64, heads: Vec<i64>) -> Self {
        Self { head, heads, outcomes: None, versions: None, positions: None, doubles: None }
    }

    /// What it says in full.
    pub(crate) fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            head: row.try_get(0)?,
            heads: row.try_get(1)?,
            outcomes: row.try_get(2)?,
            versions: row.try_get(3)?,
            positions: row.try_get(4)?,
            doubles: row.try_get(5)?,
        })
    }

    /// The answer to each append. Afterwards [`heads`](Self::heads) are those after the batch.
    pub(crate) fn results(&mut self, batch: &Batch) -> sqlx::Result<AppendResults> {
        let appends = batch.appends().enumerate();
        appends.map(|(place, (append, stream))| self.answer(place, append, stream)).collect()
    }

    /// Whether all of the batch was accepted.
    pub(crate) fn are_all_accepted(&self) -> bool {
        self.outcomes.is_none()
    }

    fn answer(
        &mut self,
        place: usize,
        append: &Append,
        stream: usize,
    ) -> sqlx::Result<Result<Appended, StoreError>> {
        let outcome = at(self.outcomes.as_ref(), place).unwrap_or_default();
        Ok(match outcome {
            0 => Ok(self.accepted(append, stream)?),
            1 => Ok(self.stored(place)?),
            2 => Err(StoreError::Conflict {
                stream: append.stream.clone(),
                actual: unsigned(at(Some(&self.heads), stream))?,
            }),
            3 => Err(fenced(append)),
            4 => Err(self.double(place, append)?),
            5 => Err(StoreError::StreamClosed { stream: append.stream.clone() }),
            other => return Err(corrupt(format!("outcome {other}"))),
        })
    }

    /// Counts as the database did: in order, what was refused left out.
    fn accepted(&mut self, append: &Append, stream: usize) -> sqlx::Result<Appended> {
        let length = i64::try_from(append.events.len()).map_err(corrupt)?;
        let version =
            self.heads.get_mut(stream).ok_or_else(|| corrupt("a stream without a head"))?;
        *version += length;
        self.head += length;
        Ok(Appended {
            version: unsigned(Some(*version))?,
            position: unsigned(Some(self.head))?,
            repeated: false,
        })
    }

    fn stored(&self, place: usize) -> sqlx::Result<Appended> {
        Ok(Appended {
            version: unsigned(at(self.versions.as_ref(), place).flatten())?,
            position: unsigned(at(self.positions.as_ref(), place).flatten())?,
            repeated: true,
        })
    }

    fn double(&self, place: usize, append: &Append) -> sqlx::Result<StoreError> {
        let key = at(self.doubles.as_ref(), place).flatten();
        let event = append.events.iter().find(|event| Some(event.id.key()) == key);
        let event = event.ok_or_else(|| corrupt("a double that nobody sent"))?;
        Ok(StoreError::DuplicateEvent { id: event.id.clone() })
    }
}

fn fenced(append: &Append) -> StoreError {
    match append.fence {
        Some(fence) => StoreError::Fenced { shard: fence.shard, epoch: fence.epoch },
        None => StoreError::Backend {
            backend: BACKEND,
            operation: "append",
            retryable: false,
            source: Arc::new(corrupt("a fence that nobody set")),
        },
    }
}

fn at<T: Copy>(column: Option<&Vec<T>>, place: usize) -> Option<T> {
    column?.get(place).copied()
}

fn unsigned(number: Option<i64>) -> sqlx::Result<u64> {
    let number = number.ok_or_else(|| corrupt("an answer without a number"))?;
    u64::try_from(number).map_err(corrupt)
}

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
    use crate::postgres::append::batch::ValidAppend;

    fn append(stream: &str, events: usize) -> Append {
        let event = || Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        Append::new(stream.parse().unwrap(), (0..events).map(|_| event()).collect())
    }

    #[test]
    fn should_count_what_was_accepted_in_order() {
        let fence = Fence { shard: Shard(1), epoch: Epoch(1) };
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
            doubles: Some(vec![None, None, None, None, Some(key), None]),
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
            results.iter().filter_map(|answer| Some(answer.as_ref().err()?.code())).collect();
        assert_eq!(codes, ["FENCED", "CONFLICT", "DUPLICATE_EVENT", "STREAM_CLOSED"]);
    }
}
