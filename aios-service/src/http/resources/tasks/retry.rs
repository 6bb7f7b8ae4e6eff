use std::time::Duration;

use aios_core::{catalog::codes, retry::RetryPolicy};
use serde::{Deserialize, Deserializer, de::Error};
use utoipa::ToSchema;

use super::seconds;
use crate::http::{ApiError, protocol::integer};

/// How often and when failed attempts of a task are repeated. What is not given is that of the default
/// policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskRetry {
    /// Maximum number of attempts, including the first; 0 stands for no limit. 5 unless given.
    #[serde(default, deserialize_with = "attempts")]
    #[schema(required = false)]
    max_attempts: Option<u32>,
    /// Delay after the first failure, in seconds; 1 unless given.
    #[serde(default)]
    #[schema(required = false)]
    initial_delay_seconds: Option<f64>,
    /// Factor by which each further delay grows, at least 1; 2 unless given.
    #[serde(default)]
    #[schema(required = false)]
    factor: Option<f64>,
    /// Longest delay, in seconds; 60 unless given.
    #[serde(default)]
    #[schema(required = false)]
    max_delay_seconds: Option<f64>,
    /// Share of each delay that is random, from 0 to 1; 0.5 unless given.
    #[serde(default)]
    #[schema(required = false)]
    jitter: Option<f64>,
    /// Codes of failures that end the attempts at once.
    #[serde(default)]
    #[schema(required = false)]
    non_retryable: Vec<String>,
}

impl TaskRetry {
    /// The policy. Fails if it is not valid, with the reason.
    pub(super) fn policy(self) -> Result<RetryPolicy, ApiError> {
        let delay = |field: &str, given: Option<f64>, default: Duration| match given {
            Some(given) => seconds(&format!("retry.{field}"), given),
            None => Ok(default),
        };
        let mut policy = RetryPolicy::new();
        policy.max_attempts = self.max_attempts.unwrap_or(policy.max_attempts);
        policy.initial_delay =
            delay("initial_delay_seconds", self.initial_delay_seconds, policy.initial_delay)?;
        policy.factor = self.factor.unwrap_or(policy.factor);
        policy.max_delay = delay("max_delay_seconds", self.max_delay_seconds, policy.max_delay)?;
        policy.jitter = self.jitter.unwrap_or(policy.jitter);
        policy.non_retryable = self.non_retryable;
        match policy.validate() {
            Ok(()) => Ok(policy),
            Err(invalid) => {
                Err(ApiError::new(codes::INVALID_REQUEST, format!("`retry`: {invalid}")))
            }
        }
    }
}

/// Reads a number of attempts.
fn attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "integer")] u64);

    let given = Option::<Whole>::deserialize(deserializer)?;
    let attempts = |Whole(number)| {
        let refused = |_| D::Error::custom(format!("{number} is more than {}", u32::MAX));
        u32::try_from(number).map_err(refused)
    };
    given.map(attempts).transpose()
}
