//! Detects that the user, or the system, wants the program to stop.

use std::{io, process::ExitCode};

/// Base of the exit status of a program that a signal stopped: 128, to which shells add the signal's number.
const BASE: u8 = 128;

/// The signal that asked the program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(u8);

impl Signal {
    const INTERRUPT: Self = Self(2);
    #[cfg(unix)]
    const TERMINATE: Self = Self(15);

    /// The exit status of the program.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(BASE + self.0)
    }
}

/// Listens for signals, which then no longer end the program by themselves.
#[derive(Debug)]
pub(crate) struct Interrupts {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Interrupts {
    /// Starts to listen.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate })
    }

    /// Completes with the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INTERRUPT,
            _ = self.terminate.recv() => Signal::TERMINATE,
        }
    }
}

#[cfg(not(unix))]
impl Interrupts {
    /// Starts to listen.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Completes with the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::INTERRUPT,
            Err(_) => std::future::pending().await,
        }
    }
}
