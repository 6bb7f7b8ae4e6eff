//! Asks several models, one after the other.
//!
//! A response comes from one model; usage from all that were asked. The response therefore lists
//! what the models before it are billed for, so that a budget prices each with its own price. If
//! all fail, the error of the last one is returned, with the usage of all, and with the shortest wait
//! after which one of them can be asked again. While all of them wait, no request is made.
//!
//! In a stream, pieces may have been shown when a model fails. The next model then begins with
//! `Reset`, which tells readers to drop them. A refusal counts as a failure if another model is
//! left; from the last one it is the response.

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use aios_core::clock::{Clock, SystemClock};
use async_trait::async_trait;
use futures_util::{
    StreamExt,
    future::{self, Either},
    stream,
};
use parking_lot::Mutex;

use crate::model::{
    Capabilities, FinishReason, LanguageModel, ModelError, ModelErrorKind, ModelRequest,
    ModelResponse, ModelStream, ModelUsage, StreamEvent, Usage,
};

/// Failures after which another model may succeed.
const DEFAULT_KINDS: [ModelErrorKind; 9] = [
    ModelErrorKind::RateLimited,
    ModelErrorKind::Overloaded,
    ModelErrorKind::Timeout,
    ModelErrorKind::Unavailable,
    ModelErrorKind::ContextOverflow,
    ModelErrorKind::Refused,
    ModelErrorKind::InvalidResponse,
    ModelErrorKind::CircuitOpen,
    ModelErrorKind::Backend,
];

/// Asks another model when one fails, times out, refuses, or has a context that is too short.
///
/// Each model gets an equal share of what is left of the request's
/// [timeout](crate::model::ModelRequest::timeout), which an agent sets. A request times out after that share.
/// A stream times out if no piece arrives for that long.
///
/// A model that asks to wait (`Retry-After`) is left out until then. If all have to wait, no request is
/// made: the error says when the first of them can be asked again. A stream that fails after its first
/// piece begins again with [`StreamEvent::Reset`]. Tokens that failed requests are billed for count as
/// usage of the response, which says in [`billed`](ModelResponse::billed) what each model is billed for.
///
/// Its name is that of the first model. A budget reserves the cost of the most
/// expensive one. Its capabilities are those that all models share.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_llm::{
///     ModelResponse,
///     middleware::{CircuitBreaker, Fallback},
///     testing::ScriptedModel,
/// };
///
/// let near = ScriptedModel::new([ModelResponse::text("Hello")]);
/// let far = ScriptedModel::new([ModelResponse::text("Hello")]);
/// let model = Fallback::new(CircuitBreaker::new(near, 5, Duration::from_secs(60))).or(far);
/// # drop(model);
/// ```
pub struct Fallback {
    /// In the order in which they are asked. Shared with streams.
    models: Arc<[Candidate]>,
    /// Failures after which the next one is asked.
    kinds: Arc<[ModelErrorKind]>,
    /// Only its monotonic time is used.
    clock: Arc<dyn Clock>,
}

/// A model, and until when it asked to be left alone.
struct Candidate {
    /// The model, which may be a wrapper itself.
    model: Arc<dyn LanguageModel>,
    /// From the latest `Retry-After`, with the kind of the error that had it.
    waits_until: Mutex<Option<(Duration, ModelErrorKind)>>,
}

impl Fallback {
    /// Begins with this model.
    #[must_use]
    pub fn new(first: impl LanguageModel) -> Self {
        let models = Arc::new([Candidate::new(Arc::new(first))]);
        Self { models, kinds: Arc::new(DEFAULT_KINDS), clock: Arc::new(SystemClock) }
    }

    /// Adds a model that is asked after those before it.
    #[must_use]
    pub fn or(self, next: impl LanguageModel) -> Self {
        let known = self.models.iter().map(|it| Arc::clone(&it.model));
        let models: Vec<Arc<dyn LanguageModel>> =
            known.chain([Arc::new(next) as Arc<dyn LanguageModel>]).collect();
        Self { models: models.into_iter().map(Candidate::new).collect(), ..self }
    }

    /// Sets the failures after which the next model is asked.
    #[must_use]
    pub fn on(mut self, kinds: impl IntoIterator<Item = ModelErrorKind>) -> Self {
        self.kinds = kinds.into_iter().collect();
        self
    }

    /// Sets the clock. The default is the system clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The order in which models are asked for one request: those that do not have to wait.
    fn attempts(&self, request: &ModelRequest) -> Attempts {
        let now = self.clock.elapsed();
        let count = self.models.len();
        let free: Vec<_> = (0..count)
            .filter(|index| self.models.get(*index).is_some_and(|it| it.rest(now).is_none()))
            .collect();
        Attempts {
            models: Arc::clone(&self.models),
            kinds: Arc::clone(&self.kinds),
            clock: Arc::clone(&self.clock),
            deadline: request.timeout.map(|timeout| now.saturating_add(timeout)),
            has_alternative: request.has_alternative,
            request: request.clone(),
            is_requested: false,
            order: free.into_iter(),
            hopeless: Vec::new(),
            billed: Vec::new(),
        }
    }
}

impl Candidate {
    /// A model that does not have to wait.
    fn new(model: Arc<dyn LanguageModel>) -> Self {
        Self { model, waits_until: Mutex::new(None) }
    }

    /// How long it still has to wait, and the kind of the error that said so; `None` if it does not.
    fn rest(&self, now: Duration) -> Option<(Duration, ModelErrorKind)> {
        let (until, kind) = (*self.waits_until.lock())?;
        until.checked_sub(now).filter(|rest| !rest.is_zero()).map(|rest| (rest, kind))
    }

    /// Leaves it out for a time.
    fn wait(&self, now: Duration, delay: Duration, kind: ModelErrorKind) {
        *self.waits_until.lock() = Some((now.saturating_add(delay), kind));
    }
}

/// The models that are left for one request.
struct Attempts {
    /// All models, including those that are left out.
    models: Arc<[Candidate]>,
    /// Failures after which the next one is asked.
    kinds: Arc<[ModelErrorKind]>,
    /// To note how long a model has to wait.
    clock: Arc<dyn Clock>,
    /// When the caller gives up, on that clock.
    deadline: Option<Duration>,
    /// Whether the caller has another model.
    has_alternative: bool,
    /// Whether one of the models has made its request.
    is_requested: bool,
    /// The request that all of them get.
    request: ModelRequest,
    /// Indexes of the models that are left.
    order: std::vec::IntoIter<usize>,
    /// Indexes of the models that would fail again.
    hopeless: Vec<usize>,
    /// Usage of the requests that failed.
    billed: Vec<ModelUsage>,
}

impl Attempts {
    /// The next model that is asked.
    fn next(&mut self) -> Option<(usize, Arc<dyn LanguageModel>)> {
        let index = self.order.next()?;
        self.request.timeout = self.share();
        self.request.has_alternative = self.has_alternative || !self.order.as_slice().is_empty();
        self.models.get(index).map(|it| (index, Arc::clone(&it.model)))
    }

    /// The time for the current model: an equal share of the remaining time.
    fn share(&self) -> Option<Duration> {
        let left = self.deadline?.saturating_sub(self.clock.elapsed());
        let models = u32::try_from(self.order.len()).unwrap_or(u32::MAX).saturating_add(1);
        Some(left / models)
    }

    /// Waits for an answer for as long as the model has time.
    async fn in_time<T>(
        &self,
        index: usize,
        answer: impl Future<Output = Result<T, ModelError>>,
    ) -> Result<T, ModelError> {
        let Some(share) = self.share() else { return answer.await };
        match future::select(pin!(answer), self.clock.sleep(share)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => {
                let name = self.models.get(index).map_or("", |it| it.model.name());
                let reason = format!("{name} did not answer within {share:?}");
                Err(ModelError::new(ModelErrorKind::Timeout, reason))
            }
        }
    }

    /// Notes a failure. Returns it if no other model is asked.
    fn failed(&mut self, index: usize, error: ModelError) -> Result<(), ModelError> {
        if let (Some(delay), Some(candidate)) = (error.retry_after(), self.models.get(index)) {
            candidate.wait(self.clock.elapsed(), delay, error.kind());
        }
        self.hopeless.extend((!error.is_retryable()).then_some(index));
        self.is_requested |= error.is_requested();
        let usage = error.usage().unwrap_or_default();
        if self.kinds.contains(&error.kind()) && !self.order.as_slice().is_empty() {
            let model = self.models.get(index).map_or("", |it| it.model.name()).to_owned();
            self.billed.extend((usage != Usage::default()).then_some(ModelUsage { model, usage }));
            return Ok(());
        }
        let rest = self.shortest_rest().map(|(rest, _)| rest);
        let error = error.with_requested(self.is_requested).with_delay(rest);
        let all = self.billed_usage() + usage;
        Err(if all == Usage::default() { error } else { error.with_usage(all) })
    }

    /// How long all models that can be asked again have to wait; `None` if one of them does not.
    fn shortest_rest(&self) -> Option<(Duration, ModelErrorKind)> {
        let now = self.clock.elapsed();
        let all = self.models.iter().enumerate();
        let left = all.filter(|(index, _)| !self.hopeless.contains(index));
        let rests: Option<Vec<_>> = left.map(|(_, candidate)| candidate.rest(now)).collect();
        rests?.into_iter().min_by_key(|(rest, _)| *rest)
    }

    /// The error if no model can be asked now: no request was made.
    fn none_left(&self) -> ModelError {
        // A wait may have ended in the meantime.
        let nothing = (Duration::ZERO, ModelErrorKind::Unavailable);
        let (rest, kind) = self.shortest_rest().unwrap_or(nothing);
        let reason = format!("all models have asked to wait, the first of them for {rest:?}");
        ModelError::new(kind, reason)
            .with_retryable(true)
            .with_requested(self.is_requested)
            .with_retry_after(rest)
    }

    /// A refusal in a response as an error, if another model can be asked.
    fn accept(&mut self, mut response: ModelResponse) -> Result<ModelResponse, ModelError> {
        let is_refusal = response.finish_reason == FinishReason::Refusal;
        let has_next = !self.order.as_slice().is_empty();
        if is_refusal && has_next && self.kinds.contains(&ModelErrorKind::Refused) {
            let error = ModelError::new(ModelErrorKind::Refused, "the model refused to answer");
            return Err(error.with_usage(response.usage));
        }
        response.usage += self.billed_usage();
        // In front: these were asked before. The response may list some itself, if its model is a
        // fallback, too.
        response.billed.splice(..0, std::mem::take(&mut self.billed));
        Ok(response)
    }

    /// Tokens of the requests that failed.
    fn billed_usage(&self) -> Usage {
        self.billed.iter().fold(Usage::default(), |sum, failed| sum + failed.usage)
    }

    /// Asks until a model answers, or none is left.
    async fn complete(mut self) -> Result<ModelResponse, ModelError> {
        while let Some((index, model)) = self.next() {
            let ended = self.in_time(index, model.complete(&self.request)).await;
            match ended.and_then(|response| self.accept(response)) {
                Ok(response) => return Ok(response),
                Err(error) => self.failed(index, error)?,
            }
        }
        Err(self.none_left())
    }

    /// Asks until a model begins a stream, or none is left.
    async fn open(&mut self) -> Result<(usize, ModelStream), ModelError> {
        while let Some((index, model)) = self.next() {
            match self.in_time(index, model.stream(&self.request)).await {
                Ok(stream) => return Ok((index, stream)),
                Err(error) => self.failed(index, error)?,
            }
        }
        Err(self.none_left())
    }
}

/// A stream that changes to the next model when one fails.
struct Streaming {
    /// The models that are left.
    attempts: Attempts,
    /// The model whose stream is read.
    index: usize,
    /// Its stream.
    stream: ModelStream,
    /// Whether a piece of this stream was passed on.
    is_shown: bool,
    /// The usage that this stream has reported.
    reported: Usage,
    /// Whether the stream has ended, with a response or an error.
    is_over: bool,
}

impl Streaming {
    /// The next event. Changes to the next model after a failure.
    async fn next(&mut self) -> Result<StreamEvent, ModelError> {
        loop {
            let cut_off = || {
                let reason = "the stream ended before the response was complete";
                Err(ModelError::new(ModelErrorKind::InvalidResponse, reason))
            };
            let next = async { self.stream.next().await.unwrap_or_else(cut_off) };
            let event = self.attempts.in_time(self.index, next).await;
            let accepted = event.and_then(|event| match event {
                StreamEvent::Finished(response) => {
                    self.attempts.accept(response).map(StreamEvent::Finished)
                }
                StreamEvent::Usage(usage) => {
                    self.reported = usage;
                    Ok(StreamEvent::Usage(self.attempts.billed_usage() + usage))
                }
                other => Ok(other),
            });
            let reported = self.reported;
            match accepted.map_err(|error| error.or_usage(reported)) {
                Ok(event) => {
                    self.is_shown |= !matches!(event, StreamEvent::Usage(_));
                    return Ok(event);
                }
                Err(error) => self.attempts.failed(self.index, error)?,
            }
            self.reported = Usage::default();
            (self.index, self.stream) = self.attempts.open().await?;
            if std::mem::take(&mut self.is_shown) {
                return Ok(StreamEvent::Reset);
            }
        }
    }
}

#[async_trait]
impl LanguageModel for Fallback {
    fn name(&self) -> &str {
        self.models.first().map_or("", |first| first.model.name())
    }

    fn names(&self) -> Vec<&str> {
        self.models.iter().flat_map(|candidate| candidate.model.names()).collect()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::shared(self.models.iter().map(|candidate| candidate.model.capabilities()))
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        self.attempts(request).complete().await
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut attempts = self.attempts(request);
        let (index, stream) = attempts.open().await?;
        let streaming = Streaming {
            attempts,
            index,
            stream,
            is_shown: false,
            reported: Usage::default(),
            is_over: false,
        };
        Ok(Box::pin(stream::unfold(streaming, |mut streaming| async move {
            if streaming.is_over {
                return None;
            }
            let next = streaming.next().await;
            streaming.is_over = matches!(next, Err(_) | Ok(StreamEvent::Finished(_)));
            Some((next, streaming))
        })))
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.models.iter().map(|candidate| candidate.model.name());
        formatter.debug_list().entries(names).finish()
    }
}
