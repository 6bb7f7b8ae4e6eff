//! Checks of input and output, and limits of tools and models.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::prelude::*;
use aios_llm::{
    LlmAgent, LlmAgentError, ModelRequest, ModelResponse,
    guardrail::{Guardrail, Verdict},
    middleware::{Rate, RateLimit},
    model::{LanguageModel, Message, ModelErrorKind, Part},
    tool::{Effect, Tool},
};
use serde_json::json;

use crate::support::{Query, failure, in_time, runtime, scripted, start, text};

async fn no_keys(messages: Vec<Message>) -> Result<Verdict, TaskError> {
    let has_key = messages.iter().any(|message| message.text().contains("sk-"));
    Ok(if has_key { Verdict::trip("the prompt has a key") } else { Verdict::Pass })
}

#[tokio::test]
async fn should_stop_a_run_before_its_first_request() {
    let model = scripted([text("done")]);
    let agent = LlmAgent::new(Arc::clone(&model)).guardrail(Guardrail::input("no_keys", no_keys));
    let runtime = runtime(agent).await;
    let run = runtime.start("agent", "use sk-1").await.unwrap();
    let failure = failure(&run).await;
    assert_eq!(failure.code, "GUARDRAIL_TRIPPED");
    let expected =
        json!({"guardrail": "no_keys", "stage": "input", "reason": "the prompt has a key"});
    assert_eq!(failure.details.to_value(), expected);
    assert!(model.requests().is_empty());
    let journal = run.journal(0, 1000).await.unwrap();
    let tripped = journal.iter().any(|it| it.event.event_type.as_str() == "llm.guardrail.tripped");
    assert!(tripped, "the event is in the log of the run");

    let run = runtime.start("agent", "use your own").await.unwrap();
    assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
}

#[tokio::test]
async fn should_check_the_output_once_and_fail_with_a_guardrail_that_fails() {
    let polite = Guardrail::output("polite", |output: Payload| async move {
        match output.decode::<String>().ok().as_deref() {
            Some("rude") => Ok(Verdict::trip("it is rude")),
            Some("odd") => Err(TaskError::terminal(Failure::new("NO_IDEA", "it is odd"))),
            _ => Ok(Verdict::Pass),
        }
    });
    for (output, code) in [("rude", "GUARDRAIL_TRIPPED"), ("odd", "NO_IDEA")] {
        let agent = LlmAgent::new(scripted([text(output)])).guardrail(polite.clone());
        let runtime = runtime(agent).await;
        assert_eq!(failure(&start(&runtime).await).await.code, code);
    }
    let runtime = runtime(LlmAgent::new(scripted([text("fine")])).guardrail(polite)).await;
    assert_eq!(in_time(start(&runtime).await.result::<String>()).await.unwrap(), "fine");
}

#[tokio::test]
async fn should_run_at_most_as_many_calls_of_a_tool_as_allowed() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&running), Arc::clone(&most));
    let tool = Tool::with_context("work", "Works.", Effect::Read, move |_, query: Query| {
        let (running, most) = counts.clone();
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, TaskError>(query.words)
        }
    });
    let calls = (0..12)
        .map(|call| Part::tool_call(call.to_string(), "work", &json!({"words": call.to_string()})));
    let model = scripted([ModelResponse::new(calls.collect()), text("done")]);
    let runtime = runtime(LlmAgent::new(model).tool(tool.with_concurrency(2))).await;
    in_time(start(&runtime).await.result::<String>()).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn should_reject_requests_above_the_rate_and_say_when_to_come_back() {
    let model = scripted([text("one"), text("two")]);
    let rate = Rate::new(2, Duration::from_secs(3600));
    let limited = |model| RateLimit::new(model, rate.clone()).with_longest_wait(Duration::ZERO);
    let (first, second) = (limited(Arc::clone(&model)), limited(Arc::clone(&model)));
    let request = ModelRequest::new("hi");
    first.complete(&request).await.unwrap();
    second.complete(&request).await.unwrap();
    let error = first.complete(&request).await.unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::RateLimited);
    assert!(error.retry_after().is_some_and(|delay| delay > Duration::from_secs(1700)));
    assert_eq!(model.requests().len(), 2);
}

/// Tasks find a guardrail by its name, so a second one with the same name would never be checked.
#[test]
fn should_refuse_two_guardrails_with_one_name() {
    let output = |name: &str| {
        Guardrail::output(name, |_: Payload| async { Ok::<_, TaskError>(Verdict::Pass) })
    };
    for first in [output("policy"), Guardrail::input("policy", no_keys)] {
        let agent = LlmAgent::new(scripted([])).guardrail(first).guardrail(output("policy"));
        let error = agent.build("agent").unwrap_err();
        let LlmAgentError::InvalidGuardrail { name, .. } = &error else { panic!("{error}") };
        assert_eq!((name.as_str(), error.code()), ("policy", "INVALID_LLM_AGENT"));
        assert_eq!(error.to_string(), r#"guardrail "policy": the name is used twice"#);
    }
    let agent = LlmAgent::new(scripted([])).guardrail(Guardrail::input("no_keys", no_keys));
    assert!(agent.guardrail(output("policy")).build("agent").is_ok());
}
