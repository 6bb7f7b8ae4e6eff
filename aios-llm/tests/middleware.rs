use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_core::{
    clock::{Clock, VirtualClock},
    retry::RetryPolicy,
};
use aios_llm::{
    Conversation, LanguageModel, LlmAgent, ModelError, ModelRequest, ModelResponse, Streaming,
    budget::Budget,
    middleware::{Cache, Circuit, CircuitBreaker, Fallback, Rate, RateLimit},
    model::{Capabilities, FinishReason, ModelErrorKind, ModelStream, StreamEvent, Usage},
    providers::{OpenAiModel, ProviderOptions},
    testing::{FakeProvider, FakeReply, ScriptedModel},
};
use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::support::{in_time, runtime, scripted, start, text};

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

/// The requests that it has rejected were answered by the other model, and do not come back.
#[tokio::test]
async fn should_ask_a_model_again_as_soon_as_its_rate_has_a_place() {
    let clock = VirtualClock::default();
    let first = scripted((0..3).map(|_| text("first")));
    let second = scripted((0..20).map(|_| text("second")));
    let rate = Rate::new(2, Duration::from_secs(10));
    let limited = RateLimit::new(first, rate.clone()).with_longest_wait(Duration::ZERO);
    let limited = limited.with_clock(Arc::new(clock.clone()));
    let model = Fallback::new(limited).or(second).with_clock(Arc::new(clock.clone()));
    let answers = futures_util::future::join_all((0..20).map(|_| answer(&model))).await;
    assert_eq!(
        answers.iter().filter(|it| it.as_deref().is_ok_and(|text| text == "first")).count(),
        2
    );
    clock.advance(Duration::from_secs(5));
    assert_eq!(answer(&model).await.unwrap(), "first");

    let alone = RateLimit::new(failing([]), rate).with_longest_wait(Duration::ZERO);
    let alone = alone.with_clock(Arc::new(clock.clone()));
    let rejected = answer(&alone).await.unwrap_err();
    assert_eq!(rejected.retry_after(), Some(Duration::from_secs(5)), "the next place");
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
async fn should_share_a_circuit_among_the_models_of_a_provider() {
    let busy = || Err(error(ModelErrorKind::Overloaded));
    let large = Arc::new(ScriptedModel::with_results([busy(), Ok(text("large"))]));
    let small = Arc::new(ScriptedModel::with_results([busy(), Ok(text("small"))]));
    let (clock, circuit) = (VirtualClock::default(), Circuit::new(2, Duration::from_secs(30)));
    let guarded = |model| {
        let guarded = CircuitBreaker::with_circuit(model, circuit.clone());
        guarded.with_clock(Arc::new(clock.clone()))
    };
    let models = [guarded(Arc::clone(&large)), guarded(Arc::clone(&small))];
    for model in &models {
        assert_eq!(answer(model).await.unwrap_err().kind(), ModelErrorKind::Overloaded);
    }
    for model in &models {
        assert_eq!(answer(model).await.unwrap_err().kind(), ModelErrorKind::CircuitOpen);
    }
    assert_eq!((large.requests().len(), small.requests().len()), (1, 1));
    clock.advance(Duration::from_secs(30));
    assert_eq!(answer(&models[1]).await.unwrap(), "small");
    assert_eq!(answer(&models[0]).await.unwrap(), "large");
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

/// Never answers, and counts its requests. A stream begins, and then has no piece.
#[derive(Default)]
struct Hanging(AtomicU32);

#[async_trait]
impl LanguageModel for Hanging {
    fn name(&self) -> &str {
        "test:hanging"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn complete(&self, _: &ModelRequest) -> Result<ModelResponse, ModelError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, ModelError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Box::pin(futures_util::stream::pending()))
    }
}

/// The timeout of the call leaves time for the next model.
#[tokio::test]
async fn should_ask_the_next_model_if_one_does_not_answer() {
    for streaming in [Streaming::Off, Streaming::On] {
        let model = Fallback::new(Hanging::default()).or(scripted([text("second")]));
        let agent = LlmAgent::new(model).streaming(streaming);
        let runtime = runtime(agent.model_timeout(Duration::from_secs(2))).await;
        let run = start(&runtime).await;
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "second");
        let journal = run.journal(0, 1000).await.unwrap();
        let failed = journal.iter().filter(|it| it.event.event_type.action() == "task_failed");
        assert_eq!(failed.count(), 0, "the first attempt has the answer");
    }
}

#[tokio::test]
async fn should_open_the_circuit_of_a_model_that_does_not_answer() {
    let hanging = Arc::new(Hanging::default());
    let guarded = CircuitBreaker::new(Arc::clone(&hanging), 1, Duration::from_secs(3600));
    let model = Fallback::new(guarded).or(scripted([text("one"), text("two")]));
    let agent = LlmAgent::new(model).model_timeout(Duration::from_secs(2));
    let runtime = runtime(agent).await;
    for expected in ["one", "two"] {
        let run = start(&runtime).await;
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), expected);
    }
    assert_eq!(hanging.0.load(Ordering::SeqCst), 1);
}

/// A stream that has begun fails later, or is dropped because nothing more arrives in time.
#[tokio::test]
async fn should_open_the_circuit_of_a_model_whose_streams_do_not_end() {
    let clock = VirtualClock::default();
    let long = ModelResponse::text("a long answer");
    let provider = FakeProvider::start([FakeReply::cut_off(long, 3)]).await.unwrap();
    let options = ProviderOptions::new("m").with_base_url(provider.openai_url());
    let breaks_off = CircuitBreaker::new(OpenAiModel::new(options).unwrap(), 1, MINUTE)
        .with_clock(Arc::new(clock.clone()));
    let pieces: Vec<_> = in_time(breaks_off.stream(&request()).await.unwrap().collect()).await;
    assert!(pieces.last().unwrap().is_err(), "{pieces:?}");
    assert_eq!(answer(&breaks_off).await.unwrap_err().kind(), ModelErrorKind::CircuitOpen);

    // Ends without the whole response.
    let ends = CircuitBreaker::new(Streams(|| Box::pin(stream::empty())), 1, MINUTE);
    assert_eq!(in_time(ends.stream(&request()).await.unwrap().count()).await, 0);
    assert_eq!(answer(&ends).await.unwrap_err().kind(), ModelErrorKind::CircuitOpen);

    let hangs = CircuitBreaker::new(Streams(|| Box::pin(stream::pending())), 1, MINUTE)
        .with_clock(Arc::new(clock.clone()));
    let mut request = request();
    request.timeout = Some(MINUTE);
    let begun = hangs.stream(&request).await.unwrap();
    clock.advance(MINUTE);
    drop(begun);
    assert_eq!(answer(&hangs).await.unwrap_err().kind(), ModelErrorKind::CircuitOpen);
}

/// A stream that its reader drops early says nothing about its model, and a whole one is a success.
#[tokio::test]
async fn should_not_count_a_stream_that_is_dropped_in_time() {
    let clock = VirtualClock::default();
    let busy = || Err(error(ModelErrorKind::Overloaded));
    let inner = ScriptedModel::with_results([busy(), Ok(text("a")), busy(), Ok(text("b"))]);
    let model = CircuitBreaker::new(inner, 2, MINUTE).with_clock(Arc::new(clock.clone()));
    let mut request = request();
    request.timeout = Some(MINUTE);
    assert!(model.stream(&request).await.is_err());
    let whole: Vec<_> = in_time(model.stream(&request).await.unwrap().collect()).await;
    assert!(matches!(whole.last(), Some(Ok(StreamEvent::Finished(_)))));
    assert!(model.stream(&request).await.is_err());
    assert_eq!(answer(&model).await.unwrap(), "b");

    let hangs = CircuitBreaker::new(Streams(|| Box::pin(stream::pending())), 1, MINUTE)
        .with_clock(Arc::new(clock.clone()));
    drop(hangs.stream(&request).await.unwrap());
    assert!(hangs.stream(&request).await.is_ok());

    // It is late, but it does not hang.
    let slow = Streams(|| Box::pin(stream::repeat_with(|| Ok(StreamEvent::Text("a".to_owned())))));
    let slow = CircuitBreaker::new(slow, 1, MINUTE).with_clock(Arc::new(clock.clone()));
    let mut begun = slow.stream(&request).await.unwrap();
    clock.advance(MINUTE);
    begun.next().await.unwrap().unwrap();
    drop(begun);
    assert!(slow.stream(&request).await.is_ok());
}

/// A piece of a stream that is not shown needs no reset.
#[tokio::test]
async fn should_report_what_all_models_of_a_fallback_have_used_so_far() {
    fn reporting<const N: usize>(inputs: [u64; N]) -> ModelStream {
        let pieces = inputs.map(|input| Ok(StreamEvent::Usage(Usage::new(input, 1))));
        let fails = Err(error(ModelErrorKind::Unavailable));
        Box::pin(stream::iter(pieces.into_iter().chain([fails])))
    }
    let first = Streams(|| reporting([10]));
    let second = Streams(|| reporting([20, 30]));
    let model = Fallback::new(first).or(second);
    let mut pieces: Vec<_> = in_time(model.stream(&request()).await.unwrap().collect()).await;
    let failed = pieces.pop().unwrap().unwrap_err();
    assert_eq!(failed.usage(), Some(Usage::new(40, 2)));
    let pieces: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
    let expected = [(10, 1), (30, 2), (40, 2)];
    let expected = expected.map(|(input, output)| StreamEvent::Usage(Usage::new(input, output)));
    assert_eq!(pieces, expected);
}

/// A stream that begins and fails is no success in between.
#[tokio::test]
async fn should_count_streams_that_fail_in_a_row() {
    let fails = Streams(|| Box::pin(stream::iter([Err(error(ModelErrorKind::Unavailable))])));
    let model = CircuitBreaker::new(fails, 2, MINUTE);
    for _ in 0..2 {
        let begun = model.stream(&request()).await.unwrap();
        assert_eq!(begun.collect::<Vec<_>>().await.len(), 1);
    }
    assert_eq!(answer(&model).await.unwrap_err().kind(), ModelErrorKind::CircuitOpen);
}

/// The fallback gives each model a part of the time, and asks the next one then.
#[tokio::test]
async fn should_open_the_circuit_of_a_model_whose_stream_hangs_in_a_fallback() {
    let hanging = Arc::new(Hanging::default());
    let guarded = CircuitBreaker::new(Arc::clone(&hanging), 1, Duration::from_secs(3600));
    let model = Fallback::new(guarded).or(scripted([text("one"), text("two")]));
    let agent = LlmAgent::new(model).streaming(Streaming::On);
    let runtime = runtime(agent.model_timeout(Duration::from_secs(2))).await;
    for expected in ["one", "two"] {
        let run = start(&runtime).await;
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), expected);
    }
    assert_eq!(hanging.0.load(Ordering::SeqCst), 1);
}

const MINUTE: Duration = Duration::from_secs(60);

/// A model whose streams are all of one kind.
struct Streams(fn() -> ModelStream);

#[async_trait]
impl LanguageModel for Streams {
    fn name(&self) -> &str {
        "test:streams"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        aios_llm::model::collect(self.stream(request).await?).await
    }

    async fn stream(&self, _: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok((self.0)())
    }
}

/// A request that was not made uses up neither an attempt nor the budget.
#[tokio::test]
async fn should_complete_all_runs_whose_requests_have_to_wait() {
    let model = ScriptedModel::new((0..30).map(|_| text("done")));
    let rate = Rate::new(1, Duration::from_millis(5));
    let limited = RateLimit::new(model, rate).with_longest_wait(Duration::ZERO);
    let retry = RetryPolicy::fixed(2, Duration::from_millis(1));
    let agent = LlmAgent::new(limited).model_retry(retry);
    let runtime = runtime(agent.budget(Budget::new().with_requests(1))).await;
    let runs = futures_util::future::join_all((0..30).map(|_| start(&runtime))).await;
    for run in runs {
        assert_eq!(in_time(run.result::<String>()).await.unwrap(), "done");
        assert_eq!(Conversation::of(&run).await.unwrap().spent().requests, 1);
    }
}

fn wait(kind: ModelErrorKind, seconds: u64) -> Result<ModelResponse, ModelError> {
    Err(error(kind).with_retry_after(Duration::from_secs(seconds)))
}

fn scripts(
    results: impl IntoIterator<Item = Result<ModelResponse, ModelError>>,
) -> Arc<ScriptedModel> {
    Arc::new(ScriptedModel::with_results(results))
}

/// All models have asked to wait: none is asked before the first wait is over.
#[tokio::test]
async fn should_make_no_request_while_all_models_wait() {
    for streams in [false, true] {
        let clock = VirtualClock::default();
        let first = scripts([wait(ModelErrorKind::Overloaded, 10)]);
        let second = scripts([wait(ModelErrorKind::RateLimited, 5), Ok(text("second"))]);
        let models = Fallback::new(Arc::clone(&first)).or(Arc::clone(&second));
        let model = models.with_clock(Arc::new(clock.clone()));
        let ask = async || match streams {
            true => match model.stream(&request()).await {
                Ok(stream) => aios_llm::model::collect(stream).await,
                Err(error) => Err(error),
            },
            false => model.complete(&request()).await,
        };
        let failed = ask().await.unwrap_err();
        assert_eq!(failed.retry_after(), Some(Duration::from_secs(5)), "that of the first place");
        assert!(failed.is_requested());
        for left in [5, 2] {
            clock.advance(Duration::from_secs(5 - left) - clock.elapsed());
            let waits = ask().await.unwrap_err();
            assert!(!waits.is_requested() && waits.is_retryable(), "{waits}");
            assert_eq!(waits.kind(), ModelErrorKind::RateLimited);
            assert_eq!(waits.retry_after(), Some(Duration::from_secs(left)));
        }
        assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
        clock.advance(Duration::from_secs(2));
        assert_eq!(ask().await.unwrap().output_text(), "second");
        assert_eq!(first.requests().len(), 1);
    }
}

/// A caller need not wait for one model if another one can be asked again.
#[tokio::test]
async fn should_ask_to_wait_only_as_long_as_no_model_can_be_asked() {
    let overloaded = || Err(error(ModelErrorKind::Overloaded));
    let too_long = || Err(error(ModelErrorKind::ContextOverflow));
    let limited = |seconds| wait(ModelErrorKind::RateLimited, seconds);
    for (first, second, seconds) in [
        (limited(5), limited(10), Some(5)),
        (limited(10), limited(5), Some(5)),
        (limited(10), overloaded(), None),
        (overloaded(), limited(10), None),
        // It fails again whenever it is asked.
        (too_long(), limited(10), Some(10)),
    ] {
        let model = Fallback::new(scripts([first])).or(scripts([second]));
        let model = model.with_clock(Arc::new(VirtualClock::default()));
        let failed = model.complete(&request()).await.unwrap_err();
        assert_eq!(failed.retry_after(), seconds.map(Duration::from_secs));
    }
}
