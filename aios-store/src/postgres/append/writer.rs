use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::sync::mpsc;

use super::{
    commit::Committed,
    queue::{BatchBuilder, Pending, PendingBatch},
    retry::Appender,
};
use crate::postgres::{
    connection::Database,
    read::{Head, Tail},
};

/// Appends that wait for the writer; more wait for a place.
pub(crate) const QUEUE: usize = 4096;

/// The one task of a process that appends. While one load is on its way the next one gathers, and is
/// sent as soon as the first is committed; only then are the waiters of the first told, so that the
/// server does not wait for that.
pub(crate) struct Writer {
    builder: BatchBuilder,
    appender: Appender,
    replier: Replier,
}

impl Writer {
    pub(crate) fn new(
        database: Database,
        queue: mpsc::Receiver<Pending>,
        head: Head,
        tail: Tail,
        append_timeout: Duration,
    ) -> Self {
        let builder = BatchBuilder::new(queue, database.clock().clone(), append_timeout);
        let replier = Replier { database, head, tail };
        let appender = Appender::new(replier.clone(), append_timeout);
        Self { builder, appender, replier }
    }

    /// Writes until every sender is gone and the queue is empty.
    pub(crate) async fn run(mut self) {
        let mut done = None;
        loop {
            if self.builder.is_empty() {
                self.answer(done.take());
                if !self.builder.wait().await {
                    break;
                }
            }
            let load = self.builder.take();
            if load.waiters.is_empty() {
                self.answer(done.take());
            } else {
                done = self.write(load, done.take()).await;
            }
        }
        self.appender.close();
    }

    /// Sends a load, then tells those who wait for the one before, and gathers until this one is
    /// committed.
    async fn write(
        &mut self,
        load: PendingBatch,
        before: Option<CommittedBatch>,
    ) -> Option<CommittedBatch> {
        let mut writing = pin!(self.appender.write(load));
        let sent = poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await;
        if let Some(before) = before {
            self.replier.answer(before);
        }
        match sent {
            Poll::Ready(done) => done,
            Poll::Pending => self.builder.during(writing).await,
        }
    }

    fn answer(&self, done: Option<CommittedBatch>) {
        if let Some(done) = done {
            self.replier.answer(done);
        }
    }
}

/// A load after its commit, whose waiters have not been told yet.
pub(crate) struct CommittedBatch {
    pub(crate) load: PendingBatch,
    pub(crate) committed: Committed,
}

/// Tells waiters what became of their appends, and those who follow the log that it has grown.
#[derive(Clone)]
pub(crate) struct Replier {
    pub(crate) database: Database,
    pub(crate) head: Head,
    pub(crate) tail: Tail,
}

impl Replier {
    pub(crate) fn answer(&self, done: CommittedBatch) {
        let CommittedBatch { load: PendingBatch { batch, waiters }, committed } = done;
        if committed.is_as_sent {
            self.tail.push(&batch, &committed.results, self.database.clock().now());
        } else {
            self.tail.clear();
        }
        let positions = committed.results.iter().flatten().map(|appended| appended.position);
        if let Some(last) = positions.max() {
            self.head.committed(last);
        }
        for (mut waiter, answer) in waiters.into_iter().zip(committed.results) {
            waiter.answer(answer);
        }
    }
}
