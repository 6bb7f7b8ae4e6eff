//! The users' JSON is stored in the tables as it was written.

use futures_util::future::join_all;
use serde_json::json;

use super::{
    Capability,
    harness::{Harness, stream, typed},
    read_model::run,
};
use crate::{
    event::{Event, Payload},
    store::{AgentFilter, Append, PageRequest, RunFilter, RunStatus, Shard},
};

/// Texts that are valid JSON, but that not every parser reads or writes back.
fn texts(harness: &Harness<'_>) -> Vec<String> {
    let mut texts: Vec<String> = [
        "1e999",
        "-1E+999",
        "123456789012345678901234567890",
        "-0",
        "1.00",
        r#"{"a":1,"a":2}"#,
        r#"{ "a" : [ 1 ,2 ] }"#,
        r#""\u00e4\/\ud83d\ude00""#,
        r#"{"":null}"#,
    ]
    .map(ToOwned::to_owned)
    .into();
    texts.push(format!("{}1{}", "[".repeat(5000), "]".repeat(5000)));
    if !harness.lacks(Capability::NulCharacters) {
        texts.push(r#""a\u0000b""#.to_owned());
    }
    texts
}

fn raw(event_type: &str, data: String) -> Event {
    let payload = Payload::from_text(data).unwrap();
    Event { payload, ..typed(event_type, &json!({})) }
}

fn text(payload: &Option<Payload>) -> &str {
    payload.as_ref().map_or("nothing", Payload::as_str)
}

/// Results and progress of runs.
pub async fn should_keep_the_json_of_runs_character_by_character(harness: Harness<'_>) {
    if harness.lacks(Capability::VerbatimData) {
        return;
    }
    let texts = texts(&harness);
    for (number, text) in texts.iter().enumerate() {
        let events = vec![
            typed("workflows.deploy.started", &json!({ "version": 1 })),
            raw("workflows.deploy.status_set", format!(r#"{{"text":"half","progress":{text}}}"#)),
            raw("workflows.deploy.completed", format!(r#"{{"result":{text}}}"#)),
        ];
        harness.append(&format!("runs/{number}"), events).await;
    }
    for _ in 0..2 {
        let listed =
            harness.store.runs(&RunFilter::default(), &PageRequest::default()).await.unwrap();
        assert_eq!((listed.rows.len(), listed.unreadable), (texts.len(), Vec::new()));
        for (number, expected) in texts.iter().enumerate() {
            let row = run(&harness, &number.to_string()).await;
            assert_eq!((text(&row.result), text(&row.progress)), (&**expected, &**expected));
        }
        harness.store.rebuild().await.unwrap();
    }
}

/// Configurations of agents, and the details of failures.
pub async fn should_keep_the_json_of_agents_and_failures_character_by_character(
    harness: Harness<'_>,
) {
    if harness.lacks(Capability::VerbatimData) {
        return;
    }
    let texts = texts(&harness);
    for (number, text) in texts.iter().enumerate() {
        let agent = format!(r#"{{"agent_id":"a{number}","name":"Ada","config":{text}}}"#);
        harness.append("agents", vec![raw("agents.backend.registered", agent)]).await;
        let failure = format!(r#"{{"code":"X","message":"it went wrong","details":{text}}}"#);
        let ended = raw("workflows.deploy.failed", format!(r#"{{"failure":{failure}}}"#));
        let started = typed("workflows.deploy.started", &json!({ "version": 1 }));
        harness.append(&format!("runs/{number}"), vec![started, ended]).await;
    }
    let agents =
        harness.store.agents(&AgentFilter::default(), &PageRequest::default()).await.unwrap();
    assert_eq!(agents.rows.len(), texts.len());
    for (number, expected) in texts.iter().enumerate() {
        let agent = agents.rows.iter().find(|row| row.id == format!("a{number}")).unwrap();
        assert_eq!(agent.config.as_str(), expected);
        let failure = run(&harness, &number.to_string()).await.failure.unwrap();
        assert_eq!((&*failure.code, &*failure.message), ("X", "it went wrong"));
        assert_eq!(failure.details.as_str(), expected);
    }
}

/// Summaries are the rows that match a filter, without their data.
pub async fn should_summarise_runs(harness: Harness<'_>) {
    let start = |id: String| {
        let started = typed("workflows.deploy.started", &json!({ "version": 1 }));
        Append::new(stream(&format!("runs/{id}")), vec![started])
    };
    let appends = (0..25).map(|number| harness.try_append(start(format!("run-{number}"))));
    assert!(join_all(appends).await.iter().all(Result::is_ok));
    let ended = harness.append_to_run("run-7", "workflows.deploy.completed", json!({})).await;
    let filter = RunFilter { statuses: vec![RunStatus::Running], ..RunFilter::default() };
    let first = harness.store.run_summaries(&filter, &PageRequest::first(20)).await.unwrap();
    let second = harness.store.run_summaries(&filter, &first.next.unwrap()).await.unwrap();
    assert_eq!((first.rows.len(), second.rows.len(), second.next), (20, 4, None));
    let one = RunFilter { id: Some("run-7".to_owned()), ..RunFilter::default() };
    let found = harness.store.run_summaries(&one, &PageRequest::first(1)).await.unwrap().rows;
    let [row] = &*found else { panic!("{found:?}") };
    assert_eq!((&*row.id, &*row.workflow, row.shard), ("run-7", "deploy", Shard::of("run-7")));
    assert_eq!((row.status, row.position), (RunStatus::Completed, ended.position));
}

/// A status text may contain any character.
pub async fn should_keep_every_character_of_a_status_text(harness: Harness<'_>) {
    if harness.lacks(Capability::NulCharacters) {
        return;
    }
    for (number, text) in ["a\0b", "\u{1a}0\0\u{1a}", "\u{feff}\u{2028}\u{7f}✓"].iter().enumerate()
    {
        let events = vec![
            typed("workflows.deploy.started", &json!({ "version": 1 })),
            typed("workflows.deploy.status_set", &json!({ "text": text })),
        ];
        harness.append(&format!("runs/{number}"), events).await;
        let row = run(&harness, &number.to_string()).await;
        assert_eq!((row.status_text.as_deref(), row.status), (Some(*text), RunStatus::Running));
    }
}
