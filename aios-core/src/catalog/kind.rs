use crate::event::{EventError, Pattern};

/// One kind of event of aios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventKind {
    /// First segment of the type.
    pub domain: &'static str,
    /// Second segment of the type; `None` where it names a workflow or an agent type.
    pub entity: Option<&'static str>,
    /// Last segment of the type.
    pub action: &'static str,
    /// Name of the type of its data in this module; empty for events without data.
    pub data: &'static str,
    /// Whether it may change a read model.
    pub projected: bool,
    /// Whether the relay publishes it to the broker.
    pub relayed: bool,
    /// Whether processes other than the owner of the run append it to the journal of the run.
    pub external: bool,
    /// When it is recorded.
    pub meaning: &'static str,
}

impl EventKind {
    /// The pattern that matches these events.
    ///
    /// # Errors
    ///
    /// [`EventError::InvalidPattern`] if a name in the catalogue is not one, which its tests rule
    /// out.
    pub fn pattern(&self) -> Result<Pattern, EventError> {
        format!("{}.{}.{}", self.domain, self.entity.unwrap_or("*"), self.action).parse()
    }
}
