//! Files that are read again while the process runs.
//!
//! When a runtime of tokio ends, it waits for its blocking threads, including a thread that reads from a file
//! system that does not answer. A thread of its own delays nothing: it ends with the process.

use std::thread;

use tokio::sync::oneshot;

/// Calls a function on a thread of its own. `None` if it panics, or if there is no thread.
///
/// Cancel safe: the function is called nevertheless.
pub(crate) async fn call<T: Send + 'static>(
    function: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, done) = oneshot::channel();
    let thread = thread::Builder::new().name("aios-files".to_owned());
    // Nothing may wait for the result any more.
    thread.spawn(move || drop(sender.send(function()))).ok()?;
    done.await.ok()
}
