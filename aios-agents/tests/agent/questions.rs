//! Before a host begins an attempt that may have begun elsewhere, it asks the engine.

use std::time::Duration;

use aios_agents::agent::{AgentDefinition, AgentSet, HostOptions};
use aios_core::{agent::TaskHeartbeat, clock::Clock, event::Event};
use aios_tests::log::Logged;
use serde_json::json;

use crate::support::agents::{Inbox, Scripted, World, assigned};

const SECOND: Duration = Duration::from_secs(1);

fn agents(agent: &Scripted) -> AgentSet {
    AgentSet::new().definition(AgentDefinition::instance("backend", agent.clone()))
}

fn confirming() -> HostOptions {
    HostOptions::new().with_confirm_redelivered(true)
}

/// A task of a run.
fn task(id: &str, timeout: Option<Duration>) -> Event {
    let mut task = assigned("backend", id, 1, json!(id), timeout);
    task.metadata_mut().incarnation = Some("start".into());
    task
}

/// Assigns a task and releases it once, as if the process that held it had died.
async fn redeliver(world: &World, task: Event) {
    let group = "agents.backend";
    let mut other = world.subscribe(group, &["agents.backend.task_assigned"]).await;
    world.publish(task).await;
    drop(other.take().await);
    drop(other);
}

/// Everything that the engine receives until nothing more arrives: questions, and the actions of
/// all other events.
async fn hear(engine: &mut Inbox) -> (Vec<Event>, Vec<String>) {
    let (mut questions, mut others) = (Vec::new(), Vec::new());
    while let Some(event) = engine.try_next().await {
        let asks = event.event_type.action() == "task_heartbeat"
            && event.data::<TaskHeartbeat>().unwrap().asks;
        if asks {
            questions.push(event);
        } else {
            others.push(event.event_type.action().to_owned());
        }
    }
    (questions, others)
}

fn answer(action: &str, question: &Event) -> Event {
    let TaskHeartbeat { task_id, attempt, .. } = question.data().unwrap();
    let data = json!({ "task_id": task_id, "attempt": attempt });
    let event_type = format!("agents.backend.{action}").parse().unwrap();
    Event::new(event_type, "engine", &data).unwrap().caused_by(question)
}

#[tokio::test]
async fn should_not_ask_about_a_first_delivery() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let mut new = task("t", Some(60 * SECOND));
    new.timestamp = world.clock.now();
    world.publish(new).await;
    let (questions, others) = hear(&mut engine).await;
    assert!(questions.is_empty());
    assert_eq!(others, ["task_completed"]);
}

#[tokio::test]
async fn should_not_ask_about_a_task_without_a_run() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    redeliver(&world, assigned("backend", "t", 1, json!("t"), None)).await;
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let (questions, others) = hear(&mut engine).await;
    assert!(questions.is_empty());
    assert_eq!(others, ["task_completed"]);
}

/// The code of the attempt has begun, and the engine may have ended it since.
#[tokio::test]
async fn should_ask_about_a_task_that_another_process_hands_back() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    let options = confirming().with_early_ack_after(Some(60 * SECOND));
    let leaving = world.start_with(agents(&Scripted::stuck()), options).await.unwrap();
    world.publish(task("t", None)).await;
    world.pass(70 * SECOND).await;
    assert!(world.drive(leaving.shutdown(SECOND)).await.is_err());
    let (questions, _) = hear(&mut engine).await;
    assert!(questions.is_empty());
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let (questions, _) = hear(&mut engine).await;
    assert_eq!((questions.len(), agent.calls()), (1, 0));
    world.publish(answer("attempt_confirmed", &questions[0])).await;
    let (_, others) = hear(&mut engine).await;
    assert_eq!(others, ["task_completed"]);
}

#[tokio::test]
async fn should_begin_after_an_answer_to_the_latest_question_only() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    redeliver(&world, task("t", None)).await;
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let (first, others) = hear(&mut engine).await;
    assert_eq!((first.len(), others.len()), (1, 0));
    world.pass(6 * SECOND).await;
    let (second, _) = hear(&mut engine).await;
    assert_eq!(second.len(), 1, "it asks again");
    world.publish(answer("attempt_confirmed", &first[0])).await;
    world.idle().await;
    assert_eq!(agent.calls(), 0, "the answer is old");
    world.publish(answer("attempt_confirmed", &second[0])).await;
    let (questions, others) = hear(&mut engine).await;
    assert!(questions.is_empty());
    assert_eq!(others, ["task_completed"]);
    assert_eq!(agent.calls(), 1);
}

#[tokio::test]
async fn should_acknowledge_an_ended_attempt_without_beginning_it() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    redeliver(&world, task("t", None)).await;
    let host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let (questions, _) = hear(&mut engine).await;
    world.publish(answer("attempt_cancelled", &questions[0])).await;
    world.pass(10 * SECOND).await;
    let (questions, others) = hear(&mut engine).await;
    assert!(questions.is_empty() && others.is_empty());
    world.drive(host.shutdown(SECOND)).await.unwrap();
    assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 0);
    assert_eq!(agent.calls(), 0);
    // Another attempt at the same task is not affected by that cancellation.
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let mut second = assigned("backend", "t", 2, json!("t"), None);
    second.metadata_mut().incarnation = Some("start".into());
    world.publish(second).await;
    assert_eq!(hear(&mut engine).await.1, ["task_completed"]);
}

#[tokio::test]
async fn should_ask_about_a_task_that_is_older_than_its_timeout() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    let mut old = task("t", Some(10 * SECOND));
    old.timestamp = world.clock.now();
    world.subscribe("agents.backend", &["agents.backend.task_assigned"]).await;
    world.publish(old).await;
    world.pass(11 * SECOND).await;
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    let (questions, others) = hear(&mut engine).await;
    assert_eq!((questions.len(), others.len()), (1, 0));
}

#[tokio::test]
async fn should_give_back_a_task_when_no_engine_answers() {
    let logged = Logged::here();
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    redeliver(&world, task("t", None)).await;
    let _host = world.start_with(agents(&agent), confirming()).await.unwrap();
    world.pass(59 * SECOND).await;
    assert!(logged.lines(&["no engine answered within"]).is_empty());
    world.pass(6 * SECOND).await;
    assert_eq!(logged.lines(&["WARN", "no engine answered within", "task_id=t"]).len(), 1);
    assert_eq!(agent.calls(), 0);
    // It was delivered again, and the engine is asked again.
    hear(&mut engine).await;
    world.pass(6 * SECOND).await;
    let (questions, _) = hear(&mut engine).await;
    world.publish(answer("attempt_confirmed", questions.last().unwrap())).await;
    assert_eq!(hear(&mut engine).await.1, ["task_completed"]);
}

/// A host that stops releases the task at once.
#[tokio::test]
async fn should_not_wait_for_an_answer_when_the_host_stops() {
    let (world, agent) = (World::new(), Scripted::echo());
    let mut engine = world.mailbox("engine").await;
    redeliver(&world, task("t", None)).await;
    let host = world.start_with(agents(&agent), confirming()).await.unwrap();
    assert_eq!(hear(&mut engine).await.0.len(), 1);
    world.drive(host.shutdown(SECOND)).await.unwrap();
    assert_eq!(agent.calls(), 0);
    assert_eq!(world.waiting("agents.backend", "agents.backend.task_assigned").await, 1);
}
