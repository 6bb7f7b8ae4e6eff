//! The names of spans of agents over language models.
//!
//! These agents set attributes of the semantic conventions of OpenTelemetry for generative AI on the
//! attempts of their tasks. The conventions, in the version that `aios_llm::gen_ai` has, also say how such
//! spans are named:
//!
//! | span | name | kind |
//! |---|---|---|
//! | attempt of a model call | `chat <model>` | client |
//! | attempt of a tool call | `execute_tool <tool>` | internal |
//! | run of an agent, from its first model call on | `invoke_agent <agent>` | internal |

use super::{AttributeValue, Span, SpanKind};

/// The kind of operation.
const OPERATION_NAME: &str = "gen_ai.operation.name";
/// The agent.
const AGENT_NAME: &str = "gen_ai.agent.name";
/// Attributes that the span of a run has from its first model call.
const SHARED: [&str; 4] =
    [AGENT_NAME, "gen_ai.provider.name", "gen_ai.conversation.id", "gen_ai.request.model"];

/// Names an attempt whose attributes are set.
pub(super) fn name_attempt(attempt: &mut Span) {
    let (subject, kind) = match text(attempt, OPERATION_NAME) {
        Some("chat") => ("gen_ai.request.model", SpanKind::Client),
        Some("execute_tool") => ("gen_ai.tool.name", SpanKind::Internal),
        _ => return,
    };
    if let (Some(operation), Some(subject)) =
        (text(attempt, OPERATION_NAME), text(attempt, subject))
    {
        attempt.name = format!("{operation} {subject}");
        attempt.kind = kind;
    }
}

/// Names a run after its first model call, if the run is that of the agent.
pub(super) fn name_run(run: &mut Span, attempt: &Span) {
    let Some(agent) = text(attempt, AGENT_NAME) else { return };
    let is_of_run = text(run, "aios.workflow") == Some(agent);
    if !is_of_run
        || text(attempt, OPERATION_NAME) != Some("chat")
        || text(run, AGENT_NAME).is_some()
    {
        return;
    }
    run.name = format!("invoke_agent {agent}");
    run.attributes.push((OPERATION_NAME.into(), "invoke_agent".into()));
    for name in SHARED {
        run.attributes.extend(attempt.attribute(name).map(|value| (name.into(), value.clone())));
    }
}

/// The value of an attribute that is a text.
fn text<'s>(span: &'s Span, name: &str) -> Option<&'s str> {
    match span.attribute(name) {
        Some(AttributeValue::Text(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aios_agents::trace::{SpanId, TraceId};
    use aios_core::event::{EventId, Timestamp};

    use super::*;
    use crate::telemetry::traces::SpanStatus;

    fn span(name: &str, attributes: &[(&'static str, &str)]) -> Span {
        let incarnation = EventId::derive("run");
        Span {
            trace_id: TraceId::of_run(&incarnation),
            span_id: SpanId::of_run(&incarnation),
            parent: None,
            name: name.to_owned(),
            kind: SpanKind::Consumer,
            start: Timestamp::UNIX_EPOCH,
            end: None,
            status: SpanStatus::Unset,
            attributes: attributes
                .iter()
                .map(|(name, it)| ((*name).into(), (*it).into()))
                .collect(),
            links: Vec::new(),
        }
    }

    #[test]
    fn should_name_spans_as_the_conventions_do() {
        let chat = [
            (OPERATION_NAME, "chat"),
            (AGENT_NAME, "clerk"),
            ("gen_ai.provider.name", "acme"),
            ("gen_ai.request.model", "large"),
        ];
        let tool = [(OPERATION_NAME, "execute_tool"), ("gen_ai.tool.name", "search")];
        for (attributes, name, kind) in [
            (&chat[..], "chat large", SpanKind::Client),
            (&tool[..], "execute_tool search", SpanKind::Internal),
            (&tool[..1], "attempt", SpanKind::Consumer),
            (&[], "attempt", SpanKind::Consumer),
        ] {
            let mut attempt = span("attempt", attributes);
            name_attempt(&mut attempt);
            assert_eq!((&*attempt.name, attempt.kind), (name, kind));
        }
        let mut run = span("workflow clerk", &[("aios.workflow", "clerk")]);
        name_run(&mut run, &span("attempt", &tool));
        assert_eq!(run.name, "workflow clerk");
        name_run(&mut run, &span("attempt", &chat));
        name_run(&mut run, &span("attempt", &chat));
        assert_eq!((&*run.name, run.attributes.len()), ("invoke_agent clerk", 5));
        assert_eq!(text(&run, OPERATION_NAME), Some("invoke_agent"));
        assert_eq!(text(&run, "gen_ai.provider.name"), Some("acme"));
        let mut other = span("workflow order", &[("aios.workflow", "order")]);
        name_run(&mut other, &span("attempt", &chat));
        assert_eq!(other.name, "workflow order", "it only calls the agent");
    }
}
