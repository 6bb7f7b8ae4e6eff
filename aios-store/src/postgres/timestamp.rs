//! Timestamps of the server, without a date library.

use aios_core::event::Timestamp;
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef},
};

/// The epoch of PostgreSQL, 2000-01-01T00:00:00Z, in microseconds since the Unix epoch.
const EPOCH: i64 = 946_684_800_000_000;

/// A `timestamptz`, with microsecond precision.
#[derive(Clone, Copy, Debug)]
pub(super) struct PgTimestamp(pub(super) Timestamp);

impl Type<Postgres> for PgTimestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

/// Decodes the binary format: microseconds since [`EPOCH`].
impl<'r> Decode<'r, Postgres> for PgTimestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Self(Timestamp::from_micros(micros.saturating_add(EPOCH))))
    }
}

/// Encodes the same format.
impl Encode<'_, Postgres> for PgTimestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(&self.0.as_micros().saturating_sub(EPOCH).to_be_bytes());
        Ok(IsNull::No)
    }
}
