//! The in-memory lifetime of a run, from loading to eviction.
//!
//! ```text
//! Engine::send ──► activation ──► load ──► drive ──► exit ──► finish
//!                                   ▲                  │
//!                                   └── store failed, ─┘
//!                                       or the lookahead diverged
//! ```
//!
//! The order at the end is what makes it safe to send a message at any time: the driver is dropped,
//! then the inbox is closed and removed from the table in one step, and the messages that it still had
//! are handled according to the exit. A message that is sent later activates the run again.
//!
//! A panic, wherever it comes from, blocks the run and nothing else: the poll of the run and each of
//! its destructors are caught. The shard counts as busy until `finish` is done, so that it is not
//! handed over before the answers of its runs are recorded.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    BoxFuture, Chain,
    catalog::codes,
    failure::Failure,
    store::{RecordedEvent, RunStatus},
};
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{debug, info, warn};

use super::{
    Driver, Exit, Outgoing, acknowledge,
    block::{block_external, block_refused, block_unreadable},
    successor::Successor,
};
use crate::{
    panic::panic_failure,
    workflow::{
        engine::{
            Engine, Message, RunOutcome,
            answers::asks,
            runs::{Activation, Inbox},
        },
        journal::Parent,
    },
};

/// How long a run that leaves memory waits to notify agents of cancelled tasks.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);

/// The remaining work for a run that leaves memory.
struct Departure {
    /// Why the run leaves memory.
    exit: Exit,
    /// The run that waits for this one, to report its end to.
    parent: Option<Parent>,
    /// Events that were not passed to the dispatcher.
    outgoing: Outgoing,
    /// The run that it continues as, or was about to.
    successor: Option<Successor>,
}

impl From<Exit> for Departure {
    fn from(exit: Exit) -> Self {
        Self { exit, parent: None, outgoing: Outgoing::default(), successor: None }
    }
}

/// Loads a run and drives it until it leaves memory. A panic blocks the run, and its messages are
/// still handled.
pub(in super::super) async fn run(engine: Arc<Engine>, activation: Activation) {
    let run_id = Arc::clone(&activation.run_id);
    let inbox = Arc::clone(&activation.inbox);
    // Boxed here, because the future of a run is large and would be copied into every outer future.
    let run = Box::pin(run_to_exit(Arc::clone(&engine), activation));
    let departure = match guarded(&engine, run).await {
        Ok(departure) => departure,
        // An executor drops its runs when the engine stops.
        Err(_) if engine.is_stopping() => return,
        Err(failure) => Box::pin(block_external(&engine, &run_id, failure)).await.into(),
    };
    // From here on a message activates the run again.
    let (shard, unprocessed) = engine.live.remove(&run_id, &inbox);
    let outgoing = finish(&engine, &run_id, departure, unprocessed.into()).await;
    // The answers are recorded, or in the hands of tasks that the engine waits for.
    engine.live.departed(shard);
    if let Some(outgoing) = outgoing {
        send_notices(&engine, &run_id, outgoing).await;
    }
}

/// Polls a run, or lets its executor do so. An error means that the run panicked or was dropped.
///
/// The executor gets the whole run as a future without an output. The result comes back through a
/// channel, and the executor's own future tells whether it dropped or lost the run.
async fn guarded(
    engine: &Engine,
    future: BoxFuture<'static, Departure>,
) -> Result<Departure, Failure> {
    let panicked =
        |panic: Box<dyn std::any::Any + Send>| panic_failure(codes::RUN_PANICKED, &*panic);
    let future = AssertUnwindSafe(future).catch_unwind();
    // Without an executor, the task of the run polls it directly.
    let Some(executor) = &engine.executor else { return future.await.map_err(panicked) };
    let (sender, mut departed) = oneshot::channel();
    let run = Box::pin(async move {
        // The receiver lives as long as the run.
        let _ = sender.send(future.await);
    });
    let driven = catch_unwind(AssertUnwindSafe(|| executor.drive(run))).map_err(panicked)?;
    tokio::select! {
        biased;
        // Before the executor's future: a run that is complete is no failure, even if its executor ends
        // with it.
        departed = &mut departed => if let Ok(departed) = departed {
            return departed.map_err(panicked);
        },
        driven = AssertUnwindSafe(driven).catch_unwind() => match (departed.try_recv(), driven) {
            (Ok(departed), _) => return departed.map_err(panicked),
            (Err(_), Err(panic)) => return Err(panicked(panic)),
            (Err(_), Ok(())) => {}
        },
    }
    Err(Failure::new(
        codes::RUN_PANICKED,
        "the executor dropped the run, perhaps because it panicked",
    ))
}

/// Loads and drives a run. Loads it again while the store does not answer, after a lookahead that the
/// journal refuted, after an interruption, and to find out what its code awaits.
///
/// The inbox stays open between two loads, so that the run is not activated a second time. The permit
/// and the journal that came with the activation are good for the first load only.
async fn run_to_exit(engine: Arc<Engine>, activation: Activation) -> Departure {
    let Activation { run_id, inbox, journal, permit } = activation;
    let mut departure = load_and_drive(&engine, &run_id, &inbox, journal, permit, Again::No).await;
    let mut backoff = engine.options.backoff.initial_delay * 2;
    loop {
        let mut again = Again::No;
        match &departure.exit {
            Exit::Diverged => {
                debug!(%run_id, "another process appended first; loading the run again");
                again = Again::Behind(departure.outgoing);
            }
            Exit::Suspect => {
                debug!(%run_id, "loading a run again to find out what its code awaits");
                again = Again::Probing(departure.outgoing);
            }
            Exit::Failed(error) if error.is_retryable() => {
                warn!(error = %Chain(error), %run_id, "could not continue a run; trying again");
                engine.clock.sleep(backoff).await;
                if engine.ownership.fence_of(&run_id).is_none() {
                    // Its new owner needs the answers in the inbox.
                    departure.exit = Exit::NotOwner;
                    return departure;
                }
                backoff = engine.options.backoff.next(backoff);
            }
            Exit::Interrupted => {
                warn!(%run_id, "the code of a run was interrupted; loading the run again");
                again = Again::Behind(departure.outgoing);
                tokio::select! {
                    biased;
                    () = engine.leave_begun() => {}
                    () = engine.clock.sleep(backoff) => {}
                }
                backoff = engine.options.backoff.next(backoff);
            }
            _ => return departure,
        }
        departure = load_and_drive(&engine, &run_id, &inbox, None, None, again).await;
    }
}

/// How a run is loaded once more, with the notices that its last driver has not sent.
enum Again {
    /// As for the first time.
    No,
    /// Without a lookahead, because the last one was refuted.
    Behind(Outgoing),
    /// In order to find out whether its code awaits something that would be lost.
    Probing(Outgoing),
}

/// Loads a run and drives it, once.
///
/// A run that can't proceed may have got a message since its journal was read, such as a request to
/// cancel. It is loaded again until there was none.
async fn load_and_drive(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    inbox: &Inbox,
    journal: Option<Vec<RecordedEvent>>,
    permit: Option<OwnedSemaphorePermit>,
    again: Again,
) -> Departure {
    let probes = matches!(again, Again::Probing(_));
    let mut loaded = load(engine, run_id, journal, permit, probes).await;
    while let Err(departure) = &loaded
        && is_dormant(&departure.exit)
        && drain_inbox(engine, &departure.exit, inbox).await
    {
        // The message may be a cancellation that came after the journal was read.
        loaded = load(engine, run_id, None, None, probes).await;
    }
    match loaded {
        Ok(mut driver) => {
            match again {
                Again::No => {}
                Again::Behind(notices) => driver.never_look_ahead(notices),
                Again::Probing(notices) => driver.take_notices(notices),
            }
            let exit = driver.drive(inbox).await;
            drop_driver(engine, run_id, driver, exit).await
        }
        Err(departure) => departure,
    }
}

/// Loads a run, and finds out what its code awaits if it `probes`. One that can't be driven departs at
/// once.
async fn load(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    journal: Option<Vec<RecordedEvent>>,
    permit: Option<OwnedSemaphorePermit>,
    probes: bool,
) -> Result<Box<Driver>, Departure> {
    let (mut driver, replay) = match Driver::read(engine, run_id, journal, permit).await {
        Ok(read) => read,
        Err(exit) => return Err(block_faulty(engine, run_id, exit).await.into()),
    };
    if probes {
        driver.probe();
    }
    match driver.replay(replay).await {
        Ok(()) => Ok(driver),
        Err(exit) => Err(drop_driver(engine, run_id, driver, exit).await),
    }
}

/// Blocks a run whose journal can't be read, or whose append the store refuses for good. If the store is not
/// what it was, the engine stops instead: the run may not be the same one any more.
async fn block_faulty(engine: &Arc<Engine>, run_id: &Arc<str>, exit: Exit) -> Exit {
    match exit {
        Exit::Failed(error) if error.needs_restart() => {
            engine.fail("advance a run", &Failure::from_error(error.code(), &error));
            Exit::Failed(error)
        }
        Exit::Unreadable(error) => Box::pin(block_unreadable(engine, run_id, &error)).await,
        Exit::Failed(error) if !error.is_retryable() => {
            Box::pin(block_refused(engine, run_id, error)).await
        }
        exit => exit,
    }
}

/// Drops a driver. The destructors of a workflow may panic, which blocks the run if it has not
/// ended.
///
/// The parts that must survive are taken out first. Compensations are dropped one by one in `close`, then
/// the code with the rest.
async fn drop_driver(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    mut driver: Box<Driver>,
    exit: Exit,
) -> Departure {
    let parent = driver.origin.parent.take();
    let mut outgoing = std::mem::take(&mut driver.tasks.outgoing);
    // A reserved place that is not used would block the runs that wait for one.
    outgoing.release_slot();
    let successor = driver.succession.take_successor();
    // Before the driver is dropped: from now on, dropped operations are not abandoned.
    let closed = driver.execution.shared.close();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(driver)));
    let panic = closed.and(dropped).map_err(|panic| panic_failure(codes::RUN_PANICKED, &*panic));
    let exit = match (exit, panic) {
        (exit, Ok(())) => block_faulty(engine, run_id, exit).await,
        (
            // A run that would continue must not be loaded again and again only to panic when it leaves
            // memory.
            exit @ (Exit::Waiting(_)
            | Exit::NotDue(_)
            | Exit::Failed(_)
            | Exit::Diverged
            | Exit::Interrupted
            | Exit::Suspect),
            Err(failure),
        ) => {
            debug!(?exit, %run_id, "a destructor panicked");
            Box::pin(block_external(engine, run_id, failure)).await
        }
        (exit, Err(failure)) => {
            // Without the text of the panic, which may hold data of the user. The panic hook gets it.
            warn!(code = failure.code, %run_id, "a destructor panicked");
            exit
        }
    };
    Departure { exit, parent, outgoing, successor }
}

/// Cleans up after a run that has left memory. Returns the notices that its agents must still get.
///
/// | exit | timers | unread messages |
/// |---|---|---|
/// | ended or blocked | removed | settled, or recorded for later |
/// | another engine owns it | removed | recorded for the owner |
/// | waits | kept, and its note is written | sent again, which loads it |
/// | unreadable, or the store refuses | kept | answers are recorded |
async fn finish(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    departure: Departure,
    unprocessed: Vec<Message>,
) -> Option<Outgoing> {
    let Departure { exit, parent, outgoing, mut successor } = departure;
    let has_ended = matches!(&exit, Exit::Ended(ended) if ended.status.is_final());
    if let Some(Successor { run_id, begun }) = successor.take_if(|_| !has_ended) {
        drop(begun);
        // No driver of this engine holds it any more: its load sets the timer of its next check.
        engine.send(&run_id, Message::Wake);
    }
    match exit {
        Exit::Ended(ended) => {
            finish_ended(engine, run_id, &ended, parent, successor, unprocessed).await;
        }
        Exit::Unknown => {
            keep_answers(engine, unprocessed);
        }
        Exit::NotOwner => {
            debug!(%run_id, "this engine does not own the run, or did not for a time");
            engine.timers.clear_run(run_id);
            // Answers are recorded for the new owner. If this engine owns the shard again by now,
            // the run is activated again.
            let again = engine.ownership.fence_of(run_id).map(|_| Message::Wake);
            unprocessed.into_iter().chain(again).for_each(|message| engine.send(run_id, message));
            return None;
        }
        Exit::Waiting(parked) | Exit::NotDue(parked) => {
            // A note would be outdated at once.
            if let Some(parked) = parked.filter(|_| unprocessed.is_empty()) {
                engine.park(run_id, parked);
            }
            unprocessed.into_iter().for_each(|message| engine.send(run_id, message));
        }
        // The error was reported where it happened. The run resumes after the next start, with the
        // answers.
        Exit::Unreadable(_)
        | Exit::Failed(_)
        | Exit::Diverged
        | Exit::Interrupted
        | Exit::Suspect => {
            keep_answers(engine, unprocessed);
        }
    }
    Some(outgoing)
}

/// Reports the end of a run, or that it is blocked, to all that wait for it.
///
/// Callers in this process are notified first, then the successor begins, then the parent gets the outcome.
/// The end itself is durable, so a crash here loses none of these: others find it in the log.
async fn finish_ended(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    ended: &RunOutcome,
    parent: Option<Parent>,
    successor: Option<Successor>,
    unprocessed: Vec<Message>,
) {
    engine.timers.clear_run(run_id);
    if ended.status.is_final() {
        engine.ownership.forget(run_id);
        engine.hosting.unhosted.remove(run_id);
    }
    log_end(run_id, ended);
    engine.waiters.notify(run_id, ended);
    if let Some(successor) = successor {
        release(engine, successor);
    }
    if let Some(parent) = parent {
        notify_parent(engine, parent, ended.clone());
    }
    let mut woken = false;
    for message in unprocessed {
        woken |= matches!(message, Message::Wake);
        settle_late(engine, ended, message).await;
    }
    // It may be the command that unblocks it.
    if woken && ended.status == RunStatus::Blocked {
        engine.send(run_id, Message::Wake);
    }
}

/// Starts a run that waited for its predecessor to end.
///
/// With the journal of its start, unless it was activated in another way since.
fn release(engine: &Arc<Engine>, Successor { run_id, begun }: Successor) {
    match begun {
        Some((starting, journal)) if !engine.holds(&run_id) => starting.activate_new(journal),
        _ => engine.send(&run_id, Message::Wake),
    }
}

/// Logs the end of a run, or that it is blocked, with the code of its failure.
///
/// Without the message: it may hold data of the user. The journal of the run has it.
fn log_end(run_id: &str, ended: &RunOutcome) {
    let code = ended.failure.as_ref().map(|failure| failure.code.as_str());
    match ended.status {
        RunStatus::Blocked => warn!(run = run_id, code, "a run is blocked"),
        status => info!(run = run_id, %status, code, "a run has ended"),
    }
}

/// Sends the notices that agents must get of a run that has left memory.
///
/// For notices only: tasks that were not published are sought or dispatched by the next load.
async fn send_notices(engine: &Engine, run_id: &str, mut outgoing: Outgoing) {
    outgoing.keep_notices();
    if outgoing.is_empty() {
        return;
    }
    let sent = poll_fn(|context| outgoing.poll(&engine.dispatches, context));
    tokio::select! {
        biased;
        () = sent => {}
        () = engine.clock.sleep(NOTICE_TIMEOUT) => {
            warn!(run = run_id, "the broker accepts no events; agents are not notified of cancelled tasks");
        }
    }
}

/// Whether a loaded run can't proceed: its start time has not been reached, or it is blocked.
///
/// Such a run has no driver that could read its inbox.
fn is_dormant(exit: &Exit) -> bool {
    match exit {
        Exit::NotDue(_) => true,
        Exit::Ended(ended) => ended.status == RunStatus::Blocked,
        _ => false,
    }
}

/// Handles the messages that a dormant run received while it was loaded, and returns whether there
/// were any. They must not stay in the inbox, or the run would be loaded for them again and again.
async fn drain_inbox(engine: &Arc<Engine>, exit: &Exit, inbox: &Inbox) -> bool {
    let mut has_messages = false;
    while let Some(message) = inbox.pop() {
        has_messages = true;
        match exit {
            Exit::Ended(ended) => settle_late(engine, ended, message).await,
            // It has not dispatched a task, so there are no answers.
            _ => keep_answers(engine, vec![message]),
        }
    }
    has_messages
}

/// Settles a message that a run did not read. A run that has ended needs no answers; a blocked one
/// will need them later.
///
/// A question about an attempt of a run that has ended is answered from that end.
async fn settle_late(engine: &Arc<Engine>, ended: &RunOutcome, message: Message) {
    match message {
        Message::Answer(delivery) if ended.status.is_final() && asks(&delivery.event) => {
            engine.answer_soon(*delivery, false);
        }
        Message::Answer(delivery) if ended.status.is_final() => acknowledge(*delivery).await,
        message => keep_answers(engine, vec![message]),
    }
}

/// Records the answers among messages that a run did not read.
///
/// Other messages are hints, and the next load finds what they hinted at.
fn keep_answers(engine: &Arc<Engine>, messages: Vec<Message>) {
    for message in messages {
        if let Message::Answer(delivery) = message {
            engine.record_for_later(*delivery);
        }
    }
}

/// Reports the end of a run to its parent.
///
/// A run that continued reports nothing: its successor has the same parent. A blocked run has not
/// ended.
fn notify_parent(engine: &Arc<Engine>, parent: Parent, ended: RunOutcome) {
    if !ended.status.is_final() || ended.status == RunStatus::Continued {
        return;
    }
    let reporter = Arc::clone(engine);
    engine.background.spawn(async move {
        let outcome = ended.into_outcome();
        reporter.report_child(&parent, outcome).await;
    });
}
