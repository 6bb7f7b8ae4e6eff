//! Spawning of tasks: on tokio, or under the control of a simulation.
//!
//! All tasks of this crate are spawned here.
//!
//! In a simulation, tokio still wakes and polls the tasks, but each poll asks the simulation for
//! its turn. It decides which task continues, and can end a task, as a crash would. Without the
//! feature, nothing is added to a task.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
};

use tokio::task::{AbortHandle, JoinHandle};

/// Spawns a task.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(admitted(future))
}

/// A set of tasks that are aborted when it is dropped.
///
/// Like that of tokio; only spawning differs.
#[derive(Debug)]
pub(crate) struct JoinSet<T>(tokio::task::JoinSet<T>);

impl<T: Send + 'static> JoinSet<T> {
    /// An empty set.
    pub(crate) fn new() -> Self {
        Self(tokio::task::JoinSet::new())
    }

    /// Adds a task.
    pub(crate) fn spawn<F: Future<Output = T> + Send + 'static>(
        &mut self,
        future: F,
    ) -> AbortHandle {
        self.0.spawn(admitted(future))
    }
}

impl<T: Send + 'static> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for JoinSet<T> {
    type Target = tokio::task::JoinSet<T>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> DerefMut for JoinSet<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// The future itself.
#[cfg(not(feature = "simulation"))]
fn admitted<F>(future: F) -> F {
    future
}

#[cfg(feature = "simulation")]
use self::simulated::admitted;

#[cfg(feature = "simulation")]
mod simulated {
    use std::{
        future::{Future, poll_fn},
        sync::Arc,
    };

    use aios_core::{
        BoxFuture,
        simulation::{self, Simulation},
    };
    use futures_util::future::Either;

    /// The future itself, or in a simulation a future that the simulation schedules.
    pub(super) fn admitted<F>(future: F) -> Either<F, BoxFuture<'static, F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        match simulation::current() {
            None => Either::Left(future),
            Some(simulation) => Either::Right(by_turns(future, &simulation)),
        }
    }

    /// A future that is polled only when the simulation gives it a turn.
    fn by_turns<F>(future: F, simulation: &Arc<dyn Simulation>) -> BoxFuture<'static, F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let mut future = Box::pin(future);
        let mut turns = simulation.admit();
        Box::pin(async move {
            let mut output = None;
            poll_fn(|context| {
                turns.poll(context, &mut |context| {
                    future.as_mut().poll(context).map(|ended| output = Some(ended))
                })
            })
            .await;
            match output {
                Some(output) => output,
                // The simulation completed the task without polling it, which means that it ended it.
                None => std::future::pending().await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// A simulation cannot control a task that is spawned directly on tokio, nor tokio's random choice
    /// between branches. Examples in documentation may do both.
    #[test]
    fn should_spawn_and_select_in_no_other_way() {
        let mut files = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        assert!(files.len() > 50, "found the sources");
        for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("src/task.rs")) {
            let imports = text.split("use tokio::").skip(1).filter_map(|it| it.split(';').next());
            let is_foreign = text.contains("tokio::spawn(")
                || text.contains("tokio::task::JoinSet")
                || imports.into_iter().any(|import| import.contains("JoinSet"));
            assert!(!is_foreign, "{path} spawns without `crate::task`");
            // Detects what tokio's own function does.
            let yields = text.contains("tokio::task::yield_now") && !path.ends_with("deferred.rs");
            assert!(!yields || path.contains("/testing/"), "{path} yields without `aios_core`");
            let is_random = text.contains("tokio::select! {")
                && text
                    .split("tokio::select! {")
                    .skip(1)
                    .any(|it| !it.trim().starts_with("biased"));
            assert!(!is_random || path.contains("/testing/"), "{path} selects at random");
        }
    }

    fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, files),
                false => {
                    let text = fs::read_to_string(&path).unwrap();
                    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                    let code = code.collect::<Vec<_>>().join("\n");
                    files.push((path.display().to_string(), code));
                }
            }
        }
    }
}
