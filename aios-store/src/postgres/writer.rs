use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::sync::mpsc;

use super::{
    answer::{Answering, Done},
    appender::Appender,
    callers::Pending,
    gather::Gathering,
    load::Load,
    pool::Database,
    tail::Tail,
    wake::Head,
};

/// Appends that wait for the writer; more wait for a place.
pub(super) const QUEUE: usize = 4096;

/// The one task of a process that appends. While one load is on its way the next one gathers, and is
/// sent as soon as the first is committed; only then are the callers of the first told, so that the
/// server does not wait for that.
pub(super) struct Writer {
    gathering: Gathering,
    appender: Appender,
    answering: Answering,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        queue: mpsc::Receiver<Pending>,
        head: Head,
        tail: Tail,
        append_timeout: Duration,
    ) -> Self {
        let gathering = Gathering::new(queue, database.clock().clone(), append_timeout);
        let answering = Answering { database, head, tail };
        let appender = Appender::new(answering.clone(), append_timeout);
        Self { gathering, appender, answering }
    }

    /// Writes until every sender is gone and the queue is empty.
    pub(super) async fn run(mut self) {
        let mut done = None;
        loop {
            if self.gathering.is_empty() {
                self.answer(done.take());
                if !self.gathering.wait().await {
                    break;
                }
            }
            let load = self.gathering.take();
            if load.callers.is_empty() {
                self.answer(done.take());
            } else {
                done = self.write(load, done.take()).await;
            }
        }
        self.appender.close();
    }

    /// Sends a load, then tells those who wait for the one before, and gathers until this one is
    /// committed.
    async fn write(&mut self, load: Load, before: Option<Done>) -> Option<Done> {
        let mut writing = pin!(self.appender.write(load));
        let sent = poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await;
        if let Some(before) = before {
            self.answering.answer(before);
        }
        match sent {
            Poll::Ready(done) => done,
            Poll::Pending => self.gathering.during(writing).await,
        }
    }

    fn answer(&self, done: Option<Done>) {
        if let Some(done) = done {
            self.answering.answer(done);
        }
    }
}
