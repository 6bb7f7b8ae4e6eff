use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Capability, StoreFixture};
use crate::{
    event::Event,
    store::{
        Append, Appended, EventStoreExt, Lease, OwnerId, RecordedEvent, Shard, Store, StoreError,
        StreamId,
    },
};

/// The environment of a case: an empty store.
#[allow(missing_debug_implementations, reason = "a fixture need not be printable")]
pub struct Harness<'a> {
    /// The first handle.
    pub store: Arc<dyn Store>,
    fixture: &'a dyn StoreFixture,
}

impl<'a> Harness<'a> {
    pub(super) async fn new(fixture: &'a dyn StoreFixture) -> Self {
        Self { store: fixture.connect().await.unwrap(), fixture }
    }

    /// Whether the case must be skipped because the adapter lacks this capability.
    #[allow(clippy::print_stderr, reason = "a test that did not run must say so")]
    pub fn lacks(&self, capability: Capability) -> bool {
        let lacks = self.fixture.lacks().contains(&capability);
        if lacks {
            eprintln!("skipped: the adapter declares that it lacks {capability:?}");
        }
        lacks
    }

    /// Another handle to the same database.
    pub async fn connect(&self) -> Arc<dyn Store> {
        self.fixture.connect().await.unwrap()
    }

    /// Another handle to the same database, or the first one if the adapter has only one.
    pub async fn another(&self) -> Arc<dyn Store> {
        match self.fixture.lacks().contains(&Capability::SecondHandle) {
            true => Arc::clone(&self.store),
            false => self.connect().await,
        }
    }

    /// The duration of leases.
    pub fn lease_time(&self) -> Duration {
        self.fixture.lease_time()
    }

    /// Lets leases that were taken now expire.
    pub async fn let_leases_expire(&self) {
        self.fixture.pass(self.lease_time() + Duration::from_millis(50)).await;
    }

    /// Lets time pass.
    pub async fn pass(&self, duration: Duration) {
        self.fixture.pass(duration).await;
    }

    /// Size of an event's data that the store must refuse.
    pub fn too_many_bytes(&self) -> usize {
        self.fixture.too_many_bytes()
    }

    /// Takes one shard, which must be free.
    pub async fn take(&self, shard: u16, owner: &str) -> Lease {
        self.acquire(&[shard], owner).await.pop().expect("the shard is free")
    }

    /// Takes the available ones of these shards.
    pub async fn acquire(&self, shards: &[u16], owner: &str) -> Vec<Lease> {
        let shards: Vec<Shard> = shards.iter().map(|number| Shard::new(*number).unwrap()).collect();
        self.store.acquire(&shards, &OwnerId::new(owner), self.lease_time()).await.unwrap()
    }

    /// Appends to one stream.
    ///
    /// # Errors
    ///
    /// Errors reported by the store.
    pub async fn try_append(&self, append: Append) -> Result<Appended, StoreError> {
        self.store.append_one(append).await
    }

    /// Appends to one stream without an expectation, which must succeed.
    pub async fn append(&self, name: &str, events: Vec<Event>) -> Appended {
        self.try_append(Append::new(stream(name), events)).await.unwrap()
    }

    /// Appends one event to the journal of a run.
    ///
    /// # Errors
    ///
    /// Errors reported by the store.
    pub async fn append_event(&self, run: &str, event: Event) -> Result<Appended, StoreError> {
        self.try_append(Append::new(stream(&format!("runs/{run}")), vec![event])).await
    }

    /// Appends one event of this type and data to the journal of a run.
    pub async fn append_to_run(&self, run: &str, event_type: &str, data: Value) -> Appended {
        self.append(&format!("runs/{run}"), vec![typed(event_type, &data)]).await
    }

    /// The whole log.
    pub async fn log(&self) -> Vec<RecordedEvent> {
        self.store.read_log(0, 10_000).await.unwrap()
    }

    /// A whole stream.
    pub async fn stream(&self, name: &str) -> Vec<RecordedEvent> {
        self.store.read_stream(&stream(name), 0, 10_000).await.unwrap()
    }
}

/// The version and position of the last event of an append that was stored now.
pub(super) fn stored(version: u64, position: u64) -> Appended {
    Appended { version, position, repeated: false }
}

/// The version and position of the last event of an append that was stored before.
pub(super) fn repeated(version: u64, position: u64) -> Appended {
    Appended { version, position, repeated: true }
}

/// A stream with this name.
pub(super) fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

/// An event with a number as data.
pub(super) fn event(number: u64) -> Event {
    typed("test.thing.happened", &json!({ "number": number }))
}

/// Events with these numbers as data.
pub(super) fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<Event> {
    numbers.into_iter().map(event).collect()
}

/// An event with this type and this data.
pub(super) fn typed(event_type: &str, data: &Value) -> Event {
    Event::new(event_type.parse().unwrap(), "conformance", data).unwrap()
}

/// The envelope as JSON, so that data is compared by value.
pub(super) fn envelope(event: &Event) -> Value {
    serde_json::to_value(event).unwrap()
}

/// Versions and positions of events.
pub(super) fn places(recorded: &[RecordedEvent]) -> Vec<(u64, u64)> {
    recorded.iter().map(|recorded| (recorded.version, recorded.position)).collect()
}
