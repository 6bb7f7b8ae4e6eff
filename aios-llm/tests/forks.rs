//! Forks of runs: what is recorded is not requested again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{RunHandle, prelude::*};
use aios_core::clock::VirtualClock;
use aios_llm::{
    Conversation, LlmAgent, ModelRequest, ModelResponse, RuntimeBuilderExt,
    budget::{Budget, Spent},
    model::{Part, Role, Usage},
    testing::FunctionModel,
    tool::Tool,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::store;
use crate::support::{builder, in_time, scripted, search_call, search_tool, text};

/// Requests that a model got.
type Requests = Arc<Mutex<Vec<ModelRequest>>>;

/// A model that calls these tools, one in each turn, and then returns its instructions.
fn caller(calls: Vec<(&'static str, Value)>, requests: &Requests) -> FunctionModel {
    let requests = Arc::clone(requests);
    FunctionModel::new(move |request: ModelRequest| {
        requests.lock().push(request.clone());
        let turn = request.messages.iter().filter(|it| it.role == Role::Assistant).count();
        let instructions = request.instructions.clone().unwrap_or_default();
        let response = match calls.get(turn) {
            Some((tool, arguments)) => {
                ModelResponse::new(vec![Part::tool_call(format!("c{turn}"), *tool, arguments)])
            }
            None => ModelResponse::text(format!("done: {instructions}")),
        };
        std::future::ready(Ok(response.with_usage(Usage::new(10, 5))))
    })
}

/// An agent that calls the searcher, searches itself and hands over to a closer, which searches too.
async fn tree(
    store: &Arc<dyn Store>,
    instructions: &str,
    requests: &[Requests; 3],
    searches: &Arc<AtomicUsize>,
) -> Runtime {
    let words = || json!({"words": "x"});
    let [main, searcher, closer] = requests;
    let counted = Arc::clone(searches);
    let look = Tool::read("look", "Looks.", move |query: crate::support::Query| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, TaskError>(query.words) }
    });
    let own = vec![
        ("ask", json!({"task": "find"})),
        ("look", words()),
        ("handover_to_closer", json!({"reason": "r"})),
    ];
    // The turns of the first agent count, too.
    let after = vec![("", json!(0)), ("", json!(0)), ("", json!(0)), ("search", words())];
    let closing =
        LlmAgent::new(caller(after, closer)).instructions(instructions).tool(search_tool());
    let agent = LlmAgent::new(caller(own, main))
        .instructions(instructions)
        .tool(Tool::agent("ask", "Asks.", "searcher"))
        .tool(look)
        .handover("closer", "Closes.", closing);
    let helping = LlmAgent::new(caller(vec![("search", words())], searcher))
        .instructions(instructions)
        .tool(search_tool());
    builder(store)
        .llm_agent("agent", agent)
        .unwrap()
        .llm_agent("searcher", helping)
        .unwrap()
        .start()
        .await
        .unwrap()
}

/// The numbers of the operations of a run, by the actions of their first events.
async fn operations(run: &RunHandle) -> Vec<(u64, String)> {
    let mut found = Vec::<(u64, String)>::new();
    for recorded in run.journal(0, 1000).await.unwrap() {
        let data: Value = recorded.event.data().unwrap();
        let task = data.get("task_id").and_then(Value::as_str).and_then(|id| id.rsplit('/').next());
        let of_task = task.and_then(|number| number.parse().ok());
        let Some(number) = data.get("operation").and_then(Value::as_u64).or(of_task) else {
            continue;
        };
        if !found.iter().any(|it| it.0 == number) {
            found.push((number, recorded.event.event_type.as_str().to_owned()));
        }
    }
    found.sort();
    found
}

async fn spent(run: &RunHandle) -> Spent {
    *Conversation::of(run).await.unwrap().spent()
}

fn count(requests: &[Requests; 3]) -> usize {
    requests.iter().map(|it| it.lock().len()).sum()
}

#[tokio::test]
async fn should_fork_at_every_operation_of_a_run_with_agents_and_handovers() {
    let requests: [Requests; 3] = Default::default();
    let searches = Arc::default();
    let runtime = tree(&store(), "Be brief.", &requests, &searches).await;
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done: Be brief.");
    let (all, whole) = (count(&requests), spent(&run).await);
    assert_eq!((all, whole.requests), (7, 7));
    let operations = operations(&run).await;
    assert!(operations.len() > 10, "{operations:?}");
    let mut last = usize::MAX;
    for (operation, kind) in &operations {
        let before = count(&requests);
        let fork = run.fork(*operation, format!("fork-{operation}")).await.unwrap();
        let result = in_time(fork.result::<String>()).await;
        assert_eq!(result.unwrap(), "done: Be brief.", "{operation} {kind}");
        assert_eq!(spent(&fork).await, whole, "{operation} {kind}");
        let paid = count(&requests) - before;
        assert!(paid <= last, "{operation} {kind}: {paid} requests after {last}");
        last = paid;
    }
    assert_eq!(last, 0, "a fork at the end requests nothing");
}

#[tokio::test]
async fn should_fork_at_every_turn_with_other_instructions() {
    let store = store();
    let requests: [Requests; 3] = Default::default();
    let searches = Arc::default();
    let runtime = tree(&store, "Be brief.", &requests, &searches).await;
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    runtime.shutdown(crate::support::PATIENCE).await.unwrap();

    let turns = operations(&run).await;
    let turns: Vec<_> = turns.into_iter().filter(|it| it.1.contains("_model.")).collect();
    assert_eq!(turns.len(), 5, "{turns:?}");
    let others: [Requests; 3] = Default::default();
    let runtime = tree(&store, "Be long.", &others, &searches).await;
    let run = runtime.handle("run").await.unwrap();
    for (number, (operation, _)) in turns.iter().enumerate() {
        let before = count(&others);
        let fork = run.fork(*operation, format!("fork-{operation}")).await.unwrap();
        let result = in_time(fork.result::<String>()).await.unwrap();
        assert_eq!(result, "done: Be long.", "turn {number}");
        let paid = count(&others) - before;
        let of_searcher = if number == 0 { 2 } else { 0 };
        assert_eq!(paid, turns.len() - number + of_searcher, "turn {number}");
    }
    for request in others.iter().flat_map(|it| it.lock().clone()) {
        assert_eq!(request.instructions.as_deref(), Some("Be long."));
    }
}

#[tokio::test]
async fn should_fork_inside_an_agent_that_another_one_called() {
    let requests: [Requests; 3] = Default::default();
    let searches = Arc::default();
    let runtime = tree(&store(), "Be brief.", &requests, &searches).await;
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    let journal = run.journal(0, 1000).await.unwrap();
    let started = journal.iter().find(|it| it.event.event_type.action() == "child_started");
    let started: Value = started.unwrap().event.data().unwrap();
    let child = runtime.handle(started["run_id"].as_str().unwrap()).await.unwrap();
    for (operation, kind) in operations(&child).await {
        let fork = child.fork(operation, format!("fork-{operation}")).await.unwrap();
        let result = in_time(fork.result::<Value>()).await.unwrap();
        assert_eq!(result["output"], "done: Be brief.", "{operation} {kind}");
        assert_eq!(spent(&fork).await, spent(&child).await, "{operation} {kind}");
    }
}

/// A copy continues with the time that the copied part has taken. A copy of a copy, too.
#[tokio::test]
async fn should_not_count_the_time_before_a_fork_as_wall_time() {
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = VirtualClock::new(Timestamp::now());
    let model = scripted((0..5).flat_map(|_| [search_call("x"), text("done")]));
    let agent = LlmAgent::new(model).tool(search_tool());
    let agent = agent.budget(Budget::new().with_wall_time(MINUTE));
    let options = aios_agents::runtime::EngineOptions::new().with_lease_time(MINUTE * 10_000);
    let runtime = builder(&store())
        .engine_options(options)
        .clock(Arc::new(clock.clone()))
        .llm_agent("agent", agent)
        .unwrap()
        .start()
        .await
        .unwrap();
    let mut run = runtime.start("agent", "go").await.unwrap();
    for number in 0..3 {
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done", "{number}");
        clock.advance(60 * MINUTE);
        let all = operations(&run).await;
        let first = all.iter().find(|it| it.1.contains("_tools.")).unwrap().0;
        run = run.fork(first, format!("fork-{number}")).await.unwrap();
    }
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
}
