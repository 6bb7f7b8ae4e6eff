//! Starting runs whose result has a declared type, and the handles of such runs.

use std::{
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    ops::Deref,
    pin::Pin,
    time::Duration,
};

use aios_core::{
    event::{Metadata, Timestamp},
    retry::RetryPolicy,
};
use serde::de::DeserializeOwned;

use crate::runtime::{RunError, RunHandle, RuntimeError, StartRun, StartTask};

/// A [`RunHandle`] whose result is an `O`. Dereferences to the [`RunHandle`].
///
/// # Examples
///
/// ```no_run
/// use aios_agents::prelude::*;
///
/// const WELCOME: WorkflowRef<String, usize> = WorkflowRef::new("welcome");
///
/// async fn length(runtime: &Runtime) -> Result<usize, Box<dyn std::error::Error>> {
///     let run: TypedRun<usize> = runtime.start(WELCOME, "Ada").id("welcome-ada").await?;
///     // All methods of `RunHandle` are available, too.
///     println!("{}", run.status().await?.workflow);
///     Ok(run.result().await?)
/// }
/// # let _ = length;
/// ```
pub struct TypedRun<O> {
    /// The handle without a type.
    run: RunHandle,
    /// A function type, so that the handle is `Send` and `Sync` for all `O`.
    output: PhantomData<fn() -> O>,
}

impl<O> TypedRun<O> {
    /// Gives a handle the type that the declaration promises. It is checked when the result is
    /// decoded.
    pub(super) fn new(run: RunHandle) -> Self {
        Self { run, output: PhantomData }
    }

    /// Returns the untyped handle.
    #[must_use]
    pub fn into_untyped(self) -> RunHandle {
        self.run
    }
}

impl<O: DeserializeOwned> TypedRun<O> {
    /// Waits for the result; see [`RunHandle::result`].
    ///
    /// # Errors
    ///
    /// See [`RunHandle::result`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Cancelling does not affect the run.
    pub async fn result(&self) -> Result<O, RunError> {
        self.run.result().await
    }
}

impl<O> Deref for TypedRun<O> {
    type Target = RunHandle;

    fn deref(&self) -> &RunHandle {
        &self.run
    }
}

impl<O> Clone for TypedRun<O> {
    fn clone(&self) -> Self {
        Self::new(self.run.clone())
    }
}

impl<O> fmt::Debug for TypedRun<O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("TypedRun").field(&self.run).finish()
    }
}

/// A [`StartRun`] or [`StartTask`] whose result is an `O`. Awaiting it returns a [`TypedRun`].
///
/// # Cancel safety
///
/// See [`StartRun`] and [`StartTask`].
#[must_use = "a run starts when this is awaited"]
pub struct StartTyped<S, O> {
    /// The start without a type, whose options this one sets.
    start: S,
    output: PhantomData<fn() -> O>,
}

impl<S, O> StartTyped<S, O> {
    /// Gives a start the type of its result.
    pub(super) fn new(start: S) -> Self {
        Self { start, output: PhantomData }
    }

    /// Sets any option of the untyped start.
    ///
    /// For options that this type does not have itself.
    pub fn with(mut self, set: impl FnOnce(S) -> S) -> Self {
        self.start = set(self.start);
        self
    }
}

impl<O> StartTyped<StartRun, O> {
    /// Sets the id of the run; see [`StartRun::id`].
    pub fn id(self, run_id: impl Into<String>) -> Self {
        self.with(|start| start.id(run_id))
    }

    /// Schedules the run to begin at a time.
    pub fn at(self, start_at: Timestamp) -> Self {
        self.with(|start| start.at(start_at))
    }

    /// Schedules the run to begin after a delay.
    pub fn after(self, delay: Duration) -> Self {
        self.with(|start| start.after(delay))
    }

    /// Sets the correlation id, user and trace context of all events that the run causes.
    pub fn metadata(self, metadata: Metadata) -> Self {
        self.with(|start| start.metadata(metadata))
    }
}

impl<O> StartTyped<StartTask, O> {
    /// Sets the id of the run; see [`StartRun::id`].
    pub fn id(self, run_id: impl Into<String>) -> Self {
        self.with(|start| start.id(run_id))
    }

    /// Sets the timeout of each attempt. Without it, an attempt may take indefinitely.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|start| start.timeout(timeout))
    }

    /// Sets the retry policy of failed attempts. The default is [`RetryPolicy::new`], five attempts.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with(|start| start.retry(policy))
    }
}

impl<S, O> IntoFuture for StartTyped<S, O>
where
    S: IntoFuture<Output = Result<RunHandle, RuntimeError>>,
    S::IntoFuture: Send + 'static,
{
    type Output = Result<TypedRun<O>, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let starting = self.start.into_future();
        Box::pin(async move { Ok(TypedRun::new(starting.await?)) })
    }
}

impl<S: fmt::Debug, O> fmt::Debug for StartTyped<S, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("StartTyped").field(&self.start).finish()
    }
}
