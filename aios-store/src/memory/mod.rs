//! A store in memory, for tests, experiments, and runs that need not survive the process. It
//! matches the same contract as the durable stores.
//!
//! # How it works
//!
//! One mutex guards the whole state: the log, the ids, the streams, the read models, the leases,
//! the checkpoints and the waits. A call locks it once, does all its work, and unlocks it before
//! anything is awaited. A batch of appends is therefore atomic for readers, its read models change
//! with it, and positions are in the order in which the calls took the lock.
//!
//! Waiting tasks are woken by two watch channels that live outside the mutex: one carries the head
//! of the log, the other the number of lease releases. A new value is sent after the state has
//! changed, so a woken task always finds what it was woken for.
//!
//! Nothing survives the last clone, and no call fails because of a backend. The store is also the
//! model that [`verify`](crate::verify()) compares other stores with.

mod append;
mod checkpoint;
mod event_store;
mod lease;
mod options;
mod read_model;
mod retention;
mod wait;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use aios_core::{
    clock::Clock,
    store::{RecordedEvent, StoreError, StreamId},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

pub use self::options::MemoryOptions;
pub(crate) use self::read_model::Tables;
use self::wait::WaitTable;
use crate::leases::LeaseTable;
pub use crate::retention::{ExpiredEvents, Retention};

/// A store in memory. Clones share the data, which is dropped with the last clone.
///
/// # Examples
///
/// ```
/// use aios_core::{event::Event, store::{Append, EventStoreExt, StreamId}};
/// use aios_store::memory::MemoryStore;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = MemoryStore::new();
/// let event = Event::new("orders.order.placed".parse()?, "shop", &["tea"])?;
/// let appended = store.append_one(Append::new(StreamId::new("orders/1")?, vec![event])).await?;
/// assert_eq!((appended.version, appended.position), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

/// The state that the clones of a store share.
struct Inner {
    /// Never locked across an await, and never together with another lock.
    state: Mutex<State>,
    /// The position of the last event; wakes `wait_for`.
    head: watch::Sender<u64>,
    /// Number of lease releases so far; wakes `wait_for_release`.
    releases: watch::Sender<u64>,
    /// Decides when leases expire and how old events are.
    clock: Arc<dyn Clock>,
    max_event_bytes: usize,
}

/// The data of a store.
#[derive(Default)]
struct State {
    /// Events by position. Retention leaves gaps. Boxed, so that inserting does not move whole events.
    log: BTreeMap<u64, Box<RecordedEvent>>,
    /// The streams that have at least one event.
    streams: HashMap<StreamId, Stream>,
    /// Position of each event, by key.
    ids: HashMap<Uuid, u64>,
    /// The read models.
    tables: Tables,
    leases: LeaseTable,
    /// Position of each reader.
    checkpoints: HashMap<String, u64>,
    /// The waits of evicted runs.
    waits: WaitTable,
}

/// A stream of events.
#[derive(Default)]
struct Stream {
    /// The positions of its events, by version.
    positions: Vec<u64>,
    /// Whether the stream accepts no more events.
    is_closed: bool,
}

impl Stream {
    /// The version of the last event. Versions are dense, so it is the number of events.
    fn version(&self) -> u64 {
        self.positions.len() as u64
    }
}

impl MemoryStore {
    /// Creates an empty store that uses the wall clock for the expiry of leases.
    #[must_use]
    pub fn new() -> Self {
        Self::open(MemoryOptions::new())
    }

    /// Creates an empty store that uses this clock for the expiry of leases.
    ///
    /// # Examples
    ///
    /// A test of a takeover. An owner that was paused for longer than its lease cannot append any more, once
    /// another owner has the shard:
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    ///
    /// use aios_core::{
    ///     clock::VirtualClock,
    ///     event::Event,
    ///     store::{Append, EventStoreExt, Leases, OwnerId, Shard, StoreError, StreamId},
    /// };
    /// use aios_store::memory::MemoryStore;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let clock = VirtualClock::default();
    /// let store = MemoryStore::with_clock(Arc::new(clock.clone()));
    /// let shards = [Shard::of("welcome-ada")];
    /// let term = Duration::from_secs(10);
    ///
    /// let before = store.acquire(&shards, &OwnerId::new("engine-1"), term).await?;
    /// assert!(store.acquire(&shards, &OwnerId::new("engine-2"), term).await?.is_empty());
    /// clock.advance(term);
    /// let after = store.acquire(&shards, &OwnerId::new("engine-2"), term).await?;
    /// assert_eq!((before[0].epoch.0, after[0].epoch.0), (1, 2));
    ///
    /// let event = Event::new("shop.order.placed".parse()?, "shop", &7)?;
    /// let late = Append::new(StreamId::new("orders/7")?, vec![event]).with_fence(before[0].fence());
    /// assert!(matches!(store.append_one(late).await, Err(StoreError::Fenced { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::open(MemoryOptions::new().with_clock(clock))
    }

    /// Creates an empty store.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidConfiguration`] if an option is out of range.
    pub fn connect_with(options: MemoryOptions) -> Result<Self, StoreError> {
        options.check()?;
        Ok(Self::open(options))
    }

    /// Creates an empty store from options that were checked.
    fn open(options: MemoryOptions) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            head: watch::Sender::new(0),
            releases: watch::Sender::new(0),
            clock: options.clock,
            max_event_bytes: options.max_event_bytes,
        }))
    }
}

/// The same as [`MemoryStore::new`].
impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = *self.0.head.borrow();
        formatter.debug_struct("MemoryStore").field("head", &head).finish_non_exhaustive()
    }
}
