//! Broker adapters of [aios](https://github.com/aios-rs/aios): they move events between services,
//! at least once.
//!
//! # Example
//!
//! ```
//! use aios_core::{broker::{BrokerExt, Subscription}, event::Event};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = aios_broker::connect("memory://").await?;
//! let orders = Subscription::group("billing".parse()?, ["shop.order.*".parse()?]);
//! let mut deliveries = broker.subscribe(orders).await?;
//!
//! broker.publish_event(Event::new("shop.order.placed".parse()?, "shop", &["book"])?).await?;
//!
//! let delivery = deliveries.next().await.ok_or("closed")??;
//! assert_eq!(delivery.event.data::<Vec<String>>()?, ["book"]);
//! delivery.ack().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which adapter
//!
//! | URL | adapter | use it for | feature |
//! |---|---|---|---|
//! | `memory://` | [`memory::MemoryBroker`] | one process, tests | always built |
//! | `amqp://`, `amqps://` | `rabbitmq::RabbitMqBroker` | many processes and machines; RabbitMQ 3.10 and later | `rabbitmq` |
//!
//! [`connect`] opens the broker that a URL names. The adapters' own `connect_with` takes options
//! that a URL cannot express.
//!
//! # How an event travels
//!
//! ```text
//! publish ──► topic exchange ──┬─ pattern ─► group "billing"  ──► one of its consumers ─┬─ ack
//!                              ├─ pattern ─► group "audit"    ──► one of its consumers  ├─ retry(after)  ─► delay ─► group
//!                              └─ address ─► mailbox "engine" ──► its one reader        ├─ release       ─► group
//!                                                                                       └─ dead_letter   ─► dead letters
//! ```
//!
//! Groups are durable: events wait while no consumer is running. A delivery is settled once, by
//! value; dropping it releases it. Dropping the deliveries of a consumer ends its subscription: events
//! that it has not taken go back to the group, and deliveries that it has taken stay valid until they are
//! settled or dropped.
//!
//! # Which error when
//!
//! All operations return [`BrokerError`](aios_core::broker::BrokerError):
//!
//! | variant | do |
//! |---|---|
//! | `Unroutable` | no consumer listens: start one, or publish without a required route |
//! | `Uncertain`, `Timeout` | publish again with the same event id; consumers recognise the duplicate |
//! | `Rejected` | a queue refused the event, for example because it is full; others may have taken it: publish it again after a pause |
//! | `TooLarge` | store the data elsewhere, and publish a reference |
//! | `Blocked` | the server is short of resources: wait |
//! | `Incompatible` | the group exists with other properties: delete it, or use another name |
//! | `Closed` | the broker was closed by this process |
//! | `InvalidConfiguration` | an option or URL is invalid |
//! | `Backend` | anything else; `is_retryable()` tells whether to retry |
//!
//! # Guarantees
//!
//! - `Ok` from `publish` means that the broker has the event, durably if it supports that.
//! - An event is delivered at least once, until it is settled; duplicates have the same event id.
//! - Connections, channels and consumers that fail are replaced, and subscriptions continue.
//! - Every await ends within a timeout of the adapter.
//! - `MemoryBroker` lives as long as its process.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `rabbitmq` | `rabbitmq::RabbitMqBroker`, over lapin with rustls |
//! | `simulation` | hooks for deterministic simulations |
//!
//! All are off by default.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod connect;
mod health;
pub mod memory;
mod missed;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
mod rng;

pub use self::connect::connect;
