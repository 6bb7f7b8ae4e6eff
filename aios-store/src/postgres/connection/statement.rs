//! Statements that can be sent again.
//!
//! A query of the driver borrows its text and is consumed when it runs. A statement that is
//! repeated on another connection has to outlive the first attempt, so this type owns the text and
//! the encoded arguments.

use std::sync::Arc;

use sqlx::{
    Arguments, Encode, Execute, PgConnection, Postgres, Type,
    postgres::{PgArguments, PgRow},
    query::Query,
};

/// The text of a statement, cheap to clone.
pub(crate) type Sql = Arc<str>;

/// A statement that owns its text and its encoded arguments, so that it can be sent more than once.
#[derive(Clone)]
pub(crate) struct Statement {
    /// The text.
    sql: Sql,
    /// Encoded in the binary format.
    arguments: PgArguments,
    /// The error of the first argument that could not be encoded. Reported when the statement runs.
    encode_error: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// Whether the connection keeps the statement prepared.
    is_prepared: bool,
}

impl Statement {
    /// Creates a statement without arguments.
    pub(crate) fn new(sql: impl Into<Sql>) -> Self {
        let arguments = PgArguments::default();
        Self { sql: sql.into(), arguments, encode_error: None, is_prepared: true }
    }

    /// Converts a query of the driver's builder.
    pub(crate) fn of(mut query: Query<'_, Postgres, PgArguments>) -> Self {
        let (arguments, encode_error) = match query.take_arguments() {
            Ok(arguments) => (arguments.unwrap_or_default(), None),
            Err(error) => (PgArguments::default(), Some(error.into())),
        };
        Self { sql: query.sql().into(), arguments, encode_error, is_prepared: true }
    }

    /// Encodes the next argument.
    pub(crate) fn bind<'q, T>(mut self, value: T) -> Self
    where
        T: Encode<'q, Postgres> + Type<Postgres> + 'q,
    {
        if let Err(error) = self.arguments.add(value) {
            self.encode_error.get_or_insert(error.into());
        }
        self
    }

    /// Sets whether the connection keeps the statement prepared. Default true.
    pub(crate) fn persistent(mut self, is_prepared: bool) -> Self {
        self.is_prepared = is_prepared;
        self
    }

    /// Runs the statement and returns its rows.
    pub(crate) async fn fetch_all(self, connection: &mut PgConnection) -> sqlx::Result<Vec<PgRow>> {
        let Self { sql, arguments, encode_error, is_prepared } = self;
        if let Some(error) = encode_error {
            return Err(sqlx::Error::Encode(error.into()));
        }
        sqlx::query_with(&sql, arguments).persistent(is_prepared).fetch_all(connection).await
    }
}
