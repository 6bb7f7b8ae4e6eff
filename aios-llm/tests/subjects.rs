//! Budgets that all runs of a subject share, and what happens at their limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::event::Timestamp;
use aios_llm::{
    Conversation, LlmAgent, LlmAgentError, Prompt, RuntimeBuilderExt,
    budget::{
        AtLimit, BUDGET_SIGNAL, Budget, BudgetDecision, Cost, Limits, Price, PriceTable, Spent,
        SubjectBudget,
    },
    model::Usage,
    testing::{FunctionModel, ScriptedModel},
    tool::Tool,
};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};

use crate::support::{
    builder, call, failure, in_time, scripted, search_call, search_tool, store, text,
};

/// Long enough that no test meets the end of a window.
const WINDOW: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn requests(store: &Arc<dyn Store>, requests: u64) -> SubjectBudget {
    let limits = Limits { requests: Some(requests), ..Limits::default() };
    SubjectBudget::new(Arc::clone(store), WINDOW, limits)
}

async fn runtime(store: &Arc<dyn Store>, agent: LlmAgent) -> Runtime {
    builder(store).llm_agent("agent", agent).unwrap().start().await.unwrap()
}

async fn run_of(runtime: &Runtime, subject: &str) -> aios_agents::RunHandle {
    runtime.start("agent", &Prompt::new("go").with_subject(subject)).await.unwrap()
}

#[tokio::test]
async fn should_limit_all_runs_of_a_subject_together() {
    let store = store();
    let model = scripted([search_call("a"), text("one"), text("two"), text("of paul")]);
    let budget = requests(&store, 3);
    let agent = LlmAgent::new(Arc::clone(&model)).tool(search_tool());
    let runtime = runtime(&store, agent.subject_budget(budget.clone())).await;
    let ended = async |subject| {
        in_time(run_of(&runtime, subject).await.result::<String>())
            .await
            .map_err(|it| it.code().to_owned())
    };
    assert_eq!(ended("mary").await.unwrap(), "one");
    assert_eq!(ended("mary").await.unwrap(), "two");
    assert_eq!(
        failure(&run_of(&runtime, "mary").await).await.details.to_value()["scope"],
        "subject"
    );
    assert_eq!(ended("paul").await.unwrap(), "of paul");
    let expected =
        Spent { requests: 3, usage: Usage::new(30, 15), tool_calls: 1, ..Spent::default() };
    assert_eq!(budget.spent("mary", Timestamp::now()).await.unwrap(), expected);

    let unnamed = runtime.start("agent", "go").await.unwrap();
    let failure = failure(&unnamed).await;
    assert_eq!(failure.code, "INVALID_PARAMETERS");
    assert!(failure.message.contains("with_subject"));
}

/// Two engines on one database, whose runs of one subject reserve at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn should_never_exceed_the_limit_of_a_subject_with_several_engines() {
    const RUNS: usize = 20;
    const LIMIT: u64 = 25;

    let Some(server) = PostgresServer::shared() else { return };
    let (schema, broker) = (server.new_name(), Arc::new(MemoryBroker::new()));
    let sent = Arc::new(AtomicU64::new(0));
    let mut engines = Vec::new();
    for _ in 0..2 {
        let options = PostgresOptions::new(&server.url()).with_schema(&schema);
        let store = PostgresStore::connect_with(options.with_max_connections(6)).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let sent = Arc::clone(&sent);
        let model = FunctionModel::new(move |_| {
            sent.fetch_add(1, Ordering::SeqCst);
            async { Ok(text("hello")) }
        });
        // Each has its own view of the sums, as processes have.
        let budget = requests(&store, LIMIT);
        let agent = LlmAgent::new(model).subject_budget(budget.clone());
        let builder = Runtime::builder().store(store).broker(Arc::clone(&broker) as _);
        let runtime = builder.llm_agent("agent", agent).unwrap().start().await.unwrap();
        engines.push((runtime, budget));
    }
    let started =
        (0..RUNS).flat_map(|_| engines.iter().map(|(runtime, _)| run_of(runtime, "mary")));
    let runs = futures_util::future::join_all(started).await;
    let mut allowed = 0;
    for run in &runs {
        match in_time(run.result::<String>()).await {
            Ok(_) => allowed += 1,
            Err(RunError::Failed { failure, .. }) => {
                assert_eq!(failure.details.to_value()["scope"], "subject", "{failure}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((allowed, sent.load(Ordering::SeqCst)), (LIMIT, LIMIT));
    for (_, budget) in &engines {
        assert_eq!(budget.spent("mary", Timestamp::now()).await.unwrap().requests, LIMIT);
    }
}

#[tokio::test]
async fn should_charge_a_subject_for_the_agents_that_its_runs_call() {
    let store = store();
    let budget = requests(&store, 10);
    let asks = call("c", "ask", &json!({"task": "find"}));
    let agent = LlmAgent::new(scripted([asks, text("done")]))
        .tool(Tool::agent("ask", "Asks.", "searcher"))
        .subject_budget(budget.clone());
    let searcher = LlmAgent::new(scripted([search_call("a"), text("found")]))
        .tool(search_tool())
        .subject_budget(budget.clone());
    let builder = builder(&store).llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = run_of(&runtime, "mary").await;
    in_time(run.result::<String>()).await.unwrap();
    let spent = budget.spent("mary", Timestamp::now()).await.unwrap();
    assert_eq!(&spent, Conversation::of(&run).await.unwrap().spent());
    assert_eq!((spent.requests, spent.tool_calls), (4, 2));
}

#[tokio::test]
async fn should_ask_a_person_to_raise_the_limit_of_a_subject() {
    let store = store();
    let budget = requests(&store, 1);
    let agent = LlmAgent::new(scripted([search_call("a"), text("done"), text("again")]))
        .tool(search_tool())
        .budget(Budget::new().with_at_limit(AtLimit::Ask))
        .subject_budget(budget);
    let runtime = runtime(&store, agent).await;
    let run = run_of(&runtime, "mary").await;
    let limits = Limits { requests: Some(3), ..Limits::default() };
    run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    // It is raised for all runs.
    let other = run_of(&runtime, "mary").await;
    assert_eq!(in_time(other.result::<String>()).await.unwrap(), "again");
}

#[tokio::test]
async fn should_settle_the_budget_of_a_subject_when_a_run_is_cancelled() {
    let store = store();
    let budget = requests(&store, 1);
    let hangs = FunctionModel::new(|_| std::future::pending());
    let agent = LlmAgent::new(hangs).subject_budget(budget.clone());
    let runtime = runtime(&store, agent).await;
    let run = run_of(&runtime, "mary").await;
    in_time(async {
        while !run
            .journal(0, 100)
            .await
            .unwrap()
            .iter()
            .any(|it| it.event.event_type.action() == "task_assigned")
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    run.cancel("no longer needed").await.unwrap();
    in_time(run.result::<Value>()).await.unwrap_err();
    let spent = budget.spent("mary", Timestamp::now()).await.unwrap();
    assert_eq!(&spent, Conversation::of(&run).await.unwrap().spent());
    assert_eq!((spent.requests, spent.usage.output_tokens), (1, 0));
}

fn dear_and_cheap() -> Budget {
    let prices = PriceTable::new()
        .with_price("test:dear", Price::per_million_dollars(0.0, 1000.0))
        .with_price("test:cheap", Price::per_million_dollars(0.0, 1.0));
    Budget::new()
        .with_prices(prices)
        .with_cost(Cost::dollars(0.109))
        .with_at_limit(AtLimit::CheaperModel)
}

#[tokio::test]
async fn should_continue_with_a_cheaper_model() {
    let store = store();
    let dear =
        Arc::new(ScriptedModel::new([search_call("a"), search_call("b")]).with_name("test:dear"));
    let cheap =
        Arc::new(ScriptedModel::new([search_call("c"), text("done")]).with_name("test:cheap"));
    // A whole response of the dear model costs at most $ 0.1, and those it gives half a cent.
    let agent = LlmAgent::new(Arc::clone(&dear))
        .tool(search_tool())
        .max_output_tokens(100)
        .cheaper_model(Arc::clone(&cheap))
        .budget(dear_and_cheap());
    let runtime = runtime(&store, agent).await;
    let run = runtime.start("agent", "go").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    for model in [&dear, &cheap] {
        model.assert_finished();
        assert!(model.requests().iter().all(|it| it.max_output_tokens == Some(100)));
    }
    assert_eq!(cheap.requests()[0].messages.len(), 5, "it continues the conversation");
    let spent = *Conversation::of(&run).await.unwrap().spent();
    assert_eq!(spent.cost, Cost::dollars(0.01) + Cost::nanodollars(10_000));
}

#[test]
fn should_need_a_cheaper_model_for_the_policy() {
    let agent = LlmAgent::new(scripted([])).budget(dear_and_cheap());
    let error = agent.build("agent").unwrap_err();
    assert!(matches!(error, LlmAgentError::InvalidOption { option: "at_limit", .. }), "{error}");
}

#[tokio::test]
async fn should_limit_the_output_to_the_rest_of_the_budget_of_a_subject() {
    let store = store();
    let tokens = Limits { output_tokens: Some(50), ..Limits::default() };
    let cost = Limits { cost: Some(Cost::dollars(0.0005)), ..Limits::default() };
    let cases = [
        ("tokens", tokens, AtLimit::Fail),
        ("whole", tokens, AtLimit::CheaperModel),
        ("cost", cost, AtLimit::Fail),
    ];
    for (subject, limits, at_limit) in cases {
        let calls = search_call("a").with_usage(Usage::new(10, 20));
        let model = scripted([calls, text("done").with_usage(Usage::new(10, 30))]);
        let prices =
            PriceTable::new().with_price("test:scripted", Price::per_million_dollars(0.0, 10.0));
        let agent = LlmAgent::new(Arc::clone(&model))
            .tool(search_tool())
            .budget(Budget::new().with_prices(prices).with_at_limit(at_limit))
            .cheaper_model(scripted([]))
            .subject_budget(SubjectBudget::new(Arc::clone(&store), WINDOW, limits));
        let runtime = runtime(&store, agent).await;
        let run = run_of(&runtime, subject).await;
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
        let most: Vec<_> = model.requests().iter().map(|it| it.max_output_tokens).collect();
        assert_eq!(most, [Some(50), Some(30)], "{subject}");
        let failure = failure(&run_of(&runtime, subject).await).await;
        assert_eq!((failure.code.as_str(), model.requests().len()), ("BUDGET_EXCEEDED", 2));
    }
}

#[tokio::test]
async fn should_need_a_price_if_the_cost_of_a_subject_is_limited() {
    let store = store();
    let limits = Limits { cost: Some(Cost::dollars(1.0)), ..Limits::default() };
    let budget = SubjectBudget::new(Arc::clone(&store), WINDOW, limits);
    let model = scripted([text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).subject_budget(budget);
    let runtime = runtime(&store, agent).await;
    assert_eq!(failure(&run_of(&runtime, "mary").await).await.code, "UNKNOWN_PRICE");
    assert!(model.requests().is_empty());
}

/// A run that is cancelled after its reservation is stored, and before the step that made it is
/// recorded.
#[tokio::test]
async fn should_give_back_a_reservation_of_a_run_that_is_cancelled_while_it_reserves() {
    let store = store();
    let faulty = crate::faulty::FaultyStore::new(Arc::clone(&store));
    faulty.on_append(|append| {
        crate::faulty::holds(append, "reserved")
            .then(|| crate::faulty::Fault::Until(Box::pin(std::future::pending())))
    });
    let slow: Arc<dyn Store> = faulty.clone();
    let model = scripted([]);
    let agent = LlmAgent::new(Arc::clone(&model)).subject_budget(requests(&slow, 3));
    let runtime = runtime(&store, agent).await;
    let run = run_of(&runtime, "mary").await;
    let budget = requests(&store, 3);
    in_time(async {
        while budget.spent("mary", Timestamp::now()).await.unwrap() == Spent::default() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    run.cancel("enough").await.unwrap();
    let ended = in_time(run.result::<String>()).await;
    assert!(matches!(ended, Err(RunError::Cancelled { .. })), "{ended:?}");
    assert_eq!(model.requests().len(), 0);
    assert_eq!(budget.spent("mary", Timestamp::now()).await.unwrap(), Spent::default());
}

/// A fork is charged for the calls that it repeats, and not for those that it has copied.
#[tokio::test]
async fn should_charge_a_subject_for_the_requests_of_a_fork() {
    let store = store();
    let budget = requests(&store, 10);
    let model = scripted([text("one"), text("two"), text("three")]);
    let agent = LlmAgent::new(Arc::clone(&model)).subject_budget(budget.clone());
    let runtime = runtime(&store, agent).await;
    let run = run_of(&runtime, "mary").await;
    in_time(run.result::<String>()).await.unwrap();
    let journal = run.journal(0, 100).await.unwrap();
    let steps = journal.iter().filter(|it| it.event.event_type.action() == "step_completed");
    let steps: Vec<u64> =
        steps.map(|it| it.event.data::<Value>().unwrap()["operation"].as_u64().unwrap()).collect();
    let [reserving, settling] = steps[..] else { panic!("{steps:?}") };
    // The reservation, the request, and the settlement.
    for (operation, expected) in [(reserving, 2), (reserving + 2, 3), (settling, 3)] {
        let fork = run.fork(operation, format!("fork-{operation}")).await.unwrap();
        in_time(fork.result::<String>()).await.unwrap();
        let spent = budget.spent("mary", Timestamp::now()).await.unwrap();
        let expected = Spent { requests: expected, ..Spent::default() };
        let usage = Usage::new(10 * expected.requests, 5 * expected.requests);
        assert_eq!(spent, Spent { usage, ..expected }, "from operation {operation}");
    }
    model.assert_finished();
}

/// The store refuses the settlement of a run that fails for another reason.
#[tokio::test]
async fn should_fail_for_its_own_reason_if_its_subject_cannot_be_charged() {
    async fn fail(_: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
        Err(WorkflowError::failed(Failure::new("TOO_BAD", "it is bad")))
    }
    let store = store();
    let faulty = crate::faulty::FaultyStore::new(Arc::clone(&store));
    let settlements = AtomicU64::new(0);
    faulty.on_append(move |append| {
        let settles = append.stream.as_str().starts_with("llm/budgets/")
            && crate::faulty::holds(append, "settled");
        // That of the request is not refused.
        let refuses = settles && settlements.fetch_add(1, Ordering::SeqCst) > 0;
        refuses.then(|| crate::faulty::Fault::Refuse(crate::faulty::store_refuses()))
    });
    let faulty: Arc<dyn Store> = faulty;
    let tool = Tool::workflow::<crate::support::Query>("search", "Fails.", "failing");
    let agent = LlmAgent::new(scripted([search_call("a")]))
        .tool(tool.with_on_failure(aios_llm::tool::OnFailure::Fail))
        .subject_budget(requests(&faulty, 5));
    let builder = builder(&store).workflow("failing", fail).llm_agent("agent", agent).unwrap();
    let runtime = builder.start().await.unwrap();
    assert_eq!(failure(&run_of(&runtime, "mary").await).await.code, "TOO_BAD");
}

/// The instructions of each request of a run of a subject that makes some calls of a tool.
async fn notices(
    limits: Limits,
    tool: &str,
    calls: usize,
    raise: Option<Limits>,
) -> Vec<Option<String>> {
    let store = store();
    let calls = (0..calls).map(|number| call("c", tool, &json!({"words": number.to_string()})));
    let model = Arc::new(ScriptedModel::new(calls.chain([text("done")])));
    let agent = LlmAgent::new(Arc::clone(&model))
        .tool(search_tool())
        .max_output_tokens(80)
        .budget(Budget::new().with_at_limit(AtLimit::Ask))
        .subject_budget(SubjectBudget::new(Arc::clone(&store), WINDOW, limits));
    let runtime = runtime(&store, agent).await;
    let run = run_of(&runtime, "mary").await;
    if let Some(limits) = raise {
        run.signal(BUDGET_SIGNAL, &BudgetDecision::Raise { limits }).await.unwrap();
    }
    in_time(run.result::<String>()).await.unwrap();
    model.requests().into_iter().map(|it| it.instructions).collect()
}

#[tokio::test]
async fn should_tell_the_model_what_the_subject_has_really_used() {
    let tokens = |tokens| Limits { output_tokens: Some(tokens), ..Limits::default() };
    // Each request reserves 80 tokens and needs 5. A call of a tool would read the sums again.
    for tool in ["unknown", "search"] {
        assert_eq!(notices(tokens(100), tool, 2, None).await, [None, None, None]);
    }
    let requests = |requests| Limits { requests: Some(requests), ..Limits::default() };
    let told = notices(requests(5), "search", 4, None).await;
    assert_eq!(told[..4], [None, None, None, None]);
    assert!(told[4].as_ref().unwrap().contains("requests (4 of 5 used)"), "{told:?}");
    // The second request is one too many until a person raises the limit.
    let told = notices(requests(1), "search", 3, Some(requests(100))).await;
    assert!(told[1].as_ref().unwrap().contains("requests (1 of 1 used)"), "{told:?}");
    assert_eq!(told[2..], [None, None]);
}

/// Runs an agent with a budget of its subject that calls `searcher`, which calls `expert`. Returns what
/// the subject and the run have spent.
async fn chain(searcher_charges: bool, expert_charges: bool, fails: bool) -> (Spent, Spent) {
    let store = store();
    let budget = requests(&store, 20);
    let charged = |agent: LlmAgent, charges| match charges {
        true => agent.subject_budget(budget.clone()),
        false => agent,
    };
    let asks = |to: &str| call("c", to, &json!({"task": "find"}));
    let agent = LlmAgent::new(scripted([asks("search"), text("done")])).tool(Tool::agent(
        "search",
        "Searches.",
        "searcher",
    ));
    // The second request has no response if it fails.
    let found = (!fails).then(|| text("found"));
    let searcher = LlmAgent::new(scripted([asks("know")].into_iter().chain(found)))
        .tool(Tool::agent("know", "Knows.", "expert"));
    let expert = LlmAgent::new(scripted([search_call("a"), text("known")])).tool(search_tool());
    let builder = builder(&store).llm_agent("agent", charged(agent, true)).unwrap();
    let builder = builder.llm_agent("searcher", charged(searcher, searcher_charges)).unwrap();
    let builder = builder.llm_agent("expert", charged(expert, expert_charges)).unwrap();
    let runtime = builder.start().await.unwrap();
    let run = run_of(&runtime, "mary").await;
    in_time(run.result::<String>()).await.unwrap();
    let spent = budget.spent("mary", Timestamp::now()).await.unwrap();
    (spent, *Conversation::of(&run).await.unwrap().spent())
}

#[tokio::test]
async fn should_charge_a_subject_once_for_agents_that_do_not_charge_it_themselves() {
    for fails in [false, true] {
        for (searcher, expert) in [(false, false), (false, true), (true, false), (true, true)] {
            let (subject, run) = chain(searcher, expert, fails).await;
            assert_eq!(subject, run, "{searcher} {expert} {fails}");
            assert_eq!((run.requests, run.tool_calls), (6, 3));
        }
    }
}

#[tokio::test]
async fn should_charge_a_subject_for_a_called_agent_that_is_cancelled() {
    let store = store();
    let budget = requests(&store, 20);
    let agent = LlmAgent::new(scripted([call("c", "search", &json!({"task": "find"}))]))
        .tool(Tool::agent("search", "Searches.", "searcher"))
        .subject_budget(budget.clone());
    let waits = search_tool().with_approval(aios_llm::tool::Approval::Required);
    let searcher = LlmAgent::new(scripted([search_call("a")])).tool(waits);
    let builder = builder(&store).llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("searcher", searcher).unwrap().start().await.unwrap();
    let run = run_of(&runtime, "mary").await;
    let child = crate::delegation::child_of(&runtime, &run).await;
    crate::support::one_pending(&child).await;
    run.cancel("no longer needed").await.unwrap();
    in_time(run.result::<Value>()).await.unwrap_err();
    let spent = budget.spent("mary", Timestamp::now()).await.unwrap();
    assert_eq!(&spent, Conversation::of(&run).await.unwrap().spent());
    assert_eq!(spent.requests, 2);
}
