//! Choices between branches that are the same in every replay.
//!
//! The future and the macros here poll their branches in the order in which they are written. That
//! alone would not make a choice deterministic. It is, because the engine lets the code see one outcome
//! at a time: at most one branch can complete in a poll, the one whose outcome stands first in the
//! journal. The macros expand to those of tokio with `biased;`, which exist under a private path of
//! this crate so that users need no dependency on tokio's macros.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Waits for the first of several futures: the one whose outcome comes first in the journal.
/// Resolves to its index, from 0, and its output.
///
/// The other futures are dropped, together with the operations that they wait for. Futures that are
/// passed as `&mut future` can be awaited again. A race of no futures never completes.
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::{prelude::*, workflow::race};
///
/// async fn first(context: WorkflowContext, agents: Vec<String>) -> Result<u32, WorkflowError> {
///     let tasks = agents.iter().map(|agent| context.task::<u32>(agent, &()));
///     let (_, answer) = race(tasks).await;
///     answer
/// }
/// ```
///
/// # Cancel safety
///
/// Dropping it drops all futures.
pub fn race<F: Future + Unpin>(futures: impl IntoIterator<Item = F>) -> Race<F> {
    Race { futures: futures.into_iter().collect() }
}

/// See [`race`].
#[derive(Debug)]
#[must_use = "a race does nothing unless it is awaited"]
pub struct Race<F> {
    /// The competitors, in the order of their indices; empty once there is a winner.
    futures: Vec<F>,
}

impl<F: Future + Unpin> Future for Race<F> {
    type Output = (usize, F::Output);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Polls stop at the first winner: a loser that is polled after it could begin an operation.
        let ready =
            self.futures.iter_mut().enumerate().find_map(|(index, future)| {
                match Pin::new(future).poll(context) {
                    Poll::Ready(output) => Some((index, output)),
                    Poll::Pending => None,
                }
            });
        match ready {
            Some(ready) => {
                // The losers are dropped before the caller sees the winner.
                self.futures.clear();
                Poll::Ready(ready)
            }
            None => Poll::Pending,
        }
    }
}

/// Waits for the first of several branches, like tokio's macro of the same name, but the branch whose
/// outcome comes first in the journal wins. The choice depends neither on the order of polls nor on
/// randomness, so every replay makes the same choice.
///
/// Branches have the form `pattern = future => handler`, with an optional `, if condition` after the
/// future, and `else => handler` may follow. They are polled in the order in which they are written.
///
/// Futures that lose are dropped, together with the operations that they wait for. Futures that are
/// passed as `&mut future` can be awaited again:
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::prelude::*;
///
/// async fn collect(context: WorkflowContext, (): ()) -> Result<Vec<u64>, WorkflowError> {
///     let mut deadline = context.sleep(Duration::from_secs(60));
///     let mut items = Vec::new();
///     loop {
///         aios_agents::select! {
///             _ = &mut deadline => return Ok(items),
///             item = context.signal("item") => items.push(item?),
///         }
///     }
/// }
/// ```
#[macro_export]
macro_rules! select {
    (biased; $($branches:tt)*) => {
        $crate::__private::select! { biased; $($branches)* }
    };
    ($($branches:tt)*) => {
        $crate::__private::select! { biased; $($branches)* }
    };
}

/// Waits for several futures concurrently, like tokio's macro of the same name, but polls them in the
/// order in which they are written.
///
/// Tokio's macro begins each poll with a different future. A step whose code wakes itself causes more
/// polls of the workflow than a replay has. Branches that unblock each other, for example with a
/// barrier or a channel, would then begin their operations in a different order.
///
/// ```
/// use aios_agents::prelude::*;
///
/// async fn both(context: WorkflowContext, agents: (String, String)) -> Result<u32, WorkflowError> {
///     let first = context.task::<u32>(agents.0, &());
///     let second = context.task::<u32>(agents.1, &());
///     let (first, second) = aios_agents::join!(first, second);
///     Ok(first? + second?)
/// }
/// ```
#[macro_export]
macro_rules! join {
    (biased; $($futures:tt)*) => {
        $crate::__private::join! { biased; $($futures)* }
    };
    ($($futures:tt)*) => {
        $crate::__private::join! { biased; $($futures)* }
    };
}

/// Waits for several futures concurrently, or for the first error, like tokio's macro of the same name,
/// but polls them in the order in which they are written, like [`join!`](crate::join).
///
/// When one future fails, the others are dropped, together with the operations that they wait for.
///
/// ```
/// use aios_agents::prelude::*;
///
/// async fn both(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
///     let left = context.task::<u32>("left", &());
///     let right = context.task::<u32>("right", &());
///     // If one fails, the other task is cancelled.
///     let (left, right) = aios_agents::try_join!(left, right)?;
///     Ok(left + right)
/// }
/// # let _ = both;
/// ```
#[macro_export]
macro_rules! try_join {
    (biased; $($futures:tt)*) => {
        $crate::__private::try_join! { biased; $($futures)* }
    };
    ($($futures:tt)*) => {
        $crate::__private::try_join! { biased; $($futures)* }
    };
}
