//! From a URL to an opened broker.
//!
//! The scheme selects the adapter. An error about a scheme has to help without repeating a secret:
//! a text before the first colon may be a password that was pasted into the wrong variable. It is
//! repeated only if it is a known scheme of another system or a near misspelling of a known one.

use std::sync::Arc;

use aios_core::broker::{Broker, BrokerError};

use crate::memory::MemoryBroker;

/// Connects to the broker that a URL names by its scheme.
///
/// `memory://`, or `memory:`, creates a new broker that is not shared. `amqp://` and `amqps://` are
/// RabbitMQ and need the feature `rabbitmq`.
///
/// # Errors
///
/// [`BrokerError::InvalidConfiguration`] for a URL without a scheme, a scheme that no adapter
/// serves, or one whose adapter was not compiled in; otherwise what the adapter reports.
///
/// # Cancel safety
///
/// Cancel safe.
///
/// # Examples
///
/// ```
/// use aios_core::{broker::{BrokerExt, Group, Subscription}, event::Event};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = aios_broker::connect("memory://").await?; // or amqp://user:password@host/vhost
/// let billing = Subscription::group(Group::new("billing")?, ["shop.order.*".parse()?]);
/// let mut orders = broker.subscribe(billing).await?;
/// broker.publish_event(Event::new("shop.order.placed".parse()?, "shop", &7)?).await?;
/// let delivery = orders.next().await.ok_or("the broker was closed")??;
/// assert_eq!(delivery.event.data::<u32>()?, 7);
/// delivery.ack().await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    match url.split_once(':') {
        Some(("memory", "" | "//")) => Ok(Arc::new(MemoryBroker::new())),
        Some(("memory", _)) => Err(invalid("memory:// accepts no host, path or query".to_owned())),
        Some(("amqp" | "amqps", _)) => rabbitmq(url).await,
        None if url == "memory" => Err(invalid(format!("{BEGINS}; did you mean memory:?"))),
        scheme => Err(invalid(unknown(scheme.map(|(scheme, _)| scheme)))),
    }
}

const BEGINS: &str = "a broker URL begins with memory:, amqp: or amqps:";

/// Schemes that may be repeated in an error without showing a misplaced secret.
const EXPECTED: [&str; 20] = [
    "activemq",
    "gcppubsub",
    "http",
    "https",
    "kafka",
    "mqtt",
    "mqtts",
    "nats",
    "postgres",
    "postgresql",
    "pulsar",
    "rabbitmq",
    "redis",
    "rediss",
    "sns",
    "sqlite",
    "sqs",
    "stomp",
    "tls",
    "zmq",
];

/// Builds the error for an unknown scheme, with a suggestion.
fn unknown(scheme: Option<&str>) -> String {
    let Some(scheme) = scheme.map(str::to_ascii_lowercase) else { return BEGINS.to_owned() };
    let meant = match scheme.as_str() {
        "rabbit" | "rabbitmq" | "pyamqp" => "amqp:",
        "mem" | "inmemory" | "in-memory" => "memory:",
        near if is_near(near, "amqps") && near.ends_with('s') => "amqps:",
        near if is_near(near, "amqp") => "amqp:",
        near if is_near(near, "memory") => "memory:",
        scheme if EXPECTED.contains(&scheme) => return format!("{BEGINS}, not with {scheme}:"),
        _ => return BEGINS.to_owned(),
    };
    format!("{BEGINS}, not with {scheme}:; did you mean {meant}?")
}

/// Whether the names differ by one inserted, deleted or replaced letter, or by two swapped letters.
///
/// Skips the common beginning, and then compares the rests after skipping one letter of either, of
/// both, or two of both.
fn is_near(text: &str, word: &str) -> bool {
    let (text, word): (Vec<char>, Vec<char>) = (text.chars().collect(), word.chars().collect());
    let same = text.iter().zip(&word).take_while(|(one, other)| one == other).count();
    let rest =
        |letters: &[char], skipped: usize| letters.get(same + skipped..).map(<[char]>::to_vec);
    let one = rest(&text, 1);
    let other = rest(&word, 1);
    let swapped = text.get(same).is_some()
        && text.get(same) == word.get(same + 1)
        && text.get(same + 1) == word.get(same)
        && rest(&text, 2) == rest(&word, 2);
    text == word
        || (one.is_some() && one == other)
        || (one.is_some() && one == rest(&word, 0))
        || (other.is_some() && other == rest(&text, 0))
        || swapped
}

/// Connects to the server that the URL names.
#[cfg(feature = "rabbitmq")]
async fn rabbitmq(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(crate::rabbitmq::RabbitMqBroker::connect(url).await?))
}

/// Refuses the URL, because this build has no client for RabbitMQ.
#[cfg(not(feature = "rabbitmq"))]
async fn rabbitmq(_url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    Err(invalid("amqp needs the feature `rabbitmq` of aios-broker".to_owned()))
}

/// The error for a URL that can't be used.
fn invalid(reason: String) -> BrokerError {
    BrokerError::InvalidConfiguration { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn should_suggest_the_missing_colon() {
        let error = connect("memory").await.unwrap_err().to_string();
        assert!(error.ends_with("did you mean memory:?"), "{error}");
    }

    #[tokio::test]
    async fn should_connect_to_memory() {
        for url in ["memory:", "memory://"] {
            assert!(connect(url).await.is_ok(), "{url}");
        }
    }

    #[test]
    fn should_say_what_a_url_may_have_meant() {
        for (url, says) in [
            ("kafka://me:secret@h", "not with kafka:"),
            ("ampq://me:secret@h", "not with ampq:; did you mean amqp:?"),
            ("AMQP://me:secret@h", "not with amqp:; did you mean amqp:?"),
            ("amqpss://me:secret@h", "did you mean amqps:?"),
            ("rabbitmq://me:secret@h", "did you mean amqp:?"),
            ("memry://", "did you mean memory:?"),
            ("secret://h", "memory:, amqp: or amqps:"),
            ("me:secret@h", "memory:, amqp: or amqps:"),
            ("secret", "memory:, amqp: or amqps:"),
            ("", "memory:, amqp: or amqps:"),
        ] {
            let reason = unknown(url.split_once(':').map(|(scheme, _)| scheme));
            assert!(reason.contains(says) && !reason.contains("secret"), "{url}: {reason}");
        }
    }

    #[tokio::test]
    async fn should_refuse_urls_without_an_adapter() {
        for url in ["", "localhost", "kafka://localhost", "memory://somewhere"] {
            let error = connect(url).await.unwrap_err();
            assert_eq!(error.code(), "INVALID_BROKER_CONFIGURATION", "{url}");
        }
    }
}
