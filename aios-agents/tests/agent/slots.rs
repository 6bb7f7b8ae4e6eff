//! Code that is still running after its attempt has ended occupies a slot.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::agent::{AgentDefinition, AgentSet};
use aios_core::agent::TaskSlot;
use serde_json::json;

use crate::support::agents::{Scripted, World, assigned};

const SECOND: Duration = Duration::from_secs(1);
const ASSIGNED: &str = "agents.backend.task_assigned";

/// An agent that blocks a thread, as far as its host can tell: everything that it began keeps its
/// slot.
fn blocking() -> (Scripted, Arc<Mutex<Vec<TaskSlot>>>) {
    let threads = Arc::new(Mutex::new(Vec::new()));
    let held = Arc::clone(&threads);
    let agent = Scripted::new(move |context, parameters| {
        held.lock().unwrap().push(context.slot());
        async move {
            if parameters == json!("quick") { Ok(parameters) } else { std::future::pending().await }
        }
    });
    (agent, threads)
}

fn agents(agent: &Scripted, concurrency: u16) -> AgentSet {
    let definition = AgentDefinition::instance("backend", agent.clone());
    AgentSet::new().definition(definition.with_concurrency(concurrency))
}

#[tokio::test]
async fn should_begin_no_task_where_overdue_code_occupies_every_slot() {
    let (world, (agent, threads)) = (World::new(), blocking());
    let mut engine = world.mailbox("engine").await;
    let _host = world.start(agents(&agent, 1)).await;
    world.publish(assigned("backend", "t1", 1, json!("slow"), Some(SECOND))).await;
    assert_eq!(world.drive(engine.failure()).await.failure.code, "TASK_TIMEOUT");
    world.publish(assigned("backend", "t2", 1, json!("quick"), Some(SECOND))).await;
    world.pass(SECOND * 10).await;
    assert_eq!(agent.calls(), 1, "there is no thread for the second");
    threads.lock().unwrap().clear();
    assert_eq!(engine.next().await.event_type.action(), "task_completed");
}

#[tokio::test]
async fn should_leave_tasks_that_it_cannot_begin_to_other_hosts() {
    let (world, (agent, threads)) = (World::new(), blocking());
    let mut engine = world.mailbox("engine").await;
    let _stuck = world.start(agents(&agent, 2)).await;
    for number in 1..=2 {
        let task = assigned("backend", &format!("t{number}"), 1, json!("slow"), Some(SECOND));
        world.publish(task).await;
    }
    for _ in 1..=2 {
        assert_eq!(world.drive(engine.failure()).await.failure.code, "TASK_TIMEOUT");
    }
    for number in 3..=4 {
        world.publish(assigned("backend", &format!("t{number}"), 1, json!(1), None)).await;
    }
    world.pass(SECOND * 2).await;
    let other = Scripted::echo();
    let _other = world.start(agents(&other, 2)).await;
    for _ in 3..=4 {
        assert_eq!(engine.next().await.event_type.action(), "task_completed");
    }
    assert_eq!((agent.calls(), other.calls()), (2, 2));
    drop(threads);
}

#[tokio::test]
async fn should_take_as_many_tasks_as_slots_are_left_and_all_again_later() {
    let (world, (agent, threads)) = (World::new(), blocking());
    let mut engine = world.mailbox("engine").await;
    let _host = world.start(agents(&agent, 3)).await;
    world.publish(assigned("backend", "t1", 1, json!("slow"), Some(SECOND))).await;
    assert_eq!(world.drive(engine.failure()).await.failure.code, "TASK_TIMEOUT");
    let give = |from: u32, to: u32| {
        let world = &world;
        async move {
            for number in from..=to {
                world
                    .publish(assigned("backend", &format!("t{number}"), 1, json!("slow"), None))
                    .await;
            }
            world.pass(SECOND * 5).await;
        }
    };
    give(2, 6).await;
    assert_eq!(agent.calls(), 3, "one of three slots is occupied");
    // The code of the first ends. Those that are running keep their slots.
    drop(threads.lock().unwrap().remove(0));
    world.pass(SECOND * 5).await;
    assert_eq!(agent.calls(), 4);
}

#[tokio::test]
async fn should_not_wait_for_overdue_code_at_shutdown() {
    let (world, (agent, threads)) = (World::new(), blocking());
    let mut engine = world.mailbox("engine").await;
    let host = world.start(agents(&agent, 1)).await;
    world.publish(assigned("backend", "t1", 1, json!("slow"), Some(SECOND))).await;
    assert_eq!(world.drive(engine.failure()).await.failure.code, "TASK_TIMEOUT");
    world.drive(host.shutdown(SECOND)).await.unwrap();
    drop(threads);
}

#[tokio::test]
async fn should_free_the_slot_of_code_that_ends_with_its_attempt() {
    let world = World::new();
    let mut engine = world.mailbox("engine").await;
    let agent = Scripted::new(|context, parameters| {
        let slot = context.slot();
        async move {
            drop(slot);
            Ok(parameters)
        }
    });
    let _host = world.start(agents(&agent, 1)).await;
    for number in 0..10 {
        world.assign("backend", &format!("t{number}"), json!(number)).await;
        assert_eq!(engine.next().await.event_type.action(), "task_completed");
    }
    assert_eq!(world.waiting("agents.backend", ASSIGNED).await, 0);
}
