//! The sums of called agents, including agents that are cancelled with the run.
//!
//! A called agent is a child run with a part of the caller's budget. What it has spent is known
//! only when it ends: from its report, or from the details of its failure. The call itself lives
//! here, not in the code that awaits it. So when the run is cancelled and that code is dropped, the
//! compensation `settle` still finds the calls, waits for the children, which are cancelled too,
//! and adds what they have spent.
//!
//! If a child does not say what it has spent, what was reserved for it counts.

use std::{collections::BTreeMap, future::poll_fn, mem, pin::Pin, time::Duration};

use aios_agents::workflow::{ChildCall, WorkflowError, race};
use aios_core::{BoxFuture, failure::Failure};
use futures_util::future::join_all;

use super::Accounting;
use crate::{
    agent::{
        calls::NOT_STARTED,
        delegation::{Report, Sums, sums_of},
    },
    budget::Limits,
};

/// How long a cancelled run waits for the ends of its children, which say what they have spent.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agents that a run has called and that have not ended. A compensation finds them here after
/// the code that called them was dropped.
#[derive(Default)]
pub(super) struct Children {
    /// Number of the latest child.
    next: u64,
    /// The calls that have not ended, with their shares, in the order of their starts. Ordered,
    /// because they are awaited as operations in this order in a replay, too.
    running: BTreeMap<u64, (ChildCall<Report>, Limits)>,
}

impl Accounting {
    /// Waits for an agent that got a part of the budget. The call remains if the future is dropped.
    /// `None` if the agent has not ended in time, and is cancelled.
    pub(in crate::agent) async fn child(
        &self,
        call: ChildCall<Report>,
        share: Limits,
        longest: Option<Duration>,
    ) -> Result<Option<Report>, WorkflowError> {
        let call = call.cancel_when_dropped();
        // The lock is released before the first await.
        let number = {
            let children = &mut self.state.lock().children;
            children.next += 1;
            children.running.insert(children.next, (call, share));
            children.next
        };
        let ended = poll_fn(|context| {
            let children = &mut self.state.lock().children;
            match children.running.get_mut(&number) {
                Some((call, _)) => Pin::new(call).poll(context),
                // Taken by the compensation: the code that awaits this is being dropped.
                None => std::task::Poll::Pending,
            }
        });
        let ended = match longest {
            None => Some(ended.await),
            Some(longest) => aios_agents::select! {
                ended = ended => Some(ended),
                elapsed = self.context.sleep(longest) => {
                    elapsed?;
                    None
                }
            },
        };
        self.state.lock().children.running.remove(&number);
        ended.transpose()
    }

    /// Settles what an agent has spent that got a part of the budget. An error without a failure means
    /// that it has not ended.
    pub(in crate::agent) fn settle_child(
        &self,
        ended: Result<Sums, Option<&Failure>>,
        share: Limits,
    ) -> Result<(), WorkflowError> {
        let failure = match ended {
            Ok(sums) => return self.settle_part(sums, false),
            Err(failure) => failure,
        };
        let is_not_started = |failure: &Failure| {
            NOT_STARTED.contains(&failure.code.as_str())
                || failure.details.get("is_started") == Some(false)
        };
        match failure.and_then(sums_of) {
            Some(sums) => self.settle_part(sums, false),
            None if failure.is_some_and(is_not_started) => self.settle_part(Sums::default(), false),
            // The child was ended from outside, and does not say what it has spent: what was reserved
            // counts for the run. The subject is not charged for an estimate, as the child may have
            // charged it itself.
            None => self.settle_part(Sums { spent: share.amounts(), ..Sums::default() }, true),
        }
    }

    /// Waits for the agents that are cancelled with the run, and settles what they have spent.
    pub(super) async fn settle_children(&self) -> Result<(), WorkflowError> {
        let running = mem::take(&mut self.state.lock().children.running);
        // A child whose start is not recorded never runs once its call is dropped.
        let started = running.into_values().filter(|(call, _)| call.is_started());
        let (calls, shares): (Vec<_>, Vec<_>) = started.unzip();
        if calls.is_empty() {
            return Ok(());
        }
        let patience = self.context.sleep(PATIENCE);
        let all: BoxFuture<'_, Option<Vec<_>>> = Box::pin(async { Some(join_all(calls).await) });
        let patience: BoxFuture<'_, Option<Vec<_>>> = Box::pin(async {
            let _elapsed = patience.await;
            None
        });
        // The workflow's own race: its winner is decided by the journal.
        let (_, ended) = race([all, patience]).await;
        for (number, share) in shares.into_iter().enumerate() {
            let sums = match ended.as_ref().and_then(|all| all.get(number)) {
                Some(Ok(report)) => Ok(report.sums()),
                Some(Err(error)) => Err(error.failure()),
                None => Err(None),
            };
            self.settle_child(sums, share)?;
        }
        Ok(())
    }
}
