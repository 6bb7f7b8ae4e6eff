use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::EventError;

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

    /// The latest supported timestamp: the end of the year 9999.
    pub const MAX: Self = Self(253_402_207_200_000_000 - 1);

    /// The earliest supported timestamp: the start of the year -9999, in jiff's range.
    pub const MIN: Self = Self(-377_705_023_201_000_000);

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
        let parsed: jiff::Timestamp =
            text.parse().map_err(|_| EventError::InvalidTimestamp { text: text.to_owned() })?;
        Ok(Self::from_micros(parsed.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        jiff::Timestamp::from_microsecond(self.0).map_err(|_| fmt::Error)?.fmt(formatter)
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
    fn should_write_its_own_limits() {
        for limit in [Timestamp::MIN, Timestamp::MAX] {
            assert_eq!(limit.to_string().parse::<Timestamp>().unwrap(), limit);
        }
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
    }
}
