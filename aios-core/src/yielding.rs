use std::{
    future::{Future, poll_fn},
    task::Poll,
};

/// Lets the other tasks of the thread run first.
///
/// Unlike `yield_now` of tokio, the task waits in the queue of its thread, from which idle threads take
/// tasks. That of tokio keeps the task aside until its thread has nothing else to run: if one of the
/// others blocks the thread, the task waits as long.
///
/// # Cancel safety
///
/// Cancel safe.
///
/// # Examples
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// for number in 0..1_000_u32 {
///     if number % 100 == 99 {
///         aios_core::yield_now().await;
///     }
/// }
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn yield_now() -> impl Future<Output = ()> + Send + Sync {
    let mut has_yielded = false;
    poll_fn(move |context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn should_let_the_other_tasks_run_first() {
        let (sender, receiver) = mpsc::channel();
        let other = sender.clone();
        tokio::spawn(async move { other.send("another").unwrap() });
        yield_now().await;
        sender.send("this").unwrap();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), ["another", "this"]);
    }

    /// The thread of a task that has yielded continues with one that blocks it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn should_continue_on_another_thread_if_another_task_blocks_this_one() {
        for _ in 0..50 {
            let (release, blocked) = mpsc::channel::<()>();
            let yields = tokio::spawn(async move {
                tokio::spawn(async move { blocked.recv().ok() });
                yield_now().await;
            });
            yields.await.unwrap();
            drop(release);
        }
    }
}
