//! Every fault of a provider, in every protocol: it is typed, recorded, and costs no second request.

use std::{sync::Arc, time::Duration};

use aios_agents::{RunHandle, prelude::*};
use aios_core::agent::TaskFailed;
use aios_llm::{
    Conversation, LlmAgent, ModelError, RuntimeBuilderExt, Streaming,
    model::Usage,
    testing::{FakeProvider, FakeReply},
};

use crate::support::{
    builder, in_time, models_with_timeout, search_call, search_tool, store, text,
};

/// A fault, its code, and whether the agent repeats the request.
fn faults() -> Vec<(FakeReply, &'static str, bool)> {
    vec![
        (FakeReply::rate_limited(Duration::ZERO), "MODEL_RATE_LIMITED", true),
        (FakeReply::overloaded(), "MODEL_OVERLOADED", true),
        (FakeReply::status(500, "internal"), "MODEL_BACKEND", true),
        (FakeReply::status(504, "slow"), "MODEL_TIMEOUT", true),
        (FakeReply::hang(), "MODEL_TIMEOUT", true),
        (FakeReply::malformed(), "MODEL_INVALID_RESPONSE", true),
        (FakeReply::cut_off(text("never"), 0), "MODEL_INVALID_RESPONSE", true),
        (FakeReply::cut_off(text("a long answer"), 2), "MODEL_INVALID_RESPONSE", true),
        (FakeReply::context_overflow(), "MODEL_CONTEXT_OVERFLOW", false),
        (FakeReply::status(401, "wrong key"), "MODEL_UNAUTHORIZED", false),
        (FakeReply::status(403, "not yours"), "MODEL_UNAUTHORIZED", false),
        (FakeReply::status(404, "no such model"), "MODEL_INVALID_REQUEST", false),
        (FakeReply::status(302, "elsewhere"), "MODEL_BACKEND", false),
    ]
}

/// The codes of the failures that a run has recorded.
async fn recorded(run: &RunHandle) -> Vec<String> {
    let journal = run.journal(0, 1000).await.unwrap();
    let failures = journal.iter().filter(|it| {
        let (_, entity, action) = it.event.event_type.segments();
        entity.ends_with("_model") && action == "task_failed"
    });
    failures.map(|it| it.event.data::<TaskFailed>().unwrap().failure.code).collect()
}

/// A call, the fault, and the answer, of which the fault stands in the middle.
async fn meet(fault: &FakeReply, code: &str, is_repeated: bool, protocol: usize, mode: Streaming) {
    let is_hanging = format!("{fault:?}").contains("Hang");
    let timeout = Duration::from_secs(if is_hanging { 2 } else { 60 });
    let replies = [
        FakeReply::response(search_call("rust")),
        fault.clone(),
        FakeReply::response(text("done")),
    ];
    let provider = FakeProvider::start(replies).await.unwrap();
    let model = models_with_timeout(&provider, timeout).swap_remove(protocol);
    let what = format!("{code} of {} ({mode:?})", model.name());
    let agent = || {
        LlmAgent::new(Arc::clone(&model))
            .tool(search_tool())
            .streaming(mode)
            .model_retry(RetryPolicy::fixed(2, Duration::from_millis(1)))
    };
    let store = store();
    let runtime = builder(&store).llm_agent("agent", agent()).unwrap().start().await.unwrap();
    let run = runtime.start("agent", "go").id("run").await.unwrap();
    let ended = in_time(run.result::<String>()).await;
    let requests = if is_repeated { 3 } else { 2 };
    match ended {
        Ok(answer) => assert!(is_repeated && answer == "done", "{what}"),
        Err(RunError::Failed { failure, .. }) => {
            assert_eq!((failure.code.as_str(), is_repeated), (code, false), "{what}");
            assert!(ModelError::from_failure(&failure).is_some(), "{what}");
        }
        Err(other) => panic!("{what}: {other}"),
    }
    assert_eq!(recorded(&run).await, [code], "{what}");
    let spent = *Conversation::of(&run).await.unwrap().spent();
    assert_eq!((spent.requests, spent.tool_calls), (requests, 1), "{what}");
    let billed = if is_repeated { Usage::new(20, 10) } else { Usage::new(10, 5) };
    // Anthropic and Gemini report usage in a stream before it is cut off.
    let is_begun = format!("{fault:?}").contains("cut_after: Some(2)");
    let is_reported = is_begun && matches!(mode, Streaming::On) && [2, 3].contains(&protocol);
    let reported = if is_reported { Usage::new(10, 1) } else { Usage::default() };
    assert_eq!(spent.usage, billed + reported, "{what}");
    runtime.shutdown(Duration::from_secs(10)).await.unwrap();
    // Another process with the same store pays for nothing again.
    let runtime = builder(&store).llm_agent("agent", agent()).unwrap().start().await.unwrap();
    let again = in_time(runtime.handle("run").await.unwrap().result::<String>()).await;
    assert_eq!(again.is_ok(), is_repeated, "{what}");
    assert_eq!(u64::try_from(provider.requests().len()).unwrap(), requests, "{what}");
}

async fn meet_all(protocol: usize) {
    for (fault, code, is_repeated) in faults() {
        for mode in [Streaming::Off, Streaming::On] {
            meet(&fault, code, is_repeated, protocol, mode).await;
        }
    }
}

macro_rules! protocols {
    ($($name:ident: $protocol:expr,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            meet_all($protocol).await;
        }
    )*};
}

protocols! {
    should_record_every_fault_of_chat_completions_once: 0,
    should_record_every_fault_of_responses_once: 1,
    should_record_every_fault_of_anthropic_once: 2,
    should_record_every_fault_of_gemini_once: 3,
    should_record_every_fault_of_bedrock_once: 4,
    should_record_every_fault_of_ollama_once: 5,
}
