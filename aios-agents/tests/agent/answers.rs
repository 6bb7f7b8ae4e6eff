//! Answers that the broker refuses. Whatever it does, no agent's code runs twice, nothing is
//! retried forever, and the failure is reported.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::{AgentHost, AgentSet, HostOptions},
    prelude::*,
    runtime::EngineOptions,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{TaskCompleted, TaskFailed},
    broker::{Broker, BrokerError, DeadLetter, Group, Publish, Settlement},
    event::Event,
};
use serde_json::json;

use crate::support::{
    agents::{Inbox, Scripted, World, assigned, cancelled},
    faulty::{Fault, FaultyBroker},
    workflows::{actions, result, runtime, store},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The reason that a broker gives for a refusal that is permanent.
fn for_good() -> BrokerError {
    let source = aios_core::Cause::new(std::fmt::Error);
    BrokerError::Backend { backend: "faulty", operation: "publish", retryable: false, source }
}

fn too_large() -> BrokerError {
    BrokerError::TooLarge { bytes: 9, limit: 8 }
}

fn rejected() -> BrokerError {
    BrokerError::Rejected { reason: "the queue is full".to_owned() }
}

/// An agent, its host on a faulty broker, and the engine that waits for its answers.
struct Harness {
    world: World,
    broker: Arc<FaultyBroker>,
    agent: Scripted,
    engine: Inbox,
    host: AgentHost,
}

impl Harness {
    async fn new() -> Self {
        let (world, agent) = (World::new(), Scripted::echo());
        let broker = FaultyBroker::new(world.broker.clone());
        let engine = world.mailbox("engine").await;
        let agents = AgentSet::new().agent("backend", agent.clone());
        let host = world.start_on(broker.clone(), agents, HostOptions::new()).await.unwrap();
        Self { world, broker, agent, engine, host }
    }

    async fn assign(&self) {
        self.world.assign("backend", "t1", json!(1)).await;
    }

    /// Refuses events with these actions from now on.
    fn refuse(&self, actions: &'static [&'static str], error: BrokerError) {
        self.broker.on_publish(move |publish| {
            actions
                .contains(&publish.event.event_type.action())
                .then(|| Fault::Refuse(error.clone()))
        });
    }

    /// How the task has been settled so far.
    fn settled(&self) -> Vec<Settlement> {
        let settled = self.broker.settled().into_iter();
        let of_task = |event: &Event| event.event_type.action() == "task_assigned";
        settled.filter(|(event, _)| of_task(event)).map(|(_, settlement)| settlement).collect()
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let address = Group::new("agents.backend").unwrap().into();
        self.world.broker.dead_letters(&address).await.unwrap().list(10).await.unwrap()
    }

    /// The next failure, after checking that nothing else is published or settled.
    async fn only_failure(&mut self) -> TaskFailed {
        let failed = self.world.drive(self.engine.failure()).await;
        self.world.pass(HOUR).await;
        assert!(self.engine.try_next().await.is_none(), "one answer is enough");
        assert_eq!(self.settled(), [Settlement::Ack]);
        assert_eq!(self.agent.calls(), 1);
        failed
    }
}

#[tokio::test]
async fn should_fail_a_task_whose_answer_is_refused_for_good() {
    for (error, code) in [(for_good(), "BROKER_BACKEND"), (too_large(), "EVENT_TOO_LARGE")] {
        let mut harness = Harness::new().await;
        harness.refuse(&["task_completed"], error);
        harness.assign().await;
        let TaskFailed { failure, retryable, .. } = harness.only_failure().await;
        assert_eq!((failure.code.as_str(), retryable), (code, false));
    }
}

#[tokio::test]
async fn should_fail_a_task_whose_answer_is_rejected_for_too_long() {
    let mut harness = Harness::new().await;
    harness.refuse(&["task_completed"], rejected());
    harness.assign().await;
    harness.world.pass(SECOND * 50).await;
    assert!(harness.engine.try_next().await.is_none(), "it may pass");
    harness.world.pass(SECOND * 120).await;
    let TaskFailed { failure, retryable, .. } = harness.only_failure().await;
    assert_eq!((failure.code.as_str(), retryable), ("REJECTED", false));
}

#[tokio::test]
async fn should_publish_an_answer_that_is_rejected_for_a_while() {
    let mut harness = Harness::new().await;
    harness.refuse(&["task_completed"], rejected());
    harness.assign().await;
    harness.world.pass(SECOND * 20).await;
    harness.broker.heal();
    let answer = harness.world.drive(harness.engine.next()).await;
    assert_eq!(answer.event_type.action(), "task_completed");
}

/// Neither the result nor the failure that reports this is accepted.
#[tokio::test]
async fn should_give_up_a_task_when_no_answer_is_accepted() {
    for (error, code) in [(for_good(), "BROKER_BACKEND"), (rejected(), "REJECTED")] {
        let mut harness = Harness::new().await;
        harness.refuse(&["task_completed", "task_failed"], error);
        harness.assign().await;
        harness.world.pass(HOUR).await;
        let [letter] = &harness.letters().await[..] else { panic!("there is one dead letter") };
        assert!(letter.reason.contains(code), "{}", letter.reason);
        assert!(matches!(harness.settled()[..], [Settlement::DeadLetter { .. }]));
        assert_eq!(harness.agent.calls(), 1);
        assert!(harness.engine.try_next().await.is_none());
    }
}

/// An operator repairs the broker and redrives the dead letter: the work is already done.
#[tokio::test]
async fn should_answer_a_redriven_task_with_its_result() {
    let mut harness = Harness::new().await;
    harness.refuse(&["task_completed", "task_failed"], for_good());
    harness.assign().await;
    harness.world.pass(SECOND).await;
    harness.broker.heal();
    let address = Group::new("agents.backend").unwrap().into();
    let letters = harness.world.broker.dead_letters(&address).await.unwrap();
    assert_eq!(letters.redrive(aios_core::broker::DeadLetterFilter::All).await.unwrap(), 1);
    let answer: TaskCompleted = harness.world.drive(harness.engine.next()).await.data().unwrap();
    assert_eq!(answer.output.as_str(), "1");
    assert_eq!(harness.agent.calls(), 1);
}

/// The same attempt is delivered a second time, after its answer was accepted the first time.
#[tokio::test]
async fn should_fail_a_task_whose_remembered_answer_is_refused_for_good() {
    for (error, code) in [(for_good(), "BROKER_BACKEND"), (too_large(), "EVENT_TOO_LARGE")] {
        let mut harness = Harness::new().await;
        harness.assign().await;
        assert_eq!(harness.engine.next().await.event_type.action(), "task_completed");
        harness.refuse(&["task_completed"], error);
        for _ in 0..2 {
            harness.assign().await;
            let TaskFailed { failure, retryable, .. } =
                harness.world.drive(harness.engine.failure()).await;
            assert_eq!((failure.code.as_str(), retryable), (code, false));
        }
        harness.world.idle().await;
        assert_eq!(harness.settled(), [Settlement::Ack, Settlement::Ack, Settlement::Ack]);
        assert_eq!(harness.agent.calls(), 1);
    }
}

#[tokio::test]
async fn should_give_up_a_task_when_no_remembered_answer_is_accepted() {
    let mut harness = Harness::new().await;
    harness.assign().await;
    harness.engine.next().await;
    harness.refuse(&["task_completed", "task_failed"], for_good());
    harness.assign().await;
    harness.world.pass(HOUR).await;
    assert!(matches!(harness.settled()[..], [Settlement::Ack, Settlement::DeadLetter { .. }]));
    assert_eq!(harness.letters().await.len(), 1);
}

/// It may continue with another broker, or in another process.
#[tokio::test]
async fn should_give_back_a_task_whose_broker_is_closed() {
    let mut harness = Harness::new().await;
    let is_first = AtomicBool::new(true);
    harness.broker.on_publish(move |publish| {
        let is_answer = publish.event.event_type.action() == "task_completed";
        (is_answer && is_first.swap(false, Ordering::SeqCst))
            .then_some(Fault::Refuse(BrokerError::Closed))
    });
    harness.assign().await;
    let answer = harness.world.drive(harness.engine.next()).await;
    assert_eq!(answer.event_type.action(), "task_completed");
    harness.world.idle().await;
    assert_eq!(harness.settled(), [Settlement::Release, Settlement::Ack]);
    assert_eq!(harness.agent.calls(), 1);
}

/// Its mailbox may still appear: another process waits for it then.
#[tokio::test]
async fn should_give_back_a_task_with_an_unpublished_answer_when_the_host_shuts_down() {
    for remembered in [false, true] {
        let mut harness = Harness::new().await;
        if remembered {
            harness.assign().await;
            harness.engine.next().await;
        }
        let missing = BrokerError::Unroutable { event_type: "task_completed".to_owned() };
        harness.refuse(&["task_completed"], missing);
        harness.assign().await;
        harness.world.idle().await;
        let error = harness.world.drive(harness.host.shutdown(SECOND * 3)).await.unwrap_err();
        assert_eq!(error.code(), "SHUTDOWN_TIMEOUT");
        let tasks = "agents.backend.task_assigned";
        assert_eq!(harness.world.waiting("agents.backend", tasks).await, 1);
    }
}

/// Its caller is gone, and the cancellation arrived after the code had already ended.
#[tokio::test]
async fn should_drop_the_answer_to_a_cancelled_task_whose_caller_is_gone() {
    let harness = Harness::new().await;
    let missing = BrokerError::Unroutable { event_type: "task_completed".to_owned() };
    harness.refuse(&["task_completed"], missing);
    harness.assign().await;
    harness.world.idle().await;
    assert_eq!(harness.settled(), [], "its mailbox may still appear");
    harness.world.publish(cancelled("backend", "t1")).await;
    harness.world.pass(SECOND).await;
    assert_eq!(harness.settled(), [Settlement::Ack]);
    assert_eq!(harness.agent.calls(), 1);
    harness.world.drive(harness.host.shutdown(SECOND)).await.unwrap();
}

/// A task that cannot be decoded, and whose refusal the broker does not accept either.
#[tokio::test]
async fn should_give_up_a_task_that_can_neither_be_read_nor_answered() {
    for error in [for_good(), rejected(), BrokerError::Uncertain] {
        let harness = Harness::new().await;
        harness.refuse(&["task_failed"], error);
        let task = assigned("backend", "t1", 1, json!(1), None);
        let data = json!({ "task_id": "t1", "attempt": 1 });
        let unreadable = Event::new(task.event_type, "engine", &data).unwrap();
        harness.world.publish(unreadable.with_metadata(task.metadata)).await;
        harness.world.pass(SECOND * 200).await;
        let [letter] = &harness.letters().await[..] else { panic!("there is one dead letter") };
        assert!(letter.reason.contains("INVALID_EVENT_DATA"), "{}", letter.reason);
    }
}

fn is_answer(publish: &Publish) -> bool {
    publish.to.is_some()
        && matches!(publish.event.event_type.action(), "task_completed" | "task_failed")
}

async fn ask(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task("backend", &number).await
}

/// An agent whose answers are all refused gives its task up. The run learns why, even if the agent
/// has sent heartbeats, and does not have the work repeated.
#[tokio::test(flavor = "multi_thread")]
async fn should_tell_the_run_that_no_answer_to_its_task_is_accepted() {
    for work in [Duration::ZERO, Duration::from_millis(100)] {
        let agent = Scripted::new(move |_, parameters| async move {
            #[allow(clippy::disallowed_methods, reason = "the agent works meanwhile")]
            tokio::time::sleep(work).await;
            Ok(parameters)
        });
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
        broker.on_publish(|publish| is_answer(publish).then(|| Fault::Refuse(for_good())));
        let options = EngineOptions::new()
            .with_dead_letter_check(Duration::from_millis(20))
            .with_heartbeat_timeout(Duration::from_secs(3));
        let host = HostOptions::new().with_heartbeat_interval(Duration::from_millis(10));
        let builder = runtime(&store()).broker(broker as Arc<dyn Broker>).engine_options(options);
        let builder = builder.host_options(host).agent("backend", agent.clone());
        let runtime = builder.workflow("ask", ask).start().await.unwrap();
        let run = runtime.start("ask", &7).await.unwrap();
        let failure = result::<u64>(&run).await.unwrap_err().failure().unwrap().clone();
        assert_eq!(failure.code, "TASK_DEAD_LETTERED");
        assert!(failure.message.contains("BROKER_BACKEND"), "{failure}");
        assert_eq!(agent.calls(), 1);
        let given = actions(&run).await.iter().filter(|it| *it == "task_assigned").count();
        assert_eq!(given, 1);
    }
}
