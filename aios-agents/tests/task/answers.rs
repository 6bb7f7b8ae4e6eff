//! Which agents may answer a task, and how a task ends that no agent answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    prelude::*,
    runtime::{AnonymousAnswers, EngineOptions},
    workflow::Target,
};
use aios_core::{
    agent::{TaskAssigned, TaskCompleted, TaskFailed, TaskHeartbeat, TaskId},
    broker::{Deliveries, Delivery, Group, Mailbox, Publish, Subscription},
    event::EventId,
    store::{
        Append, EventStore, EventStoreExt, PageRequest, Store, StreamId, TaskFilter, TaskStatus,
    },
};
use aios_store::memory::{MemoryOptions, MemoryStore};
use tokio::sync::Semaphore;

use crate::support::{
    faulty::{Fault, FaultyStore, holds},
    workflows::{PATIENCE, actions, eventually, quick, result, runtime, store},
};

async fn ask(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("ghost", &1).retry(quick(3)).await
}

async fn ask_in_time(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.task("ghost", &1).timeout(Duration::from_millis(50)).retry(quick(2)).await
}

fn impatient() -> EngineOptions {
    EngineOptions::new().with_task_grace(Duration::from_millis(20))
}

/// Takes the tasks of a type in place of an agent.
async fn tasks_of(runtime: &Runtime) -> Deliveries {
    let group = Group::new("agents.ghost").unwrap();
    let pattern = "agents.ghost.task_assigned".parse().unwrap();
    runtime.broker().subscribe(Subscription::group(group, [pattern])).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> (Delivery, TaskAssigned) {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.next()).await.unwrap();
    let delivery = delivery.unwrap().unwrap();
    let task = delivery.event.data().unwrap();
    (delivery, task)
}

/// The event that answers a task, as the agent type `agent_type` would publish it.
fn answer(task: &TaskAssigned, agent_type: &str, output: u32) -> Event {
    let data = TaskCompleted::new(task.task_id.clone(), Payload::encode(&output).unwrap());
    let event_type = format!("agents.{agent_type}.task_completed").parse().unwrap();
    Event::new(event_type, "ghost-1", &data).unwrap()
}

fn mailbox(assignment: &Delivery) -> Mailbox {
    assignment.event.metadata.reply_to.as_deref().unwrap().parse().unwrap()
}

async fn send(runtime: &Runtime, assignment: &Delivery, answer: Event) {
    let publish = Publish::new(answer).with_mailbox(mailbox(assignment));
    runtime.broker().publish_one(publish).await.unwrap();
}

/// The reasons for which answers in a mailbox were refused.
async fn refusals(runtime: &Runtime, assignment: &Delivery) -> Vec<String> {
    let letters = runtime.broker().dead_letters(&mailbox(assignment).into()).await.unwrap();
    let letters = letters.list(10).await.unwrap();
    letters.into_iter().map(|letter| letter.reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_an_answer_only_from_the_assigned_agents() {
    let runtime = runtime(&store()).workflow("ask", ask).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask", &()).await.unwrap();
    let other = runtime.start("ask", &()).await.unwrap();
    let ((first, task), (second, _)) = (next(&mut tasks).await, next(&mut tasks).await);

    send(&runtime, &first, answer(&task, "stranger", 666).caused_by(&first.event)).await;
    send(&runtime, &first, answer(&task, "ghost", 667).caused_by(&second.event)).await;
    eventually("both are refused", || async { refusals(&runtime, &first).await.len() == 2 }).await;
    let refusals = refusals(&runtime, &first).await;
    assert!(refusals.iter().any(|reason| reason.contains("another type")), "{refusals:?}");
    assert!(refusals.iter().any(|reason| reason.contains("another assignment")), "{refusals:?}");

    send(&runtime, &first, answer(&task, "ghost", 7).caused_by(&first.event)).await;
    first.ack().await.unwrap();
    let task_id = task.task_id.run().unwrap().0.to_owned();
    let answered = if run.id() == task_id { &run } else { &other };
    assert_eq!(result::<u32>(answered).await.unwrap(), 7);
}

/// The first heartbeat of an agent that works on a task.
fn heartbeat(task: &TaskAssigned) -> Event {
    let (task_id, attempt) = (task.task_id.clone(), task.attempt);
    let data = TaskHeartbeat::new(task_id, attempt);
    Event::new("agents.ghost.task_heartbeat".parse().unwrap(), "ghost-1", &data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_accept_an_answer_that_names_no_assignment_if_no_other_agent_answers() {
    let builder = runtime(&store()).workflow("ask", ask).engine_options(impatient());
    let runtime = builder.start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    send(&runtime, &delivery, answer(&task, "ghost", 7)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

/// A paused run has left memory, and dispatches nothing when it is loaded.
#[tokio::test(flavor = "multi_thread")]
async fn should_accept_an_answer_that_names_no_assignment_of_a_paused_run() {
    let builder = runtime(&store()).workflow("ask", ask).engine_options(impatient());
    let runtime = builder.start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    run.pause().await.unwrap();
    send(&runtime, &delivery, answer(&task, "ghost", 7)).await;
    eventually("the answer is recorded or refused", || async {
        actions(&run).await.contains(&"task_completed".to_owned())
            || !refusals(&runtime, &delivery).await.is_empty()
    })
    .await;
    assert_eq!(refusals(&runtime, &delivery).await, [""; 0]);
    run.resume().await.unwrap();
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_answer_that_names_no_assignment_if_an_agent_works_on_the_task() {
    for works_before in [true, false] {
        let runtime = runtime(&store()).workflow("ask", ask).start().await.unwrap();
        let mut tasks = tasks_of(&runtime).await;
        let run = runtime.start("ask", &()).await.unwrap();
        let (delivery, task) = next(&mut tasks).await;
        let beat = heartbeat(&task).caused_by(&delivery.event);
        let forged = answer(&task, "ghost", 666);
        for event in if works_before { [beat, forged] } else { [forged, beat] } {
            send(&runtime, &delivery, event).await;
        }
        eventually("the forged answer is refused", || async {
            let refusals = refusals(&runtime, &delivery).await;
            refusals.iter().any(|reason| reason.contains("causation_id"))
        })
        .await;
        send(&runtime, &delivery, answer(&task, "ghost", 7).caused_by(&delivery.event)).await;
        assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_answer_that_names_no_assignment_if_the_options_say_so() {
    let options = EngineOptions::new().with_anonymous_answers(AnonymousAnswers::Refuse);
    let builder = runtime(&store()).workflow("ask", ask).engine_options(options);
    let runtime = builder.start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    runtime.start("ask", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    send(&runtime, &delivery, answer(&task, "ghost", 666)).await;
    eventually("it is refused", || async { refusals(&runtime, &delivery).await.len() == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn should_record_an_answer_whose_id_is_stored_already() {
    let store = store();
    let elsewhere = Event::new("shop.order.placed".parse().unwrap(), "shop", &1).unwrap();
    let elsewhere = elsewhere.with_id("taken".parse().unwrap());
    store.append_one(Append::new("orders/1".parse().unwrap(), vec![elsewhere])).await.unwrap();
    let runtime = runtime(&store).workflow("ask", ask).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    for own_id in [false, true] {
        let run = runtime.start("ask", &()).await.unwrap();
        let (delivery, task) = next(&mut tasks).await;
        let id = if own_id { delivery.event.id.clone() } else { "taken".parse().unwrap() };
        let answer = answer(&task, "ghost", 7).caused_by(&delivery.event).with_id(id);
        send(&runtime, &delivery, answer).await;
        delivery.ack().await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 7);
        let expected = ["started", "task_assigned", "task_completed", "completed"];
        assert_eq!(actions(&run).await, expected);
    }
}

/// A store that holds the append of the first answer: the second one waits in memory.
struct Held {
    store: Arc<FaultyStore>,
    is_recording: Arc<Semaphore>,
    may_record: Arc<Semaphore>,
}

impl Held {
    fn new(inner: &Arc<dyn Store>) -> Self {
        let store = FaultyStore::new(Arc::clone(inner));
        let semaphore = || Arc::new(Semaphore::new(0));
        let held = Self { store, is_recording: semaphore(), may_record: semaphore() };
        let (begun, may_record) = (Arc::clone(&held.is_recording), Arc::clone(&held.may_record));
        let inner = Arc::clone(inner);
        held.store.on_append(move |append| {
            if holds(append, "blocked") {
                // Another engine is faster.
                let first = Append::new(append.stream.clone(), vec![append.events[0].clone()]);
                let inner = Arc::clone(&inner);
                return Some(Fault::After(Box::pin(async move {
                    inner.append_one(first).await.unwrap();
                })));
            }
            holds(append, "task_completed").then(|| {
                begun.add_permits(1);
                let may_record = Arc::clone(&may_record);
                Fault::After(Box::pin(async move { drop(may_record.acquire().await.unwrap()) }))
            })
        });
        held
    }

    /// Answers both tasks of a run. Returns what the journal gets for the second answer.
    async fn answer(&self, runtime: &Runtime, tasks: &mut Deliveries, run: &RunHandle) -> Append {
        let ((one, first), (other, second)) = (next(tasks).await, next(tasks).await);
        send(runtime, &one, answer(&first, "ghost", 1).caused_by(&one.event)).await;
        self.is_recording.acquire().await.unwrap().forget();
        let waiting = answer(&second, "ghost", 2).caused_by(&other.event);
        send(runtime, &other, waiting.clone()).await;
        #[allow(clippy::disallowed_methods, reason = "the engine takes the answer in this time")]
        tokio::time::sleep(Duration::from_millis(200)).await;
        let stream = StreamId::of_run(run.id()).unwrap();
        let started = self.store.read_stream(&stream, 0, 1).await.unwrap().remove(0);
        let operation = second.task_id.run().unwrap().1;
        let name = format!("{operation}/answer#1/{}", waiting.event_type);
        let recorded = waiting.with_id(EventId::derive_from(&started.event.id, &name));
        Append::new(stream, vec![recorded])
    }
}

/// The number of answers in the journal of a run.
async fn answers(run: &RunHandle) -> usize {
    actions(run).await.iter().filter(|action| *action == "task_completed").count()
}

/// While one answer is being recorded, another one waits, and another engine records that one first.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_a_waiting_answer_once_that_another_engine_has_recorded() {
    async fn ask_twice(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let (one, other) = (context.task::<u32>("ghost", &1), context.task::<u32>("ghost", &2));
        let (one, other) = aios_agents::join!(one, other);
        Ok(one? + other?)
    }
    let inner = store();
    let held = Held::new(&inner);
    let store: Arc<dyn Store> = held.store.clone();
    let runtime = runtime(&store).workflow("ask_twice", ask_twice).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask_twice", &()).await.unwrap();
    let waiting = held.answer(&runtime, &mut tasks, &run).await;
    inner.append_one(waiting).await.unwrap();
    held.may_record.add_permits(1);
    assert_eq!(result::<u32>(&run).await.unwrap(), 3);
    assert_eq!(answers(&run).await, 2);
}

/// The same, but the first answer blocks the run: the second one is recorded together with the block.
#[tokio::test(flavor = "multi_thread")]
async fn should_block_a_run_with_a_waiting_answer_that_another_engine_has_recorded() {
    async fn fragile(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let either = async |number: u32| -> Result<u32, WorkflowError> {
            context.task::<u32>("ghost", &number).await?;
            panic!("no answer is expected")
        };
        let (one, _) = aios_agents::join!(either(1), either(2));
        one
    }
    let inner = store();
    let held = Held::new(&inner);
    let store: Arc<dyn Store> = held.store.clone();
    let runtime = runtime(&store).workflow("fragile", fragile).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("fragile", &()).await.unwrap();
    held.answer(&runtime, &mut tasks, &run).await;
    held.may_record.add_permits(1);
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "WORKFLOW_PANICKED", "{error:?}");
    assert_eq!(answers(&run).await, 2);
    assert_eq!(actions(&run).await.last().unwrap(), "blocked");
}

/// The run is blocked, so the answer is recorded without it.
#[tokio::test(flavor = "multi_thread")]
async fn should_shorten_a_failure_that_is_too_large_for_the_journal_of_a_blocked_run() {
    async fn fragile(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let panics = async {
            context.signal::<()>("go").await?;
            panic!("no answer is expected")
        };
        let (one, _): (_, Result<(), WorkflowError>) =
            aios_agents::join!(context.task("ghost", &1), panics);
        one
    }
    let options = MemoryOptions::new().with_max_event_bytes(8000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::connect_with(options).unwrap());
    let runtime = runtime(&store).workflow("fragile", fragile).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("fragile", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    run.signal("go", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    assert_eq!(error.failure().unwrap().code, "WORKFLOW_PANICKED", "{error:?}");

    let failure = Failure::new("NO_STOCK", "x".repeat(9000))
        .with_details(serde_json::json!("y".repeat(9000)));
    let failed = TaskFailed::new(task.task_id.clone(), task.attempt, failure, false);
    let event_type = "agents.ghost.task_failed".parse().unwrap();
    let failed = Event::new(event_type, "ghost-1", &failed).unwrap().caused_by(&delivery.event);
    send(&runtime, &delivery, failed).await;
    let recorded = async || {
        let journal = run.journal(0, 100).await.unwrap();
        let mut events = journal.into_iter().map(|recorded| recorded.event);
        events.find(|event| event.event_type.action() == "task_failed")
    };
    eventually("it is recorded", || async { recorded().await.is_some() }).await;
    let recorded: TaskFailed = recorded().await.unwrap().data().unwrap();
    assert_eq!(recorded.failure.code, "NO_STOCK");
    assert_eq!(runtime.failure(), None);
}

/// Two agents have done the first attempt, and answer while the assignment of the second one is being
/// recorded.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_one_of_two_late_results_and_not_dispatch_another_attempt() {
    let faulty = FaultyStore::new(store());
    let (recording, is_recording) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (may_record, begun) = (Arc::clone(&recording), Arc::clone(&is_recording));
    let is_first = AtomicBool::new(true);
    faulty.on_append(move |append| {
        if !holds(append, "task_assigned") || is_first.swap(false, Ordering::SeqCst) {
            return None;
        }
        begun.add_permits(1);
        let may_record = Arc::clone(&may_record);
        Some(Fault::After(Box::pin(async move { may_record.acquire().await.unwrap().forget() })))
    });
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).workflow("ask_in_time", ask_in_time);
    let runtime = builder.engine_options(impatient()).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask_in_time", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    is_recording.acquire().await.unwrap().forget();
    for output in [1, 2] {
        send(&runtime, &delivery, answer(&task, "ghost", output).caused_by(&delivery.event)).await;
    }
    #[allow(clippy::disallowed_methods, reason = "the engine takes the answers in this time")]
    tokio::time::sleep(Duration::from_millis(200)).await;
    recording.add_permits(1);
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    let expected = [
        "started",
        "task_assigned",
        "retry_scheduled",
        "task_assigned",
        "task_completed",
        "completed",
    ];
    assert_eq!(actions(&run).await, expected);
    delivery.ack().await.unwrap();
    let another = tokio::time::timeout(Duration::from_millis(200), tasks.next()).await;
    assert!(another.is_err(), "the second attempt is not dispatched");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_time_out_a_task_that_no_agent_begins() {
    let builder = runtime(&store()).workflow("ask_in_time", ask_in_time);
    let runtime = builder.engine_options(impatient()).start().await.unwrap();
    // The queue exists, but its tasks are never answered.
    let _tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask_in_time", &()).await.unwrap();
    let error = result::<u32>(&run).await.unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.code, "TASK_TIMEOUT");
    assert!(failure.message.contains("no agent began"), "{failure}");
    let (filter, page) = (TaskFilter::default(), PageRequest::first(9));
    let mut tasks = runtime.store().unwrap().tasks(&filter, &page).await.unwrap();
    let row = tasks.rows.pop().unwrap();
    assert_eq!(row.status, TaskStatus::Failed, "the task fails with its operation");
    assert_eq!(actions(&run).await.iter().filter(|it| *it == "task_assigned").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_assign_a_task_again_whose_answer_was_lost_and_accept_only_one() {
    let builder = runtime(&store()).workflow("ask_in_time", ask_in_time);
    let runtime = builder.engine_options(impatient()).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask_in_time", &()).await.unwrap();
    let (first, task) = next(&mut tasks).await;
    assert_eq!(task.attempt, 1);
    let (second, again) = next(&mut tasks).await;
    assert_eq!(again.attempt, 2);
    assert_ne!(first.event.id, second.event.id);
    // The result of the first attempt is accepted although it arrives late.
    send(&runtime, &first, answer(&task, "ghost", 1).caused_by(&first.event)).await;
    send(&runtime, &second, answer(&again, "ghost", 2).caused_by(&second.event)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    assert_eq!(actions(&run).await.iter().filter(|it| *it == "task_completed").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_accept_a_result_that_comes_while_its_timeout_is_recorded() {
    let faulty = FaultyStore::new(store());
    let (recording, is_recording) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (may_record, begun) = (Arc::clone(&recording), Arc::clone(&is_recording));
    faulty.on_append(move |append| {
        let may_record = Arc::clone(&may_record);
        let begun = holds(append, "retry_scheduled").then(|| begun.add_permits(1));
        begun.map(|()| {
            Fault::After(Box::pin(async move { may_record.acquire().await.unwrap().forget() }))
        })
    });
    let store: Arc<dyn Store> = faulty;
    let builder = runtime(&store).workflow("ask_in_time", ask_in_time);
    let runtime = builder.engine_options(impatient()).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("ask_in_time", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    is_recording.acquire().await.unwrap().forget();
    send(&runtime, &delivery, answer(&task, "ghost", 1).caused_by(&delivery.event)).await;
    #[allow(clippy::disallowed_methods, reason = "the engine takes the answer in this time")]
    tokio::time::sleep(Duration::from_millis(200)).await;
    recording.add_permits(1);
    assert_eq!(result::<u32>(&run).await.unwrap(), 1);
    let expected = ["started", "task_assigned", "retry_scheduled", "task_completed", "completed"];
    assert_eq!(actions(&run).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_a_task_in_a_queue_that_moves() {
    async fn one(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let call = context.task("ghost", &1).timeout(Duration::from_millis(150));
        call.retry(RetryPolicy::never()).await
    }
    let builder = runtime(&store()).workflow("one", one);
    let runtime = builder.engine_options(impatient()).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let mut runs = Vec::new();
    for _ in 0..8 {
        runs.push(runtime.start("one", &()).await.unwrap());
    }
    // One at a time, so that the last waits several timeouts long.
    for _ in &runs {
        let (delivery, task) = next(&mut tasks).await;
        #[allow(clippy::disallowed_methods, reason = "a test plays a slow agent")]
        tokio::time::sleep(Duration::from_millis(60)).await;
        send(&runtime, &delivery, answer(&task, "ghost", 7).caused_by(&delivery.event)).await;
        delivery.ack().await.unwrap();
    }
    for run in runs {
        assert_eq!(result::<u32>(&run).await.unwrap(), 7);
    }
}

/// Agents that discard redelivered attempts move their queue, too.
#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_a_task_behind_attempts_that_have_ended() {
    async fn one(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
        let call = context.task("ghost", &1).timeout(Duration::from_secs(2));
        call.retry(RetryPolicy::never()).await
    }
    let builder = runtime(&store()).workflow("one", one);
    let runtime = builder.engine_options(impatient()).start().await.unwrap();
    let mut tasks = tasks_of(&runtime).await;
    let run = runtime.start("one", &()).await.unwrap();
    let (delivery, task) = next(&mut tasks).await;
    for _ in 0..20 {
        let mut question = TaskHeartbeat::new(TaskId::new("unknown/1"), 1);
        question.waits = true;
        question.asks = true;
        let event_type = "agents.ghost.task_heartbeat".parse().unwrap();
        let question = Event::new(event_type, "ghost-1", &question).unwrap();
        send(&runtime, &delivery, question).await;
        #[allow(clippy::disallowed_methods, reason = "a test plays a slow agent")]
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    send(&runtime, &delivery, answer(&task, "ghost", 7).caused_by(&delivery.event)).await;
    assert_eq!(result::<u32>(&run).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_an_agent_id_that_no_agent_can_have() {
    async fn directed(context: WorkflowContext, id: String) -> Result<u32, WorkflowError> {
        context.task(Target::agent("ghost", id), &1).await
    }
    let runtime = runtime(&store()).workflow("directed", directed).start().await.unwrap();
    let long = "x".repeat(300);
    for id in ["Agent 7", "Zoë", "team/agent", "", "a\0b", long.as_str()] {
        let run = runtime.start("directed", id).await.unwrap();
        let error = result::<u32>(&run).await.unwrap_err();
        assert_eq!(error.failure().unwrap().code, "AGENT_NOT_FOUND", "{id:?}");
        assert_eq!(actions(&run).await, ["started", "failed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_a_task_of_a_later_run_with_the_same_id_for_another_task() {
    use crate::support::workflows::Doubler;
    async fn double(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
        context.task("doubler", &number).await
    }
    // One agent process, which remembers what it answered; two stores, one after the other.
    let broker: std::sync::Arc<dyn Broker> =
        std::sync::Arc::new(aios_broker::memory::MemoryBroker::new());
    let agent = Doubler::default();
    let agents = Runtime::builder().broker(broker.clone()).agent("doubler", agent.clone());
    let agents = agents.start().await.unwrap();
    for (number, expected) in [(1, 2), (2, 4)] {
        let builder = runtime(&store()).broker(broker.clone()).workflow("double", double);
        let engine = builder.start().await.unwrap();
        let run = engine.start("double", &number).id("daily").await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), expected);
        engine.shutdown(PATIENCE).await.unwrap();
    }
    agents.shutdown(PATIENCE).await.unwrap();
}
