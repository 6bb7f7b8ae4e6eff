//! Store adapters of [aios](https://github.com/aios-rs/aios): the event log, leases, read models and checkpoints.
//!
//! # Example
//!
//! ```
//! use aios_core::{event::Event, store::{Append, EventStoreExt, StreamId}};
//! use aios_store::memory::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new();
//! let event = Event::new("orders.order.placed".parse()?, "shop", &["tea"])?;
//! let appended = store.append_one(Append::new(StreamId::new("orders/1")?, vec![event])).await?;
//! assert_eq!((appended.version, appended.position), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # Which adapter
//!
//! | URL | adapter | use it for | feature |
//! |---|---|---|---|
//! | `memory://` | [`memory::MemoryStore`] | tests, and runs that need not survive | always built |
//! | `sqlite://path`, `sqlite::memory:` | `sqlite::SqliteStore` | one process, one file, no server | `sqlite` |
//! | `postgres://…` | `postgres::PostgresStore` | many processes; PostgreSQL 13 to 18 | `postgres` |
//!
//! [`connect`] opens the store that a URL names; [`AnyStore`] does the same and has `expire_runs`,
//! `expire_streams` and `compact`; an archive and `compact` exist only in some stores. The adapters' own
//! `connect_with` takes options that a URL cannot express.
//!
//! # How an append travels
//!
//! ```text
//! append ──► queue of this process ──► one transaction ──┬─ fence checked       ──► answers
//! append ──►   (everything waiting)      (group commit)  ├─ versions checked
//! append ──►                                             ├─ positions assigned, in commit order
//!                                                        └─ read models changed
//! ```
//!
//! Appends that are called at the same time share a commit. There is no timer: an idle store commits at
//! once, and a busy one commits hundreds of appends together. On a server, a call waits for room in the
//! queue and then for its commit, for at most `PostgresOptions::append_timeout` and the attempt that is in
//! progress.
//!
//! # Which error when
//!
//! All operations return [`StoreError`](aios_core::store::StoreError):
//!
//! | variant | do |
//! |---|---|
//! | `Conflict` | read the stream and decide again; it carries the actual version |
//! | `Fenced` | stop writing: another process owns the shard |
//! | `StreamClosed` | the run has ended; its stream takes no events |
//! | `DuplicateEvent` | the id is stored in another stream, or only part of the append is stored |
//! | `TooLarge`, `InvalidText` | change the event |
//! | `Locked` | another process, or another store of this one, has the SQLite file open |
//! | `Gone`, `Corrupt`, `Full` | an operator has to act |
//! | `NewerSchema` | deploy the version that migrated the database |
//! | `Timeout` | repeat the append: repeating is safe |
//! | `InvalidConfiguration` | an option or URL is invalid |
//! | `Backend` | anything else; `is_retryable()` tells whether to retry |
//!
//! # Guarantees
//!
//! - Each append is atomic, and durable when it is answered: SQLite with `synchronous=FULL`, PostgreSQL
//!   with its own settings.
//! - Positions are dense and in commit order: a reader that tracks its position never skips an event.
//! - An append under a fence is refused if its shard was taken by another process.
//! - Repeating an append returns the first result.
//! - Read models change in the same transaction and can be rebuilt from the log.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `sqlite` | `sqlite::SqliteStore`, over rusqlite with SQLite included |
//! | `postgres` | `postgres::PostgresStore`, over sqlx with rustls |
//!
//! All are off by default.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

mod any;
mod connect;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod job_queue;
mod leases;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod measure;
// Decides in memory and SQLite what repeats an append; in PostgreSQL, the function `judge` of the last
// migration that replaces it does.
mod repeat;
mod retention;
mod rows;
mod schema_version;
mod validation;
mod verify;

pub use self::{
    any::AnyStore,
    connect::{connect, schema_version},
    retention::{ExpiredEvents, Retention},
    schema_version::SchemaVersion,
    verify::{Verification, VerifyFault, verify},
};
