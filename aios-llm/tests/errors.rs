//! Kinds of the errors that providers report.

use aios_llm::{
    LanguageModel, ModelError, ModelRequest,
    model::{FinishReason, ModelErrorKind as Kind, collect},
    providers::status_error,
};
use serde_json::{Value, json};

use crate::{
    providers::{STREAM, openai_at, raw},
    support::in_time,
};

/// An error in a body with this status, and the same error in a body that has the status of a success.
fn both(status: u16, error: &Value) -> [ModelError; 2] {
    let body = json!({ "error": error }).to_string();
    let model = openai_at("http://127.0.0.1:1/v1".to_owned());
    [status_error("m", status, None, &body), model.read_response(&body).unwrap_err()]
}

#[track_caller]
fn is(status: u16, error: &Value, kind: Kind, is_retryable: bool) {
    for found in both(status, error) {
        assert_eq!((found.kind(), found.is_retryable()), (kind, is_retryable), "{error}");
    }
}

/// The model has written a bad call or bad JSON, so another response may be good.
#[test]
fn should_ask_again_after_generation_that_the_provider_rejects() {
    for code in ["tool_use_failed", "json_validate_failed"] {
        let error = json!({
            "message": "Failed to call a function. Please adjust your prompt.",
            "type": "invalid_request_error",
            "code": code,
            "failed_generation": "prompt is too long",
        });
        is(400, &error, Kind::InvalidResponse, true);
    }
}

#[test]
fn should_know_a_request_that_is_refused() {
    let filtered = json!({
        "message": "The response was filtered.",
        "type": null,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    });
    is(400, &filtered, Kind::Refused, false);
    let inner = json!({"message": "No.", "innererror": {"code": "ResponsibleAIPolicyViolation"}});
    is(400, &inner, Kind::Refused, false);
}

#[test]
fn should_know_that_a_context_is_too_short_by_the_type_and_by_any_letters() {
    let message = "request (9000 tokens) is larger than the context";
    let error = json!({"code": 400, "message": message, "type": "exceed_context_size_error"});
    is(400, &error, Kind::ContextOverflow, false);
    for message in [
        "the request exceeds the available context size",
        "Context size has been exceeded.",
        "PROMPT IS TOO LONG",
    ] {
        let error = json!({"message": message, "type": "invalid_request_error"});
        is(400, &error, Kind::ContextOverflow, false);
    }
}

/// Waiting does not help, but another provider may.
#[test]
fn should_not_repeat_a_request_that_no_money_is_left_for() {
    let error =
        json!({"message": "You exceeded your current quota.", "code": "insufficient_quota"});
    is(429, &error, Kind::RateLimited, false);
    let error = json!({"message": "Your credit balance is too low.", "type": "billing_error"});
    is(402, &error, Kind::RateLimited, false);
    let error = status_error("m", 402, None, "Insufficient Balance");
    assert_eq!((error.kind(), error.is_retryable()), (Kind::RateLimited, false));
}

/// Bedrock says so if the model has failed; the others mean a conflict, and a request that is too early.
#[test]
fn should_repeat_a_request_whose_status_is_temporary() {
    for status in [409, 424, 425] {
        let error = status_error("m", status, None, r#"{"message": "The model failed."}"#);
        assert_eq!((error.kind(), error.is_retryable()), (Kind::Backend, true), "{status}");
    }
}

/// Some servers end the stream of a refusal without the marker of the end.
#[tokio::test]
async fn should_take_a_refusal_for_complete_without_the_marker_of_the_end() {
    let event = |reason: &str| {
        let event = json!({"choices": [{"delta": {"content": "I"}, "finish_reason": reason}]});
        format!("data: {event}\n\n").into_bytes()
    };
    let read = async |reason| {
        let model = openai_at(raw(vec![STREAM.into(), event(reason)]).await);
        let stream = model.stream(&ModelRequest::new("go")).await.unwrap();
        in_time(collect(stream)).await
    };
    assert_eq!(read("content_filter").await.unwrap().finish_reason, FinishReason::Refusal);
    assert_eq!(read("stop").await.unwrap_err().kind(), Kind::InvalidResponse);
}
