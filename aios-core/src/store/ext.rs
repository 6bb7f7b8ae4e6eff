use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde_json::json;

use super::{
    Append, Appended, EventStore, Expected, LogSubscription, StoreError, StoreId, StreamId,
};
use crate::{
    catalog::system,
    event::{Event, EventType},
};

/// Stream whose first event gives the store its identity.
const STREAM: &str = "system/store";

/// Source of that event.
const SOURCE: &str = "aios";

/// Convenience methods for every [`EventStore`].
#[async_trait]
pub trait EventStoreExt: EventStore {
    /// Appends to one stream.
    ///
    /// # Errors
    ///
    /// See [`EventStore::append`].
    ///
    /// # Cancel safety
    ///
    /// See [`EventStore::append`].
    async fn append_one(&self, append: Append) -> Result<Appended, StoreError> {
        self.append(vec![append]).await.pop().unwrap_or(Err(StoreError::Closed))
    }

    /// The identity of this store, which is created by the first call: the first event of the
    /// stream `system/store`. It costs a read; call it once and keep the result.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have created the identity; the next one returns it.
    async fn id(&self) -> Result<StoreId, StoreError> {
        identify(self).await
    }

    /// Reads the log from after a position, page by page, and continues with new events.
    fn subscribe(self: Arc<Self>, after: u64) -> LogSubscription<Self> {
        LogSubscription::new(self, after)
    }
}

impl<S: EventStore + ?Sized> EventStoreExt for S {}

/// Reads the identity, and creates it if the store has none. If several processes create it at the
/// same time, one wins, and the others read its identity.
async fn identify<S: EventStore + ?Sized>(store: &S) -> Result<StoreId, StoreError> {
    let stream = StreamId::new(STREAM)?;
    loop {
        if let Some(first) = store.read_stream(&stream, 0, 1).await?.first() {
            return Ok(StoreId::from(first.event.id.key()));
        }
        let event = created()?;
        let id = StoreId::from(event.id.key());
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
