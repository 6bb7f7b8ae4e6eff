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

/// A run whose result is an `O`. Everything else is that of a [`RunHandle`], to which it derefs.
pub struct TypedRun<O> {
    run: RunHandle,
    output: PhantomData<fn() -> O>,
}

impl<O> TypedRun<O> {
    pub(super) fn new(run: RunHandle) -> Self {
        Self { run, output: PhantomData }
    }

    /// The handle without the type.
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
    /// As [`RunHandle::result`].
    ///
    /// # Cancel safety
    ///
    /// Cancelling does nothing to the run.
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

/// A [`StartRun`] or [`StartTask`] whose result is an `O`. Awaiting it gives a [`TypedRun`].
#[must_use = "a run starts when this is awaited"]
pub struct StartTyped<S, O> {
    start: S,
    output: PhantomData<fn() -> O>,
}

impl<S, O> StartTyped<S, O> {
    pub(super) fn new(start: S) -> Self {
        Self { start, output: PhantomData }
    }

    /// Sets anything that the start without the type can be told.
    pub fn with(mut self, set: impl FnOnce(S) -> S) -> Self {
        self.start = set(self.start);
        self
    }
}

impl<O> StartTyped<StartRun, O> {
    /// Sets the id of the run; see [`StartRun::with_id`].
    pub fn with_id(self, run_id: impl Into<String>) -> Self {
        self.with(|start| start.with_id(run_id))
    }

    /// Lets the run begin at a time.
    pub fn at(self, start_at: Timestamp) -> Self {
        self.with(|start| start.at(start_at))
    }

    /// Lets the run begin after a delay.
    pub fn after(self, delay: Duration) -> Self {
        self.with(|start| start.after(delay))
    }

    /// Sets correlation, user and trace of everything that the run causes.
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        self.with(|start| start.with_metadata(metadata))
    }
}

impl<O> StartTyped<StartTask, O> {
    /// Sets the id of the run; see [`StartRun::with_id`].
    pub fn with_id(self, run_id: impl Into<String>) -> Self {
        self.with(|start| start.with_id(run_id))
    }

    /// Sets how long one attempt may take.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|start| start.timeout(timeout))
    }

    /// Sets when a failed attempt is followed by another.
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
