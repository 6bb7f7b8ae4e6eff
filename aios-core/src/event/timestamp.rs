use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, civil::DateTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{EventError, excerpt};

/// A point in time in UTC, in whole microseconds; formatted as RFC 3339 with a `Z`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::event::Timestamp;
///
/// # fn main() -> Result<(), aios_core::event::EventError> {
/// let noon: Timestamp = "2026-01-01T12:00:00Z".parse()?;
/// let later = noon + Duration::from_millis(1500);
/// assert_eq!(later.duration_since(noon), Duration::from_millis(1500));
/// // A difference is never negative.
/// assert_eq!(noon.duration_since(later), Duration::ZERO);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// The latest supported timestamp: the end of the year 9999, the last one in RFC 3339.
    pub const MAX: Self = Self(253_402_300_800_000_000 - 1);

    /// The earliest supported timestamp: the start of the year 1. Many languages, such as Python,
    /// know no earlier one.
    pub const MIN: Self = Self(-62_135_596_800_000_000);

    /// The system's wall clock. Code that should run in virtual time uses a
    /// [`Clock`](crate::clock::Clock) instead.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::UNIX_EPOCH + elapsed
    }

    /// Converts microseconds since the Unix epoch, clamped to [`MIN`](Self::MIN) and
    /// [`MAX`](Self::MAX).
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// The time from `earlier` until this timestamp; zero if `earlier` is later.
    #[must_use]
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }
}

/// Saturates at [`Timestamp::MAX`].
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }
}

/// Saturates at [`Timestamp::MIN`].
impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }
}

impl FromStr for Timestamp {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let micros = match text.parse::<jiff::Timestamp>() {
            Ok(parsed) => Some(parsed.as_microsecond()),
            Err(_) => micros_after_jiff(text),
        };
        micros
            .filter(|micros| (Self::MIN.0..=Self::MAX.0).contains(micros))
            .map(Self)
            .ok_or_else(|| EventError::InvalidTimestamp { text: excerpt(text) })
    }
}

/// Parses a moment in the last 26 hours of the year 9999, which `jiff::Timestamp` does not have.
fn micros_after_jiff(text: &str) -> Option<i64> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
    let since_epoch = pieces.date().to_datetime(pieces.time()?).duration_since(EPOCH) - offset;
    i64::try_from(since_epoch.as_micros()).ok()
}

/// [`Timestamp::UNIX_EPOCH`] in UTC.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(timestamp) = jiff::Timestamp::from_microsecond(self.0) {
            return timestamp.fmt(formatter);
        }
        let since_epoch = SignedDuration::from_micros(self.0);
        let datetime = EPOCH.checked_add(since_epoch).map_err(|_| fmt::Error)?;
        write!(formatter, "{datetime}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_write_utc_and_keep_microseconds() {
        for (read, written) in [
            ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
            ("2024-01-01T02:00:00.123456+02:00", "2024-01-01T00:00:00.123456Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.5Z"),
        ] {
            assert_eq!(read.parse::<Timestamp>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn should_reach_from_the_first_to_the_last_year_of_rfc_3339() {
        for (limit, written) in [
            (Timestamp::MIN, "0001-01-01T00:00:00Z"),
            (Timestamp::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(limit.to_string(), written);
            assert_eq!(written.parse::<Timestamp>().unwrap(), limit);
        }
        for (read, written) in [
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-30T22:00:01Z", "9999-12-30T22:00:01Z"),
            ("9999-12-31T22:00:00.5-01:00", "9999-12-31T23:00:00.5Z"),
            ("0001-01-01T02:00:00+02:00", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(read.parse::<Timestamp>().unwrap().to_string(), written, "{read}");
        }
    }

    #[test]
    fn should_refuse_what_is_not_in_these_years() {
        for text in [
            "9999-12-31T23:59:59-00:01",
            "0001-01-01T00:00:00+00:01",
            "0000-12-31T23:59:59Z",
            "-000001-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "9999-12-31T23:59:59",
            "9999-12-31",
            "9999-13-31T23:59:59Z",
            "yesterday",
            "",
        ] {
            let error = text.parse::<Timestamp>().unwrap_err();
            assert_eq!(error.code(), "INVALID_TIMESTAMP", "{text}");
        }
        assert_eq!(Timestamp::from_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_micros(i64::MIN), Timestamp::MIN);
    }

    #[test]
    fn should_write_its_own_limits() {
        for limit in [Timestamp::MIN, Timestamp::MAX] {
            assert_eq!(limit.to_string().parse::<Timestamp>().unwrap(), limit);
        }
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
    }
}
