use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::{RunHandle, Runtime, prelude::*};
use aios_broker::memory::MemoryBroker;
use aios_llm::{
    Compaction, Conversation, LlmAgent, ModelError, ModelRequest, ModelResponse, Prompt,
    RuntimeBuilderExt,
    budget::{AtLimit, Budget},
    conversation::ConversationRun,
    guardrail::{Guardrail, Verdict},
    middleware::Fallback,
    model::{Capabilities, FinishReason, Message, ModelErrorKind, Part, Role, ToolChoice, Usage},
    testing::{FunctionModel, ScriptedModel},
    tool::{Approval, Decision, Resolution, Tool},
};
use serde_json::json;

use crate::{
    faulty::{self, FaultyStore},
    support::{
        PATIENCE, Query, builder, call, failure, in_time, one_pending, runtime, scripted,
        search_call, search_tool, start, store, text,
    },
};

#[tokio::test]
async fn should_continue_a_conversation_in_another_run() {
    let model = scripted([text("Paris."), text("About two million.")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model))).await;
    let first = runtime.start("agent", "Capital of France?").await.unwrap();
    in_time(first.result::<String>()).await.unwrap();
    let conversation = Conversation::of(&first).await.unwrap();
    let second = runtime.start("agent", &conversation.continued("How many people?")).await.unwrap();
    assert_eq!(in_time(second.result::<String>()).await.unwrap(), "About two million.");
    let texts: Vec<_> = model.requests()[1].messages.iter().map(|it| it.text()).collect();
    assert_eq!(texts, ["Capital of France?", "Paris.", "How many people?"]);
}

#[tokio::test]
async fn should_begin_again_at_a_turn_with_other_instructions() {
    let model = scripted([
        search_call("one"),
        search_call("two"),
        text("a long answer"),
        text("a short answer"),
    ]);
    let agent = LlmAgent::new(Arc::clone(&model)).instructions("Write much.").tool(search_tool());
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();

    let conversation = Conversation::of(&run).await.unwrap();
    assert_eq!(conversation.turns().len(), 3);
    let prompt = conversation.from_turn(3).unwrap().with_instructions("Write little.");
    assert!(conversation.from_turn(4).is_none() && conversation.from_turn(0).is_none());
    let other = runtime.start("agent", &prompt).await.unwrap();
    assert_eq!(in_time(other.result::<String>()).await.unwrap(), "a short answer");
    let requests = model.requests();
    assert_eq!(requests.len(), 4, "turns 1 and 2 are not paid for again");
    assert_eq!(requests[3].instructions.as_deref(), Some("Write little."));
    let roles: Vec<_> = requests[3].messages.iter().map(|it| it.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Assistant, Role::Tool]);
}

#[tokio::test]
async fn should_say_which_run_a_conversation_continues() {
    let model = scripted(["one", "two", "three"].map(text));
    let runtime = runtime(LlmAgent::new(model)).await;
    let first = start(&runtime).await;
    in_time(first.result::<String>()).await.unwrap();
    let origin = async |run: &RunHandle| {
        let journal = run.journal(0, 1).await.unwrap();
        let started: serde_json::Value = journal[0].event.data().unwrap();
        started["input"]["continues"].clone()
    };
    assert_eq!(origin(&first).await, json!(null));
    let conversation = Conversation::of(&first).await.unwrap();
    let second = runtime.start("agent", &conversation.continued("and?")).await.unwrap();
    in_time(second.result::<String>()).await.unwrap();
    let expected = json!({"run_id": first.id(), "turns": 1});
    assert_eq!(origin(&second).await, expected);
    let conversation = Conversation::of(&second).await.unwrap();
    let third = runtime.start("agent", &conversation.from_turn(1).unwrap()).await.unwrap();
    in_time(third.result::<String>()).await.unwrap();
    let expected = json!({"run_id": second.id(), "turns": 0});
    assert_eq!(origin(&third).await, expected);
}

#[tokio::test]
async fn should_list_the_runs_of_a_conversation() {
    let texts = ["one", "alone", "two", "other two", "three"].map(text);
    let store = store();
    let agent = LlmAgent::new(scripted(texts));
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let ended = async |prompt: &Prompt| {
        let run = runtime.start("agent", prompt).await.unwrap();
        in_time(run.result::<String>()).await.unwrap();
        let conversation = Conversation::of(&run).await.unwrap();
        (run.id().to_owned(), conversation)
    };
    let (first, begun) = ended(&Prompt::new("go")).await;
    let (alone, _) = ended(&Prompt::new("go")).await;
    let (second, continued) = ended(&begun.continued("and?")).await;
    let (other, _) = ended(&begun.from_turn(1).unwrap()).await;
    let (third, _) = ended(&continued.continued("and?")).await;
    let links = async |run_id: &str| {
        let runs = Conversation::runs(&*store, run_id).await.unwrap();
        let link = |it: ConversationRun| (it.run.id, it.continues.map(|it| (it.run_id, it.turns)));
        runs.into_iter().map(link).collect::<Vec<_>>()
    };
    let all = [
        (first.clone(), None),
        (second.clone(), Some((first.clone(), 1))),
        (other.clone(), Some((first.clone(), 0))),
        (third.clone(), Some((second.clone(), 1))),
    ];
    for run_id in [&first, &second, &other, &third] {
        assert_eq!(links(run_id).await, all);
    }
    assert_eq!(links(&alone).await, [(alone.clone(), None)]);
    let error = Conversation::runs(&*store, "unknown").await.unwrap_err();
    assert_eq!(error.code(), "RUN_NOT_FOUND");
}

/// The sizes of the parameters of the model calls in a journal.
async fn sizes(run: &RunHandle) -> Vec<usize> {
    let journal = run.journal(0, 1000).await.unwrap();
    let assigned = journal.iter().filter(|recorded| {
        recorded.event.event_type.as_str() == "agents.agent_model.task_assigned"
    });
    assigned.map(|recorded| recorded.event.payload.as_str().len()).collect()
}

#[tokio::test]
async fn should_record_each_message_of_a_conversation_a_bounded_number_of_times() {
    let words = "w".repeat(1000);
    let calls = (0..20).map(|turn| search_call(&format!("{turn} {words}")));
    let model = scripted(calls.chain([text("done")]));
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(search_tool())).await;
    let run = start(&runtime).await;
    in_time(run.result::<String>()).await.unwrap();
    let sizes = sizes(&run).await;
    assert_eq!(sizes.len(), 21);
    assert!(sizes.iter().all(|bytes| *bytes < 4000), "{sizes:?}");
    // The model nevertheless gets the whole conversation.
    let messages: Vec<_> = model.requests().iter().map(|it| it.messages.len()).collect();
    assert_eq!(messages, (0..21).map(|turn| 1 + 2 * turn).collect::<Vec<_>>());
    let turns = Conversation::of(&run).await.unwrap();
    assert_eq!(turns.turns()[20].messages, model.requests()[20].messages);
}

/// Runs an agent whose model calls are made by new processes, which have never seen the run. With
/// `has_store`, they have its store.
async fn alternate(has_store: bool) -> (RunHandle, Arc<ScriptedModel>, Runtime) {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let store = store();
    let model =
        scripted([search_call("one"), search_call("two"), search_call("three"), text("end")]);
    let built = || LlmAgent::new(Arc::clone(&model)).tool(search_tool()).build("agent").unwrap();
    let engine = Runtime::builder()
        .broker(Arc::clone(&broker))
        .store(Arc::clone(&store))
        .workflow_dyn(built().workflow().unwrap())
        .agents(built().tool_agent().unwrap())
        .start()
        .await
        .unwrap();
    let run = engine.start("agent", "go").await.unwrap();
    while model.requests().len() < 4 {
        let before = model.requests().len();
        let host = Runtime::builder().broker(Arc::clone(&broker)).agents(built().model_agent());
        let host = if has_store { host.store(Arc::clone(&store)).client_only() } else { host };
        let host = host.start().await.unwrap();
        in_time(async {
            while model.requests().len() == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        host.shutdown(PATIENCE).await.unwrap();
    }
    (run, model, engine)
}

#[tokio::test]
async fn should_read_a_conversation_that_another_process_knows() {
    let (run, model, _engine) = alternate(true).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "end");
    let messages: Vec<_> = model.requests().iter().map(|it| it.messages.len()).collect();
    assert_eq!(messages, [1, 3, 5, 7]);
}

#[tokio::test]
async fn should_ask_for_the_conversation_without_a_store() {
    let (run, model, _engine) = alternate(false).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "end");
    let messages: Vec<_> = model.requests().iter().map(|it| it.messages.len()).collect();
    assert_eq!(messages, [1, 3, 5, 7]);
    let spent = *Conversation::of(&run).await.unwrap().spent();
    assert_eq!(spent.requests, 4, "asking for the conversation is no request");
}

#[tokio::test]
async fn should_replace_earlier_messages_with_a_summary_and_keep_them_in_the_journal() {
    let long = |words: &str| search_call(words).with_usage(Usage::new(1000, 5));
    let model = scripted([
        search_call("one"),
        long("two"),
        text("they searched for one and two"),
        long("three"),
        text("and for three"),
        text("done"),
    ]);
    let agent = LlmAgent::new(Arc::clone(&model))
        .instructions("Search.")
        .tool(search_tool())
        .compaction(Compaction::above(500).with_kept_messages(2));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    model.assert_finished();
    let requests = model.requests();
    let messages: Vec<_> = requests.iter().map(|request| request.messages.len()).collect();
    // The two summaries replace three messages each: a summary of the former ones is one of them.
    assert_eq!(messages, [1, 3, 4, 3, 4, 3]);
    assert!(requests[3].messages[0].text().ends_with("they searched for one and two"));
    assert!(requests[5].messages[0].text().ends_with("and for three"));
    assert_eq!(requests[2].tool_choice, ToolChoice::None);

    let conversation = Conversation::of(&run).await.unwrap();
    assert_eq!(conversation.turns().len(), 4, "a summary is no turn");
    assert_eq!(conversation.messages().len(), 4);
    assert_eq!(conversation.spent().requests, 6, "a summary is paid for");
    let transcript = conversation.transcript();
    let roles: Vec<_> = transcript.iter().map(|message| message.role).collect();
    let turn = [Role::Assistant, Role::Tool];
    assert_eq!(roles, [&[Role::User][..], &turn, &turn, &turn, &[Role::Assistant]].concat());
    assert!(transcript.iter().all(|message| !message.text().contains("Summary")));
    let journal = run.journal(0, 1000).await.unwrap();
    let compacted = |it: &&aios_core::store::RecordedEvent| {
        it.event.event_type.as_str() == "llm.conversation.compacted"
    };
    assert_eq!(journal.iter().filter(compacted).count(), 2);
    // A run that begins again at a turn gets what the model got then.
    assert_eq!(conversation.from_turn(3).unwrap().messages, requests[3].messages);
}

/// A summary that lacks its end would lose what the end says.
#[tokio::test]
async fn should_keep_the_messages_if_the_summary_was_cut_off() {
    let long = search_call("two").with_usage(Usage::new(1000, 5));
    let cut = text("they searched for one and").with_finish_reason(FinishReason::Length);
    let model = scripted([search_call("one"), long, cut, text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model))
        .tool(search_tool())
        .compaction(Compaction::above(500).with_kept_messages(2));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    let requests = model.requests();
    assert_eq!(requests[3].messages.len(), 5);
    assert_eq!(requests[3].messages[0].text(), "go");
}

/// The results that a run gets which continues another one.
async fn continued_results(run: &RunHandle) -> Vec<(String, String, bool)> {
    let messages = Conversation::of(run).await.unwrap().continued("Continue.").messages;
    let [.., calls, results, last] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((calls.role, last.text().as_str()), (Role::Assistant, "Continue."));
    let results = results.content.iter().map(|part| match part {
        Part::ToolResult(it) => (it.call_id.clone(), it.content.clone(), it.is_error),
        other => panic!("{other:?}"),
    });
    results.collect()
}

#[tokio::test]
async fn should_continue_after_calls_with_the_results_that_are_known() {
    // The run ended before the model got the results.
    let both = ModelResponse::new(vec![
        Part::tool_call("a", "search", &json!({"words": "one"})),
        Part::tool_call("b", "search", &json!({"words": 2})),
    ]);
    let agent = LlmAgent::new(scripted([both])).tool(search_tool());
    let limited = runtime(agent.budget(Budget::new().with_requests(1))).await;
    let run = start(&limited).await;
    assert_eq!(failure(&run).await.code, "BUDGET_EXCEEDED");
    let results = continued_results(&run).await;
    assert_eq!(results[0], ("a".to_owned(), "found one".to_owned(), false));
    assert_eq!((results[1].0.as_str(), results[1].2), ("b", true));
    assert!(results[1].1.contains("/words"), "{results:?}");

    // A person has not decided.
    let agent = LlmAgent::new(scripted([search_call("one")]));
    let asking = runtime(agent.tool(search_tool().with_approval(Approval::Required))).await;
    let run = start(&asking).await;
    one_pending(&run).await;
    assert!(continued_results(&run).await[0].1.contains("unknown"));

    // The call was the output.
    let model = ScriptedModel::new([call("c", "final_result", &json!({"result": 7}))])
        .with_capabilities(Capabilities::none().with_tools(true));
    let output = runtime(LlmAgent::new(model).output::<u8>()).await;
    let run = start(&output).await;
    assert_eq!(in_time(run.result::<u8>()).await.unwrap(), 7);
    assert_eq!(
        continued_results(&run).await,
        [("c".into(), "The result was taken.".into(), false)]
    );
}

/// Another process makes the second request, and cannot read the conversation so far.
#[tokio::test]
async fn should_count_no_request_that_could_not_be_made() {
    let store = store();
    let model = scripted([search_call("a"), text("done")]);
    let process = async |store: &Arc<dyn Store>| {
        let tool = search_tool().with_approval(Approval::Required);
        let agent = LlmAgent::new(Arc::clone(&model)).tool(tool).budget(Budget::new());
        builder(store).llm_agent("agent", agent).unwrap().start().await.unwrap()
    };
    let first = process(&store).await;
    let run = first.start("agent", "go").id("run").await.unwrap();
    let signal = one_pending(&run).await.signal;
    first.shutdown(PATIENCE).await.unwrap();

    let faulty = FaultyStore::new(Arc::clone(&store));
    let fails = Arc::new(AtomicBool::new(false));
    let assigned = Arc::clone(&fails);
    faulty.on_append(move |append| {
        let assigns =
            |event: &Event| event.event_type.as_str() == "agents.agent_model.task_assigned";
        assigned.fetch_or(append.events.iter().any(assigns), Ordering::SeqCst);
        None
    });
    let refused = Arc::clone(&fails);
    faulty.on_call(move |call| {
        let refuses = call.starts_with("read_stream") && refused.swap(false, Ordering::SeqCst);
        refuses.then(|| faulty::Fault::Refuse(faulty::store_unavailable()))
    });
    let second: Arc<dyn Store> = faulty.clone();
    let second = process(&second).await;
    let run = second.handle("run").await.unwrap();
    run.signal(&signal, &Decision::Approve).await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    faulty.heal();
    let journal = run.journal(0, 1000).await.unwrap();
    assert!(journal.iter().any(|it| it.event.event_type.action() == "task_failed"), "it could not");
    let conversation = Conversation::of(&run).await.unwrap();
    assert_eq!((conversation.spent().requests, model.requests().len()), (2, 2));
    assert_eq!(model.requests()[1].messages.len(), 3);
}

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::text).collect()
}

/// A run that continues a conversation, and whose first request has no answer.
#[tokio::test]
async fn should_keep_the_conversation_of_a_run_without_a_response() {
    let earlier = ["one", "two", "three"];
    let prompt = Prompt::new("one")
        .with_message(Message::assistant("two"))
        .with_message(Message::user("three"));

    // The request fails.
    let refused = ModelError::new(ModelErrorKind::InvalidRequest, "no");
    let failing = runtime(LlmAgent::new(ScriptedModel::with_results([Err(refused)]))).await;
    let run = failing.start("agent", &prompt).await.unwrap();
    assert_eq!(failure(&run).await.code, "MODEL_INVALID_REQUEST");
    let conversation = Conversation::of(&run).await.unwrap();
    assert_eq!(texts(&conversation.messages()), earlier);
    assert_eq!(texts(&conversation.transcript()), earlier);
    assert!(conversation.turns().is_empty());
    let next = conversation.continued("shorter, please").messages;
    assert_eq!(texts(&next), ["one", "two", "three", "shorter, please"]);

    // A guardrail stops the run before its first request.
    let trips = |_: Vec<Message>| async { Ok::<_, TaskError>(Verdict::trip("no")) };
    let agent = LlmAgent::new(scripted([])).guardrail(Guardrail::input("none", trips));
    let stopped = runtime(agent).await;
    let run = stopped.start("agent", &prompt).await.unwrap();
    assert_eq!(failure(&run).await.code, "GUARDRAIL_TRIPPED");
    assert_eq!(texts(&Conversation::of(&run).await.unwrap().messages()), earlier);
}

/// The messages of a request without an answer hold the results of the calls before it.
#[tokio::test]
async fn should_keep_the_messages_of_a_request_without_an_answer() {
    let refused = ModelError::new(ModelErrorKind::InvalidRequest, "no");
    let model = ScriptedModel::with_results([Ok(search_call("one")), Err(refused)]);
    let failing = runtime(LlmAgent::new(model).tool(search_tool())).await;
    let run = start(&failing).await;
    failure(&run).await;
    let conversation = Conversation::of(&run).await.unwrap();
    let roles = |messages: &[Message]| messages.iter().map(|it| it.role).collect::<Vec<_>>();
    let so_far = [Role::User, Role::Assistant, Role::Tool];
    assert_eq!(roles(&conversation.messages()), so_far);
    assert_eq!(conversation.results(), None, "the messages hold them");
    let next = conversation.continued("Continue.").messages;
    assert_eq!(roles(&next), [&so_far[..], &[Role::User]].concat());
}

/// A `write` call without a known outcome, beside the result.
#[tokio::test]
async fn should_continue_with_the_result_that_a_person_has_given() {
    let hangs = |_: Query| std::future::pending::<Result<String, TaskError>>();
    let send = Tool::write("send", "Sends.", hangs).with_timeout(Duration::from_millis(50));
    let both = ModelResponse::new(vec![
        Part::tool_call("a", "send", &json!({"words": "x"})),
        Part::tool_call("b", "final_result", &json!({"result": 7})),
    ]);
    let model = ScriptedModel::new([both]).with_capabilities(Capabilities::none().with_tools(true));
    let store = store();
    let agent = LlmAgent::new(model).tool(send).write_log(Arc::clone(&store)).output::<u8>();
    let runtime = builder(&store).llm_agent("agent", agent).unwrap().start().await.unwrap();
    let run = start(&runtime).await;
    let signal = one_pending(&run).await.signal;
    let done = Resolution::Done { result: "sent by hand".to_owned() };
    run.signal(&signal, &done).await.unwrap();
    assert_eq!(in_time(run.result::<u8>()).await.unwrap(), 7);
    let results = continued_results(&run).await;
    assert_eq!(results[0], ("a".to_owned(), "sent by hand".to_owned(), false));
    assert_eq!(results[1].1, "The result was taken.");
}

#[tokio::test]
async fn should_continue_with_the_results_of_child_runs_and_handovers() {
    let calls = ModelResponse::new(vec![
        Part::tool_call("a", "ask", &json!({"task": "find"})),
        Part::tool_call("b", "ask", &json!({"task": "fail"})),
        Part::tool_call("c", "handover_to_billing", &json!({"reason": "r"})),
    ]);
    let searcher = FunctionModel::new(|request: ModelRequest| {
        let fails = request.messages[0].text() == "fail";
        let error = ModelError::new(ModelErrorKind::InvalidRequest, "too odd");
        std::future::ready(if fails { Err(error) } else { Ok(text("found")) })
    });
    let agent = LlmAgent::new(scripted([calls]))
        .tool(Tool::agent("ask", "Asks.", "searcher"))
        .handover("billing", "Invoices.", LlmAgent::new(scripted([])));
    let agent = agent.budget(Budget::new().with_requests(5).with_at_limit(AtLimit::Ask));
    let builder = builder(&store()).llm_agent("agent", agent).unwrap();
    let runtime = builder.llm_agent("searcher", LlmAgent::new(searcher)).unwrap();
    let runtime = runtime.start().await.unwrap();
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "MODEL_UNEXPECTED_REQUEST");
    // The request after the calls has them in its messages; without it, the journal has.
    let journal = run.journal(0, 1000).await.unwrap();
    let events = journal.iter().map(|it| &it.event);
    let is_second =
        |event: &Event| event.event_type.as_str() == "agents.agent_billing_model.task_assigned";
    let before: Vec<_> = events.take_while(|event| !is_second(event)).collect();
    assert!(before.len() < journal.len(), "another agent has continued");
    let results = Conversation::from_journal(before).unwrap().results().unwrap();
    let results: Vec<_> = results
        .content
        .iter()
        .map(|part| match part {
            Part::ToolResult(it) => (it.call_id.as_str(), it.content.as_str(), it.is_error),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results[0], ("a", "found", false));
    assert!(results[1].2 && results[1].1.contains("too odd"), "{results:?}");
    assert_eq!(results[2], ("c", "The conversation continues with agent_billing.", false));
}

/// Tokens of a model that failed say nothing about the length of the conversation.
#[tokio::test]
async fn should_not_compact_because_of_tokens_of_a_failed_model() {
    let failed =
        || Err(ModelError::new(ModelErrorKind::Backend, "no").with_usage(Usage::new(1000, 5)));
    let first = ScriptedModel::with_results([failed(), failed(), failed()]);
    let second = scripted([search_call("one"), search_call("two"), text("done")]);
    let model = Fallback::new(first).or(Arc::clone(&second));
    let agent = LlmAgent::new(model)
        .tool(search_tool())
        .compaction(Compaction::above(500).with_kept_messages(2));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
    second.assert_finished();
}

#[tokio::test]
async fn should_not_pay_for_a_summary_that_no_request_needs() {
    let long = |words: &str| search_call(words).with_usage(Usage::new(1000, 5));
    let model = scripted([search_call("one"), long("two")]);
    let agent = LlmAgent::new(Arc::clone(&model))
        .tool(search_tool())
        .max_turns(2)
        .compaction(Compaction::above(500).with_kept_messages(2));
    let runtime = runtime(agent).await;
    let run = start(&runtime).await;
    assert_eq!(failure(&run).await.code, "TURN_LIMIT");
    assert_eq!(model.requests().len(), 2);
}

/// Each summary is paid for, whatever the responses between them are.
#[tokio::test]
async fn should_bound_the_summaries_that_fail_in_a_row() {
    let long = |words: &str| search_call(words).with_usage(Usage::new(1000, 5));
    let cut = || text("they searched for").with_finish_reason(FinishReason::Length);
    let mut turns = vec![search_call("0")];
    turns.extend((1..9).flat_map(|turn| [long(&turn.to_string()), cut()]));
    let model = scripted(turns);
    let agent = LlmAgent::new(Arc::clone(&model))
        .tool(search_tool())
        .max_faults(2)
        .compaction(Compaction::above(500).with_kept_messages(2));
    let runtime = runtime(agent).await;
    let failure = failure(&start(&runtime).await).await;
    assert_eq!(failure.code, "MODEL_FAULTS");
    assert!(failure.message.contains("3 summaries"), "{failure}");
    assert_eq!(model.requests().len(), 7, "three summaries");
}

/// A summary replaces the messages, so a part of one would lose what it does not mention.
#[tokio::test]
async fn should_keep_the_conversation_if_its_summary_may_be_incomplete() {
    for reason in [FinishReason::Other("paused".to_owned()), FinishReason::ToolCalls] {
        let long = |words: &str| search_call(words).with_usage(Usage::new(1000, 5));
        let model = scripted([
            search_call("0"),
            long("1"),
            text("they searched for").with_finish_reason(reason),
            text("done"),
        ]);
        let agent = LlmAgent::new(Arc::clone(&model))
            .tool(search_tool())
            .compaction(Compaction::above(500).with_kept_messages(2));
        let runtime = runtime(agent).await;
        assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "done");
        assert_eq!(model.requests()[3].messages.len(), 5);
    }
}

#[tokio::test]
async fn should_begin_to_count_failed_summaries_again_after_a_good_one() {
    let long = |words: &str| search_call(words).with_usage(Usage::new(1000, 5));
    let cut = || text("they searched for").with_finish_reason(FinishReason::Length);
    let model = scripted([
        search_call("0"),
        long("1"),
        cut(),
        long("2"),
        text("a summary"),
        long("3"),
        cut(),
        text("done"),
    ]);
    let agent = LlmAgent::new(Arc::clone(&model))
        .tool(search_tool())
        .max_faults(1)
        .compaction(Compaction::above(500).with_kept_messages(2));
    let runtime = runtime(agent).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "done");
}

/// The first summary is in use, and the second one is cut off, or no request has used it.
#[tokio::test]
async fn should_not_repeat_messages_that_a_summary_did_not_replace() {
    let long = |words: &str| search_call(words).with_usage(Usage::new(1000, 5));
    let cut = text("and for").with_finish_reason(FinishReason::Length);
    let turn = [Role::Assistant, Role::Tool];
    let begun = [&[Role::User][..], &turn, &turn].concat();
    let ended = [&begun[..], &turn, &[Role::Assistant]].concat();
    let unused = [&begun[..], &[Role::Assistant]].concat();
    for (second, requests, roles) in [(cut, 6, ended), (text("and for three"), 5, unused)] {
        let model = scripted([
            search_call("one"),
            long("two"),
            text("they searched for one and two"),
            long("three"),
            second,
            text("done"),
        ]);
        let agent = LlmAgent::new(model)
            .tool(search_tool())
            .budget(Budget::new().with_requests(requests))
            .compaction(Compaction::above(500).with_kept_messages(2));
        let runtime = runtime(agent).await;
        let run = start(&runtime).await;
        let _ended = in_time(run.result::<String>()).await;
        let transcript = Conversation::of(&run).await.unwrap().transcript();
        let found: Vec<_> = transcript.iter().map(|message| message.role).collect();
        assert_eq!(found, roles);
        assert!(transcript.iter().all(|message| !message.text().contains("Summary")));
    }
}

#[tokio::test]
async fn should_continue_with_the_instructions_and_the_subject_of_the_prompt() {
    let store = store();
    let model = scripted((0..4).map(|_| text("done")));
    let budget = aios_llm::budget::SubjectBudget::new(
        Arc::clone(&store),
        Duration::from_secs(1 << 30),
        aios_llm::budget::Limits::default(),
    );
    let agent = LlmAgent::new(Arc::clone(&model)).instructions("Write much.");
    let builder = builder(&store).llm_agent("agent", agent.subject_budget(budget.clone())).unwrap();
    let runtime = builder.start().await.unwrap();
    let prompt = Prompt::new("go").with_instructions("Write little.").with_subject("mary");
    let run = runtime.start("agent", &prompt).await.unwrap();
    in_time(run.result::<String>()).await.unwrap();
    let conversation = Conversation::of(&run).await.unwrap();
    for (prompt, instructions) in [
        (conversation.continued("more"), "Write little."),
        (conversation.from_turn(1).unwrap(), "Write little."),
        (conversation.continued("more").with_instructions("Write."), "Write."),
    ] {
        assert_eq!(prompt.subject.as_deref(), Some("mary"));
        let run = runtime.start("agent", &prompt).await.unwrap();
        in_time(run.result::<String>()).await.unwrap();
        let request = model.requests().pop().unwrap();
        assert_eq!(request.instructions.as_deref(), Some(instructions));
    }
    let spent = budget.spent("mary", aios_core::event::Timestamp::now()).await.unwrap();
    assert_eq!(spent.requests, 4);
}
