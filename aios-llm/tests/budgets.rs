use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_core::clock::VirtualClock;
use aios_llm::{
    Conversation, LlmAgent, ModelError, RuntimeBuilderExt, Streaming,
    budget::{
        AtLimit, BUDGET_SIGNAL, Budget, BudgetDecision, Cost, Limits, Price, PriceTable, Spent,
    },
    middleware::{CircuitBreaker, Fallback},
    model::{ModelErrorKind, Usage},
    testing::ScriptedModel,
    tool::{Approval, Decision, Tool},
};
use serde_json::json;

use crate::support::{
    Query, builder, call, failure, in_time, one_pending, runtime, scripted, search_call,
    search_tool, start, store, text,
};

#[tokio::test]
async fn should_sum_requests_tokens_tools_and_cost() {
    let billed =
        ModelError::new(ModelErrorKind::InvalidResponse, "cut off").with_usage(Usage::new(100, 1));
    let model = ScriptedModel::with_results([Err(billed), Ok(search_call("a")), Ok(text("done"))]);
    let prices =
        PriceTable::new().with_price("test:scripted", Price::per_million_dollars(1.0, 10.0));
    let agent = LlmAgent::new(model)
        .tool(search_tool())
        .model_retry(RetryPolicy::fixed(2, Duration::from_millis(1)))
        .budget(Budget::new().with_prices(prices));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();
    let spent = *Conversation::of(&run).await.unwrap().spent();
    // 120 input tokens at $1 and 11 output tokens at $10 per million.
    let cost = Cost::nanodollars(120 * 1000 + 11 * 10_000);
    let expected = Spent { requests: 3, usage: Usage::new(120, 11), cost, tool_calls: 1 };
    assert_eq!(spent, expected);
}

#[tokio::test]
async fn should_fail_before_a_call_that_exceeds_a_limit() {
    let budgets = [
        ("requests", Budget::new().with_requests(1)),
        ("tool_calls", Budget::new().with_tool_calls(0)),
        ("output_tokens", Budget::new().with_output_tokens(5)),
        ("input_tokens", Budget::new().with_input_tokens(1)),
        ("wall_time", Budget::new().with_wall_time(Duration::ZERO)),
    ];
    for (limit, budget) in budgets {
        let model = scripted([search_call("a"), text("done")]);
        let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool()).budget(budget);
        let failure = failure(&start(&runtime(agent).await).await).await;
        assert_eq!(
            (failure.code.as_str(), &failure.details.to_value()["limit"]),
            ("BUDGET_EXCEEDED", &json!(limit))
        );
        assert!(model.requests().len() < 2, "{limit}");
    }
}

/// A provider that ignores the limit of a request.
#[tokio::test]
async fn should_settle_a_stream_that_exceeds_the_budget_before_the_run_fails() {
    let limits = [Budget::new().with_output_tokens(100), {
        let price = Price::per_million_dollars(1.0, 10.0);
        let prices = PriceTable::new().with_price("test:scripted", price);
        Budget::new().with_prices(prices).with_cost(Cost::nanodollars(2_000_000))
    }];
    for budget in limits {
        let long = search_call("a").with_usage(Usage::new(10, 5_000));
        let model = scripted([long, text("never")]);
        let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool()).budget(budget);
        let runtime = runtime(agent.streaming(Streaming::On)).await;
        let run = start(&runtime).await;
        let failure = failure(&run).await;
        assert_eq!(failure.code, "BUDGET_EXCEEDED", "{failure}");
        let spent = *Conversation::of(&run).await.unwrap().spent();
        assert_eq!((spent.requests, spent.usage), (1, Usage::new(10, 5_000)));
        assert_eq!(model.requests().len(), 1);
    }
}

#[tokio::test]
async fn should_limit_the_output_to_the_rest_of_the_budget() {
    let model = scripted([search_call("a"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool());
    let runtime = runtime(agent.budget(Budget::new().with_output_tokens(50))).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let most: Vec<_> = model.requests().iter().map(|it| it.max_output_tokens).collect();
    assert_eq!(most, [Some(50), Some(45)]);
}

#[tokio::test]
async fn should_ask_a_person_to_raise_a_limit() {
    let model = scripted([search_call("a"), text("done")]);
    let budget = Budget::new().with_requests(1).with_at_limit(AtLimit::Ask);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool()).budget(budget);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let limits = Limits { requests: Some(5), ..Limits::default() };
    run.signal(BUDGET_SIGNAL, &json!("more")).await.unwrap();
    run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");

    let other = scripted([search_call("a")]);
    let budget = Budget::new().with_requests(1).with_at_limit(AtLimit::Ask);
    let runtime = crate::support::runtime(LlmAgent::new(other).tool(search_tool()).budget(budget));
    let runtime = runtime.await;
    let stopped = start(&runtime).await;
    stopped.signal(BUDGET_SIGNAL, &BudgetDecision::Stop).await.unwrap();
    assert_eq!(failure(&stopped).await.code, "BUDGET_EXCEEDED");
}

#[tokio::test]
async fn should_tell_the_model_that_the_budget_is_nearly_used() {
    let model = scripted([search_call("a"), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool()).instructions("Be brief.");
    let runtime = runtime(agent.budget(Budget::new().with_requests(2).with_soft_percent(50))).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let instructions: Vec<_> =
        model.requests().into_iter().map(|it| it.instructions.unwrap()).collect();
    assert_eq!(instructions[0], "Be brief.");
    assert!(instructions[1].contains("requests (1 of 2 used)"));
}

#[tokio::test]
async fn should_tell_the_model_that_the_time_is_nearly_over() {
    let clock = VirtualClock::new(Timestamp::now());
    let passing = clock.clone();
    let wait = move |_: Query| {
        passing.advance(Duration::from_millis(8500));
        async { Ok::<_, TaskError>("found".to_owned()) }
    };
    let model = scripted([call("c", "wait", &json!({"words": "x"})), text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(Tool::read("wait", "Waits.", wait));
    let agent = agent.budget(Budget::new().with_wall_time(Duration::from_secs(10)));
    let options = aios_agents::runtime::EngineOptions::new();
    let options = options.with_lease_time(Duration::from_secs(60_000));
    let builder = builder(&store()).engine_options(options).clock(Arc::new(clock));
    let runtime = builder.llm_agent("agent", agent).unwrap().start().await.unwrap();
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    let instructions: Vec<_> = model.requests().into_iter().map(|it| it.instructions).collect();
    assert_eq!(instructions[0], None);
    assert!(instructions[1].as_ref().unwrap().contains("nearly used: time."), "{instructions:?}");
}

/// A budget that limits the cost, with a price for each of these models.
fn limited(models: &[&str]) -> Budget {
    let price = Price::per_million_dollars(1.0, 1.0);
    let prices =
        models.iter().fold(PriceTable::new(), |table, name| table.with_price(*name, price));
    Budget::new().with_cost(Cost::dollars(1.0)).with_prices(prices)
}

#[tokio::test]
async fn should_need_a_price_for_each_model_that_may_answer() {
    let busy = || ModelError::new(ModelErrorKind::Overloaded, "busy");
    let run_with = async |priced: &[&str]| {
        let second = Arc::new(ScriptedModel::new([text("done")]).with_name("test:second"));
        let models = Fallback::new(ScriptedModel::with_results([Err(busy())]))
            .or(CircuitBreaker::new(Arc::clone(&second), 5, Duration::from_secs(1)));
        let runtime = runtime(LlmAgent::new(models).budget(limited(priced))).await;
        let run = start(&runtime).await;
        let ended = in_time(run.result::<String>()).await;
        (ended, second.requests().len())
    };
    let (ended, requests) = run_with(&["test:scripted"]).await;
    assert!(ended.unwrap_err().to_string().contains("test:second"));
    assert_eq!(requests, 0, "it fails before the request");
    let (ended, requests) = run_with(&["test:scripted", "test:second"]).await;
    assert_eq!((ended.unwrap().as_str(), requests), ("done", 1));
}

#[tokio::test]
async fn should_fail_after_an_answer_whose_price_is_unknown() {
    let model = ScriptedModel::new([text("done").with_model("test:other")]);
    let runtime = runtime(LlmAgent::new(model).budget(limited(&["test:scripted"]))).await;
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "UNKNOWN_PRICE");
    let spent = *Conversation::of(&run).await.unwrap().spent();
    assert_eq!((spent.requests, spent.usage), (1, Usage::new(10, 5)));
    assert!(spent.cost > Cost::ZERO, "the reserved cost counts");
}

#[tokio::test]
async fn should_keep_the_limits_that_a_person_does_not_raise() {
    let model = scripted([search_call("a"), search_call("b"), text("done")]);
    let budget = Budget::new().with_requests(1).with_tool_calls(1).with_at_limit(AtLimit::Ask);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool()).budget(budget);
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    let limits = Limits { requests: Some(5), ..Limits::default() };
    run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await.unwrap();
    run.signal(BUDGET_SIGNAL, &BudgetDecision::Stop).await.unwrap();
    assert_eq!(failure(&run).await.details.to_value()["limit"], json!("tool_calls"));
}

#[tokio::test]
async fn should_say_why_a_decision_was_refused() {
    let model = scripted([search_call("a"), text("done")]);
    let budget = Budget::new().with_requests(1).with_at_limit(AtLimit::Ask);
    let runtime = runtime(LlmAgent::new(model).tool(search_tool()).budget(budget)).await;
    let run = start(&runtime).await;
    run.signal(BUDGET_SIGNAL, &json!("more")).await.unwrap();
    let waits = async |text: &str| {
        in_time(async {
            while !run.status().await.unwrap().status_text.is_some_and(|it| it.contains(text)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    waits("was refused").await;
    let limits = Limits { requests: Some(5), ..Limits::default() };
    run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    let journal = run.journal(0, 1000).await.unwrap();
    let reached = journal.iter().filter(|it| it.event.event_type.action() == "limit_reached");
    assert_eq!(reached.count(), 1);
}

#[tokio::test]
async fn should_not_wait_longer_for_a_provider_than_the_wall_time() {
    let later =
        |delay| ModelError::new(ModelErrorKind::RateLimited, "later").with_retry_after(delay);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let budget = Budget::new().with_wall_time(Duration::from_millis(50));
    let model = ScriptedModel::with_results([Err(later(year))]);
    let limited = runtime(LlmAgent::new(model).budget(budget)).await;
    assert_eq!(
        failure(&start(&limited).await).await.details.to_value()["limit"],
        json!("wall_time")
    );
    // No timer is that long.
    let model = ScriptedModel::with_results([Err(later(1000 * year))]);
    let unlimited = runtime(LlmAgent::new(model)).await;
    assert_eq!(failure(&start(&unlimited).await).await.code, "MODEL_RATE_LIMITED");
}

#[tokio::test]
async fn should_not_run_a_tool_for_longer_than_the_wall_time() {
    let hangs = |_: crate::support::Query| std::future::pending::<Result<String, TaskError>>();
    let tool = aios_llm::tool::Tool::read("search", "Searches.", hangs);
    let budget = Budget::new().with_wall_time(Duration::from_millis(500));
    let agent = LlmAgent::new(scripted([search_call("a")])).tool(tool).budget(budget);
    let runtime = runtime(agent).await;
    let started = std::time::Instant::now();
    assert_eq!(
        failure(&start(&runtime).await).await.details.to_value()["limit"],
        json!("wall_time")
    );
    assert!(started.elapsed() < Duration::from_secs(30), "the timeout of the tool is 60 s");
}

#[tokio::test]
async fn should_not_repeat_a_tool_for_longer_than_the_wall_time() {
    let fails = |_: crate::support::Query| async {
        Err::<String, _>(TaskError::retryable(Failure::new("LATER", "later")))
    };
    let tool = aios_llm::tool::Tool::read("search", "Searches.", fails)
        .with_retry(RetryPolicy::fixed(100_000, Duration::from_millis(20)));
    let budget = Budget::new().with_wall_time(Duration::from_millis(500));
    let agent = LlmAgent::new(scripted([search_call("a"), text("done")])).tool(tool);
    let runtime = runtime(agent.budget(budget)).await;
    // The last delay may leave time for one more request.
    match in_time(start(&runtime).await.result::<String>()).await {
        Ok(result) => assert_eq!(result, "done"),
        Err(RunError::Failed { failure, .. }) => {
            assert_eq!(failure.details.to_value()["limit"], json!("wall_time"));
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn should_not_wait_for_a_child_workflow_for_longer_than_the_wall_time() {
    async fn waits(context: WorkflowContext, (): ()) -> Result<String, WorkflowError> {
        context.signal("never").await
    }
    let parameters = json!({"type": "object"});
    let tool = Tool::workflow_from_schema("search", "Searches.", parameters, "waits");
    let budget = Budget::new().with_wall_time(Duration::from_millis(500));
    let agent = LlmAgent::new(scripted([call("c", "search", &json!({}))]));
    let builder = builder(&store()).llm_agent("agent", agent.tool(tool).budget(budget)).unwrap();
    let builder = builder
        .workflow("waits", |context: WorkflowContext, _: serde_json::Value| waits(context, ()));
    let runtime = builder.start().await.unwrap();
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.details.to_value()["limit"], json!("wall_time"));
    let journal = run.journal(0, 1000).await.unwrap();
    let started = journal.iter().map(|it| &it.event);
    let mut started = started.filter(|event| event.event_type.action() == "child_started");
    let started: serde_json::Value = started.next().unwrap().data().unwrap();
    let child = runtime.handle(started["run_id"].as_str().unwrap()).await.unwrap();
    let ended = in_time(child.result::<String>()).await.unwrap_err();
    assert!(matches!(ended, RunError::Cancelled { .. }), "{ended}");
}

/// A decision that comes too late begins no call.
#[tokio::test]
async fn should_not_begin_an_approved_call_after_the_wall_time() {
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = VirtualClock::new(Timestamp::now());
    let tool = search_tool().with_approval(Approval::Required);
    let agent = LlmAgent::new(scripted([search_call("a")])).tool(tool);
    let agent = agent.budget(Budget::new().with_wall_time(MINUTE));
    // The clock is advanced faster than leases could be renewed.
    let options = aios_agents::runtime::EngineOptions::new().with_lease_time(MINUTE * 1000);
    let builder = builder(&store()).engine_options(options).clock(Arc::new(clock.clone()));
    let runtime = builder.llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    clock.advance(2 * MINUTE);
    run.signal(&signal, &Decision::Approve).await.unwrap();
    assert_eq!(failure(&run).await.details.to_value()["limit"], json!("wall_time"));
    let journal = run.journal(0, 1000).await.unwrap();
    let is_tool = |event: &Event| event.event_type.as_str() == "agents.agent_tools.task_assigned";
    assert!(!journal.iter().any(|it| is_tool(&it.event)));
}

/// A decision that cannot be read, or changes nothing, is no decision.
#[tokio::test]
async fn should_refuse_a_decision_that_says_nothing() {
    let model = scripted([search_call("a"), text("done")]);
    let budget = Budget::new().with_requests(1).with_at_limit(AtLimit::Ask);
    let runtime = runtime(LlmAgent::new(model).tool(search_tool()).budget(budget)).await;
    let run = start(&runtime).await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (decision, reason) in [
        (r#"{"decision":"raise","limits":{"requests":1e999}}"#, "out of range"),
        (deep.as_str(), "refused"),
        (r#"{"decision":"raise","limits":{"request":5}}"#, "`request`"),
        (r#"{"decision":"raise","limits":{"requests":5,"cots":1}}"#, "`cots`"),
        (r#"{"decision":"raise","limits":{}}"#, "no limit"),
        (r#"{"decision":"raise","limits":{"requests":null}}"#, "no limit"),
    ] {
        run.signal(BUDGET_SIGNAL, &Payload::from_text(decision.to_owned()).unwrap()).await.unwrap();
        in_time(async {
            let mut status = String::new();
            while !(status.contains("was refused") && status.contains(reason)) {
                let record = run.status().await.unwrap();
                assert!(record.failure.is_none(), "{decision}: {record:?}");
                status = record.status_text.unwrap_or_default();
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let limits = Limits { requests: Some(5), ..Limits::default() };
    run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
}
