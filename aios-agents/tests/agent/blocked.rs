//! Agents whose code blocks the thread or loop that runs it take no tasks and send no heartbeats.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use aios_agents::agent::{
    AgentDefinition, AgentHost, AgentSet, Beat, HostOptions, Pulse, TaskClient,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::TaskQueued,
    broker::Broker,
    clock::{Clock, SystemClock},
    event::Event,
};
use aios_tests::log::Logged;
use serde_json::json;

use crate::support::agents::{Scripted, World, assigned};

const SECOND: Duration = Duration::from_secs(1);
const BLOCKED: &str = "the thread or event loop of agents has been blocked";
const GOES_ON: &str = "the thread or event loop of agents has resumed";

/// A loop that a test blocks. It stores the probes that arrive while it is blocked.
#[derive(Debug, Default)]
struct TestLoop(Mutex<Option<Vec<Beat>>>);

impl TestLoop {
    fn block(&self) {
        *self.0.lock().unwrap() = Some(Vec::new());
    }

    fn proceed(&self) {
        let waiting = self.0.lock().unwrap().take();
        waiting.into_iter().flatten().for_each(Beat::beat);
    }
}

impl Pulse for TestLoop {
    fn probe(&self, beat: Beat) {
        match &mut *self.0.lock().unwrap() {
            None => beat.beat(),
            Some(waiting) => waiting.push(beat),
        }
    }

    fn stack(&self) -> Option<String> {
        Some("endless (poison.py:7)".to_owned())
    }
}

/// A host whose agents of the type `backend` run on their own loop.
struct Looped {
    world: World,
    logged: Logged,
    place: Arc<TestLoop>,
    host: AgentHost,
}

impl Looped {
    async fn start(agent: &Scripted) -> Self {
        let (world, place, logged) = (World::new(), Arc::new(TestLoop::default()), Logged::here());
        let definition = AgentDefinition::instance("backend", agent.clone());
        let definition = definition.with_pulse(Arc::<TestLoop>::clone(&place));
        let agents = AgentSet::new().definition(definition).agent("other", Scripted::echo());
        let host = world.start_with(agents, quick()).await.unwrap();
        Self { world, logged, place, host }
    }

    async fn block(&self) {
        self.place.block();
        self.until(|| !self.logged.lines(&[BLOCKED]).is_empty()).await;
    }

    async fn proceed(&self) {
        self.place.proceed();
        self.until(|| !self.logged.lines(&[GOES_ON]).is_empty()).await;
    }

    /// Waits for the watchdog, which uses real time.
    async fn until(&self, reached: impl Fn() -> bool) {
        for _ in 0..10_000 {
            self.world.idle().await;
            if reached() {
                return self.world.idle().await;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not happen");
    }
}

fn quick() -> HostOptions {
    HostOptions::new().with_blocked_after(Some(Duration::from_millis(40)))
}

/// An agent whose code is queued until a test lets it start.
fn queued() -> (Scripted, Arc<Mutex<Vec<TaskQueued>>>) {
    let waiting = Arc::new(Mutex::new(Vec::new()));
    let queue = Arc::clone(&waiting);
    let agent = Scripted::new(move |context, _| {
        queue.lock().unwrap().push(context.queued());
        std::future::pending()
    });
    (agent, waiting)
}

fn action(event: &Event) -> &str {
    event.event_type.action()
}

#[tokio::test]
async fn should_leave_tasks_to_other_hosts_while_blocked() {
    let agent = Scripted::echo();
    let it = Looped::start(&agent).await;
    let mut engine = it.world.mailbox("engine").await;
    it.block().await;
    it.world.assign("backend", "t1", json!(1)).await;
    it.world.assign("other", "t2", json!(2)).await;
    assert_eq!(action(&engine.next().await), "task_completed", "others are not blocked");
    assert!(engine.try_next().await.is_none());
    assert_eq!(agent.calls(), 0);
    let free = Scripted::echo();
    let _free = it.world.start(AgentSet::new().agent("backend", free.clone())).await;
    assert_eq!(action(&engine.next().await), "task_completed");
    assert_eq!((agent.calls(), free.calls()), (0, 1));
}

#[tokio::test]
async fn should_take_tasks_again_once_unblocked() {
    let agent = Scripted::echo();
    let it = Looped::start(&agent).await;
    let mut engine = it.world.mailbox("engine").await;
    it.block().await;
    it.world.assign("backend", "t1", json!(1)).await;
    assert!(engine.try_next().await.is_none());
    assert_eq!(it.host.blocked_types(), ["backend".parse().unwrap()]);
    it.proceed().await;
    assert_eq!(action(&engine.next().await), "task_completed");
    assert_eq!(it.host.blocked_types(), []);
    it.world.assign("backend", "t2", json!(1)).await;
    assert_eq!(action(&engine.next().await), "task_completed");
}

#[tokio::test]
async fn should_send_no_heartbeats_while_blocked() {
    let it = Looped::start(&Scripted::stuck()).await;
    let mut engine = it.world.mailbox("engine").await;
    it.world.assign("backend", "t1", json!(1)).await;
    it.world.pass(SECOND * 2).await;
    assert_eq!(action(&engine.next().await), "task_heartbeat");
    it.block().await;
    it.world.pass(SECOND * 60).await;
    assert!(engine.try_next().await.is_none());
    it.proceed().await;
    it.world.pass(SECOND * 11).await;
    assert_eq!(action(&engine.next().await), "task_heartbeat");
}

#[tokio::test]
async fn should_give_back_only_what_has_not_begun() {
    let (agent, waiting) = queued();
    let it = Looped::start(&agent).await;
    let mut engine = it.world.mailbox("engine").await;
    it.world.assign("backend", "t1", json!(1)).await;
    it.until(|| waiting.lock().unwrap().len() == 1).await;
    assert!(waiting.lock().unwrap()[0].begin());
    it.world.assign("backend", "t2", json!(2)).await;
    it.until(|| waiting.lock().unwrap().len() == 2).await;
    it.block().await;
    let free = Scripted::echo();
    let _free = it.world.start(AgentSet::new().agent("backend", free.clone())).await;
    let answer = it.world.drive(engine.next()).await;
    assert_eq!((action(&answer), free.calls()), ("task_completed", 1));
    assert!(answer.payload.as_str().contains("t2"));
    assert!(!waiting.lock().unwrap()[1].begin(), "another host does it");
    assert_eq!(it.logged.lines(&[BLOCKED, "begun=1", "released=1", "tasks=\"t1\""]).len(), 1);
}

#[tokio::test]
async fn should_say_once_which_agents_are_blocked_and_where() {
    let it = Looped::start(&Scripted::echo()).await;
    it.block().await;
    for _ in 0..10 {
        it.world.idle().await;
        std::thread::sleep(Duration::from_millis(10));
    }
    let words = ["ERROR", BLOCKED, "agent_types=\"backend\"", "endless (poison.py:7)"];
    assert_eq!(it.logged.lines(&words).len(), 1);
    assert_eq!(it.logged.lines(&[BLOCKED, "backend"]).len(), 1);
}

#[tokio::test]
async fn should_give_back_at_once_what_has_not_begun_when_it_stops() {
    let (agent, waiting) = queued();
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let host = world.start(AgentSet::new().agent("backend", agent)).await;
    world.publish(assigned("backend", "t1", 1, json!(1), None)).await;
    world.idle().await;
    assert_eq!(waiting.lock().unwrap().len(), 1);
    let free = Scripted::echo();
    let before = world.clock.now();
    host.shutdown(SECOND * 60).await.unwrap();
    assert_eq!(world.clock.now(), before, "nothing that runs has to be waited for");
    let _free = world.start(AgentSet::new().agent("backend", free)).await;
    assert_eq!(action(&engine.next().await), "task_completed");
    assert!(!waiting.lock().unwrap()[0].begin());
}

#[test]
fn should_notice_an_agent_that_blocks_the_runtime() {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let agent = Scripted::new(move |_, parameters| {
        let held = Arc::clone(&held);
        async move {
            // An agent must not do this: it blocks the only thread of the runtime.
            held.lock().unwrap().recv().unwrap();
            Ok(parameters)
        }
    });
    let logged = Logged::here();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let agents = AgentSet::new().agent("backend", agent);
    let start = AgentHost::builder(agents).broker(broker.clone()).options(quick()).start();
    let host = runtime.block_on(start).unwrap();
    let caller = runtime.block_on(TaskClient::new(broker, clock, "test")).unwrap();
    let answer = runtime.spawn(async move { caller.task("backend", &json!(1)).await.unwrap() });
    let seen = |words: &[&str]| {
        (0..10_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            !logged.lines(words).is_empty()
        })
    };
    assert!(seen(&[BLOCKED, "agent_types=\"backend\"", "begun=1"]));
    release.send(()).unwrap();
    assert!(seen(&[GOES_ON]));
    runtime.block_on(answer).unwrap();
    runtime.block_on(host.shutdown(SECOND)).unwrap();
}

/// A loop whose probe panics.
#[derive(Debug)]
struct BrokenLoop;

impl Pulse for BrokenLoop {
    fn probe(&self, _: Beat) {
        panic!("the probe exploded")
    }

    fn stack(&self) -> Option<String> {
        None
    }
}

/// The thread that watches all loops survives the fault of one.
#[tokio::test]
async fn should_watch_other_loops_after_the_probe_of_one_has_panicked() {
    let (world, place, logged) = (World::new(), Arc::new(TestLoop::default()), Logged::here());
    let watched = AgentDefinition::instance("backend", Scripted::echo());
    let broken = AgentDefinition::instance("broken", Scripted::echo());
    let agents = AgentSet::new()
        .definition(watched.with_pulse(Arc::<TestLoop>::clone(&place)))
        .definition(broken.with_pulse(Arc::new(BrokenLoop)));
    let host = world.start_with(agents, quick()).await.unwrap();
    let looped = Looped { world, logged, place, host };
    looped.until(|| !looped.logged.lines(&["ERROR", "the probe exploded"]).is_empty()).await;
    looped.block().await;
    assert_eq!(looped.host.blocked_types().len(), 1);
    looped.proceed().await;
}
