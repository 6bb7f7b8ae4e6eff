//! The vocabulary of aios: the names and data of the events of its reserved domains, and the [codes] of
//! its failures.
//!
//! Users' events have any other domain. The crate `aios-llm` also writes events of the domain `llm`. They
//! are not listed here, and the domain is not reserved, but programs should not emit its events.
//!
//! This catalogue is the single source of the vocabulary: the journal's codec, the projection, the relay
//! and the agents' hosts use its names and data, and `docs/reference.md` is compared with it.
//!
//! | domain | events of | stream |
//! |---|---|---|
//! | [`workflow`] `workflows.<workflow>.<action>` | the journal of a run | `runs/<run id>` |
//! | [`agent`] `agents.<type>.<action>` | agents and their tasks | `agents/<agent id>`, `runs/<run id>` |
//! | [`system`] `system.<entity>.<action>` | engines, stores, projections, output streams | `system/…`, `outputs/…` |
//!
//! ```
//! use aios_core::catalog::{self, workflow};
//!
//! let event_type = "workflows.deploy.completed".parse()?;
//! let kind = catalog::kind_of(&event_type).expect("an event of aios");
//! assert!(kind.action == workflow::COMPLETED && kind.relayed && kind.projected);
//! # Ok::<(), aios_core::event::EventError>(())
//! ```

#[macro_use]
mod macros;

pub mod agent;
mod closing;
pub mod codes;
mod kind;
pub mod system;
pub mod workflow;

pub use self::{
    closing::{closes, ending},
    kind::EventKind,
};
use crate::event::EventType;

/// Domains that are reserved for aios. Workflows and agents cannot emit events of them.
pub const DOMAINS: [&str; 3] = [workflow::DOMAIN, agent::DOMAIN, system::DOMAIN];

/// Every kind of event, by domain.
pub fn all() -> impl Iterator<Item = &'static EventKind> {
    workflow::EVENTS.iter().chain(agent::EVENTS).chain(system::EVENTS)
}

/// The kind of an event; `None` if the type is not one of aios.
#[must_use]
pub fn kind_of(event_type: &EventType) -> Option<&'static EventKind> {
    let (domain, entity, action) = event_type.segments();
    let kinds = match domain {
        workflow::DOMAIN => workflow::EVENTS,
        agent::DOMAIN => agent::EVENTS,
        system::DOMAIN => system::EVENTS,
        _ => return None,
    };
    kinds
        .iter()
        .find(|kind| kind.action == action && kind.entity.is_none_or(|expected| expected == entity))
}

/// Whether an event of this type may change a read model.
#[must_use]
pub fn is_projected(event_type: &EventType) -> bool {
    match event_type.segments() {
        (workflow::DOMAIN, _, action) => workflow::is_projected(action),
        (agent::DOMAIN, _, action) => agent::is_projected(action),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn should_find_every_kind_by_its_type() {
        let mut names = HashSet::new();
        for kind in all() {
            let entity = kind.entity.unwrap_or("x");
            let event_type = EventType::new(kind.domain, entity, kind.action).unwrap();
            assert!(names.insert(event_type.clone()), "{event_type} is listed twice");
            assert_eq!(kind_of(&event_type), Some(kind));
            assert_eq!(is_projected(&event_type), kind.projected, "{event_type}");
            assert!(kind.pattern().unwrap().matches(&event_type), "{event_type}");
            assert!(!kind.meaning.is_empty(), "{event_type}");
        }
        assert_eq!(kind_of(&"orders.order.placed".parse().unwrap()), None);
        assert_eq!(kind_of(&"system.order.created".parse().unwrap()), None);
    }

    #[test]
    fn should_project_and_relay_no_step() {
        let step = kind_of(&"workflows.deploy.step_completed".parse().unwrap()).unwrap();
        assert!(!step.projected && !step.relayed);
    }
}
