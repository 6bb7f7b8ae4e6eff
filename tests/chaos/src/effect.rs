//! External effects: steps and tasks report to the harness, which stores each report with the time
//! of the machine's monotonic clock. That clock is the same in all processes and never jumps.

use std::{io, path::PathBuf, time::Duration};

use aios_core::store::Fence;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// How long the harness may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kind of operation that has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A step of a run.
    Step,
    /// A task.
    Task,
}

/// One effect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Effect {
    /// The kind of operation.
    pub(crate) kind: Kind,
    /// The run and the number of the operation: `run/7`.
    pub(crate) operation: String,
    /// The idempotency key.
    pub(crate) key: String,
    /// Number of the attempt.
    pub(crate) attempt: u32,
    /// Proof that the engine owned the run.
    pub(crate) fence: Option<Fence>,
    /// The process, such as `engine-2`.
    pub(crate) process: String,
    /// When it began, by [`now`].
    pub(crate) at: Duration,
}

/// Microseconds, for readability, of the clock that is the same in all processes.
#[allow(clippy::cast_sign_loss, reason = "the time since the machine was started")]
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec.try_into().unwrap_or_default())
}

/// Where a process reports.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    /// Name of the process.
    pub(crate) process: String,
    /// The socket of the harness.
    pub(crate) socket: PathBuf,
}

impl Reporter {
    /// Reports an effect; fails if the harness knows of a later owner of the run.
    pub(crate) async fn report(&self, effect: &Effect) -> io::Result<()> {
        match timeout(PATIENCE, self.exchange(effect)).await?? {
            answer if answer.trim() == "done" => Ok(()),
            answer => Err(io::Error::other(format!("refused: {}", answer.trim()))),
        }
    }

    async fn exchange(&self, effect: &Effect) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let line = serde_json::to_string(effect)? + "\n";
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(answer)
    }
}
