//! Durations as people write them.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

/// Units, the longest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration that people write as `30s`, `5m`, `1h 30m`, `250ms` or `2d`. A number without a unit
/// is a number of seconds. At most 100 years. All parts are added, in any order.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::config::HumanDuration;
///
/// # fn main() -> Result<(), aios_service::config::InvalidDuration> {
/// assert_eq!("1h 30m".parse::<HumanDuration>()?.get(), Duration::from_secs(5_400));
/// assert_eq!("90".parse::<HumanDuration>()?.get(), Duration::from_secs(90));
/// assert!("soon".parse::<HumanDuration>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "Written")]
pub struct HumanDuration(Duration);

/// A text that is not a duration, or one that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 30s, 5m or 1h 30m, of at most 100 years")]
pub struct InvalidDuration;

/// A duration in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Seconds(u64),
    Text(String),
}

impl HumanDuration {
    /// The longest duration: 100 years of 365 days.
    pub const MAX: Self = Self(Duration::from_secs(100 * 365 * 86_400));

    /// The duration.
    ///
    /// At most [`MAX`](Self::MAX), so adding it to a timestamp of today does not overflow.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }

    /// A number of seconds, for defaults.
    pub(super) const fn seconds(seconds: u16) -> Self {
        Self(Duration::from_secs(seconds as u64))
    }

    /// Checks the limit; `None` is a number that has overflowed.
    fn from_millis(millis: Option<u64>) -> Result<Self, InvalidDuration> {
        let duration = Self(Duration::from_millis(millis.ok_or(InvalidDuration)?));
        if duration > Self::MAX { Err(InvalidDuration) } else { Ok(duration) }
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        // `parse` would also accept a sign.
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::from_millis(
                text.parse::<u64>().ok().and_then(|it| it.checked_mul(1_000)),
            );
        }
        let mut rest = text.trim();
        let mut millis = (!rest.is_empty()).then_some(0_u64);
        while !rest.is_empty() {
            let (number, after) = split_while(rest, |character| character.is_ascii_digit());
            let (unit, after) = split_while(after, |character| character.is_ascii_alphabetic());
            let (_, factor) =
                UNITS.iter().find(|(name, _)| *name == unit).ok_or(InvalidDuration)?;
            let number: u64 = number.parse().map_err(|_| InvalidDuration)?;
            millis = millis.and_then(|sum| sum.checked_add(number.checked_mul(*factor)?));
            rest = after.trim_start();
        }
        Self::from_millis(millis)
    }
}

/// Splits a text after the characters that belong to its first part.
fn split_while(text: &str, is_part: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !is_part(character)).unwrap_or(text.len()))
}

impl TryFrom<Written> for HumanDuration {
    type Error = InvalidDuration;

    fn try_from(written: Written) -> Result<Self, InvalidDuration> {
        match written {
            Written::Seconds(seconds) => Self::from_millis(seconds.checked_mul(1_000)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<Duration> for HumanDuration {
    type Error = InvalidDuration;

    /// Rounds down to milliseconds.
    fn try_from(duration: Duration) -> Result<Self, InvalidDuration> {
        Self::from_millis(u64::try_from(duration.as_millis()).ok())
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return formatter.write_str("0s");
        }
        let mut separator = "";
        for (unit, factor) in UNITS {
            if rest >= factor {
                write!(formatter, "{separator}{}{unit}", rest / factor)?;
                (rest, separator) = (rest % factor, " ");
            }
        }
        Ok(())
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for HumanDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HumanDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": 0,
            "pattern": r"^([0-9]+|\s*([0-9]+(ms|s|m|h|d)\s*)+)$",
            "x-aios-expected": "a duration such as 30s, 5m or 1h 30m",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_read_what_people_write() {
        for (text, millis, shown) in [
            ("300", 300_000, "5m"),
            ("30s", 30_000, "30s"),
            ("1h 30m", 5_400_000, "1h 30m"),
            ("1h30m", 5_400_000, "1h 30m"),
            ("250ms", 250, "250ms"),
            ("1s 1m 1s", 62_000, "1m 2s"),
            ("2d", 172_800_000, "2d"),
            ("0", 0, "0s"),
            ("36500d", 36_500 * 86_400_000, "36500d"),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string(), shown);
            assert_eq!(shown.parse(), Ok(duration));
        }
    }

    #[test]
    fn should_refuse_what_is_not_a_duration() {
        for text in [
            "",
            " ",
            "s",
            "+90",
            "+1s",
            "-1s",
            "1.5h",
            "5 parsecs",
            "1h 30",
            "36501d",
            "99999999999999999999s",
        ] {
            assert_eq!(text.parse::<HumanDuration>(), Err(InvalidDuration), "{text}");
        }
    }
}
