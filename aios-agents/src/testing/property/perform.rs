//! Performs a program as a workflow.
//!
//! Each part notes what it observed together with the time of the run, so that a replay in another
//! order is noticed even if the results are the same. Branches share channels and semaphores: code
//! that communicates between branches must replay exactly, too.

use std::{fmt::Debug, sync::Arc, time::Duration};

use aios_core::{
    BoxFuture,
    agent::TaskError,
    event::{Event, Payload},
    retry::RetryPolicy,
};
use futures_util::{
    StreamExt,
    future::{Either, join_all, select_all},
    stream::FuturesUnordered,
};
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::{
    SECOND, Seen,
    program::{Do, Program, signal_name},
};
use crate::{
    select,
    workflow::{FnWorkflow, Workflow, WorkflowContext, WorkflowError, race},
};

/// The end of a part. Boxed, because parts contain parts.
type Ended<'a> = BoxFuture<'a, Result<(), WorkflowError>>;

/// State shared by the branches of a run.
struct Shared {
    /// The observations of the code.
    seen: Seen,
    /// One semaphore per level of guards.
    permits: [Semaphore; 5],
    /// Channels between branches of the run.
    channels: [(mpsc::UnboundedSender<u8>, Mutex<mpsc::UnboundedReceiver<u8>>); 2],
}

/// A workflow that performs a program and records its observations.
pub(super) fn interpreter(seen: &Seen) -> Arc<dyn Workflow> {
    let seen = Arc::clone(seen);
    let code = move |context: WorkflowContext, program: Program| {
        let shared = Shared::new(&seen);
        async move {
            for part in &program.code {
                perform(&context, part, &shared).await?;
            }
            Ok(shared.seen.lock().len())
        }
    };
    Arc::new(FnWorkflow::new("interpreter", code).unwrap())
}

impl Shared {
    /// Fresh state: nothing is shared between runs, or with a replay.
    fn new(seen: &Seen) -> Self {
        let channel = || {
            let (sender, receiver) = mpsc::unbounded_channel();
            (sender, Mutex::new(receiver))
        };
        let channels = [channel(), channel()];
        Self {
            seen: Arc::clone(seen),
            permits: std::array::from_fn(|_| Semaphore::new(1)),
            channels,
        }
    }

    /// Notes an observation and the time of the run.
    fn note(&self, context: &WorkflowContext, what: impl Debug) {
        let text = format!("{what:?} at {}", context.now());
        self.seen.lock().push(text);
    }

    /// The two ends of a channel.
    fn channel(
        &self,
        number: u8,
    ) -> &(mpsc::UnboundedSender<u8>, Mutex<mpsc::UnboundedReceiver<u8>>) {
        &self.channels[usize::from(number)]
    }
}

/// A number as a duration.
fn seconds(number: u8) -> Duration {
    SECOND * u32::from(number)
}

/// A result with the code of its error only.
fn outcome<T>(result: Result<T, WorkflowError>) -> Result<T, String> {
    result.map_err(|error| error.code().to_owned())
}

/// Performs one part.
fn perform<'a>(context: &'a WorkflowContext, part: &'a Do, shared: &'a Shared) -> Ended<'a> {
    Box::pin(async move {
        if let Some(operation) = operation(context, part) {
            shared.note(context, (part, outcome(operation.await)));
            return Ok(());
        }
        match part {
            Do::Emit => {
                context.emit(Event::new("a.b.c".parse()?, "test", &1)?)?;
            }
            Do::Status => context.set_status("busy"),
            Do::Draw => shared.note(context, (context.uuid(), context.random())),
            Do::Version(number) => {
                let version = context.version(format!("change_{number}"), 1..=3);
                shared.note(context, outcome(version));
            }
            Do::Yield => tokio::task::yield_now().await,
            Do::Send(channel) => drop(shared.channel(*channel).0.send(*channel)),
            Do::Receive(channel, limit) => {
                let received = receive(context, shared, *channel, *limit).await;
                shared.note(context, ("received", received));
            }
            Do::Guarded(level, part) => {
                let permit = shared.permits[usize::from(*level)].acquire().await;
                let ended = perform(context, part, shared).await;
                drop(permit);
                ended?;
            }
            Do::Fail => return Err("broken".into()),
            Do::Compensate(value) => compensate(context, *value, &shared.seen),
            Do::Sequence(parts) => {
                for part in parts {
                    perform(context, part, shared).await?;
                }
            }
            _ => return combine(context, part, shared).await,
        }
        Ok(())
    })
}

/// The operation of a part, if the part is a single operation.
fn operation<'a>(
    context: &WorkflowContext,
    part: &Do,
) -> Option<BoxFuture<'a, Result<Payload, WorkflowError>>> {
    let retry = RetryPolicy::fixed(2, SECOND * 2);
    Some(match part {
        Do::Step(value) => {
            let value = *value;
            Box::pin(context.step("step", move || async move { outcome_of(value) }).retry(retry))
        }
        Do::SlowStep(value) => {
            let value = *value;
            let code = move || async move {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                outcome_of(value)
            };
            Box::pin(context.step("slow", code).timeout(SECOND * 9).retry(retry))
        }
        Do::FailingStep => {
            let code = || async { Err::<Payload, _>(TaskError::from("broken")) };
            Box::pin(context.step("failing", code).retry(retry))
        }
        Do::Task(value) => Box::pin(context.task("agent", value).retry(retry)),
        Do::Child(value) => Box::pin(context.child("child", value)),
        Do::Sleep(number) => {
            let sleep = context.sleep(seconds(*number));
            Box::pin(async move { sleep.await.map(|()| Payload::null()) })
        }
        Do::Signal(name, limit) => {
            Box::pin(context.signal(signal_name(*name)).timeout(seconds(*limit)))
        }
        _ => return None,
    })
}

/// The value as the result of a step.
fn outcome_of(value: u8) -> Result<Payload, TaskError> {
    Ok(Payload::encode(&value)?)
}

/// Receives from a channel until a deadline.
async fn receive(context: &WorkflowContext, shared: &Shared, channel: u8, limit: u8) -> Option<u8> {
    let receiver = &shared.channel(channel).1;
    select! {
        received = async { receiver.lock().await.recv().await } => received,
        _ = context.sleep(seconds(limit)) => None,
    }
}

/// Registers a compensation that notes that it ran.
fn compensate(context: &WorkflowContext, value: u8, seen: &Seen) {
    let seen = Arc::clone(seen);
    context.compensate("undo", move |context| async move {
        let undone: u8 = context.run("undo", || async { value }).await?;
        let text = format!("undone {undone} at {}", context.now());
        seen.lock().push(text);
        Ok(())
    });
}

/// Performs a part that consists of other parts.
async fn combine(
    context: &WorkflowContext,
    part: &Do,
    shared: &Shared,
) -> Result<(), WorkflowError> {
    let begin = |part| perform(context, part, shared);
    match part {
        Do::All(parts) => {
            let ended = join_all(parts.iter().map(begin)).await;
            ended.into_iter().collect::<Result<(), _>>()?;
        }
        Do::Unordered(parts) => {
            let numbered = parts.iter().enumerate();
            let mut running: FuturesUnordered<_> =
                numbered.map(|(index, part)| async move { (index, begin(part).await) }).collect();
            while let Some((index, ended)) = running.next().await {
                shared.note(context, ("ended", index, ended.is_ok()));
            }
        }
        Do::First(parts) => {
            let (winner, ended) = race(parts.iter().map(begin)).await;
            shared.note(context, ("first", winner));
            ended?;
        }
        Do::Random(branches) => {
            let operations = branches.iter().map(|(number, is_signal)| {
                let part = match is_signal {
                    true => Do::Signal(number % 3, 60),
                    false => Do::Sleep(*number),
                };
                operation(context, &part).unwrap()
            });
            let winner = random(operations.collect()).await;
            shared.note(context, ("random", winner));
        }
        Do::Drop(part) => {
            let mut begun = begin(part);
            let polled = futures_util::poll!(&mut begun);
            drop(begun);
            shared.note(context, ("dropped", polled.is_ready()));
        }
        Do::Loop(limit, part) => collect(context, *limit, part, shared).await?,
        _ => {}
    }
    Ok(())
}

/// Waits for the first of several operations, polled in random order.
async fn random(operations: Vec<BoxFuture<'_, Result<Payload, WorkflowError>>>) -> (usize, bool) {
    let [first, second, third] = <[_; 3]>::try_from(operations).ok().unwrap();
    let both = futures_util::future::select(second, third);
    tokio::select! {
        ended = first => (0, ended.is_ok()),
        ended = both => match ended {
            Either::Left((ended, _)) => (1, ended.is_ok()),
            Either::Right((ended, _)) => (2, ended.is_ok()),
        },
        _ = select_all([std::future::pending::<()>()]) => (3, false),
    }
}

/// Handles items until a deadline.
async fn collect(
    context: &WorkflowContext,
    limit: u8,
    part: &Do,
    shared: &Shared,
) -> Result<(), WorkflowError> {
    let mut deadline = context.sleep(seconds(limit));
    loop {
        select! {
            _ = &mut deadline => return Ok(()),
            item = context.signal::<u8>("signal_0") => {
                shared.note(context, ("item", outcome(item)));
                perform(context, part, shared).await?;
            }
        }
    }
}
