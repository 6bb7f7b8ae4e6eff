//! The slot number of an engine, and the mailboxes that it reads.
//!
//! A slot is a lease on the lowest free number, and makes an engine a member. The steps of joining are
//! in this order:
//!
//! 1. The number is recorded in the log, so that its mailbox is never forgotten.
//! 2. The mailbox is opened: answers would have nowhere to go otherwise.
//! 3. The slot is acquired. Another engine may have been faster; then it begins again with the next
//!    number.
//! 4. The mailbox is read, and shards are taken.
//!
//! Each mailbox is read by one member, also those of engines that are gone (`Members::mailboxes`). For
//! a moment two may want to read the same one, because they saw the leases at different times.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aios_core::{
    Chain,
    broker::{Address, BrokerError, Deliveries, Health},
    catalog::system::{self, EngineSlotOpened},
    event::{Event, EventId, EventType},
    store::{Append, EventStore, Leases, Shard, StoreError, StreamId},
};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::{margin, members::Members};
use crate::workflow::engine::{Engine, EngineError, answers::mailbox};

/// Stream with one event for each slot that was ever acquired.
const STREAM: &str = "system/engines";

/// The tasks that read the mailboxes of this engine and of dead ones.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<Reading>);

/// The readers, and how many mailboxes exist.
#[derive(Debug, Default)]
struct Reading {
    /// The reader of each mailbox, by slot.
    readers: BTreeMap<u16, AbortHandle>,
    /// Number of mailboxes that were ever opened; their slots are below it.
    opened: u16,
    /// Whether no mailbox is read any more.
    is_closed: bool,
}

impl Readers {
    /// Stops all readers. Deliveries that are not recorded are released.
    pub(crate) fn stop(&self) {
        let readers = std::mem::take(&mut self.0.lock().readers);
        readers.into_values().for_each(|reader| reader.abort());
    }

    /// Stops all readers for good: a loop of the engine that has not ended yet starts no others.
    pub(crate) fn close(&self) {
        self.0.lock().is_closed = true;
        self.stop();
    }

    /// Registers the reader of a mailbox in place of the previous one.
    fn insert(&self, number: u16, reader: AbortHandle) {
        let mut reading = self.0.lock();
        let unwanted = match reading.is_closed {
            true => Some(reader),
            false => reading.readers.insert(number, reader),
        };
        if let Some(unwanted) = unwanted {
            unwanted.abort();
        }
    }
}

/// Acquires the lowest free slot. Its mailbox is opened first: an engine that can't read its
/// mailbox is not a member and gets no shards.
///
/// If the mailbox is gone although it was opened before, the broker has lost everything, or is a
/// new one in memory.
pub(crate) async fn join(engine: &Arc<Engine>) -> Result<(), EngineError> {
    take_slot(engine, Unreachable::Refuses).await
}

/// Like [`join`], for an engine that lost its slot. If no other engine is alive and the broker
/// can't be reached, it joins nevertheless, because timers and steps need no broker. Its mailbox is
/// opened when the broker is back.
pub(super) async fn join_again(engine: &Arc<Engine>) -> Result<(), EngineError> {
    take_slot(engine, Unreachable::JoinsAlone).await
}

/// How an engine joins when the broker can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreachable {
    /// It does not join.
    Refuses,
    /// It joins if there is no other engine that might reach the broker.
    JoinsAlone,
}

/// Joins with the lowest free number, or with the one that this engine already has.
async fn take_slot(engine: &Arc<Engine>, unreachable: Unreachable) -> Result<(), EngineError> {
    let lease_time = engine.options.lease_time;
    loop {
        let members = Members::of(&engine.store.leases().await?);
        let slot = members.number_of(&engine.owner).unwrap_or_else(|| members.lowest_free());
        // Recorded before the mailbox exists, so that a later engine knows to read it.
        let Opened { count, is_first } = opened(engine, slot).await?;
        let name = mailbox::name(engine.store_id, slot).map_err(BrokerError::from)?;
        let is_alone = members.slots().values().all(|owner| *owner == engine.owner);
        // Another engine that is alive may have recorded this number, and not have opened its mailbox yet.
        let is_empty = unreachable == Unreachable::Refuses
            && is_alone
            && !is_first
            // Asked before it is opened, which would create it.
            && is_gone(engine, &name.clone().into()).await;
        let deliveries = match unreachable {
            Unreachable::JoinsAlone if is_alone => open_if_reachable(engine, slot).await?,
            _ => Some(mailbox::open(engine, slot).await?),
        };
        // An engine that stops releases its leases under this lock, and acquires none afterwards.
        let changing = engine.ownership.changing.lock().await;
        if engine.is_stopping() {
            return Ok(());
        }
        // The lease counts from here, as for a renewal.
        let sent = engine.clock.elapsed();
        let mut taken =
            engine.store.acquire(&[Shard::slot(slot)], &engine.owner, lease_time).await?;
        engine.store_clock.record_leases(&taken, lease_time, sent);
        // Another engine may have acquired it first.
        let Some(lease) = taken.pop() else { continue };
        engine.ownership.set_valid_until(sent + lease_time - margin(lease_time));
        engine.ownership.set_slot(lease, name.as_str().into());
        drop(changing);
        let mut reading = engine.readers.0.lock();
        reading.opened = reading.opened.max(count);
        drop(reading);
        if is_empty {
            info!("the broker has lost the tasks that were dispatched before");
            engine.activity.set_broker_empty(engine.clock.now());
        }
        read(engine, slot, deliveries);
        info!(slot, "the engine joined");
        return Ok(());
    }
}

/// Opens the mailbox of a slot, unless the broker is not connected or the connection is lost.
async fn open_if_reachable(engine: &Engine, slot: u16) -> Result<Option<Deliveries>, BrokerError> {
    let opened = tokio::select! {
        biased;
        opened = mailbox::open(engine, slot) => opened,
        () = unreachable(engine) => {
            warn!(slot, "the broker can't be reached; the engine joins without its mailbox");
            return Ok(None);
        }
    };
    match opened {
        Ok(deliveries) => Ok(Some(deliveries)),
        Err(error) if error.is_retryable() => {
            warn!(error = %Chain(&error), slot, "the engine joins without its mailbox");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Completes once the broker is found disconnected.
async fn unreachable(engine: &Engine) {
    let mut health = engine.broker.health();
    while let Some(health) = health.next().await {
        if matches!(health, Health::Reconnecting { .. }) {
            return;
        }
    }
    std::future::pending().await
}

/// Whether the broker says that a mailbox does not exist.
async fn is_gone(engine: &Engine, mailbox: &Address) -> bool {
    let letters = engine.broker.dead_letters(mailbox).await;
    matches!(letters, Err(BrokerError::UnknownAddress { .. }))
}

/// The slots that were ever acquired.
struct Opened {
    /// Slots are acquired from the lowest, so this is the number of mailboxes that may hold answers.
    count: u16,
    /// Whether this slot was never acquired before.
    is_first: bool,
}

/// Records that a slot is about to be acquired.
///
/// The event has a derived id, so each slot is recorded once, whichever engine acquires it.
async fn opened(engine: &Engine, slot: u16) -> Result<Opened, EngineError> {
    let stream = StreamId::new(STREAM)?;
    let invalid = |reason: &dyn std::fmt::Display| {
        EngineError::Store(StoreError::InvalidConfiguration {
            reason: format!("the event system.engine_slot.opened is invalid: {reason}"),
        })
    };
    let event_type = EventType::new(system::DOMAIN, "engine_slot", system::ENGINE_SLOT_OPENED)
        .map_err(|error| invalid(&error))?;
    let event = Event::new(event_type, "aios", &EngineSlotOpened::new(slot))
        .map_err(|error| invalid(&error))?
        .with_timestamp(engine.clock.now())
        .with_id(EventId::derive(&format!("{}/slots/{slot}", engine.store_id)));
    let appended = engine.store.append_one(Append::new(stream.clone(), vec![event])).await?;
    let limit = usize::from(Shard::SLOTS);
    let known = engine.store.read_stream(&stream, 0, limit).await?;
    let count = known.len().try_into().unwrap_or(Shard::SLOTS).max(slot + 1);
    Ok(Opened { count, is_first: !appended.repeated })
}

/// Starts and stops readers so that exactly the mailboxes assigned to this engine are read.
///
/// Called at each tick, with the members of that moment. A reader that has ended, for example because
/// its broker refused it, is started again.
pub(super) fn read_mailboxes(engine: &Arc<Engine>, members: &Members) {
    let Some(slot) = engine.ownership.slot() else { return };
    let (wanted, missing) = {
        let mut reading = engine.readers.0.lock();
        let highest = members.slots().keys().next_back().map_or(0, |highest| highest + 1);
        reading.opened = reading.opened.max(highest);
        let wanted = members.mailboxes(slot, reading.opened);
        reading.readers.retain(|number, reader| {
            let is_wanted = wanted.contains(number);
            if !is_wanted {
                reader.abort();
            }
            is_wanted && !reader.is_finished()
        });
        let missing: BTreeSet<u16> =
            wanted.iter().filter(|it| !reading.readers.contains_key(it)).copied().collect();
        (wanted, missing)
    };
    if !missing.is_empty() {
        info!(slot, ?wanted, "reading the mailboxes of engines that are gone");
    }
    for number in missing {
        read(engine, number, None);
    }
}

/// Starts the reader of a mailbox.
fn read(engine: &Arc<Engine>, number: u16, deliveries: Option<Deliveries>) {
    if engine.readers.0.lock().is_closed {
        return;
    }
    let reader = engine.background.spawn(mailbox::run(Arc::clone(engine), number, deliveries));
    if let Some(reader) = reader {
        engine.readers.insert(number, reader);
    }
}
