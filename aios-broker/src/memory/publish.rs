//! Publishing a batch.
//!
//! Each event is added to the lists of its queues, and the lists are appended at the end, so that a
//! batch locks each queue once and wakes its consumers once. The capacity is reserved while the
//! events are added, in all queues of an event or in none. An event therefore goes to all of its
//! queues or to none, and a full queue refuses only the events that would go there.
//!
//! An event that requires its mailbox is the exception: the mailbox alone decides, and groups that are full
//! miss it.

use std::sync::Arc;

use aios_core::{
    broker::{BrokerError, Publish},
    event::{Event, EventType, Metadata},
};

use super::{
    exchange::{Exchange, Routes},
    item::Item,
    queue::Queue,
};
use crate::missed;

/// Publishes a batch, locking each queue once.
pub(super) fn publish(exchange: &Exchange, batch: Vec<Publish>) -> Vec<Result<(), BrokerError>> {
    let mut publishing =
        Publishing { exchange, last: None, room: batch.len(), outgoing: Vec::new() };
    let answers = batch.into_iter().map(|publish| publishing.add(publish)).collect();
    publishing.flush();
    answers
}

/// A batch in progress.
struct Publishing<'a> {
    /// Where the events go.
    exchange: &'a Exchange,
    /// Events of a batch are often of one type.
    last: Option<(EventType, Routes)>,
    /// How many events one queue may get.
    room: usize,
    /// The items for each queue. Few queues, so they are searched in order.
    outgoing: Vec<(Arc<Queue>, Vec<Item>)>,
}

impl Publishing<'_> {
    /// Adds an event to the lists of its queues, or returns why it is refused. One queue gets the
    /// event itself, the others get clones.
    fn add(&mut self, publish: Publish) -> Result<(), BrokerError> {
        self.check_size(&publish.event)?;
        let routes = self.routes(&publish.event.event_type);
        let mailbox = publish.to.as_ref().and_then(|mailbox| self.exchange.mailbox(mailbox));
        if publish.to.is_some() && publish.require_route {
            let Some(mailbox) = &mailbox else { return unrouted(&publish) };
            return self.add_required(publish.event, mailbox, &routes);
        }
        let mut targets = routes.iter().chain(&mailbox);
        let Some(first) = targets.next() else {
            return unrouted(&publish);
        };
        self.reserve(first, targets.clone())?;
        for target in targets {
            self.send(target, publish.event.clone());
        }
        self.send(first, publish.event);
        Ok(())
    }

    /// Adds an event to its mailbox, and to the groups that have room for it.
    fn add_required(
        &mut self,
        event: Event,
        mailbox: &Arc<Queue>,
        groups: &Routes,
    ) -> Result<(), BrokerError> {
        self.reserve(mailbox, std::iter::empty())?;
        for group in groups.iter() {
            match self.reserve(group, std::iter::empty()) {
                Ok(()) => self.send(group, event.clone()),
                Err(error) => missed::report(&event.event_type, &event.id, &error),
            }
        }
        self.send(mailbox, event);
        Ok(())
    }

    /// Appends the lists to their queues.
    fn flush(self) {
        for (queue, items) in self.outgoing {
            queue.append(items);
        }
    }

    /// Refuses an event that is larger than the limit.
    fn check_size(&self, event: &Event) -> Result<(), BrokerError> {
        let bytes = size(event);
        let limit = self.exchange.options.max_event_bytes;
        if bytes > limit {
            return Err(BrokerError::TooLarge { bytes, limit });
        }
        Ok(())
    }

    /// The groups that receive this type.
    fn routes(&mut self, event_type: &EventType) -> Routes {
        match &self.last {
            Some((last, routes)) if last == event_type => Arc::clone(routes),
            _ => {
                let routes = self.exchange.routes(event_type);
                self.last = Some((event_type.clone(), Arc::clone(&routes)));
                routes
            }
        }
    }

    /// Reserves capacity in every queue or in none.
    fn reserve<'q>(
        &self,
        first: &'q Arc<Queue>,
        others: impl Iterator<Item = &'q Arc<Queue>> + Clone,
    ) -> Result<(), BrokerError> {
        let limit = self.exchange.options.max_events;
        let targets = std::iter::once(first).chain(others);
        for (reserved, target) in targets.clone().enumerate() {
            if !target.reserve(limit) {
                targets.take(reserved).for_each(|queue| queue.release_capacity(1));
                let reason = format!("{} is full with {limit} events", target.address);
                return Err(BrokerError::Rejected { reason });
            }
        }
        Ok(())
    }

    /// Adds an event to the list of a queue. A new list has room for the rest of the batch.
    fn send(&mut self, queue: &Arc<Queue>, event: Event) {
        match self.outgoing.iter_mut().find(|(other, _)| Arc::ptr_eq(other, queue)) {
            Some((_, items)) => items.push(Item::new(event)),
            None => {
                let mut items = Vec::with_capacity(self.room);
                items.push(Item::new(event));
                self.outgoing.push((Arc::clone(queue), items));
            }
        }
    }
}

/// The answer for an event that no queue receives: an error only if a route is required.
fn unrouted(publish: &Publish) -> Result<(), BrokerError> {
    if publish.require_route {
        let event_type = publish.event.event_type.to_string();
        return Err(BrokerError::Unroutable { event_type });
    }
    Ok(())
}

/// Size of what a sender chooses freely.
fn size(event: &Event) -> usize {
    let names = event.event_type.as_str().len() + event.source.len();
    event
        .payload
        .as_str()
        .len()
        .saturating_add(names)
        .saturating_add(metadata_size(&event.metadata))
}

/// Size of the texts of the metadata. Avoids encoding it.
fn metadata_size(metadata: &Metadata) -> usize {
    let Metadata {
        correlation_id,
        causation_id,
        user_id,
        traceparent,
        tracestate,
        reply_to,
        run_id,
        incarnation,
        schema_version: _,
        extra,
    } = metadata;
    let ours = [correlation_id, causation_id, user_id, traceparent, tracestate];
    let theirs = [reply_to, run_id, incarnation];
    let known = ours.into_iter().chain(theirs).flatten();
    let known: usize = known.map(|text| text.len()).sum();
    let unknown: usize = extra.iter().map(|(name, value)| name.len() + value.as_str().len()).sum();
    known.saturating_add(unknown)
}
