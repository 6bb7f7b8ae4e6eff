//! Broker adapters of aios: [in memory](memory) for one process and for tests, and, behind the
//! feature `rabbitmq`, on RabbitMQ for many.
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

mod chance;
mod connect;
mod health;
pub mod memory;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;

pub use self::connect::connect;
