//! The effect class of a tool.

use serde::{Deserialize, Serialize};

/// The effect of a tool, which decides what happens to a call whose outcome a crash leaves unknown.
///
/// | effect | example | a call that was in progress at a crash |
/// |---|---|---|
/// | `Read` | a search | runs again |
/// | `Idempotent` | setting a price; a payment with an idempotency key | runs again with the same key |
/// | `Write` | sending a mail | waits for a [`Resolution`](super::Resolution) |
///
/// # Examples
///
/// ```
/// use aios_llm::tool::{Effect, Tool};
///
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Query { words: String }
/// # async fn search(query: Query) -> Result<String, std::io::Error> { Ok(query.words) }
/// assert_eq!(Tool::read("search", "Searches the web.", search).effect(), Effect::Read);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It changes nothing; it runs again.
    Read,
    /// A repetition has no further effect; it runs again, with the same idempotency key.
    Idempotent,
    /// It must not be repeated; an operator decides.
    Write,
}
