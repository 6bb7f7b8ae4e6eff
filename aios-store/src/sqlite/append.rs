use aios_core::{
    event::Event,
    projection::project,
    store::{Append, Appended, RecordedEvent, StoreError},
};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    read_model::apply_all,
    writer::{CALL_WEIGHT, Work, Writer},
};
use crate::admission::{admit, check_expected, encode_metadata};

/// What one append is answered with, unless the whole transaction fails.
pub(super) type Answer = Result<Appended, StoreError>;

/// One call of `append`.
pub(super) struct AppendWork {
    appends: Vec<Result<Prepared, StoreError>>,
    asked: usize,
    answers: Vec<Answer>,
    weight: usize,
    reply: oneshot::Sender<Vec<Answer>>,
}

/// An append with everything encoded that needs no look at the log.
pub(super) struct Prepared {
    pub(super) append: Append,
    encoded: Vec<Encoded>,
}

pub(super) struct Encoded {
    pub(super) key: Uuid,
    pub(super) metadata: Option<String>,
}

impl AppendWork {
    pub(super) fn new(
        batch: Vec<Append>,
        limit: usize,
        reply: oneshot::Sender<Vec<Answer>>,
    ) -> Self {
        let payload = |event: &Event| event.payload.as_str().len();
        let bytes: usize =
            batch.iter().map(|append| append.events.iter().map(payload).sum::<usize>()).sum();
        let weight = CALL_WEIGHT * batch.len() + bytes;
        let asked = batch.len();
        let appends = batch.into_iter().map(|append| Prepared::new(append, limit)).collect();
        Self { appends, asked, answers: Vec::with_capacity(asked), weight, reply }
    }
}

impl Prepared {
    fn new(append: Append, limit: usize) -> Result<Self, StoreError> {
        admit(&append, limit)?;
        let encode =
            |event: &Event| Ok(Encoded { key: event.id.key(), metadata: encode_metadata(event)? });
        let encoded = append.events.iter().map(encode).collect::<Result<_, StoreError>>()?;
        Ok(Self { append, encoded })
    }

    pub(super) fn events(&self) -> impl Iterator<Item = (&Event, &Encoded)> {
        self.append.events.iter().zip(&self.encoded)
    }
}

impl Work for AppendWork {
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, writer: &mut Writer<'_>) -> rusqlite::Result<()> {
        for prepared in self.appends.drain(..) {
            self.answers.push(match prepared {
                Ok(prepared) => writer.append(prepared)?,
                Err(refusal) => Err(refusal),
            });
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answers = match outcome {
            Ok(()) => self.answers,
            Err(error) => vec![Err(error); self.asked],
        };
        // Whoever asked may be gone; what was committed stays committed.
        let _ = self.reply.send(answers);
    }
}

impl Writer<'_> {
    /// Appends, or says why this append alone is refused.
    fn append(&mut self, prepared: Prepared) -> rusqlite::Result<Answer> {
        let append = &prepared.append;
        let end = self.log.end_of(&append.stream)?;
        let version = end.map_or(0, |end| end.version.cast_unsigned());
        let refusal = self
            .leases
            .check(append.fence)
            .and_then(|()| check_expected(&append.stream, append.expected, version));
        if let Err(refusal) = refusal {
            let stored = self.log.find(&prepared)?;
            return Ok(stored.unwrap_or(Err(refusal)));
        }
        match self.log.insert(&prepared, end)? {
            Some(first) => self.apply(prepared.append, first).map(Ok),
            None => self.log.find(&prepared)?.ok_or(rusqlite::Error::QueryReturnedNoRows),
        }
    }

    /// Changes the read models as the appended events say; the first one landed at `place`.
    fn apply(&mut self, append: Append, mut place: Appended) -> rusqlite::Result<Appended> {
        let mut last = place;
        for event in append.events {
            last = place;
            let recorded = RecordedEvent {
                position: place.position,
                stream: append.stream.clone(),
                version: place.version,
                event,
            };
            place = Appended { version: place.version + 1, position: place.position + 1 };
            apply_all(self.connection, &project(&recorded))?;
        }
        Ok(last)
    }
}
