//! The stream of a subscription.
//!
//! An arrival counts as unsettled from the moment in which the stream yields it. Before that it is
//! in the inbox, and the task of the subscription returns it to the server when the stream is
//! dropped.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aios_core::broker::{BrokerError, Delivery};
use futures_core::Stream;
use tokio::task::coop::poll_proceed;

use super::{
    inbox::{Arrival, Inbox},
    settle::{SettlementContext, UnsettledDelivery},
};

/// The stream of a subscription. Dropping it ends the subscription.
pub(crate) struct Subscribed {
    /// Where the task of the subscription puts arrivals.
    pub(crate) inbox: Arc<Inbox>,
    /// Shared by the settlements of the subscription.
    pub(crate) settlement: Arc<SettlementContext>,
}

impl Stream for Subscribed {
    type Item = Result<Delivery, BrokerError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let budget = ready!(poll_proceed(context));
        let Some(arrival) = ready!(self.inbox.poll(context)) else { return Poll::Ready(None) };
        budget.made_progress();
        Poll::Ready(Some(arrival.map(|arrival| self.deliver(arrival))))
    }
}

impl Subscribed {
    /// Wraps an arrival, so that it can be settled.
    fn deliver(&self, Arrival { event, session, raw }: Arrival) -> Delivery {
        let attempt = raw.history.failures.saturating_add(1);
        let redelivered = raw.history.delivered;
        let unsettled = UnsettledDelivery::new(Arc::clone(&self.settlement), session, raw);
        Delivery::new(event, attempt, Box::new(unsettled)).with_redelivered(redelivered)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.inbox.close();
    }
}
