use std::sync::Arc;

use aios_core::store::{Append, Appended, StoreError};
use sqlx::{PgConnection, Row, SqlStr, postgres::PgRow};
use uuid::Uuid;

use super::{
    batch::Batch,
    columns::CALL,
    error::is_taken,
    names::Names,
    one::{self, One},
    pool::Database,
    streams::{Known, Streams},
};

/// What became of each append of a batch, in order.
pub(super) type Answers = Vec<Result<Appended, StoreError>>;

/// A batch that the server has dealt with.
pub(super) struct Committed {
    pub(super) answers: Answers,
    /// Whether all of it is stored as it was sent: nothing was refused, and nothing stored before.
    pub(super) is_as_sent: bool,
}

/// Commits batches, each in one round trip.
pub(super) struct Committer {
    call: SqlStr,
    call_one: SqlStr,
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

    /// Commits a batch with what is known, the short way if that will do.
    async fn trust(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        known: &Known,
    ) -> sqlx::Result<Committed> {
        if let Some(one) = One::of(batch, known)
            && let Some(committed) = self.call_one(connection, batch, &one).await?
        {
            return Ok(committed);
        }
        self.call(connection, batch, known).await
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
        let (types, sources) = self.names(connection, batch).await?;
        let (&[event_type], &[source]) = (&*types, &*sources) else { return Ok(None) };
        let statement = one.statement(self.call_one.clone(), event_type, source);
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let Some(position) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
        let head = one.head.saturating_add(1);
        self.streams.remember(one.expirations, batch, &[one.stream_id], &[one.head], &[head]);
        let (version, position) = (unsigned(Some(head))?, unsigned(Some(position))?);
        let answers = vec![Ok(Appended { version, position })];
        Ok(Some(Committed { answers, is_as_sent: true }))
    }

    async fn names(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
    ) -> sqlx::Result<(Vec<i32>, Vec<i32>)> {
        let types: Vec<&str> = batch.events().map(|event| event.event_type.as_str()).collect();
        let sources: Vec<&str> = batch.events().map(|event| &*event.source).collect();
        let types = self.types.numbers(connection, &self.database, &types).await?;
        Ok((types, self.sources.numbers(connection, &self.database, &sources).await?))
    }

    async fn call(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
        known: &Known,
    ) -> sqlx::Result<Committed> {
        let (types, sources) = self.names(connection, batch).await?;
        let names = (types.as_slice(), sources.as_slice());
        let statement = batch.columns().statement(self.call.clone(), batch, names, known)?;
        let rows = self.database.run(connection, statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let mut verdicts = Verdicts::read(row)?;
        let before = verdicts.heads.clone();
        let answers = verdicts.answers(batch)?;
        let (ids, expirations): (Vec<i64>, i64) = (row.try_get(6)?, row.try_get(7)?);
        self.streams.remember(expirations, batch, &ids, &before, &verdicts.heads);
        Ok(Committed { answers, is_as_sent: verdicts.verdicts.is_none() })
    }
}

/// What the SQL function says.
struct Verdicts {
    head: i64,
    heads: Vec<i64>,
    /// Where something was refused: for each append what became of it.
    verdicts: Option<Vec<i16>>,
    versions: Option<Vec<Option<i64>>>,
    positions: Option<Vec<Option<i64>>>,
    doubles: Option<Vec<Option<Uuid>>>,
}

impl Verdicts {
    fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            head: row.try_get(0)?,
            heads: row.try_get(1)?,
            verdicts: row.try_get(2)?,
            versions: row.try_get(3)?,
            positions: row.try_get(4)?,
            doubles: row.try_get(5)?,
        })
    }

    fn answers(&mut self, batch: &Batch) -> sqlx::Result<Answers> {
        let appends = batch.appends().enumerate();
        appends.map(|(place, (append, stream))| self.answer(place, append, stream)).collect()
    }

    fn answer(
        &mut self,
        place: usize,
        append: &Append,
        stream: usize,
    ) -> sqlx::Result<Result<Appended, StoreError>> {
        let verdict = at(self.verdicts.as_ref(), place).unwrap_or_default();
        Ok(match verdict {
            0 => Ok(self.accepted(append, stream)?),
            1 => Ok(self.stored(place)?),
            2 => Err(StoreError::Conflict {
                stream: append.stream.clone(),
                actual: unsigned(at(Some(&self.heads), stream))?,
            }),
            3 => Err(fenced(append)),
            4 => Err(self.double(place, append)?),
            other => return Err(nonsense(format!("verdict {other}"))),
        })
    }

    /// Counts as the database did: in order, what was refused left out.
    fn accepted(&mut self, append: &Append, stream: usize) -> sqlx::Result<Appended> {
        let length = i64::try_from(append.events.len()).map_err(nonsense)?;
        let version =
            self.heads.get_mut(stream).ok_or_else(|| nonsense("a stream without a head"))?;
        *version += length;
        self.head += length;
        Ok(Appended { version: unsigned(Some(*version))?, position: unsigned(Some(self.head))? })
    }

    fn stored(&self, place: usize) -> sqlx::Result<Appended> {
        Ok(Appended {
            version: unsigned(at(self.versions.as_ref(), place).flatten())?,
            position: unsigned(at(self.positions.as_ref(), place).flatten())?,
        })
    }

    fn double(&self, place: usize, append: &Append) -> sqlx::Result<StoreError> {
        let key = at(self.doubles.as_ref(), place).flatten();
        let event = append.events.iter().find(|event| Some(event.id.key()) == key);
        let event = event.ok_or_else(|| nonsense("a double that nobody sent"))?;
        Ok(StoreError::DuplicateEvent { id: event.id.clone() })
    }
}

fn fenced(append: &Append) -> StoreError {
    match append.fence {
        Some(fence) => StoreError::Fenced { shard: fence.shard, epoch: fence.epoch },
        None => StoreError::Backend {
            backend: super::error::BACKEND,
            operation: "append",
            retryable: false,
            source: Arc::new(nonsense("a fence that nobody set")),
        },
    }
}

fn at<T: Copy>(column: Option<&Vec<T>>, place: usize) -> Option<T> {
    column?.get(place).copied()
}

fn unsigned(number: Option<i64>) -> sqlx::Result<u64> {
    let number = number.ok_or_else(|| nonsense("an answer without a number"))?;
    u64::try_from(number).map_err(nonsense)
}

fn nonsense(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(cause.into())
}

#[cfg(test)]
mod tests {
    use aios_core::{
        event::Event,
        store::{Epoch, Fence, Shard},
    };

    use super::{super::batch::Admitted, *};

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
        ];
        let key = appends[4].events[0].id.key();
        let mut batch = Batch::default();
        appends.into_iter().for_each(|append| batch.push(Admitted::new(append, 100).unwrap()));
        let mut verdicts = Verdicts {
            head: 10,
            heads: vec![5, 0, 7, 0],
            verdicts: Some(vec![0, 3, 0, 2, 4]),
            versions: Some(vec![None; 5]),
            positions: Some(vec![None; 5]),
            doubles: Some(vec![None, None, None, None, Some(key)]),
        };
        let answers = verdicts.answers(&batch).unwrap();
        assert_eq!(answers[0].as_ref().unwrap(), &Appended { version: 7, position: 12 });
        assert_eq!(answers[2].as_ref().unwrap(), &Appended { version: 8, position: 13 });
        let codes: Vec<&str> =
            answers.iter().filter_map(|answer| Some(answer.as_ref().err()?.code())).collect();
        assert_eq!(codes, ["FENCED", "CONFLICT", "DUPLICATE_EVENT"]);
    }
}
