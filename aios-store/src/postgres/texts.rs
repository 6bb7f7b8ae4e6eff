use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};

/// PostgreSQL's number of the type `text`.
const TEXT: u32 = 25;

/// An array of texts, written down as it is sent, so that nobody has to look for the texts then: they
/// lie all over the memory.
#[derive(Debug, Default)]
pub(super) struct Texts {
    count: u32,
    /// Each text after its length.
    elements: Vec<u8>,
}

impl Texts {
    /// Adds a text, of less than 2 GiB.
    pub(super) fn push(&mut self, text: &str) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.count += 1;
        self.elements.extend(length.to_be_bytes());
        self.elements.extend(text.as_bytes());
    }
}

impl Type<Postgres> for Texts {
    fn type_info() -> PgTypeInfo {
        <[&str] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Texts {
    /// The binary format of arrays, see `array_recv` of PostgreSQL's `arrayfuncs.c`.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (dimensions, has_nulls, lower_bound) = (1_u32, 0_u32, 1_u32);
        for number in [dimensions, has_nulls, TEXT, self.count, lower_bound] {
            buffer.extend(number.to_be_bytes());
        }
        buffer.extend(&self.elements);
        Ok(IsNull::No)
    }
}
