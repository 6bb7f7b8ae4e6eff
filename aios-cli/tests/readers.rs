//! Readers of the log, and what retention keeps for them.

use std::time::Duration;

use aios_agents::{Runtime, projection::Batch};
use aios_core::{
    agent::TaskError,
    clock::{Clock, SystemClock},
    event::{Event, Timestamp},
    store::{Append, EventStoreExt, Store, StreamId},
};
use aios_store::AnyStore;
use aios_tests::postgres::PostgresServer;
use serde_json::{Value, json};

use crate::support::{Dev, Program};

/// A program on a SQLite file that the function has filled.
fn program_with(fill: impl AsyncFnOnce(&dyn Store)) -> Program {
    let program = Program::new().with_variable("AIOS_DATABASE_URL", "sqlite://a.db");
    with_store(&program, fill);
    program
}

#[tokio::main(flavor = "current_thread")]
async fn with_store(program: &Program, work: impl AsyncFnOnce(&dyn Store)) {
    let path = program.folder().join("a.db");
    let opened = AnyStore::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let store = opened.store();
    work(&*store).await;
    store.close().await.unwrap();
}

/// Appends a run that has ended: two events.
async fn end_run(store: &dyn Store, run: &str, age: Duration) {
    for action in ["started", "completed"] {
        let data = json!({ "version": 1, "result": 1 });
        let event_type = format!("workflows.deploy.{action}").parse().unwrap();
        let now = SystemClock.now().as_micros() - i64::try_from(age.as_micros()).unwrap();
        let event = Event::new(event_type, "test", &data)
            .unwrap()
            .with_timestamp(Timestamp::from_micros(now));
        let stream = StreamId::new(format!("runs/{run}")).unwrap();
        store.append_one(Append::new(stream, vec![event])).await.unwrap();
    }
}

/// Three ended runs, of which one reader has not passed the last and another has passed none.
async fn three_runs(store: &dyn Store) {
    for run in ["a", "b", "c"] {
        end_run(store, run, Duration::from_secs(60)).await;
    }
    store.save_checkpoint("projections/orders", 0).await.unwrap();
    store.save_checkpoint("search-index", 4).await.unwrap();
    let event = Event::new("shop.order.placed".parse().unwrap(), "test", &1).unwrap();
    let stream = StreamId::new("orders").unwrap();
    let last = store.append_one(Append::new(stream, vec![event])).await.unwrap();
    store.save_checkpoint("relay", last.position).await.unwrap();
}

#[test]
fn should_list_the_readers_of_a_store() {
    let program = program_with(three_runs);
    let readers = program.json(&["readers"]);
    let of = |key: &str| readers.iter().map(|it| it[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("reader"), ["projections/orders", "relay", "search-index"]);
    assert_eq!(of("position"), [0, 7, 4]);
    assert_eq!(of("behind"), [7, 0, 3]);
    let since = of("behind_since");
    assert!(since[0].is_string() && since[1].is_null() && since[2].is_string(), "{since:?}");
    let table = program.done(&["readers"]);
    assert!(table.starts_with("READER "), "{table}");
    assert!(table.contains("BEHIND SINCE") && table.contains("projections/orders"), "{table}");
}

#[test]
fn should_list_a_reader_whose_next_event_cannot_be_read() {
    let program = program_with(three_runs);
    let path = program.folder().join("a.db");
    let sql = "UPDATE events SET metadata = '{' WHERE position = 5";
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    let readers = program.json(&["readers"]);
    assert_eq!(readers[2]["behind"], 3);
    assert!(readers[2]["behind_since"].is_null(), "{}", readers[2]);
}

#[test]
fn should_retire_a_reader_only_with_consent() {
    let program = program_with(three_runs);
    let retire = |reader: &'static str| ["readers", "retire", reader];
    let question = program.fails(&retire("projections/orders"), 1);
    for part in ["--yes", "retention", "a projection of this name", "sqlite://a.db"] {
        assert!(question.contains(part), "{part}: {question}");
    }
    assert!(program.fails(&retire("relay"), 1).contains("will republish the whole log"));
    assert_eq!(program.json(&["readers"]).len(), 3);

    for reader in ["projections/orders", "relay", "search-index"] {
        program.done(&[&retire(reader)[..], &["--yes"]].concat());
    }
    assert!(program.json(&["readers"]).is_empty());
    for reader in ["projections/orders", "relay", "unknown"] {
        let error = program.fails(&[&retire(reader)[..], &["--yes", "--json"]].concat(), 3);
        let error: Value = serde_json::from_str(&error).unwrap();
        assert_eq!(error["error"]["code"], "READER_NOT_FOUND");
    }
}

/// The engine would continue, and save its position again. Only one process can open a SQLite file.
#[test]
fn should_not_retire_the_relay_of_an_engine() {
    let Some(server) = PostgresServer::start() else { return };
    let program = Program::new().with_variable("AIOS_DATABASE_URL", &server.url());
    let dev = Dev::start(&program, &[]);
    program.done(&["--url", &dev.url, "start", "welcome", "\"Ada\"", "--wait"]);
    let error = program.fails(&["readers", "retire", "relay", "--yes"], 1);
    assert!(error.contains("an engine relays"), "{error}");
    assert_eq!(program.json(&["readers"])[0]["reader"], "relay");
}

#[test]
fn should_say_for_which_reader_retention_keeps_runs() {
    let program = program_with(three_runs);
    let retain = ["retain", "--older-than", "10s", "--yes"];
    let removed = &program.json(&retain)[0];
    assert_eq!(removed["runs"], 0);
    let kept = json!([
        { "reader": "projections/orders", "runs": 3 },
        { "reader": "search-index", "runs": 1 },
    ]);
    assert_eq!(removed["kept"], kept);
    let text = program.done(&retain);
    assert!(
        text.contains("kept 3 runs that the reader projections/orders has not passed"),
        "{text}"
    );
    assert!(text.contains("kept 1 run that the reader search-index has not passed"), "{text}");

    // Runs that are not old enough are kept for that reason.
    let removed = &program.json(&["retain", "--older-than", "1h", "--yes"])[0];
    assert_eq!(removed["kept"], json!([]));

    program.done(&["readers", "retire", "projections/orders", "--yes"]);
    let removed = &program.json(&retain)[0];
    assert_eq!(removed["runs"], 2);
    assert_eq!(removed["kept"], json!([{ "reader": "search-index", "runs": 1 }]));
}

#[test]
fn should_find_a_reader_that_does_not_advance() {
    let program = program_with(three_runs);
    let readers = |program: &Program| {
        let found = program.ended(&["doctor"]).stdout;
        let of_readers = found.lines().skip_while(|line| !line.contains("readers"));
        of_readers.take(2).collect::<Vec<_>>().join("\n")
    };
    assert!(readers(&program).starts_with("ok     readers"), "{}", readers(&program));

    with_store(&program, async |store| {
        end_run(store, "old", Duration::from_secs(2 * 86_400)).await;
        store.save_checkpoint("projections/orders", 7).await.unwrap();
    });
    let found = readers(&program);
    assert!(found.starts_with("FAULT  readers"), "{found}");
    assert!(
        found.contains("projections/orders") && found.contains("aios readers retire"),
        "{found}"
    );
    assert!(!found.contains("relay"), "it saves its position from time to time: {found}");

    let path = program.folder().join("a.db");
    let sql = "UPDATE events SET position = position + 20000 WHERE position > 7";
    rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
    let found = readers(&program);
    assert!(found.contains("relay (20002 behind"), "{found}");
}

/// The position of a projection is among the readers under the name that the program lists.
#[test]
fn should_list_a_projection_that_has_run() {
    let program = program_with(async |_| {});
    run_projection(&program);
    let readers = program.json(&["readers"]);
    assert_eq!(readers[0]["reader"], "projections/orders");
    program.done(&["readers", "retire", "projections/orders", "--yes"]);
    assert!(program.json(&["readers"]).is_empty());
}

#[tokio::main(flavor = "current_thread")]
async fn run_projection(program: &Program) {
    let path = program.folder().join("a.db");
    let store = aios_store::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    let broker = aios_broker::connect("memory:").await.unwrap();
    let builder = Runtime::builder().store(store).broker(broker).client_only();
    let runtime = builder.start().await.unwrap();
    let apply = async |_: Batch| Ok::<_, TaskError>(());
    let orders = runtime.projection("orders", apply).await.unwrap();
    while orders.position().await.unwrap() == 0 && orders.lag().await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
}
