//! Parameters of the URL.
//!
//! A program that takes only a URL, such as the CLI, can set the options that a deployment needs.
//! Parameters that lapin knows stay in the URL, and any other name is an error.

use std::time::Duration;

use aios_core::broker::BrokerError;
use url::Url;

use crate::rabbitmq::RabbitMqOptions;

/// Parameters that lapin reads itself.
const OF_LAPIN: [&str; 5] =
    ["auth_mechanism", "channel_max", "connection_timeout", "frame_max", "heartbeat"];

impl RabbitMqOptions {
    /// Applies the parameters of the URL. They take precedence over options set in code.
    ///
    /// # Errors
    ///
    /// [`BrokerError::InvalidConfiguration`] for a parameter that is unknown or has an invalid
    /// value, or a file that can't be read.
    pub(crate) fn with_url_parameters(mut self) -> Result<Self, BrokerError> {
        crate::rabbitmq::options::uri(self.url())?;
        let url = Url::parse(self.url()).map_err(|error| invalid(format!("the URL: {error}")))?;
        let mut certificate = None;
        let mut key = None;
        for (name, value) in url.query_pairs() {
            self = match &*name {
                "cacertfile" => self.with_ca_certificates(file(&name, &value)?),
                "certfile" => {
                    certificate = Some(file(&name, &value)?);
                    self
                }
                "keyfile" => {
                    key = Some(file(&name, &value)?);
                    self
                }
                "prefix" => self.with_prefix(value),
                "connection_name" => self.with_connection_name(value),
                "connect_deadline" => self.with_connect_deadline(seconds(&name, &value)?),
                "publish_timeout" => self.with_publish_timeout(seconds(&name, &value)?),
                "operation_timeout" => self.with_operation_timeout(seconds(&name, &value)?),
                "watchdog" => self.with_watchdog(seconds(&name, &value)?),
                "temporary_expiry" => self.with_temporary_expiry(seconds(&name, &value)?),
                "confirm_window" => self.with_confirm_window(number(&name, &value)?),
                "max_event_bytes" => self.with_max_event_bytes(number(&name, &value)?),
                "delivery_limit" => self.with_delivery_limit(number(&name, &value)?),
                of_lapin if OF_LAPIN.contains(&of_lapin) => self,
                unknown => {
                    return Err(invalid(format!("the URL: unknown parameter {unknown:?}")));
                }
            };
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(self.with_client_certificate(certificate, key)),
            (None, None) => Ok(self),
            _ => Err(invalid("the URL: certfile and keyfile must be used together".to_owned())),
        }
    }
}

/// Reads the file that a parameter names.
fn file(name: &str, path: &str) -> Result<String, BrokerError> {
    std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("the URL: {name}: can't read {path}: {error}")))
}

/// Parses a number of seconds, which may have a fraction.
fn seconds(name: &str, value: &str) -> Result<Duration, BrokerError> {
    let seconds = value.parse().ok().and_then(|value| Duration::try_from_secs_f64(value).ok());
    seconds.ok_or_else(|| {
        invalid(format!("the URL: {name} must be a number of seconds, not {value:?}"))
    })
}

/// Parses a number.
fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, BrokerError> {
    value.parse().map_err(|_| invalid(format!("the URL: {name} must be a number, not {value:?}")))
}

/// The error for an invalid parameter.
fn invalid(reason: String) -> BrokerError {
    BrokerError::InvalidConfiguration { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<RabbitMqOptions, BrokerError> {
        RabbitMqOptions::new(format!("amqps://localhost/%2f?{query}")).with_url_parameters()
    }

    #[test]
    fn should_set_what_the_url_says() {
        let options =
            parsed("publish_timeout=2.5&confirm_window=7&heartbeat=4&prefix=mine").unwrap();
        assert_eq!(options.publish_timeout, Duration::from_millis(2500));
        assert_eq!((options.confirm_window, options.prefix.as_str()), (7, "mine"));
        let pem = tempfile::NamedTempFile::new().unwrap();
        assert!(parsed(&format!("cacertfile={}", pem.path().display())).is_ok());
    }

    #[test]
    fn should_refuse_what_it_does_not_understand() {
        for (query, names) in [
            ("publish_timout=2", "publish_timout"),
            ("confirm_window=many", "confirm_window"),
            ("watchdog=-1", "watchdog"),
            ("cacertfile=/nowhere", "/nowhere"),
            ("certfile=/dev/null", "keyfile"),
        ] {
            let error = parsed(query).unwrap_err();
            assert!(error.to_string().contains(names), "{error}");
        }
    }
}
