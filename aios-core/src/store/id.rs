use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{Append, Appended, EventStore, EventStoreExt, Expected, StoreError, StreamId};
use crate::{
    catalog::system,
    event::{Event, EventType},
};

/// Stream whose first event gives the store its identity.
const STREAM: &str = "system/store";

/// Source of that event.
const SOURCE: &str = "aios";

/// Identity of a store: the key of the first event of the stream `system/store`.
///
/// Two databases, or two schemas of one database, never share it. It is part of the log, so it
/// survives restarts, [`rebuild`](super::ReadModels::rebuild) and retention, and a copy of a database
/// has the identity of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(Uuid);

impl StoreId {
    /// The UUID.
    #[must_use]
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl From<Uuid> for StoreId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for StoreId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Reads the identity, and creates it if the store has none. If several processes create it at the
/// same time, one wins, and the others read its identity.
pub(super) async fn identify<S: EventStore + ?Sized>(store: &S) -> Result<StoreId, StoreError> {
    let stream = StreamId::new(STREAM)?;
    loop {
        if let Some(first) = store.read_stream(&stream, 0, 1).await?.first() {
            return Ok(StoreId(first.event.id.key()));
        }
        let event = created()?;
        let id = StoreId(event.id.key());
        let append = Append::new(stream.clone(), vec![event]).with_expected(Expected::Empty);
        match store.append_one(append).await {
            Ok(Appended { .. }) => return Ok(id),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

fn created() -> Result<Event, StoreError> {
    let invalid = |reason: &dyn fmt::Display| StoreError::InvalidConfiguration {
        reason: format!("the event system.store.created can't be made: {reason}"),
    };
    let event_type = EventType::new(system::DOMAIN, "store", system::STORE_CREATED)
        .map_err(|error| invalid(&error))?;
    Event::new(event_type, SOURCE, &json!({})).map_err(|error| invalid(&error))
}
