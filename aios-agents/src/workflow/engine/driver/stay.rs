//! The stay of a run in memory: from loading it to what is left when it goes.

use std::sync::Arc;

use aios_core::{
    clock::ClockExt,
    event::{EventError, EventId},
    failure::Failure,
    store::{RunStatus, Shard},
};
use tokio::sync::mpsc;
use tracing::{debug, error, warn};

use super::{Driver, Exit, acknowledge};
use crate::workflow::{
    engine::{Ended, Engine, Message, live::Activation},
    journal::{Blocked, Entry, Parent},
};

/// Loads a run and drives it until it leaves memory.
pub(in super::super) async fn run(engine: Arc<Engine>, activation: Activation) {
    let Activation { run_id, mut inbox, journal, permit } = activation;
    let (mut driver, mut loaded) = (None, Driver::load(&engine, &run_id, journal, permit).await);
    while let Err(exit) = &loaded
        && stands_still(exit)
        && was_told(&engine, &run_id, exit, &mut inbox).await
    {
        // Perhaps to cancel, after the journal was read.
        loaded = Driver::load(&engine, &run_id, None, None).await;
    }
    let exit = match loaded {
        Ok(loaded) => driver.insert(loaded).drive(&mut inbox).await,
        Err(Exit::Unreadable(error)) => block_unread(&engine, &run_id, &error).await,
        Err(exit) => exit,
    };
    if let Exit::Failed(error) = &exit {
        error!(%error, %run_id, "could not go on with a run; trying again");
        // What was told waits meanwhile, and what is in hand is not given back to come at once.
        engine.clock.sleep(engine.options.back_off.1).await;
    }
    if let Some(driver) = &driver {
        driver.execution.cell.close();
    }
    let late = engine.live.retire(&run_id, inbox).await;
    match exit {
        Exit::Ended(ended) => {
            engine.waiters.notify(&run_id, &ended);
            if let Some(parent) = driver.and_then(|driver| driver.parent) {
                report(&engine, parent, ended.clone());
            }
            let mut told = false;
            for message in late {
                told |= matches!(message, Message::Nudge);
                dismiss(&engine, &run_id, &ended, message).await;
            }
            if told && ended.status == RunStatus::Blocked {
                tell_again(&engine, &run_id, [Message::Nudge]);
            }
        }
        Exit::Unknown => {
            for message in late {
                give_up(message).await;
            }
        }
        Exit::Lost => {
            debug!(%run_id, "somebody else owns the run, or did");
            let lost = driver.map(|driver| driver.fence);
            if engine.ownership.fence(Shard::of(&run_id)).is_some_and(|now| Some(now) != lost) {
                // The shard came back before the run had left memory.
                tell_again(&engine, &run_id, late.into_iter().chain([Message::Nudge]));
            }
        }
        Exit::Waiting | Exit::Premature => tell_again(&engine, &run_id, late),
        Exit::Unreadable(_) | Exit::Failed(_) => {
            tell_again(&engine, &run_id, late.into_iter().chain([Message::Nudge]));
        }
    }
}

/// Whether a run was loaded in vain: its time has not come, or its code does not fit.
fn stands_still(exit: &Exit) -> bool {
    match exit {
        Exit::Premature => true,
        Exit::Ended(ended) => ended.status == RunStatus::Blocked,
        _ => false,
    }
}

/// Whether a run that stands still was told anything while it was loaded. What it is told does not
/// stay in the inbox, or it would be loaded for it again and again.
async fn was_told(
    engine: &Engine,
    run_id: &str,
    exit: &Exit,
    inbox: &mut mpsc::Receiver<Message>,
) -> bool {
    let mut told = false;
    while let Ok(message) = inbox.try_recv() {
        told = true;
        match exit {
            Exit::Ended(ended) => dismiss(engine, run_id, ended, message).await,
            // It has given no task, so nothing answers it.
            _ => give_up(message).await,
        }
    }
    told
}

/// A journal that can't be read was not written by aios, or by a later one. The run stands still
/// and says so; nothing is lost by leaving it alone.
async fn block_unread(engine: &Engine, run_id: &Arc<str>, error: &EventError) -> Exit {
    let failure = Failure::from_error("JOURNAL_UNREADABLE", error);
    let id = EventId::derive(&format!("{run_id}/unreadable/{}", failure.message));
    let entry = Entry::Blocked(Blocked { failure: failure.clone() });
    match engine.journals.append(run_id, entry, Some(id)).await {
        Ok(()) => Exit::Ended(Ended {
            status: RunStatus::Blocked,
            result: None,
            failure: Some(failure),
            continued_as: None,
        }),
        Err(error) => Exit::Failed(error.into()),
    }
}

/// Tells a run what came too late for its last stay in memory.
fn tell_again(
    engine: &Arc<Engine>,
    run_id: &Arc<str>,
    late: impl IntoIterator<Item = Message, IntoIter: Send> + Send + 'static,
) {
    let (engine, run_id) = (Arc::clone(engine), Arc::clone(run_id));
    let mut late = late.into_iter().peekable();
    if late.peek().is_none() {
        return;
    }
    // A task of its own, because telling starts a driver like this one.
    tokio::spawn(async move {
        for message in late {
            engine.tell(&run_id, message).await;
        }
    });
}

/// A run that has ended needs no answers; one that is blocked will need them later.
async fn dismiss(engine: &Engine, run_id: &str, ended: &Ended, message: Message) {
    let Message::Answer(delivery) = message else { return };
    if ended.status == RunStatus::Blocked {
        let event = delivery.event.clone();
        if let Err(error) = engine.journals.keep(run_id, event).await {
            return warn!(%error, %run_id, "could not keep an answer; it will come again");
        }
    }
    acknowledge(*delivery).await;
}

/// An answer for a run that does not exist.
async fn give_up(message: Message) {
    let Message::Answer(delivery) = message else { return };
    if let Err(error) = delivery.dead_letter("there is no such run").await {
        warn!(%error, "could not give an answer up; it will come again");
    }
}

/// Tells the parent of a run how it ended.
fn report(engine: &Arc<Engine>, parent: Parent, ended: Ended) {
    if !ended.status.is_final() || ended.status == RunStatus::Continued {
        return;
    }
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let outcome = ended.into_outcome();
        engine.report_child(&parent.run_id.into(), parent.operation, outcome).await;
    });
}
