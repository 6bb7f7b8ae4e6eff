//! Agents and workflows as tools.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{RunHandle, prelude::*};
use aios_core::clock::VirtualClock;
use aios_llm::{
    Conversation, LlmAgent, ModelError, ModelResponse, Prompt, RuntimeBuilderExt,
    budget::{AtLimit, Budget, Limits, Spent, SubjectBudget},
    model::{ModelErrorKind, Part, Usage},
    testing::ScriptedModel,
    tool::{Approval, OnFailure, Tool},
};
use serde_json::json;

use crate::{
    faulty::{self, Fault, FaultyStore},
    support::{
        PATIENCE, Query, builder, call, failure, in_time, one_pending, scripted, search_call,
        search_tool, start, store, text,
    },
};

fn delegate(task: &str) -> ModelResponse {
    call("c", "ask", &json!({ "task": task }))
}

fn ask() -> Tool {
    Tool::agent("ask", "Asks the searcher.", "searcher")
}

/// A runtime with these agents as `agent` and `searcher`.
async fn pair(agent: LlmAgent, searcher: LlmAgent) -> Runtime {
    let builder = builder(&store()).llm_agent("agent", agent).unwrap();
    builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap()
}

/// The results that the model got for its calls, in the request with this number.
fn results(model: &ScriptedModel, request: usize) -> Vec<(String, bool)> {
    let messages = &model.requests()[request].messages;
    let parts = messages.iter().flat_map(|message| &message.content);
    let results = parts.filter_map(|part| match part {
        Part::ToolResult(result) => Some((result.content.clone(), result.is_error)),
        _ => None,
    });
    results.collect()
}

async fn spent(run: &RunHandle) -> Spent {
    *Conversation::of(run).await.unwrap().spent()
}

/// The child that a run starts.
pub(crate) async fn child_of(runtime: &Runtime, run: &RunHandle) -> RunHandle {
    in_time(async {
        loop {
            let journal = run.journal(0, 1000).await.unwrap();
            let started = journal.iter().map(|recorded| &recorded.event);
            let mut started = started.filter(|it| it.event_type.action() == "child_started");
            if let Some(started) = started.next() {
                let started: serde_json::Value = started.data().unwrap();
                if let Ok(child) = runtime.handle(started["run_id"].as_str().unwrap()).await {
                    return child;
                }
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn delegate_all(tasks: u32) -> ModelResponse {
    let task = |number: u32| json!({ "task": format!("task {number}") });
    let call = |number| Part::tool_call(format!("c{number}"), "ask", &task(number));
    ModelResponse::new((0..tasks).map(call).collect())
}

/// How many children a run has started, and how many of them ran at the same time.
async fn children(run: &RunHandle) -> (u32, u32) {
    let (mut all, mut running, mut most) = (0, 0, 0);
    for recorded in run.journal(0, 1000).await.unwrap() {
        match recorded.event.event_type.action() {
            "child_started" => {
                (all, running) = (all + 1, running + 1);
                most = most.max(running);
            }
            "child_ended" => running -= 1,
            _ => {}
        }
    }
    (all, most)
}

#[tokio::test]
async fn should_run_as_many_children_of_a_response_at_once_as_the_tool_allows() {
    let model = scripted([delegate_all(5), text("done")]);
    let searcher = LlmAgent::new(scripted((0..5).map(|_| text("found"))));
    let agent = LlmAgent::new(model.clone()).tool(ask().with_concurrency(2));
    let runtime = pair(agent, searcher).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();
    assert_eq!(results(&model, 1), vec![("found".to_owned(), false); 5]);
    assert_eq!(children(&run).await, (5, 2));
}

#[tokio::test]
async fn should_not_start_children_that_wait_when_the_run_fails() {
    let refused = ModelError::new(ModelErrorKind::Unauthorized, "no");
    let searcher = LlmAgent::new(ScriptedModel::with_results([Err(refused)]));
    let tool = ask().with_concurrency(1).with_on_failure(OnFailure::Fail);
    let runtime = pair(LlmAgent::new(scripted([delegate_all(3)])).tool(tool), searcher).await;
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "MODEL_UNAUTHORIZED");
    assert_eq!(children(&run).await, (1, 1));
}

#[tokio::test]
async fn should_run_an_agent_as_a_child_and_sum_what_it_spends() {
    let model = scripted([delegate("find rust"), text("done")]);
    let searcher = scripted([search_call("rust"), text("a language")]);
    let runtime = pair(
        LlmAgent::new(Arc::clone(&model)).tool(ask()).budget(Budget::new().with_requests(12)),
        LlmAgent::new(Arc::clone(&searcher)).tool(search_tool()),
    )
    .await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    assert_eq!(searcher.requests()[0].messages[0].text(), "find rust");
    assert_eq!(results(&model, 1), [("a language".to_owned(), false)]);
    let expected =
        Spent { requests: 4, usage: Usage::new(40, 20), tool_calls: 2, ..Spent::default() };
    assert_eq!(spent(&run).await, expected);
}

#[tokio::test]
async fn should_give_each_agent_an_equal_share_of_what_is_left() {
    let both = ["a", "b"].map(|id| Part::tool_call(id, "ask", &json!({"task": id})));
    let both = ModelResponse::new(both.to_vec()).with_usage(Usage::new(10, 5));
    let model = scripted([both, text("done")]);
    // Of 7 requests, 6 are left: 2 for each agent. The searcher would need 3.
    let searcher = Arc::new(ScriptedModel::new((0..4).map(|turn| search_call(&turn.to_string()))));
    let budget = Budget::new().with_requests(7).with_at_limit(AtLimit::Ask);
    let runtime = pair(
        LlmAgent::new(Arc::clone(&model)).tool(ask()).budget(budget.clone()),
        // The searcher would ask a person, but a share of another agent's budget cannot be raised.
        LlmAgent::new(Arc::clone(&searcher)).tool(search_tool()).budget(budget),
    )
    .await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    searcher.assert_finished();
    for (content, is_error) in results(&model, 1) {
        assert!(is_error && content.contains("requests of 2"), "{content}");
    }
    let spent = spent(&run).await;
    assert_eq!((spent.requests, spent.usage), (6, Usage::new(60, 30)));
    assert_eq!(spent.tool_calls, 2 + 4);
}

#[tokio::test]
async fn should_limit_each_call_of_an_agent() {
    let model = scripted([delegate("find"), text("done")]);
    let searcher = scripted([search_call("rust")]);
    let limits = Limits { requests: Some(1), ..Limits::default() };
    let runtime = pair(
        LlmAgent::new(Arc::clone(&model)).tool(ask().with_limits(limits)),
        LlmAgent::new(searcher).tool(search_tool()),
    )
    .await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();
    assert!(results(&model, 1)[0].0.contains("requests of 1"));
    assert_eq!(spent(&run).await.requests, 3);
}

#[tokio::test]
async fn should_fail_with_a_child_if_the_policy_says_so() {
    let agent = |on_failure| {
        LlmAgent::new(scripted([delegate("find"), text("done")]))
            .tool(ask().with_on_failure(on_failure))
    };
    let searcher = || LlmAgent::new(scripted([text("")])).max_faults(0);
    let runtime = pair(agent(OnFailure::TellModel), searcher()).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "done");
    let runtime = pair(agent(OnFailure::Fail), searcher()).await;
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "MODEL_FAULTS");
    assert_eq!(spent(&run).await.requests, 2, "even after a failure");
}

#[tokio::test]
async fn should_limit_the_levels_of_agents() {
    let searcher = Arc::new(ScriptedModel::new([
        delegate("level 2"),
        delegate("level 3"),
        text("as far as it goes"),
        text("found"),
    ]));
    let model = scripted([delegate("level 1"), text("done")]);
    let runtime = pair(
        LlmAgent::new(Arc::clone(&model)).tool(ask()).budget(Budget::new().with_depth(2)),
        LlmAgent::new(Arc::clone(&searcher)).tool(ask()),
    )
    .await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    searcher.assert_finished();
    let refused = results(&searcher, 2);
    assert!(refused[0].1 && refused[0].0.contains("delegated"), "{refused:?}");
    assert_eq!(results(&searcher, 3), [("as far as it goes".to_owned(), false)]);
}

#[tokio::test]
async fn should_cancel_an_agent_with_its_caller() {
    let runtime = pair(
        LlmAgent::new(scripted([delegate("find")])).tool(ask()),
        LlmAgent::new(scripted([search_call("rust")]))
            .tool(search_tool().with_approval(Approval::Required)),
    )
    .await;
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    let child = child_of(&runtime, &run).await;
    one_pending(&child).await;
    run.cancel("no longer needed").await.unwrap();
    for run in [&run, &child] {
        assert_eq!(in_time(run.result::<String>()).await.unwrap_err().code(), "RUN_CANCELLED");
    }
    let of_child =
        Spent { requests: 1, usage: Usage::new(10, 5), tool_calls: 1, ..Spent::default() };
    assert_eq!(spent(&child).await, of_child);
    let own = Spent { requests: 1, usage: Usage::new(10, 5), tool_calls: 1, ..Spent::default() };
    let sum = Spent {
        requests: own.requests + of_child.requests,
        usage: own.usage + of_child.usage,
        tool_calls: own.tool_calls + of_child.tool_calls,
        ..Spent::default()
    };
    assert_eq!(spent(&run).await, sum);
    let journal = run.journal(0, 1000).await.unwrap();
    let settled = journal.iter().filter(|it| it.event.event_type.as_str() == "llm.budget.settled");
    assert_eq!(settled.count(), 3, "the request, the child and the call");
}

#[tokio::test]
async fn should_sum_what_cancelled_agents_of_several_levels_have_spent() {
    let hold = || search_tool().with_approval(Approval::Required);
    let searcher = scripted([delegate("level 2"), search_call("rust")]);
    let runtime = pair(
        LlmAgent::new(scripted([delegate("level 1")])).tool(ask()),
        LlmAgent::new(searcher).tool(ask()).tool(hold()),
    )
    .await;
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    let child = child_of(&runtime, &run).await;
    let grandchild = child_of(&runtime, &child).await;
    one_pending(&grandchild).await;
    run.cancel("no longer needed").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap_err().code(), "RUN_CANCELLED");
    let sums = [spent(&grandchild).await, spent(&child).await, spent(&run).await];
    assert_eq!(sums.map(|it| (it.requests, it.tool_calls)), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(sums[2].usage, Usage::new(30, 15));
}

#[tokio::test]
async fn should_continue_a_child_after_a_restart_with_the_same_sums() {
    let store = store();
    let (model, searcher) =
        (scripted([delegate("find"), text("done")]), scripted([search_call("rust"), text("x")]));
    let start = async || {
        let approved = search_tool().with_approval(Approval::Required);
        let agent = LlmAgent::new(Arc::clone(&model)).tool(ask());
        let searcher = LlmAgent::new(Arc::clone(&searcher)).tool(approved);
        let builder = builder(&store).llm_agent("agent", agent).unwrap();
        builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap()
    };
    let first = start().await;
    let run = first.start("agent", "go").id("run").await.unwrap();
    let child = child_of(&first, &run).await;
    let (child_id, signal) = (child.id().to_owned(), one_pending(&child).await.signal);
    first.shutdown(PATIENCE).await.unwrap();

    let second = start().await;
    let child = second.handle(&child_id).await.unwrap();
    child.signal(&signal, &aios_llm::tool::Decision::Approve).await.unwrap();
    let run = second.handle("run").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let expected =
        Spent { requests: 4, usage: Usage::new(40, 20), tool_calls: 2, ..Spent::default() };
    assert_eq!(spent(&run).await, expected);
}

#[tokio::test]
async fn should_run_a_workflow_as_a_tool() {
    async fn shout(_: WorkflowContext, query: Query) -> Result<String, WorkflowError> {
        if query.words == "bad" {
            return Err(WorkflowError::failed(Failure::new("TOO_BAD", "it is bad")));
        }
        Ok(query.words.to_uppercase())
    }
    let calls = ["good", "bad"].map(|words| call("c", "shout", &json!({ "words": words })));
    let model = scripted(calls.into_iter().chain([text("done")]));
    let tool = Tool::workflow::<Query>("shout", "Shouts.", "shouting");
    let runtime = builder(&store())
        .workflow("shouting", shout)
        .llm_agent("agent", LlmAgent::new(Arc::clone(&model)).tool(tool))
        .unwrap()
        .start()
        .await
        .unwrap();
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let results = results(&model, 2);
    assert_eq!(results[0], ("GOOD".to_owned(), false));
    assert!(results[1].1 && results[1].0.contains("it is bad"), "{results:?}");
}

#[tokio::test]
async fn should_cut_the_message_of_a_failed_child() {
    async fn shout(_: WorkflowContext, query: Query) -> Result<String, WorkflowError> {
        Err(WorkflowError::failed(Failure::new("TOO_LOUD", query.words.repeat(1000))))
    }
    let model = scripted([call("c", "shout", &json!({"words": "aäa"})), text("done")]);
    let tool = Tool::workflow::<Query>("shout", "Shouts.", "shouting").with_max_result_bytes(50);
    let runtime = builder(&store())
        .workflow("shouting", shout)
        .llm_agent("agent", LlmAgent::new(Arc::clone(&model)).tool(tool))
        .unwrap()
        .start()
        .await
        .unwrap();
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let (message, is_error) = results(&model, 1).swap_remove(0);
    assert!(is_error && message.starts_with("aäaaäa"), "{message}");
    assert!(message.ends_with("(cut; the message has 4000 bytes) (TOO_LOUD)"), "{message}");
    assert!(message.len() < 150, "{message}");
}

#[tokio::test]
async fn should_name_a_child_that_does_not_exist_or_is_no_agent() {
    async fn count(_: WorkflowContext, _: serde_json::Value) -> Result<u32, WorkflowError> {
        Ok(7)
    }
    let agent = || LlmAgent::new(scripted([delegate("find")])).tool(ask());
    let code = async |builder: aios_agents::RuntimeBuilder| {
        let runtime = builder.llm_agent("agent", agent()).unwrap().start().await.unwrap();
        failure(&start(&runtime).await).await.code
    };
    assert_eq!(code(builder(&store())).await, "WORKFLOW_NOT_FOUND");
    let builder = builder(&store()).workflow("searcher", count);
    assert_eq!(code(builder).await, "INVALID_LLM_AGENT");
}

/// The store refuses the start of the child for good.
#[tokio::test]
async fn should_charge_nothing_for_a_child_that_could_not_be_started() {
    let store = store();
    let faulty = FaultyStore::new(Arc::clone(&store));
    faulty.on_append(|append| {
        let mut types = append.events.iter().map(|event| event.event_type.as_str());
        let starts = types.any(|it| it == "workflows.searcher.started");
        starts.then(|| Fault::Refuse(faulty::store_refuses()))
    });
    let model = scripted([delegate("find"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(ask());
    let agent = agent.budget(Budget::new().with_requests(12));
    let faulty: Arc<dyn Store> = faulty;
    let builder = builder(&faulty).llm_agent("agent", agent).unwrap();
    let searcher = LlmAgent::new(scripted([]));
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    assert!(results(&model, 1)[0].1, "the model gets the error");
    assert_eq!(spent(&run).await.requests, 2);
}

/// The child is cancelled while the store refuses to settle the budget of its subject.
#[tokio::test]
async fn should_sum_what_a_child_has_spent_whose_subject_cannot_be_charged() {
    let store = store();
    let faulty = FaultyStore::new(Arc::clone(&store));
    let settlements = AtomicU32::new(0);
    faulty.on_append(move |append| {
        let settles =
            append.stream.as_str().starts_with("llm/budgets/") && faulty::holds(append, "settled");
        // That of the request is not refused.
        let refuses = settles && settlements.fetch_add(1, Ordering::SeqCst) > 0;
        refuses.then(|| Fault::Refuse(faulty::store_refuses()))
    });
    let agent = LlmAgent::new(scripted([delegate("find")])).tool(ask());
    let agent = agent.budget(Budget::new().with_requests(12));
    let subjects = SubjectBudget::new(faulty, Duration::from_secs(86_400), Limits::default());
    let searcher = LlmAgent::new(scripted([search_call("rust")]))
        .tool(search_tool().with_approval(Approval::Required))
        .subject_budget(subjects);
    let builder = builder(&store).llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = runtime.start("agent", &Prompt::new("go").with_subject("mary")).await.unwrap();
    one_pending(&child_of(&runtime, &run).await).await;
    run.cancel("no longer needed").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap_err().code(), "RUN_CANCELLED");
    assert_eq!(spent(&run).await.requests, 2);
}

/// The child has succeeded and was paid for, so the model must not repeat the call.
#[tokio::test]
async fn should_leave_out_the_result_of_a_child_that_is_too_large() {
    async fn shout(_: WorkflowContext, query: Query) -> Result<String, WorkflowError> {
        Ok(query.words.repeat(1000))
    }
    let both = ModelResponse::new(vec![
        Part::tool_call("a", "shout", &json!({"words": "loud"})),
        Part::tool_call("b", "ask", &json!({"task": "find"})),
    ]);
    let model = scripted([both, text("done")]);
    let shouting = Tool::workflow::<Query>("shout", "Shouts.", "shouting");
    let tools =
        [shouting, ask()].map(|it| it.with_max_result_bytes(50).with_on_failure(OnFailure::Fail));
    let agent = tools.into_iter().fold(LlmAgent::new(Arc::clone(&model)), LlmAgent::tool);
    let searcher = LlmAgent::new(scripted([text(&"found ".repeat(100))]));
    let builder = builder(&store()).workflow("shouting", shout).llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    for ((result, is_error), bytes) in results(&model, 1).into_iter().zip(["4000", "600"]) {
        assert!(!is_error && result.starts_with("The call succeeded"), "{result}");
        assert!(result.contains(&format!("{bytes} bytes")), "{result}");
    }
}

/// A person approves the call late, and the child then waits for a person, too.
#[tokio::test]
async fn should_end_an_agent_with_the_wall_time_of_its_caller() {
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = VirtualClock::new(Timestamp::now());
    let approved = |tool: Tool| tool.with_approval(Approval::Required);
    let agent = LlmAgent::new(scripted([delegate("find")])).tool(approved(ask()));
    let agent = agent.budget(Budget::new().with_wall_time(10 * MINUTE));
    let searcher = LlmAgent::new(scripted([search_call("rust")])).tool(approved(search_tool()));
    // The clock is advanced faster than leases could be renewed.
    let options = aios_agents::runtime::EngineOptions::new().with_lease_time(MINUTE * 1000);
    let builder = builder(&store()).engine_options(options).clock(Arc::new(clock.clone()));
    let builder = builder.llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    clock.advance(9 * MINUTE);
    run.signal(&signal, &aios_llm::tool::Decision::Approve).await.unwrap();

    let child = child_of(&runtime, &run).await;
    one_pending(&child).await;
    let started = child.journal(0, 1).await.unwrap().remove(0).event;
    let input: serde_json::Value = started.data().unwrap();
    let seconds = input["input"]["delegation"]["share"]["wall_time"]["secs"].as_u64().unwrap();
    assert!(seconds <= 60, "{input}");

    clock.advance(2 * MINUTE);
    assert_eq!(failure(&run).await.details.to_value()["limit"], json!("wall_time"));
    let ended = in_time(child.result::<String>()).await.unwrap_err();
    assert_eq!(ended.code(), "RUN_CANCELLED");
}

/// The agent has run, and calls a workflow itself that does not exist.
#[tokio::test]
async fn should_not_take_the_failure_of_an_agent_for_one_of_its_start() {
    let missing = Tool::workflow::<Query>("search", "Searches.", "missing");
    let model = scripted([delegate("find"), text("done")]);
    let runtime = pair(
        LlmAgent::new(Arc::clone(&model)).tool(ask()),
        LlmAgent::new(scripted([search_call("rust")])).tool(missing),
    )
    .await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let [(content, is_error)] = &results(&model, 1)[..] else { panic!("one result") };
    assert!(is_error & content.contains("WORKFLOW_NOT_FOUND"), "{content}");
}
