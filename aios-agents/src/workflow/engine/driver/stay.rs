//! The stay of a run in memory: from loading it to what is left when it goes.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    BoxFuture, Chain,
    event::{EventError, EventId},
    failure::Failure,
    store::{RecordedEvent, RunStatus, StoreError},
};
use futures_util::FutureExt;
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{debug, info, warn};

use super::{Driver, Exit, Outgoing, acknowledge, load::exit, successor::Successor};
use crate::{
    failing::truncate,
    panic::panic_failure,
    task,
    workflow::{
        engine::{Ended, Engine, Message, inbox::Inbox, live::Activation, questions::asks},
        journal::{Blocked, Entry, JournalError, Parent},
    },
};

/// Code of the failure that a panic outside of a workflow's code becomes: of a destructor, an
/// executor, or the engine itself.
const PANICKED: &str = "RUN_PANICKED";
/// How long a run that leaves memory waits to tell agents that its tasks were cancelled.
const FAREWELL: Duration = Duration::from_secs(30);

/// What is left of a run that leaves memory.
struct Departure {
    exit: Exit,
    parent: Option<Parent>,
    outgoing: Outgoing,
    /// The run that it continues as, or was about to.
    successor: Option<Successor>,
}

impl From<Exit> for Departure {
    fn from(exit: Exit) -> Self {
        Self { exit, parent: None, outgoing: Outgoing::default(), successor: None }
    }
}

/// Loads a run and drives it until it leaves memory. Whatever panics meanwhile, the run is blocked,
/// and nobody who tells it anything waits.
pub(in super::super) async fn run(engine: Arc<Engine>, activation: Activation) {
    let (run_id, inbox) = (Arc::clone(&activation.run_id), Arc::clone(&activation.inbox));
    // Boxed here, because the future of a run is large, and would be moved by everything around it.
    let run = Box::pin(stay(Arc::clone(&engine), activation));
    let departure = match guarded(&engine, run).await {
        Ok(departure) => departure,
        Err(_) if engine.is_stopping() => return,
        Err(failure) => Box::pin(block_outside(&engine, &run_id, failure)).await.into(),
    };
    let (shard, late) = engine.live.retire(&run_id, &inbox);
    let outgoing = depart(&engine, &run_id, departure, late.into()).await;
    engine.live.departed(shard);
    if let Some(outgoing) = outgoing {
        say_farewell(&engine, &run_id, outgoing).await;
    }
}

/// Polls a run, or has its executor do so. An error says that it panicked or was dropped.
async fn guarded(
    engine: &Engine,
    stay: BoxFuture<'static, Departure>,
) -> Result<Departure, Failure> {
    let panicked = |panic: Box<dyn std::any::Any + Send>| panic_failure(PANICKED, &*panic);
    let stay = AssertUnwindSafe(stay).catch_unwind();
    let Some(executor) = &engine.options.executor else { return stay.await.map_err(panicked) };
    let (sender, mut departed) = oneshot::channel();
    let run = Box::pin(async move {
        // The receiver lives as long as the run.
        let _ = sender.send(stay.await);
    });
    let driven = catch_unwind(AssertUnwindSafe(|| executor.drive(run))).map_err(panicked)?;
    tokio::select! {
        biased;
        departed = &mut departed => if let Ok(departed) = departed {
            return departed.map_err(panicked);
        },
        driven = AssertUnwindSafe(driven).catch_unwind() => match (departed.try_recv(), driven) {
            (Ok(departed), _) => return departed.map_err(panicked),
            (Err(_), Err(panic)) => return Err(panicked(panic)),
            (Err(_), Ok(())) => {}
        },
    }
    Err(Failure::new(PANICKED, "the executor dropped the run, perhaps because it panicked"))
}

/// Stays in memory, also while the store does not answer.
async fn stay(engine: Arc<Engine>, activation: Activation) -> Departure {
    let Activation { run_id, inbox, journal, permit } = activation;
    let mut departure = once(&engine, &run_id, &inbox, journal, permit).await;
    let mut backoff = engine.options.backoff.0 * 2;
    while let Exit::Failed(error) = &departure.exit
        && error.is_retryable()
    {
        warn!(error = %Chain(error), %run_id, "could not go on with a run; trying again");
        engine.clock.sleep(backoff).await;
        backoff = (backoff * 2).min(engine.options.backoff.1);
        departure = once(&engine, &run_id, &inbox, None, None).await;
    }
    departure
}

/// Loads a run and drives it, once.
async fn once(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    inbox: &Inbox,
    journal: Option<Vec<RecordedEvent>>,
    permit: Option<OwnedSemaphorePermit>,
) -> Departure {
    let mut loaded = Driver::load(engine, run_id, journal, permit).await;
    while let Err(exit) = &loaded
        && stands_still(exit)
        && was_told(engine, exit, inbox).await
    {
        // Perhaps to cancel, after the journal was read.
        loaded = Driver::load(engine, run_id, None, None).await;
    }
    match loaded {
        Ok(mut driver) => {
            let exit = driver.drive(inbox).await;
            leave(engine, run_id, driver, exit).await
        }
        Err(Exit::Unreadable(error)) => Box::pin(block_unread(engine, run_id, &error)).await.into(),
        Err(Exit::Failed(error)) if !error.is_retryable() => {
            Box::pin(block_refused(engine, run_id, error)).await.into()
        }
        Err(exit) => exit.into(),
    }
}

/// Drops a driver. The destructors of a workflow may panic; if the run has not ended, that blocks it.
async fn leave(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    mut driver: Driver,
    exit: Exit,
) -> Departure {
    let parent = driver.parent.take();
    let mut outgoing = std::mem::take(&mut driver.outgoing);
    outgoing.rest();
    let successor = driver.succession.take_successor();
    let closed = driver.execution.cell.close();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(driver)));
    let panic = closed.and(dropped).map_err(|panic| panic_failure(PANICKED, &*panic));
    let exit = match (exit, panic) {
        (Exit::Failed(error), Ok(())) if !error.is_retryable() => {
            Box::pin(block_refused(engine, run_id, error)).await
        }
        (Exit::Unreadable(error), Ok(())) => Box::pin(block_unread(engine, run_id, &error)).await,
        (exit, Ok(())) => exit,
        (exit @ (Exit::Waiting(_) | Exit::Premature(_) | Exit::Failed(_)), Err(failure)) => {
            debug!(?exit, %run_id, "a destructor panicked");
            Box::pin(block_outside(engine, run_id, failure)).await
        }
        (exit, Err(failure)) => {
            warn!(%failure, %run_id, "a destructor panicked");
            exit
        }
    };
    Departure { exit, parent, outgoing, successor }
}

/// Does what is left to do for a run that has left memory. Returns what its agents are still to be
/// told.
async fn depart(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    departure: Departure,
    late: Vec<Message>,
) -> Option<Outgoing> {
    let Departure { exit, parent, outgoing, successor } = departure;
    match exit {
        Exit::Ended(ended) => {
            engine.timers.clear_run(run_id);
            if ended.status.is_final() {
                engine.ownership.forget(run_id);
                engine.hosting.unhosted.remove(run_id);
            }
            log(run_id, &ended);
            engine.waiters.notify(run_id, &ended);
            if let Some(successor) = successor.filter(|_| ended.status.is_final()) {
                release(engine, successor);
            }
            if let Some(parent) = parent {
                report(engine, parent, ended.clone());
            }
            let mut told = false;
            for message in late {
                told |= matches!(message, Message::Nudge);
                dismiss(engine, &ended, message).await;
            }
            if told && ended.status == RunStatus::Blocked {
                engine.tell(run_id, Message::Nudge);
            }
        }
        Exit::Unknown => {
            keep_answers(engine, late);
        }
        Exit::Lost => {
            debug!(%run_id, "somebody else owns the run, or did");
            engine.timers.clear_run(run_id);
            // Answers are recorded for its new owner. If the shard came back before the run had left
            // memory, the run comes back too.
            let again = engine.ownership.fence_of(run_id).map(|_| Message::Nudge);
            late.into_iter().chain(again).for_each(|message| engine.tell(run_id, message));
            return None;
        }
        Exit::Waiting(parked) | Exit::Premature(parked) => {
            if let Some(parked) = parked.filter(|_| late.is_empty()) {
                engine.park(run_id, parked);
            }
            late.into_iter().for_each(|message| engine.tell(run_id, message));
        }
        // Reported where it happened; the run goes on after the next start, with the answers.
        Exit::Unreadable(_) | Exit::Failed(_) => keep_answers(engine, late),
    }
    Some(outgoing)
}

/// Lets a run begin that waited for its predecessor to end.
fn release(engine: &Arc<Engine>, Successor { run_id, begun }: Successor) {
    match begun {
        Some((starting, journal)) if !engine.holds(&run_id) => starting.begin(journal),
        _ => engine.tell(&run_id, Message::Nudge),
    }
}

fn log(run_id: &str, ended: &Ended) {
    counter!("aios_runs_ended_total", "status" => ended.status.as_str()).increment(1);
    let failure = ended.failure.as_ref().map(tracing::field::display);
    match ended.status {
        RunStatus::Blocked => warn!(run = run_id, failure, "a run is blocked"),
        status => info!(run = run_id, %status, failure, "a run has ended"),
    }
}

/// Hands over the notices that agents are to get of a run that has left memory.
async fn say_farewell(engine: &Engine, run_id: &str, mut outgoing: Outgoing) {
    outgoing.keep_notices();
    let sent = poll_fn(|context| outgoing.poll(&engine.dispatches, context));
    tokio::select! {
        biased;
        () = sent => {}
        () = engine.clock.sleep(FAREWELL) => {
            warn!(run = run_id, "the broker takes nothing; agents miss that tasks were cancelled");
        }
    }
}

/// Whether a run was loaded in vain: its time has not come, or its code does not fit.
fn stands_still(exit: &Exit) -> bool {
    match exit {
        Exit::Premature(_) => true,
        Exit::Ended(ended) => ended.status == RunStatus::Blocked,
        _ => false,
    }
}

/// Whether a run that stands still was told anything while it was loaded. What it is told does not
/// stay in the inbox, or it would be loaded for it again and again.
async fn was_told(engine: &Arc<Engine>, exit: &Exit, inbox: &Inbox) -> bool {
    let mut told = false;
    while let Some(message) = inbox.pop() {
        told = true;
        match exit {
            Exit::Ended(ended) => dismiss(engine, ended, message).await,
            // It has given no task, so nothing answers it.
            _ => keep_answers(engine, vec![message]),
        }
    }
    told
}

/// A journal that can't be read was not written by aios, or by a later one. The run stands still
/// and says so; nothing is lost by leaving it alone.
async fn block_unread(engine: &Engine, run_id: &Arc<str>, error: &EventError) -> Exit {
    let failure = Failure::from_error("JOURNAL_UNREADABLE", error);
    let id = EventId::derive(&format!("{run_id}/unreadable/{}", failure.message));
    block(engine, run_id, failure, Some(id)).await
}

/// What the store refuses for good, it refuses again.
async fn block_refused(engine: &Engine, run_id: &Arc<str>, error: StoreError) -> Exit {
    if let StoreError::StreamClosed { .. } = error {
        // Somebody else ended the run, and it says how.
        return match engine.journals.ended(run_id).await {
            Ok(Some(ended)) => Exit::Ended(ended),
            Ok(None) => Exit::Failed(error),
            Err(JournalError::Store(error)) => Exit::Failed(error),
            Err(_) => Exit::Unknown,
        };
    }
    block_outside(engine, run_id, Failure::from_error(error.code(), &error)).await
}

/// Blocks a run whose failure does not come from its code.
async fn block_outside(engine: &Engine, run_id: &Arc<str>, failure: Failure) -> Exit {
    block(engine, run_id, engine.own_failure(failure), None).await
}

/// Says in the journal that a run is blocked, as soon as the store takes it. A store that will never
/// take it stops the engine: the run would stand still without anybody hearing of it.
async fn block(
    engine: &Engine,
    run_id: &Arc<str>,
    mut failure: Failure,
    id: Option<EventId>,
) -> Exit {
    let mut backoff = engine.options.backoff.0;
    let mut is_cut = false;
    loop {
        if engine.ownership.fence_of(run_id).is_none() {
            return Exit::Lost;
        }
        let entry = Entry::Blocked(Blocked { failure: failure.clone() });
        let Err(error) = engine.journals.append(run_id, entry, id.clone()).await else {
            return Exit::Ended(Ended::blocked(failure));
        };
        match error {
            JournalError::Ended { .. } => {
                return match engine.journals.ended(run_id).await {
                    Ok(Some(ended)) => Exit::Ended(ended),
                    _ => Exit::Unknown,
                };
            }
            JournalError::UnknownRun { .. } => return Exit::Unknown,
            error if error.is_retryable() => {
                warn!(error = %Chain(&error), %run_id, %failure, "could not block a run; trying again");
            }
            JournalError::Store(StoreError::TooLarge { .. }) if !is_cut => {
                (failure, is_cut) = (truncate(&failure), true);
                continue;
            }
            error => {
                let Failure { code, message, .. } = error.failure();
                let message = format!("{message}; run {run_id} can't go on: {failure}");
                engine.fail("block a run", &Failure::new(code, message));
                return exit(error);
            }
        }
        engine.clock.sleep(backoff).await;
        backoff = (backoff * 2).min(engine.options.backoff.1);
    }
}

impl Ended {
    pub(super) fn blocked(failure: Failure) -> Self {
        let status = RunStatus::Blocked;
        Self { status, result: None, failure: Some(failure), continued_as: None }
    }
}

/// A run that has ended needs no answers; one that is blocked will need them later.
async fn dismiss(engine: &Arc<Engine>, ended: &Ended, message: Message) {
    match message {
        Message::Answer(delivery) if ended.status.is_final() && asks(&delivery.event) => {
            engine.answer_soon(*delivery, false);
        }
        Message::Answer(delivery) if ended.status.is_final() => acknowledge(*delivery).await,
        message => keep_answers(engine, vec![message]),
    }
}

/// Has the answers among messages recorded that a run did not read.
fn keep_answers(engine: &Arc<Engine>, messages: Vec<Message>) {
    for message in messages {
        if let Message::Answer(delivery) = message {
            engine.record_for_later(*delivery);
        }
    }
}

/// Tells the parent of a run how it ended.
fn report(engine: &Arc<Engine>, parent: Parent, ended: Ended) {
    if !ended.status.is_final() || ended.status == RunStatus::Continued {
        return;
    }
    let engine = Arc::clone(engine);
    task::spawn(async move {
        let outcome = ended.into_outcome();
        engine.report_child(&parent, outcome).await;
    });
}
