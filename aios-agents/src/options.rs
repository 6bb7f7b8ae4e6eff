//! Validation shared by all options: durations that are too short or too long, and invalid retry
//! policies.
//!
//! Setters of options cannot fail, so whatever ends in an action checks them. Messages name the
//! option, its limit and the value. The upper limit keeps sums of times within the range of a
//! timestamp.

use std::time::Duration;

use aios_core::{
    catalog::codes,
    failure::Failure,
    retry::{Backoff, RetryPolicy},
};

/// Maximum duration of an option: 100 years.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Rejects a duration below `least` or above [`LONGEST`].
pub(crate) fn check_span(name: &str, span: Duration, least: Duration) -> Result<(), String> {
    if span < least {
        return Err(format!("{name} is at least {least:?}, not {span:?}"));
    }
    if span > LONGEST {
        return Err(format!("{name} is at most 100 years, not {span:?}"));
    }
    Ok(())
}

/// Rejects a timeout of a call below one millisecond or above [`LONGEST`].
pub(crate) fn check_timeout(timeout: Option<Duration>) -> Result<(), String> {
    check_named("timeout", timeout)
}

/// Like [`check_timeout`], for a timeout with another name.
pub(crate) fn check_named(name: &str, timeout: Option<Duration>) -> Result<(), String> {
    timeout.map_or(Ok(()), |timeout| check_span(name, timeout, Duration::from_millis(1)))
}

/// The failure of a call with invalid options.
pub(crate) fn refused(reason: String) -> Failure {
    Failure::new(codes::INVALID_OPTIONS, reason)
}

/// Rejects an invalid retry policy, for example one with neither a limit of attempts nor a delay.
pub(crate) fn check_retry(name: &str, policy: &RetryPolicy) -> Result<(), String> {
    policy.validate().map_err(|invalid| format!("{name}: {invalid}"))
}

/// Rejects pauses below one millisecond, and a first pause above the longest one.
pub(crate) fn check_backoff(name: &str, backoff: Backoff) -> Result<(), String> {
    let Backoff { initial_delay, max_delay, .. } = backoff;
    check_named(&format!("{name}.initial_delay"), Some(initial_delay))?;
    check_named(&format!("{name}.max_delay"), Some(max_delay))?;
    if initial_delay > max_delay {
        return Err(format!(
            "{name} begins with {initial_delay:?}, above its maximum of {max_delay:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_refuse_times_that_cause_a_busy_loop_or_never_end() {
        let least = Duration::from_secs(1);
        assert!(check_span("x", least, least).is_ok());
        assert!(check_span("x", LONGEST, least).is_ok());
        assert!(
            check_span("x", Duration::ZERO, least).unwrap_err().contains("at least 1s, not 0ns")
        );
        assert!(check_span("x", Duration::MAX, least).unwrap_err().contains("at most 100 years"));
    }

    #[test]
    fn should_refuse_invalid_policies() {
        let second = Duration::from_secs(1);
        assert!(check_retry("x", &RetryPolicy::new()).is_ok());
        assert!(check_retry("x", &RetryPolicy::never()).is_ok());
        assert!(check_retry("x", &RetryPolicy::fixed(3, Duration::ZERO)).is_ok());
        for policy in [
            RetryPolicy::fixed(0, Duration::ZERO),
            RetryPolicy::new().with_factor(f64::NAN),
            RetryPolicy::new().with_factor(f64::INFINITY),
            RetryPolicy::new().with_jitter(f64::NAN),
            RetryPolicy::new().with_jitter(1.5),
            RetryPolicy::new().with_jitter(-0.1),
            RetryPolicy::new().with_delays(second, Duration::MAX),
            RetryPolicy::new().with_max_attempts(0).with_delays(second, Duration::ZERO),
        ] {
            assert!(check_retry("x", &policy).is_err(), "{policy:?}");
        }
    }
}
