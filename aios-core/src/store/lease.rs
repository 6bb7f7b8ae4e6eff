use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Epoch, Shard, StoreError};
use crate::{event::Timestamp, forward::forward};

/// Proof that the writer owns a shard: the append is refused once another owner took the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Fence {
    /// The shard.
    pub shard: Shard,
    /// The epoch under which the writer owns it.
    pub epoch: Epoch,
}

/// Identifies one engine process; a restarted engine has another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId(Arc<str>);

impl OwnerId {
    /// Creates an owner id, which must be unique to this process and its start.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The right to write a shard until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: Shard,
    /// The epoch under which it is owned.
    pub epoch: Epoch,
    /// The owner.
    pub owner: OwnerId,
    /// The expiry, by the store's clock.
    pub expires_at: Timestamp,
}

impl Lease {
    /// The proof to append under.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence { shard: self.shard, epoch: self.epoch }
    }
}

/// Ownership of shards. Only the store's clock decides about expiry.
///
/// # Examples
///
/// An owner writes under the fence of its lease. If it was paused for longer than the lease, the
/// append is refused, whatever the owner believes:
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::store::{Append, EventStoreExt, OwnerId, Shard, Store, StoreError};
///
/// async fn write_as_owner(store: &dyn Store, append: Append) -> Result<bool, StoreError> {
///     let owner = OwnerId::new("engine-7, started at 12:00");
///     let shards = [Shard::of("welcome-ada")];
///     let leases = store.acquire(&shards, &owner, Duration::from_secs(10)).await?;
///     let Some(lease) = leases.first() else { return Ok(false) }; // another owner has it
///     match store.append_one(append.with_fence(lease.fence())).await {
///         Ok(_) => Ok(true),
///         Err(StoreError::Fenced { .. }) => Ok(false),
///         Err(error) => Err(error),
///     }
/// }
/// # let _ = write_as_owner;
/// ```
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Takes those of `shards` that are free, expired or already this owner's, and returns their
    /// leases. The epoch is incremented whenever the owner changes, starting at 1. A store may skip epochs,
    /// so that none is issued twice after the loss of a commit.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend. A shard with another owner is not an error; it is left out.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have taken leases, which stay until they expire. The next call of this
    /// owner returns them.
    async fn acquire(
        &self,
        shards: &[Shard],
        owner: &OwnerId,
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Extends leases from now on, and returns those that the holder still owns: same owner, same
    /// epoch. An expired lease that no other owner took is extended too.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have extended the leases.
    async fn renew(
        &self,
        leases: &[Lease],
        time_to_live: Duration,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Releases leases at once; those that another owner has taken are not changed.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have released the leases. Repeating it is safe.
    async fn release(&self, leases: &[Lease]) -> Result<(), StoreError>;

    /// Every lease that has not expired.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn leases(&self) -> Result<Vec<Lease>, StoreError>;

    /// Waits until leases were released more often than `seen`, and returns the current count,
    /// which is passed to the next call. The count begins at 0 with each handle. Releases of this
    /// process wake it at once; those of other processes by a notification, which may be lost. A
    /// caller that must not miss a release also reads [`leases`](Self::leases) from time to time. A
    /// store without notifications never returns, like the default implementation.
    ///
    /// # Errors
    ///
    /// Errors reported by the backend.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn wait_for_release(&self, _seen: u64) -> Result<u64, StoreError> {
        std::future::pending().await
    }
}

forward!(Leases {
    async acquire['a, 'b](
        shards: &'a [Shard],
        owner: &'b OwnerId,
        time_to_live: Duration
    ) -> Result<Vec<Lease>, StoreError>;
    async renew['a](
        leases: &'a [Lease],
        time_to_live: Duration
    ) -> Result<Vec<Lease>, StoreError>;
    async release['a](leases: &'a [Lease]) -> Result<(), StoreError>;
    async leases[]() -> Result<Vec<Lease>, StoreError>;
    async wait_for_release[](seen: u64) -> Result<u64, StoreError>;
});
