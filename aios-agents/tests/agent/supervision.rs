use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aios_agents::{
    agent::{AgentDefinition, AgentHost, AgentSet, Change, HostOptions, RegisteredAgent},
    middleware::Middleware,
};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    agent::{DynAgent, ResultExt, TaskContext, TaskError},
    broker::{Broker, BrokerError, Group, Mailbox, Subscription},
    event::{Event, Payload},
    failure::Failure,
    store::{
        AgentFilter, AgentRecord, AgentStatus, Append, EventStore, EventStoreExt, PageRequest,
        ReadModels, Store,
    },
};
use serde_json::{Value, json};

use crate::support::{
    agents::{Scripted, World},
    faulty::{Fault, FaultyBroker, FaultyStore, holds, store_unavailable},
    workflows::{PATIENCE, eventually, runtime, store},
};

const INTERVAL: Duration = Duration::from_secs(30);

async fn rows(world: &World) -> Vec<AgentRecord> {
    let page = PageRequest::first(10);
    world.store.agents(&AgentFilter::default(), &page).await.unwrap().rows
}

async fn status(world: &World) -> AgentStatus {
    rows(world).await[0].status
}

fn failing(times: u32, tries: &Arc<AtomicU32>) -> AgentDefinition {
    let tries = Arc::clone(tries);
    AgentDefinition::factory("flaky", move |_: Value| {
        if tries.fetch_add(1, Ordering::SeqCst) < times {
            return Err(Failure::new("NOT_YET", "not yet"));
        }
        Ok(Scripted::echo())
    })
    .register("one", &Value::Null)
}

#[tokio::test]
async fn should_recreate_an_agent_until_it_succeeds() {
    let (world, tries) = (World::new(), Arc::new(AtomicU32::new(0)));
    let _host = world.start(AgentSet::new().definition(failing(2, &tries))).await;
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    world.idle().await;
    assert_eq!(status(&world).await, AgentStatus::Failed);
    let caller = world.caller().await;
    assert!(caller.task("flaky", &1).await.unwrap_err().has_code("AGENT_NOT_FOUND"));
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    assert_eq!(status(&world).await, AgentStatus::Running);
    assert_eq!(caller.task("flaky", &1).await.unwrap().as_str(), "1");
    let id = rows(&world).await[0].id.clone();
    assert_eq!(caller.task("flaky", &2).to_agent(id).await.unwrap().as_str(), "2");
}

#[tokio::test]
async fn should_not_recreate_an_agent_after_a_final_failure() {
    let (world, tries) = (World::new(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&tries);
    let agents = AgentSet::new()
        .factory("broken", move |_: Value| {
            count.fetch_add(1, Ordering::SeqCst);
            Err::<Scripted, _>(Failure::new("NEVER", "never")).terminal()
        })
        .register("broken", "one", &Value::Null);
    let _host = world.start(agents).await;
    world.pass(Duration::from_secs(100)).await;
    assert_eq!((tries.load(Ordering::SeqCst), status(&world).await), (1, AgentStatus::Failed));
}

#[tokio::test]
async fn should_treat_a_factory_that_panics_or_hangs_as_failed() {
    for hangs in [true, false] {
        let (world, tries) = (World::new(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&tries);
        let definition = AgentDefinition::async_factory("odd", move |(): ()| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first && hangs {
                    std::future::pending::<()>().await;
                }
                assert!(!first, "the factory exploded");
                Ok::<_, TaskError>(Scripted::echo())
            }
        });
        let _host = world.start(AgentSet::new().definition(definition.register("one", &()))).await;
        world.pass(Duration::from_secs(5)).await;
        assert_eq!(world.caller().await.task("odd", &1).await.unwrap().as_str(), "1");
    }
}

#[tokio::test]
async fn should_keep_agents_in_the_read_model() {
    let world = World::new();
    let agents = AgentSet::new()
        .factory("backend", |_: Value| Ok::<_, TaskError>(Scripted::echo()))
        .register("backend", "fast", &json!({"speed": 9}));
    let host = world.start(agents.clone()).await;
    let row = rows(&world).await.remove(0);
    assert_eq!((row.agent_type.as_str(), row.name.as_str()), ("backend", "fast"));
    assert_eq!((row.config.as_str(), row.status), (r#"{"speed":9}"#, AgentStatus::Running));
    let registered = row.last_seen_at.unwrap();
    world.pass(INTERVAL + Duration::from_secs(2)).await;
    assert!(rows(&world).await[0].last_seen_at.unwrap() >= registered + INTERVAL);
    world.drive(host.shutdown(INTERVAL)).await.unwrap();
    assert_eq!(status(&world).await, AgentStatus::Stopped);
    let _again = world.start(agents).await;
    let again = rows(&world).await;
    assert_eq!((again.len(), &again[0].id, again[0].status), (1, &row.id, AgentStatus::Running));
}

#[tokio::test]
async fn should_report_an_agent_that_was_not_seen_once() {
    let world = World::new();
    let mut missed = world.subscribe("watch", &["system.agent.heartbeat_missed"]).await;
    drop(world.start(AgentSet::new().agent("lost", Scripted::echo())).await);
    let _watchers = [
        world.start(AgentSet::new().agent("other", Scripted::echo())).await,
        world.start(AgentSet::new().agent("another", Scripted::echo())).await,
    ];
    world.pass(INTERVAL * 2).await;
    assert!(missed.try_next().await.is_none());
    world.pass(INTERVAL * 5).await;
    let event = missed.next().await;
    assert_eq!(event.data::<Value>().unwrap()["agent_type"], "lost");
    while let Some(repeated) = missed.try_next().await {
        assert_eq!(repeated.id, event.id, "watchers agree on one event");
    }
    let rows = rows(&world).await;
    let of = |name: &str| rows.iter().find(|row| row.name == name).unwrap().status;
    assert_eq!((of("lost"), of("other")), (AgentStatus::Missing, AgentStatus::Running));
}

#[tokio::test]
async fn should_not_fill_the_log_while_nothing_happens() {
    let world = World::new();
    let mut seen = world.subscribe("watch", &["agents.*.seen"]).await;
    let _host = world.start(AgentSet::new().agent("backend", Scripted::echo())).await;
    let (head, before) = (world.store.head().await.unwrap(), rows(&world).await.remove(0));
    world.pass(INTERVAL * 10).await;
    assert_eq!(world.store.head().await.unwrap(), head);
    let row = rows(&world).await.remove(0);
    assert!(row.last_seen_at >= before.last_seen_at.map(|at| at + INTERVAL * 9), "{row:?}");
    assert!(seen.try_next().await.is_some(), "other processes hear of it all the same");
}

#[tokio::test]
async fn should_note_in_the_log_that_an_agent_is_there_again() {
    let world = World::new();
    let _host = world.start(AgentSet::new().agent("backend", Scripted::echo())).await;
    let id = rows(&world).await.remove(0).id;
    let missing = json!({ "agent_id": id, "status": "missing" });
    let event_type = "agents.backend.status_changed".parse().unwrap();
    let event = Event::new(event_type, "watcher", &missing).unwrap();
    let append = Append::new(format!("agents/{id}").parse().unwrap(), vec![event]);
    world.store.append_one(append).await.unwrap();
    assert_eq!(status(&world).await, AgentStatus::Missing);
    world.pass(INTERVAL * 2).await;
    assert_eq!(status(&world).await, AgentStatus::Running);
}

#[tokio::test]
async fn should_miss_no_agent_after_the_tables_were_rebuilt() {
    let world = World::new();
    let mut missed = world.subscribe("watch", &["system.agent.heartbeat_missed"]).await;
    let _hosts = [
        world.start(AgentSet::new().agent("backend", Scripted::echo())).await,
        world.start(AgentSet::new().agent("frontend", Scripted::echo())).await,
    ];
    for _ in 0..5 {
        world.pass(INTERVAL * 4 + INTERVAL / 3).await;
        world.store.rebuild().await.unwrap();
    }
    assert!(missed.try_next().await.is_none());
}

#[tokio::test]
async fn should_refuse_invalid_definitions() {
    let echo = || AgentDefinition::instance("echo", Scripted::echo());
    let none = || AgentDefinition::factory("none", |_: Value| Ok::<_, TaskError>(Scripted::echo()));
    let with_id = |id: &str| RegisteredAgent::new("none", "one", Payload::null()).with_id(id);
    // A mailbox may have this name, but not with the type in front of it.
    let long = "x".repeat((1..).take_while(|it| Mailbox::new("x".repeat(*it)).is_ok()).count());
    let other = AgentDefinition::factory("other", |_: Value| Ok::<_, TaskError>(Scripted::echo()));
    let one_id_for_two_types = AgentSet::new()
        .definition(none().register_agent(with_id("rack-7")))
        .definition(other.register_agent(with_id("rack-7")));
    for (agents, code) in [
        (AgentSet::new().agent("No Type", Scripted::echo()), "INVALID_AGENT_TYPE"),
        (AgentSet::new().definition(echo()).definition(echo()), "DUPLICATE_AGENT_TYPE"),
        (AgentSet::new().register("unknown", "one", &1), "UNKNOWN_AGENT_TYPE"),
        (AgentSet::new().definition(none()), "INVALID_AGENT_CONFIGURATION"),
        (AgentSet::new().definition(echo().with_concurrency(0)), "INVALID_AGENT_CONFIGURATION"),
        (AgentSet::new().definition(none().register("a", &1).register("a", &2)), "DUPLICATE_AGENT"),
        (one_id_for_two_types, "DUPLICATE_AGENT"),
        (AgentSet::new().definition(none().register_agent(with_id(".."))), "INVALID_AGENT_ID"),
        (AgentSet::new().definition(none().register_agent(with_id(&long))), "INVALID_AGENT_ID"),
    ] {
        let world = World::new();
        let error = world.start_with(agents, HostOptions::new()).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert_eq!(world.store.head().await.unwrap(), 0, "nothing is recorded");
    }
}

/// A disappearance is reported once, so a fault in the middle of it must not lose half of it.
#[tokio::test]
async fn should_report_a_missing_agent_although_store_or_broker_fail_for_a_moment() {
    for fault in ["missed", "changed", "publish"] {
        let world = World::new();
        let mut missed = world.subscribe("watch", &["system.agent.heartbeat_missed"]).await;
        drop(world.start(AgentSet::new().agent("lost", Scripted::echo())).await);
        let store = FaultyStore::new(world.store.clone());
        let broker = FaultyBroker::new(world.broker.clone());
        let (left, action) = match fault {
            "changed" => (AtomicU32::new(1), "status_changed"),
            _ => (AtomicU32::new(1), "heartbeat_missed"),
        };
        let fails = move |it: &Event| {
            it.event_type.action() == action
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok()
        };
        if fault == "publish" {
            broker.on_publish(move |publish| {
                fails(&publish.event).then(|| Fault::Refuse(BrokerError::Uncertain))
            });
        } else {
            store.on_append(move |append| {
                append.events.iter().any(&fails).then(|| Fault::Refuse(store_unavailable()))
            });
        }
        let agents = AgentSet::new().agent("other", Scripted::echo());
        let watcher = AgentHost::builder(agents).clock(Arc::new(world.clock.clone()));
        let watcher = watcher.store(store.clone()).broker(broker.clone()).source("test");
        let watcher = world.drive(watcher.start()).await.unwrap();
        world.pass(INTERVAL * 12).await;
        assert!(missed.try_next().await.is_some(), "{fault}: others are told");
        let log = world.store.read_log(0, 1000).await.unwrap();
        let count = |action: &str| {
            let recorded = log.iter().filter(|it| it.event.event_type.action() == action);
            recorded.count()
        };
        assert_eq!((count("heartbeat_missed"), count("status_changed")), (1, 1), "{fault}");
        assert_eq!(watcher.failure(), None, "{fault}");
    }
}

/// A failure that is not followed by another attempt is announced only then.
#[tokio::test]
async fn should_record_that_an_agent_has_failed_once_the_store_takes_it() {
    let world = World::new();
    let store = FaultyStore::new(world.store.clone());
    store.on_append(|append| {
        holds(append, "status_changed").then(|| Fault::Refuse(store_unavailable()))
    });
    let agents = AgentSet::new()
        .factory("broken", |_: Value| Err::<Scripted, _>(Failure::new("NEVER", "never")).terminal())
        .register("broken", "one", &Value::Null);
    let host = AgentHost::builder(agents).clock(Arc::new(world.clock.clone()));
    let host = host.store(store.clone()).broker(world.broker.clone()).source("test");
    let _host = world.drive(host.start()).await.unwrap();
    world.pass(INTERVAL * 2).await;
    store.heal();
    world.pass(INTERVAL * 3).await;
    assert_eq!(status(&world).await, AgentStatus::Failed);
    let head = world.store.head().await.unwrap();
    world.pass(INTERVAL * 9).await;
    assert_eq!(
        (status(&world).await, world.store.head().await.unwrap()),
        (AgentStatus::Failed, head)
    );
}

/// A layer around an agent is code of the user, too.
#[tokio::test]
async fn should_create_an_agent_again_whose_layer_panics() {
    #[derive(Clone)]
    struct Explosive(Arc<AtomicU32>);
    impl Middleware for Explosive {
        async fn call(
            &self,
            agent: &dyn DynAgent,
            context: &TaskContext,
            parameters: Payload,
        ) -> Result<Payload, TaskError> {
            agent.process_task(context, parameters).await
        }

        fn wrap(&self, agent: Arc<dyn DynAgent>) -> Arc<dyn DynAgent> {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the layer exploded");
            agent
        }
    }
    let (world, tries) = (World::new(), Arc::default());
    let definition = failing(1, &tries).with_layer(Explosive(Arc::default()));
    let _host = world.start(AgentSet::new().definition(definition)).await;
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    assert_eq!(world.caller().await.task("flaky", &1).await.unwrap().as_str(), "1");
}

/// The code of a factory may block its thread for any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn should_not_wait_at_shutdown_for_a_factory_that_blocks() {
    let (begun, has_begun) = std::sync::mpsc::channel::<()>();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begun, released) = (Mutex::new(begun), Mutex::new(Some(released)));
    let tries = AtomicU32::new(0);
    let agents = AgentSet::new()
        .factory("slow", move |_: Value| {
            if tries.fetch_add(1, Ordering::SeqCst) > 0
                && let Some(released) = released.lock().unwrap().take()
            {
                begun.lock().unwrap().send(()).unwrap();
                // Ends when the sender is dropped.
                let _ = released.recv();
            }
            Err::<Scripted, _>(Failure::new("NOT_YET", "not yet"))
        })
        .register("slow", "one", &Value::Null);
    let options = HostOptions::new().with_blocked_after(None);
    let host = AgentHost::builder(agents).broker(Arc::new(MemoryBroker::new()));
    let host = host.options(options).start().await.unwrap();
    tokio::task::block_in_place(|| has_begun.recv_timeout(PATIENCE)).unwrap();
    let stopped =
        tokio::time::timeout(Duration::from_secs(10), host.shutdown(Duration::ZERO)).await;
    drop(release);
    stopped.expect("it does not wait for the factory").unwrap();
}

/// Its factory may be tried again for days.
#[tokio::test]
async fn should_not_fill_the_log_while_a_factory_keeps_failing() {
    let (world, tries) = (World::new(), Arc::new(AtomicU32::new(0)));
    let _host = world.start(AgentSet::new().definition(failing(u32::MAX, &tries))).await;
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(status(&world).await, AgentStatus::Failed);
    let (head, before) = (world.store.head().await.unwrap(), tries.load(Ordering::SeqCst));
    world.pass(INTERVAL * 9).await;
    assert!(tries.load(Ordering::SeqCst) > before + 3);
    assert_eq!(
        (status(&world).await, world.store.head().await.unwrap()),
        (AgentStatus::Failed, head)
    );
}

/// Processes of an old and a new version report their types in turns, perhaps for days.
#[tokio::test(flavor = "multi_thread")]
async fn should_record_the_schemas_of_two_versions_once() {
    let (store, broker) = (store(), Arc::new(MemoryBroker::new()));
    let runtime = runtime(&store).broker(broker.clone()).start().await.unwrap();
    let group = Subscription::group(
        Group::new("watch").unwrap(),
        ["agents.greeter.agents_desired".parse().unwrap()],
    );
    let mut answers = broker.subscribe(group).await.unwrap();
    let options = HostOptions::new().with_announce_interval(Duration::from_millis(5));
    let host = |agents| AgentHost::builder(agents).broker(broker.clone()).options(options.clone());
    let old =
        AgentSet::new().agent_factory("greeter", |_: u32| Ok::<_, TaskError>(Scripted::echo()));
    let new =
        AgentSet::new().agent_factory("greeter", |_: String| Ok::<_, TaskError>(Scripted::echo()));
    let _old = host(old).source("old").start().await.unwrap();
    let _new = host(new).source("new").start().await.unwrap();
    for _ in 0..50 {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap();
        answer.unwrap().unwrap().ack().await.unwrap();
    }
    let types = store.read_stream(&"system/agent-types".parse().unwrap(), 0, 100).await.unwrap();
    assert_eq!(types.len(), 2);
    runtime.shutdown(PATIENCE).await.unwrap();
}

/// A later version of aios, or a fault of its storage, made the changes of one agent unreadable.
#[tokio::test(flavor = "multi_thread")]
async fn should_follow_the_desired_agents_beside_one_that_is_unreadable() {
    for spoils_the_row in [false, true] {
        for has_store in [true, false] {
            let faulty = FaultyStore::new(store());
            let store: Arc<dyn Store> = faulty.clone();
            let broker = Arc::new(MemoryBroker::new());
            let engine = runtime(&store).broker(broker.clone()).start().await.unwrap();
            let agents = AgentSet::new()
                .agent_factory("greeter", |_: u32| Ok::<_, TaskError>(Scripted::echo()));
            let options = HostOptions::new().with_announce_interval(Duration::from_millis(20));
            let host = AgentHost::builder(agents).broker(broker.clone()).options(options);
            let host = if has_store { host.store(Arc::clone(&store)) } else { host };
            let host = host.start().await.unwrap();
            eventually("the type is known", || async {
                !engine.managed_agents().unwrap().types().await.unwrap().is_empty()
            })
            .await;
            let managed = engine.managed_agents().unwrap();
            let create = async |name: &str| {
                let config = Payload::encode(&1).unwrap();
                managed.create("greeter", name, Some(name), config, Change::default()).await
            };
            let is_ready = async |id: &str| {
                let filter = AgentFilter::default();
                let page = store.agents(&filter, &PageRequest::first(9)).await.unwrap();
                let mut rows = page.rows.into_iter();
                rows.any(|row| row.id == id && row.status == AgentStatus::Running)
            };
            create("first").await.unwrap();
            eventually("the first is ready", || is_ready("first")).await;
            let data = json!({ "name": 7 });
            let later = Event::new("agents.greeter.replaced".parse().unwrap(), "later", &data);
            let stream = "agents/first/desired".parse().unwrap();
            let append = Append::new(stream, vec![later.unwrap()]);
            let position = store.append_one(append).await.unwrap().position;
            if spoils_the_row {
                faulty.spoil_everywhere([position]);
            }
            create("second").await.unwrap();
            eventually("the second is ready", || is_ready("second")).await;
            assert!(is_ready("first").await, "the first is left as it was");
            host.shutdown(PATIENCE).await.unwrap();
            engine.shutdown(PATIENCE).await.unwrap();
        }
    }
}
