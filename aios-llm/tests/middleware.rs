use std::{sync::Arc, time::Duration};

use aios_core::clock::VirtualClock;
use aios_llm::{
    LanguageModel, ModelError, ModelRequest, ModelResponse,
    middleware::{Cache, CircuitBreaker, Fallback},
    model::{Capabilities, FinishReason, ModelErrorKind, StreamEvent, Usage},
    providers::{OpenAiModel, ProviderOptions},
    testing::{FakeProvider, FakeReply, ScriptedModel},
};
use futures_util::StreamExt;

use crate::support::{in_time, scripted, text};

fn error(kind: ModelErrorKind) -> ModelError {
    ModelError::new(kind, "it failed")
}

fn failing(errors: impl IntoIterator<Item = ModelError>) -> Arc<ScriptedModel> {
    Arc::new(ScriptedModel::with_results(errors.into_iter().map(Err)))
}

fn request() -> ModelRequest {
    ModelRequest::new("hi")
}

async fn answer(model: &impl LanguageModel) -> Result<String, ModelError> {
    model.complete(&request()).await.map(|response| response.output_text())
}

#[tokio::test]
async fn should_ask_the_next_model_after_a_failure_that_may_not_be_its_own() {
    use ModelErrorKind as Kind;
    let falls_back = [
        Kind::RateLimited,
        Kind::Overloaded,
        Kind::Timeout,
        Kind::Unavailable,
        Kind::ContextOverflow,
        Kind::Refused,
        Kind::InvalidResponse,
        Kind::Backend,
    ];
    for kind in falls_back {
        let model = Fallback::new(failing([error(kind)])).or(scripted([text("second")]));
        assert_eq!(answer(&model).await.unwrap(), "second", "{kind:?}");
    }
    for kind in [Kind::Unauthorized, Kind::InvalidRequest, Kind::RequestForbidden] {
        let second = scripted([text("second")]);
        let model = Fallback::new(failing([error(kind)])).or(Arc::clone(&second));
        assert_eq!(answer(&model).await.unwrap_err().kind(), kind);
        assert!(second.requests().is_empty());
    }
}

#[tokio::test]
async fn should_give_the_last_error_and_all_billed_tokens() {
    let billed = |tokens| error(ModelErrorKind::InvalidResponse).with_usage(Usage::new(tokens, 1));
    let model = Fallback::new(failing([billed(10)])).or(failing([billed(5)]));
    let failed = model.complete(&request()).await.unwrap_err();
    assert_eq!(failed.usage(), Some(Usage::new(15, 2)));
    let model = Fallback::new(failing([billed(10)])).or(scripted([text("second")]));
    let response = model.complete(&request()).await.unwrap();
    assert_eq!((response.usage, response.own_usage()), (Usage::new(20, 6), Usage::new(10, 5)));
    let [failed] = &response.billed[..] else { panic!("{response:?}") };
    assert_eq!((failed.model.as_str(), failed.usage), ("test:scripted", Usage::new(10, 1)));
}

#[tokio::test]
async fn should_ask_the_next_model_after_a_refusal() {
    let refusal = || text("no").with_finish_reason(FinishReason::Refusal);
    let model = Fallback::new(scripted([refusal()])).or(scripted([text("yes")]));
    assert_eq!(answer(&model).await.unwrap(), "yes");
    let last = Fallback::new(scripted([refusal()]));
    let response = last.complete(&request()).await.unwrap();
    assert_eq!(response.finish_reason, FinishReason::Refusal);
}

#[tokio::test]
async fn should_leave_out_a_model_until_its_wait_is_over() {
    let clock = VirtualClock::default();
    let busy = error(ModelErrorKind::RateLimited).with_retry_after(Duration::from_secs(10));
    let first = Arc::new(ScriptedModel::with_results([Err(busy), Ok(text("first"))]));
    let second = scripted([text("second"), text("second")]);
    let model = Fallback::new(Arc::clone(&first)).or(second).with_clock(Arc::new(clock.clone()));
    assert_eq!(answer(&model).await.unwrap(), "second");
    clock.advance(Duration::from_secs(9));
    assert_eq!(answer(&model).await.unwrap(), "second");
    assert_eq!(first.requests().len(), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(answer(&model).await.unwrap(), "first");
}

#[test]
fn should_have_the_capabilities_that_all_models_share() {
    let tools = ScriptedModel::new([]).with_capabilities(Capabilities::none().with_tools(true));
    let model = Fallback::new(ScriptedModel::new([])).or(tools);
    assert_eq!(model.capabilities(), Capabilities::none().with_tools(true));
}

async fn pieces(model: &Fallback) -> Vec<Result<StreamEvent, ModelError>> {
    let stream = in_time(model.stream(&request())).await.unwrap();
    in_time(stream.collect()).await
}

#[tokio::test]
async fn should_begin_a_stream_again_only_if_something_was_shown() {
    let long = || ModelResponse::text("a long answer");
    for (reply, is_reset) in [
        (FakeReply::overloaded(), false),
        (FakeReply::cut_off(long(), 1), false),
        (FakeReply::cut_off(long(), 3), true),
    ] {
        let provider = FakeProvider::start([reply]).await.unwrap();
        let options = ProviderOptions::new("m").with_base_url(provider.openai_url());
        let model = OpenAiModel::new(options).unwrap();
        let pieces = pieces(&Fallback::new(model).or(scripted([text("second")]))).await;
        let events: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
        assert_eq!(events.contains(&StreamEvent::Reset), is_reset, "{events:?}");
        assert_eq!(events[events.len() - 2], StreamEvent::Text("second".to_owned()));
        assert!(matches!(events.last(), Some(StreamEvent::Finished(_))));
    }
}

#[tokio::test]
async fn should_make_no_requests_while_the_circuit_is_open() {
    let clock = VirtualClock::default();
    let busy = || Err(error(ModelErrorKind::Overloaded));
    let inner = ScriptedModel::with_results([busy(), busy(), busy(), Ok(text("back")), busy()]);
    let inner = Arc::new(inner);
    let model = CircuitBreaker::new(Arc::clone(&inner), 2, Duration::from_secs(30))
        .with_clock(Arc::new(clock.clone()));
    for _ in 0..2 {
        assert_eq!(answer(&model).await.unwrap_err().kind(), ModelErrorKind::Overloaded);
    }
    let open = answer(&model).await.unwrap_err();
    assert_eq!((open.code(), open.is_retryable()), ("MODEL_CIRCUIT_OPEN", true));
    assert_eq!(open.retry_after(), Some(Duration::from_secs(30)));
    assert_eq!(inner.requests().len(), 2);
    clock.advance(Duration::from_secs(30));
    assert_eq!(answer(&model).await.unwrap_err().kind(), ModelErrorKind::Overloaded);
    assert_eq!(answer(&model).await.unwrap_err().kind(), ModelErrorKind::CircuitOpen);
    clock.advance(Duration::from_secs(30));
    assert_eq!(answer(&model).await.unwrap(), "back");
    assert_eq!(answer(&model).await.unwrap_err().kind(), ModelErrorKind::Overloaded);
    assert_eq!(inner.requests().len(), 5, "one failure does not open it");
}

#[tokio::test]
async fn should_answer_equal_requests_from_the_cache_without_usage() {
    let cut = text("cut").with_finish_reason(FinishReason::Length);
    let inner = scripted([text("one"), cut, text("two")]);
    let model = Cache::new(Arc::clone(&inner), 1);
    let first = model.complete(&request()).await.unwrap();
    let again = model.complete(&request()).await.unwrap();
    assert_eq!((first.output_text(), again.output_text()), ("one".into(), "one".into()));
    assert_eq!((first.usage, again.usage), (Usage::new(10, 5), Usage::default()));
    let stream = model.stream(&request()).await.unwrap();
    assert_eq!(stream.count().await, 2);
    assert_eq!(inner.requests().len(), 1);

    let other = ModelRequest::new("other");
    assert_eq!(model.complete(&other).await.unwrap().output_text(), "cut");
    let stream = model.stream(&other).await.unwrap();
    assert_eq!(stream.count().await, 2, "a response that is cut off is not kept");
    assert_eq!(inner.requests().len(), 3);
    assert_eq!(model.complete(&other).await.unwrap().output_text(), "two");
    assert_eq!(inner.requests().len(), 3);
}

#[tokio::test]
async fn should_take_any_delay_that_a_model_asks_for() {
    let later =
        ModelError::new(ModelErrorKind::RateLimited, "later").with_retry_after(Duration::MAX);
    let first = ScriptedModel::with_results([Err(later)]);
    let models = Fallback::new(first).or(ScriptedModel::new([text("one"), text("two")]));
    for expected in ["one", "two"] {
        let response = models.complete(&ModelRequest::new("hi")).await.unwrap();
        assert_eq!(response.output_text(), expected);
    }
}
