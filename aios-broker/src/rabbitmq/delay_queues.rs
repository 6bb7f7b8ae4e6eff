//! Delays between attempts, on any version of RabbitMQ.
//!
//! A copy of a failed event is published to the exchange of its delay class, with the name of its
//! own queue as routing key. The exchange is a fanout with one queue, so the routing key is kept
//! for later. When the event expires there, the server dead-letters it to an exchange that delivers it
//! to the queue that the key names.
//!
//! **A delay beyond the longest class.** The copy says when it is due. If it returns before that, the
//! subscription does not pass it on, and publishes a copy to the longest class, or to that of the rest of
//! the delay.
//!
//! **A queue that was deleted.** The server dead-letters the events of a delay queue at least once: it
//! keeps those that no queue takes, and at 32 of them it stops, so that the events of all other queues
//! would wait indefinitely. Therefore the events of a queue that is gone go to a queue of their own, which no
//! process reads. An operator moves or purges them.
//!
//! That queue has no limit. If it refused events, the delay queues would keep them and stop, as above; if
//! it dropped some, they would be lost unnoticed. Instead, every process that consumes reports its length,
//! within an hour if another process has declared it.

use std::{collections::HashSet, time::Duration};

use aios_core::broker::{BrokerError, Lifetime};
use lapin::{
    Channel, ExchangeKind,
    types::{AMQPValue, FieldTable},
};
use metrics::gauge;
use parking_lot::Mutex;

use super::{
    connection::Link,
    error::is_not_found,
    headers::{long, table},
    topology::{
        bind, declare_due_exchange, declare_durable_exchange, declare_queue, due_exchange, inspect,
        unclaimed,
    },
};

/// The shortest delay class.
const SHORTEST: Duration = Duration::from_millis(8);

/// The longest delay class. The server takes no time to live above 49 days. An event with a longer delay
/// returns before it is due, and its consumer holds it again.
pub(super) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often to look for the queue of unclaimed events while it does not exist.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The queues in which events wait for their next attempt.
///
/// Events of a queue expire in order, so all events of a queue must have the same time to live.
/// There is one queue per class of delay, with eight classes per doubling. When an event expires,
/// the server moves it to the queue that its routing key names.
///
/// With eight classes per doubling, a class is at most an eighth longer than the delay that was
/// asked for, and the delays from 8 ms to 30 days have fewer than 260 classes. Only those that are
/// used are declared.
#[derive(Debug, Default)]
pub(super) struct DelayQueues {
    /// Names of exchanges.
    declared: Mutex<HashSet<String>>,
    /// The last count of unclaimed events.
    counted: Mutex<Counted>,
}

/// A count of the events whose own queue is gone.
#[derive(Debug, Default)]
struct Counted {
    /// When they may be counted again, by the monotonic time of the clock.
    next: Duration,
    /// How many there were.
    events: u32,
}

impl DelayQueues {
    /// Returns the exchange of the class of this delay, declaring it if necessary.
    pub(super) async fn exchange(
        &self,
        link: &Link,
        delay: Duration,
        lifetime: Lifetime,
    ) -> Result<String, BrokerError> {
        let class = class(delay);
        let name = match lifetime {
            Lifetime::Durable => format!("{}.hold.{class}", link.options.prefix),
            Lifetime::Temporary => format!("{}.hold.temporary.{class}", link.options.prefix),
        };
        if !self.declared.lock().contains(&name) {
            declare(link, &name, class, lifetime).await?;
            self.declared.lock().insert(name.clone());
            if lifetime == Lifetime::Durable {
                // There is a queue to count now.
                self.counted.lock().next = Duration::ZERO;
            }
        }
        Ok(name)
    }

    /// Forgets the declared exchanges, because another server may have taken over.
    pub(super) fn forget(&self) {
        self.declared.lock().clear();
    }

    /// Counts the events whose own queue is gone, at most once in an interval of the watchdog, whichever
    /// subscription asks. Logs when there are more than before.
    ///
    /// The server logs an error if there is no queue for them, so one that does not exist is looked for
    /// rarely until this process declares it. Another process may have declared it.
    pub(super) async fn count_unclaimed(&self, link: &Link) {
        let now = link.options.clock.elapsed();
        let next = now.saturating_add(link.options.watchdog);
        {
            let mut counted = self.counted.lock();
            if now < counted.next {
                return;
            }
            counted.next = next;
        }
        let Ok((_connection, channel)) = link.channel().await else { return };
        let name = unclaimed(&link.options.prefix);
        let events = match inspect(link, &channel, &name).await {
            Ok(queue) => queue.message_count(),
            // Nothing was retried yet, or an operator has deleted the queue.
            Err(error) if is_not_found(&error) => {
                let mut counted = self.counted.lock();
                // Unless it was declared in the meantime.
                if counted.next == next {
                    counted.next = now.saturating_add(LOOK_AGAIN.max(link.options.watchdog));
                }
                0
            }
            Err(_) => return,
        };
        gauge!("aios_events_unclaimed").set(events);
        if events > std::mem::replace(&mut self.counted.lock().events, events) {
            tracing::warn!(
                queue = name,
                events,
                "events could not be retried, because their group or mailbox was deleted; move or purge them"
            );
        }
    }
}

/// Declares the exchange and the queue of a class, and binds them.
async fn declare(
    link: &Link,
    name: &str,
    class: u64,
    lifetime: Lifetime,
) -> Result<(), BrokerError> {
    let (_connection, channel) = link.channel().await?;
    if lifetime == Lifetime::Durable {
        declare_due_exchange(link, &channel).await?;
        declare_unclaimed(link, &channel).await?;
    }
    let arguments = arguments(&link.options.prefix, class, lifetime);
    declare_with_exchange(link, &channel, name, arguments).await
}

/// Declares the queue of the events whose own queue is gone.
async fn declare_unclaimed(link: &Link, channel: &Channel) -> Result<(), BrokerError> {
    let name = unclaimed(&link.options.prefix);
    let arguments = table([("x-queue-type", long("quorum"))]);
    declare_with_exchange(link, channel, &name, arguments).await
}

/// Declares a queue with an exchange of the same name, from which it gets everything.
async fn declare_with_exchange(
    link: &Link,
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let kind = ExchangeKind::Fanout;
    declare_durable_exchange(link, channel, name, kind, FieldTable::default()).await?;
    declare_queue(link, channel, name, Lifetime::Durable, arguments).await?;
    bind(link, channel, name, name, "").await
}

/// The arguments of a delay queue. Expired events keep the routing key with which they were published,
/// which is the name of their queue.
fn arguments(prefix: &str, class: u64, lifetime: Lifetime) -> FieldTable {
    let millis = AMQPValue::LongLongInt(i64::try_from(class).unwrap_or(i64::MAX));
    match lifetime {
        Lifetime::Durable => table([
            ("x-queue-type", long("quorum")),
            ("x-message-ttl", millis),
            ("x-dead-letter-exchange", long(due_exchange(prefix))),
            ("x-dead-letter-strategy", long("at-least-once")),
            ("x-overflow", long("reject-publish")),
        ]),
        // The events of temporary groups and mailboxes end with them.
        Lifetime::Temporary => table([
            ("x-queue-type", long("classic")),
            ("x-message-ttl", millis),
            ("x-dead-letter-exchange", long("")),
        ]),
    }
}

/// The class of a delay, in milliseconds: the delay itself, rounded up by at most an eighth.
///
/// The step is an eighth of the power of two below the delay, so the result has four significant bits:
///
/// | delay | step | class |
/// |---|---|---|
/// | 100 ms | 8 ms | 104 ms |
/// | 1 s | 64 ms | 1,024 ms |
/// | 5 s | 512 ms | 5,120 ms |
fn class(delay: Duration) -> u64 {
    let nanos = delay.clamp(SHORTEST, LONGEST).as_nanos();
    let millis = u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let step = 1 << (millis.ilog2() - 3);
    millis.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_round_up_by_an_eighth_at_most() {
        for millis in (1..5_000).chain([86_400_000, 2_500_000_000]) {
            let class = class(Duration::from_millis(millis));
            assert!(class >= millis && class <= (millis + millis / 8 + 1).max(8), "{millis}");
        }
    }

    #[test]
    fn should_have_few_classes() {
        let classes: HashSet<u64> =
            (1..100_000).map(|millis| class(Duration::from_millis(millis))).collect();
        assert!(classes.len() <= 8 * 15, "{}", classes.len());
    }
}
