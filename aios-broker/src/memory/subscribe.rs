//! The stream of a subscription.
//!
//! It is woken by the queue (events, a change of the reader), by the consumer (room for another
//! delivery), or by its own alarm (a delayed event is due).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use aios_core::{
    BoxFuture,
    broker::{BrokerError, Deliveries, Delivery, Subscription},
};
use futures_core::Stream;

use super::{
    connection::Connection,
    consumer::{Consumer, Taken, Wait},
    settle::UnsettledDelivery,
};

/// Starts to consume.
pub(super) fn subscribe(
    connection: &Arc<Connection>,
    subscription: Subscription,
) -> Result<Deliveries, BrokerError> {
    subscription.validate()?;
    let consumer = connection.consume(|| {
        let place = connection.exchange.add_consumer(&subscription)?;
        let exchange = Arc::clone(&connection.exchange);
        let idle = Arc::clone(&connection.idle);
        Ok(Arc::new(Consumer::new(place, exchange, idle, subscription)))
    })?;
    Ok(Deliveries::new(Subscribed { consumer, alarm: None }))
}

/// The stream of a subscription. Dropping it ends the subscription.
struct Subscribed {
    /// Stopped when the subscription is dropped.
    consumer: Arc<Consumer>,
    /// Completes when the next delayed event is due.
    alarm: Option<(Duration, BoxFuture<'static, ()>)>,
}

impl Stream for Subscribed {
    type Item = Result<Delivery, BrokerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.consumer.poll(context) {
                Ok(taken) => return Poll::Ready(taken.map(|taken| Ok(self.deliver(taken)))),
                Err(Wait { until: None, .. }) => return Poll::Pending,
                Err(Wait { until: Some(deadline), .. }) => {
                    ready!(self.poll_alarm(deadline, context));
                }
            }
        }
    }
}

impl Subscribed {
    /// Wraps a taken event, so that it can be settled.
    fn deliver(&self, taken: Taken) -> Delivery {
        let Taken { event, attempt, redelivered, key } = taken;
        let unsettled = Box::new(UnsettledDelivery::new(Arc::clone(&self.consumer), key));
        Delivery::new(event, attempt, unsettled).with_redelivered(redelivered)
    }

    /// Polls the alarm for this time, and sets it again if the time has changed.
    fn poll_alarm(&mut self, deadline: Duration, context: &mut Context<'_>) -> Poll<()> {
        let alarm = match &mut self.alarm {
            Some((set, alarm)) if *set == deadline => alarm,
            _ => &mut self.alarm.insert((deadline, self.consumer.sleep_until(deadline))).1,
        };
        let rung = alarm.as_mut().poll(context);
        if rung.is_ready() {
            self.alarm = None;
        }
        rung
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.consumer.stop();
    }
}
