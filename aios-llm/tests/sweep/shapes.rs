//! The agents of the sweep, each with a script.

use std::time::Duration;

use aios_agents::{RuntimeBuilder, prelude::*};
use aios_llm::{
    Compaction, LlmAgent, ModelResponse, Streaming,
    budget::{AtLimit, Budget, Cost, Price, PriceTable},
    guardrail::{Guardrail, Verdict},
    middleware::Fallback,
    model::{Role, ToolChoice},
    team,
    tool::{Approval, Effect, Tool},
};
use serde_json::{Value, json};

use super::{
    script::Script,
    scripts::{continued, forked, of_subject, one_run, prompt, raised, team_run},
    world::{World, answer, calls},
};
use crate::support::Query;

/// Agents, and a script for their runs.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) register: fn(RuntimeBuilder, &World) -> RuntimeBuilder,
    pub(super) script: Script,
    /// How many model calls may be in progress when runs are cancelled.
    pub(super) parallel: u64,
    /// Whether runs are cancelled in a race, which may end sooner or later.
    pub(super) races: bool,
}

const fn shape(
    name: &'static str,
    register: fn(RuntimeBuilder, &World) -> RuntimeBuilder,
    script: Script,
) -> Shape {
    Shape { name, register, script, parallel: 1, races: false }
}

pub(super) const SHAPES: &[Shape] = &[
    shape("single turn", single_turn, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("read tool", read_tool, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("parallel tools", parallel_tools, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("structured output", structured_output, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("streaming", streaming, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("approvals", approvals, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("writes in doubt", doubts, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("budget", budget, |runtime, id| Box::pin(raised(runtime, id))),
    shape("budget that is exceeded", exceeded, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("budget of a subject", subject, |runtime, id| Box::pin(of_subject(runtime, id))),
    Shape {
        parallel: 2,
        ..shape("agents as tools", children, |runtime, id| Box::pin(one_run(runtime, id)))
    },
    shape("levels of agents", levels, |runtime, id| Box::pin(one_run(runtime, id))),
    shape("handover", handover, |runtime, id| Box::pin(one_run(runtime, id))),
    Shape {
        parallel: 2,
        races: true,
        ..shape("team", teams, |runtime, id| Box::pin(team_run(runtime, id)))
    },
    shape("continued", conversation, |runtime, id| Box::pin(continued(runtime, id))),
    Shape {
        // A fork of a run that was being cancelled is cancelled, too.
        parallel: 3,
        ..shape("forked", conversation, |runtime, id| Box::pin(forked(runtime, id)))
    },
    shape("compaction", compaction, |runtime, id| Box::pin(one_run(runtime, id))),
    Shape {
        parallel: 2,
        ..shape("fallback", fallback, |runtime, id| Box::pin(one_run(runtime, id)))
    },
    shape("guardrail", guardrail, |runtime, id| Box::pin(one_run(runtime, id))),
];

/// An agent that makes one response with these calls, and answers with their results.
macro_rules! agent_with_calls {
    ($world:ident, $name:literal, $calls:expr) => {
        LlmAgent::new($world.model($name, |request, turn| match turn {
            0 => calls($calls),
            _ => answer(request),
        }))
        .subject_budget($world.subject_budget(None))
    };
}

fn single_turn(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = LlmAgent::new(world.model("one", |request, _| answer(request)));
    world.add(builder, "agent", agent)
}

fn read_tool(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let model = world.model("one", |request, turn| match turn {
        0 => calls(&[("look", "a")]),
        _ => answer(request),
    });
    world.add(builder, "agent", LlmAgent::new(model).tool(world.tool("look", Effect::Read)))
}

fn parallel_tools(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_with_calls!(
        world,
        "one",
        &[("look", "a"), ("set", "b"), ("pay", "c"), ("pay", "d"), ("look", "e")]
    );
    let agent = agent
        .tool(world.tool("look", Effect::Read))
        .tool(world.tool("set", Effect::Idempotent))
        .tool(world.tool("pay", Effect::Write));
    world.add(builder, "agent", agent)
}

fn structured_output(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let model = world.model("one", |_, turn| match turn {
        0 => calls(&[("look", "a")]),
        1 => ModelResponse::text("not JSON"),
        2 => ModelResponse::text(r#"{"words":7}"#),
        _ => ModelResponse::text(r#"{"words":"right"}"#),
    });
    let agent = LlmAgent::new(model).tool(world.tool("look", Effect::Read)).output::<Query>();
    world.add(builder, "agent", agent.subject_budget(world.subject_budget(None)))
}

fn streaming(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_with_calls!(world, "one", &[("look", "a"), ("set", "b")]);
    let agent = agent
        .tool(world.tool("look", Effect::Read))
        .tool(world.tool("set", Effect::Idempotent))
        .streaming(Streaming::On);
    world.add(builder, "agent", agent)
}

fn approvals(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent =
        agent_with_calls!(world, "one", &[("pay", "approve"), ("pay", "reject"), ("pay", "edit")]);
    let pay = world.tool("pay", Effect::Write).with_approval(Approval::Required);
    world.add(builder, "agent", agent.tool(pay))
}

fn doubts(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_with_calls!(
        world,
        "one",
        &[("pay", "hanging done"), ("pay", "hanging repeat"), ("pay", "hanging fail")]
    );
    let pay = world.tool("pay", Effect::Write).with_timeout(Duration::from_millis(500));
    world.add(builder, "agent", agent.tool(pay))
}

/// A model that looks twice before it answers.
macro_rules! agent_that_looks_twice {
    ($world:ident, $name:literal) => {
        LlmAgent::new($world.model($name, |request, turn| match turn {
            0 => calls(&[("look", "a")]),
            1 => calls(&[("look", "b")]),
            _ => answer(request),
        }))
        .tool($world.tool("look", Effect::Read))
    };
}

fn prices() -> Budget {
    let prices = PriceTable::new().with_price("test:one", Price::per_million_dollars(1.0, 10.0));
    Budget::new().with_prices(prices).with_cost(Cost::dollars(1.0))
}

fn budget(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_that_looks_twice!(world, "one");
    let budget = prices().with_requests(2).with_at_limit(AtLimit::Ask);
    world.add(builder, "agent", agent.budget(budget))
}

fn exceeded(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_that_looks_twice!(world, "one").subject_budget(world.subject_budget(None));
    world.add(builder, "agent", agent.budget(prices().with_requests(2)))
}

fn subject(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_that_looks_twice!(world, "one");
    let agent = agent.budget(Budget::new().with_at_limit(AtLimit::Ask));
    world.add(builder, "agent", agent.subject_budget(world.subject_budget(Some(4))))
}

fn children(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent =
        agent_with_calls!(world, "one", &[("ask_left", "a"), ("look", "b"), ("ask_right", "c")]);
    let agent = agent
        .tool(Tool::agent("ask_left", "Asks.", "left"))
        .tool(Tool::agent("ask_right", "Asks.", "right"))
        .tool(world.tool("look", Effect::Read))
        .budget(Budget::new().with_requests(20).with_output_tokens(100_000));
    let left = agent_with_calls!(world, "left", &[("look", "l")]);
    let left = left.tool(world.tool("look", Effect::Read));
    // It fails.
    let right = LlmAgent::new(world.model("right", |_, _| ModelResponse::text("")));
    let right = right.max_faults(1).subject_budget(world.subject_budget(None));
    let builder = world.add(world.add(builder, "left", left), "right", right);
    world.add(builder, "agent", agent)
}

fn levels(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_with_calls!(world, "one", &[("ask_middle", "a")]);
    let agent = agent.tool(Tool::agent("ask_middle", "Asks.", "middle"));
    let agent = agent.budget(Budget::new().with_requests(20));
    let middle = agent_with_calls!(world, "middle", &[("ask_low", "b")]);
    let middle = middle.tool(Tool::agent("ask_low", "Asks.", "low"));
    let low = agent_with_calls!(world, "low", &[("pay", "c")]);
    let low = low.tool(world.tool("pay", Effect::Write));
    let builder = world.add(world.add(builder, "low", low), "middle", middle);
    world.add(builder, "agent", agent)
}

fn handover(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let next = LlmAgent::new(world.model("next", |request, turn| match turn {
        1 => calls(&[("look", "a")]),
        2 => calls(&[("hand_back", "b")]),
        _ => answer(request),
    }));
    let next = next
        .tool(world.tool("look", Effect::Read))
        .hand_back("Hands back.")
        .streaming(Streaming::On);
    let agent = agent_with_calls!(world, "one", &[("handover_to_next", "c")]);
    let agent = agent.handover("next", "Continues.", next).streaming(Streaming::On);
    world.add(builder, "agent", agent)
}

/// Joins two agents, and races two, of which one waits for a person.
async fn team(context: WorkflowContext, id: String) -> Result<Value, WorkflowError> {
    let members = ["left", "right"].map(|agent| (agent, prompt(&id)));
    let joined = team::join::<String>(&context, members).await;
    let joined = joined.into_iter().collect::<Result<Vec<_>, _>>()?;
    let members = ["waiting", "left"].map(|agent| (agent, prompt(&id)));
    let first = team::race::<String>(&context, members).await?;
    Ok(json!([joined, first]))
}

fn teams(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let [left, right] = [
        agent_with_calls!(world, "left", &[("look", "l")]),
        agent_with_calls!(world, "right", &[("look", "r")]),
    ]
    .map(|agent| agent.tool(world.tool("look", Effect::Read)));
    let waiting = agent_with_calls!(world, "waiting", &[("look", "w")]);
    let look = world.tool("look", Effect::Read).with_approval(Approval::Required);
    let builder = world.add(world.add(builder, "left", left), "right", right);
    world.add(builder, "waiting", waiting.tool(look)).workflow("team", team)
}

/// Looks before it answers the first question.
fn conversation(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_with_calls!(world, "one", &[("look", "a")]);
    world.add(builder, "agent", agent.tool(world.tool("look", Effect::Read)))
}

fn compaction(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let model = world.model("one", |request, _| {
        let results = request.messages.iter().filter(|it| it.role == Role::Tool).count();
        match (&request.tool_choice, results, request.messages.len()) {
            (ToolChoice::None, _, _) => ModelResponse::text("a summary"),
            (_, _, 1) => calls(&[("look", "a")]),
            (_, 1, 3) if !request.messages[0].text().starts_with("Summary") => {
                calls(&[("look", "b")])
            }
            _ => answer(request),
        }
    });
    let agent = LlmAgent::new(model)
        .tool(world.tool("look", Effect::Read))
        .compaction(Compaction::above(1).with_kept_messages(2))
        .subject_budget(world.subject_budget(None));
    world.add(builder, "agent", agent)
}

fn fallback(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let model = world.model("one", |request, turn| match turn {
        0 => calls(&[("look", "a")]),
        _ => answer(request),
    });
    let model = Fallback::new(world.failing_model("first")).or(model);
    let agent = LlmAgent::new(model).tool(world.tool("look", Effect::Read));
    let agent = agent.streaming(Streaming::On);
    world.add(builder, "agent", agent.subject_budget(world.subject_budget(None)))
}

fn guardrail(builder: RuntimeBuilder, world: &World) -> RuntimeBuilder {
    let agent = agent_with_calls!(world, "one", &[("look", "a")]);
    let input = Guardrail::input("short", |_| async { Ok::<_, TaskError>(Verdict::Pass) });
    let output =
        Guardrail::output("polite", |_| async { Ok::<_, TaskError>(Verdict::trip("it is rude")) });
    let agent = agent.tool(world.tool("look", Effect::Read)).guardrail(input).guardrail(output);
    world.add(builder, "agent", agent)
}
