use std::sync::Arc;

use aios_core::broker::{Broker, BrokerError};

use crate::memory::MemoryBroker;

/// Connects to the broker that a URL names by its scheme.
///
/// `memory://` makes a new broker that nobody else shares. `amqp://` and `amqps://` are RabbitMQ
/// and need the feature `rabbitmq`.
///
/// # Errors
///
/// [`BrokerError::InvalidConfiguration`] for a URL without a scheme, a scheme that no adapter
/// serves, or one whose adapter was not compiled in; otherwise what the adapter reports.
///
/// # Cancel safety
///
/// Cancelling leaves nothing behind.
pub async fn connect(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(invalid("the broker's URL has no scheme, such as memory://".to_owned()));
    };
    match scheme {
        "memory" if rest.is_empty() => Ok(Arc::new(MemoryBroker::new())),
        "memory" => Err(invalid("memory:// takes no host, path or query".to_owned())),
        "amqp" | "amqps" => rabbitmq(url).await,
        _ => Err(invalid(format!("no broker has the scheme {scheme:?}"))),
    }
}

#[cfg(feature = "rabbitmq")]
async fn rabbitmq(url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(crate::rabbitmq::RabbitMqBroker::connect(url).await?))
}

#[cfg(not(feature = "rabbitmq"))]
async fn rabbitmq(_url: &str) -> Result<Arc<dyn Broker>, BrokerError> {
    Err(invalid("amqp needs the feature `rabbitmq` of aios-broker".to_owned()))
}

fn invalid(reason: String) -> BrokerError {
    BrokerError::InvalidConfiguration { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn should_connect_to_memory() {
        assert!(connect("memory://").await.is_ok());
    }

    #[tokio::test]
    async fn should_refuse_urls_without_an_adapter() {
        for url in ["", "localhost", "kafka://localhost", "memory://somewhere"] {
            let error = connect(url).await.unwrap_err();
            assert_eq!(error.code(), "INVALID_BROKER_CONFIGURATION", "{url}");
        }
    }
}
