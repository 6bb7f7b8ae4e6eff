use serde::{Deserialize, Serialize};

/// The effect of a tool, which decides what happens to a call whose outcome a crash leaves unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It changes nothing; it runs again.
    Read,
    /// A repetition has no further effect; it runs again, with the same idempotency key.
    Idempotent,
    /// It must not be repeated; a person decides.
    Write,
}
