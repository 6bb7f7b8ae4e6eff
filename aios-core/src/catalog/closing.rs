//! When a stream accepts no more events.

use super::workflow;
use crate::{event::EventType, store::StreamId};

/// Whether an event of type `last` closes `stream`, which began with an event of type `first`, so
/// that it accepts no more events.
///
/// That applies to the journal of a run that began with `workflows.<name>.started`, and an event
/// `workflows.<name>.completed`, `failed`, `cancelled` or `continued` of the same name. An event
/// under another workflow's name ends nothing.
#[must_use]
pub fn closes(stream: &StreamId, first: &EventType, last: &EventType) -> bool {
    match (first.segments(), ending(stream, last)) {
        ((workflow::DOMAIN, started, workflow::STARTED), Some(ended)) => started == ended,
        _ => false,
    }
}

/// The workflow whose run an event of this type ends, if it is in the run's stream: the part of
/// [`closes`] that depends on the event alone.
#[must_use]
pub fn ending<'t>(stream: &StreamId, event_type: &'t EventType) -> Option<&'t str> {
    match event_type.segments() {
        (workflow::DOMAIN, name, action)
            if workflow::FINAL.contains(&action) && stream.run_id().is_some() =>
        {
            Some(name)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closes_it(stream: &str, first: &str, last: &str) -> bool {
        closes(&stream.parse().unwrap(), &first.parse().unwrap(), &last.parse().unwrap())
    }

    #[test]
    fn should_close_the_stream_of_a_run_at_its_end() {
        for (action, ends) in [
            ("completed", true),
            ("failed", true),
            ("cancelled", true),
            ("continued", true),
            ("started", false),
            ("cancel_requested", false),
            ("step_completed", false),
            ("blocked", false),
        ] {
            let last = format!("workflows.deploy.{action}");
            assert_eq!(closes_it("runs/r1", "workflows.deploy.started", &last), ends, "{action}");
        }
    }

    #[test]
    fn should_leave_open_what_another_event_names() {
        let started = "workflows.deploy.started";
        let completed = "workflows.deploy.completed";
        assert!(!closes_it("runs/r1", started, "workflows.other.completed"));
        assert!(!closes_it("runs/r1", started, "agents.deploy.completed"));
        assert!(!closes_it("runs/r1", "orders.deploy.started", completed));
        assert!(!closes_it("runs/r1", "workflows.deploy.signaled", completed));
        assert!(!closes_it("deployments/r1", started, completed));
    }
}
