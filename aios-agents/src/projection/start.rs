//! Starts a projection: options, the checks at the start, and the lease of its name.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aios_core::{
    agent::{Name, TaskError},
    event::Pattern,
    retry::RetryPolicy,
    store::{Checkpoints, EventStore, StoreError, StreamId},
};
use parking_lot::Mutex;

use super::{
    Projection, ProjectionHandle, Running, lease::lease_of, letters::stream_of, runner::Runner,
    settings::Settings,
};
use crate::{runtime::RuntimeError, workflow::journal::Journals};

/// A projection to be started. Awaiting this starts the projection, which then runs until the
/// runtime stops.
///
/// Options that are invalid are reported when it is awaited, and so is a name that this runtime
/// runs already.
///
/// # Cancel safety
///
/// If it is cancelled, the projection is not started.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use aios_agents::{RuntimeError, prelude::*, projection::Batch};
///
/// async fn start(runtime: &Runtime) -> Result<(), RuntimeError> {
///     let print = |batch: Batch| async move {
///         println!("{} orders", batch.events().len());
///         Ok(())
///     };
///     runtime
///         .projection("orders", print)
///         .patterns(["shop.order.placed".parse::<Pattern>()?])
///         .batch_size(500)
///         .lease_time(Duration::from_secs(5))
///         .await?;
///     Ok(())
/// }
/// # let _ = start;
/// ```
#[must_use = "a projection starts only when this is awaited"]
pub struct StartProjection<'r, P> {
    /// An error if the runtime has no store; returned when this is awaited.
    journals: Result<Journals, RuntimeError>,
    /// The projections of the runtime that this one joins.
    running: &'r Running,
    name: String,
    projection: P,
    settings: Settings,
}

impl<'r, P: Projection> StartProjection<'r, P> {
    /// A projection with the default options.
    pub(crate) fn new(
        journals: Result<Journals, RuntimeError>,
        running: &'r Running,
        name: &str,
        projection: P,
    ) -> Self {
        let name = name.to_owned();
        Self { journals, running, name, projection, settings: Settings::default() }
    }

    /// Sets the patterns of the events to apply. The default is all events.
    pub fn patterns(mut self, patterns: impl IntoIterator<Item = Pattern>) -> Self {
        self.settings.patterns = Some(patterns.into_iter().collect());
        self
    }

    /// Sets the maximum number of events in a batch, 1 to [`MAX_PAGE`](aios_core::store::MAX_PAGE). The default is
    /// [`DEFAULT_BATCH_SIZE`](super::DEFAULT_BATCH_SIZE).
    pub fn batch_size(mut self, events: usize) -> Self {
        self.settings.batch_size = events;
        self
    }

    /// Sets the retry policy of an event before it becomes a dead letter. The default is
    /// [`RetryPolicy::new`]. A policy without a limit retries until it succeeds, for example until
    /// a database is available again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// Sets the lease time, which is also the delay until another process takes over after a crash.
    /// At least 1 s. The default is [`DEFAULT_LEASE_TIME`](super::DEFAULT_LEASE_TIME).
    pub fn lease_time(mut self, time: Duration) -> Self {
        self.settings.lease_time = time;
        self
    }

    /// Sets how to load the position, for a projection that keeps its own. The projection saves
    /// [`Batch::position`](super::Batch::position), preferably in the transaction that applies the
    /// batch, and `load` returns the position saved last, or 0. The position in the runtime's store
    /// then only serves [`ProjectionHandle::lag`]. An error is retried, unless it is terminal; a
    /// terminal error ends the projection, and so does a position after the end of the log.
    ///
    /// A process that was frozen for longer than its lease may apply its batch after another process has
    /// taken over. The transaction should therefore fail unless the saved position is before the first event
    /// of the batch, or before [`Batch::position`](super::Batch::position) if the batch is redriven or empty.
    /// After an error, the position is loaded, and only the events after it are passed again.
    ///
    /// # Examples
    ///
    /// The view and its position change in one transaction, so that every event counts once:
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use aios_agents::{RuntimeError, prelude::*, projection::Batch};
    /// use parking_lot::Mutex;
    ///
    /// /// A stand-in for a table of your database; the lock is the transaction.
    /// #[derive(Default)]
    /// struct View {
    ///     orders: u64,
    ///     position: u64,
    /// }
    ///
    /// async fn count(runtime: &Runtime, view: Arc<Mutex<View>>) -> Result<(), RuntimeError> {
    ///     let apply = {
    ///         let view = Arc::clone(&view);
    ///         move |batch: Batch| {
    ///             let view = Arc::clone(&view);
    ///             async move {
    ///                 let mut view = view.lock();
    ///                 view.orders += batch.events().len() as u64;
    ///                 view.position = batch.position();
    ///                 Ok(())
    ///             }
    ///         }
    ///     };
    ///     let load = move || {
    ///         let position = view.lock().position;
    ///         async move { Ok(position) }
    ///     };
    ///     runtime
    ///         .projection("orders", apply)
    ///         .patterns(["shop.order.placed".parse::<Pattern>()?])
    ///         .position_from(load)
    ///         .await?;
    ///     Ok(())
    /// }
    /// # let _ = count;
    /// ```
    pub fn position_from<F, Fut>(mut self, load: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<u64, TaskError>> + Send + 'static,
    {
        self.settings.position = Some(Arc::new(move || Box::pin(load())));
        self
    }

    /// Begins with the events that are appended from now on, instead of those of the whole log, if a
    /// projection with this name never ran. Has no effect on a projection that keeps its own position.
    pub fn from_end_of_log(mut self) -> Self {
        self.settings.from_end = true;
        self
    }

    /// Checks the options, takes the name, finds the lease and spawns the projection. Does not wait
    /// for the lease.
    async fn start(self) -> Result<ProjectionHandle, RuntimeError> {
        let Self { journals, running, name, projection, settings } = self;
        let journals = journals?;
        settings.validate().map_err(invalid)?;
        let name = Name::new(&name).map_err(|_| {
            invalid(format!("the name of a projection must match [a-z][a-z0-9_]*, not {name:?}"))
        })?;
        let taken = running
            .take_name(name.as_str())
            .ok_or_else(|| invalid(format!("projection {name} runs in this runtime already")))?;
        let lease = lease_of(&journals, name.as_str()).await?;
        let handle = ProjectionHandle::new(journals.clone(), name.as_str())?;
        let stream = stream_of(name.as_str())?;
        if settings.from_end && settings.position.is_none() {
            skip_to_end(&journals, &stream).await?;
        }
        running.spawn(|stop, failing| {
            let runner = Runner {
                journals,
                name: name.to_string().into(),
                stream,
                lease,
                projection,
                settings,
                stop,
                failing,
                ahead: Mutex::default(),
            };
            async move {
                // The name is free again when the projection has ended.
                let _taken = taken;
                runner.run().await;
            }
        });
        Ok(handle)
    }
}

/// Saves the end of the log as the position of a projection that has none.
async fn skip_to_end(journals: &Journals, stream: &StreamId) -> Result<(), StoreError> {
    let store = &journals.store;
    if store.load_checkpoint(stream.as_str()).await? == 0 {
        // A position is never moved back, even if another process does the same now.
        let head = store.head().await?;
        store.save_checkpoint(stream.as_str(), head).await?;
    }
    Ok(())
}

/// The error of an invalid option.
fn invalid(reason: String) -> RuntimeError {
    RuntimeError::InvalidConfiguration { reason }
}

impl<'r, P: Projection> IntoFuture for StartProjection<'r, P> {
    type Output = Result<ProjectionHandle, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'r>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

impl<P> fmt::Debug for StartProjection<'_, P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StartProjection").field("name", &self.name).finish_non_exhaustive()
    }
}
