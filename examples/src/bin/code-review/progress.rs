//! Shows the progress of a review: a bar on a terminal, plain lines otherwise.

use std::{
    error::Error,
    io::{IsTerminal, stderr},
    time::Duration,
};

use aios_agents::prelude::*;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::{
    runs,
    workflow::{Outcome, Progress},
};

/// How often the progress is checked.
const PERIOD: Duration = Duration::from_millis(100);
/// The most lines that are printed without a bar.
const LINES: usize = 10;

/// Waits for a run to end, and shows its progress beyond the files that were done `before`. The progress of
/// a run that resumes lags behind its journal at first.
pub(crate) async fn watch(run: &RunHandle, before: usize) -> Result<Outcome, Box<dyn Error>> {
    let mut shown = Shown::new();
    let mut ticks = tokio::time::interval(PERIOD);
    let mut result = std::pin::pin!(run.result::<Outcome>());
    loop {
        tokio::select! {
            biased;
            outcome = &mut result => return Ok(outcome?),
            _ = ticks.tick() => {
                let progress = runs::progress(&run.status().await?);
                if let Some(progress) = progress.filter(|progress| progress.done >= before) {
                    shown.show(progress);
                }
            }
        }
    }
}

/// The display.
enum Shown {
    Bar(ProgressBar),
    Lines {
        /// The number of the [`LINES`] that were printed.
        printed: usize,
    },
}

impl Shown {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Self::Lines { printed: 0 };
        }
        let bar = ProgressBar::new_spinner()
            .with_message("listing files")
            .with_finish(ProgressFinish::AndClear);
        bar.enable_steady_tick(PERIOD);
        Self::Bar(bar)
    }

    fn show(&mut self, Progress { done, total }: Progress) {
        match self {
            Self::Bar(bar) => {
                if bar.length().is_none() {
                    bar.set_style(style());
                    bar.reset_eta();
                }
                bar.set_length(total.try_into().unwrap_or(u64::MAX));
                bar.set_position(done.try_into().unwrap_or(u64::MAX));
            }
            Self::Lines { printed } => {
                let due = (done * LINES).checked_div(total).unwrap_or(0);
                if due > *printed {
                    *printed = due;
                    println!("{done} of {total} files are done");
                }
            }
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
