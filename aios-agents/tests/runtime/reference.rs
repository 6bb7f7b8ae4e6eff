//! Checks that the reference of names, limits and defaults matches the code.

use std::{collections::BTreeSet, fmt::Debug, path::Path, time::Duration};

use aios_agents::{
    agent::{AgentDefinition, HostOptions, TaskClient},
    prelude::*,
    runtime::EngineOptions,
};
use aios_core::{
    agent::Name,
    broker::{Mailbox, Subscription},
    catalog::{self, codes, workflow},
    event::{EventId, MAX_NAME_BYTES},
    store::{MAX_PAGE, SHARDS},
};
use aios_store::{postgres::PostgresOptions, sqlite::SqliteOptions};

const PAGE: &str = include_str!("../../../docs/reference.md");

/// Whether the table has a row that begins with these cells.
fn assert_row(what: &str, value: &str) {
    let row = PAGE.lines().find(|line| line.starts_with(&format!("| {what} |")));
    let row = row.unwrap_or_else(|| panic!("{what} is not in the page"));
    let last = row.trim_end_matches('|').rsplit('|').next().unwrap().trim();
    let value_is_there = last == value || last.starts_with(&format!("{value} ("));
    assert!(value_is_there, "{what} is {value} in the code, and {last} in the page");
}

fn span(span: Duration) -> String {
    match span.as_millis() {
        millis if millis % 1000 == 0 => format!("{} s", millis / 1000),
        millis => format!("{millis} ms"),
    }
}

#[test]
fn should_document_the_default_options() {
    let EngineOptions {
        lease_time,
        eviction_delay,
        backoff,
        child_poll_interval,
        heartbeat_timeout,
        task_grace,
        dead_letter_check,
        unclaimed_after,
        redispatch_after,
        relay_patience,
        blocked_after,
        relay,
        refused_events,
        anonymous_answers,
        ..
    } = EngineOptions::default();
    assert_row("`EngineOptions`: `lease_time`", &span(lease_time));
    assert_row("`EngineOptions`: `eviction_delay`", &span(eviction_delay));
    let (first, most) = (span(backoff.initial_delay), span(backoff.max_delay));
    assert_row("`EngineOptions`: `backoff`", &format!("{first} to {most}"));
    assert_row("`EngineOptions`: `child_poll_interval`", &span(child_poll_interval));
    assert_row("`EngineOptions`: `heartbeat_timeout`", &span(heartbeat_timeout));
    assert_row("`EngineOptions`: `task_grace`", &span(task_grace));
    assert_row("`EngineOptions`: `dead_letter_check`", &span(dead_letter_check));
    assert_row("`EngineOptions`: `unclaimed_after`", &span(unclaimed_after));
    assert_row("`EngineOptions`: `redispatch_after`", &span(redispatch_after.unwrap()));
    assert_row("`EngineOptions`: `relay_patience`", &span(relay_patience));
    assert_row("`EngineOptions`: `blocked_after`", &span(blocked_after.unwrap()));
    assert!(relay);
    assert_row("`EngineOptions`: `relay`", "on");
    assert_row("`EngineOptions`: `refused_events`", &format!("`{refused_events:?}`"));
    assert_row("`EngineOptions`: `anonymous_answers`", &format!("`{anonymous_answers:?}`"));
    let host = HostOptions::new();
    assert_row("`HostOptions`: `heartbeat_interval`", &span(host.heartbeat_interval));
    assert_row("`HostOptions`: `early_ack_after`", &span(host.early_ack_after.unwrap()));
    assert_row("`HostOptions`: `announce_interval`", &span(host.announce_interval));
    assert_row("`HostOptions`: `cancel_grace`", &span(host.cancel_grace));
    assert_row("`HostOptions`: `create_timeout`", &span(host.create_timeout));
    assert_row("`HostOptions`: `answer_patience`", &span(host.answer_patience));
    assert_row("`HostOptions`: `blocked_after`", &span(host.blocked_after.unwrap()));
    assert!(host.confirm_redelivered);
    assert_row("`HostOptions`: `confirm_redelivered`", "on");
    let (first, most) = (span(host.backoff.initial_delay), span(host.backoff.max_delay));
    assert_row("`HostOptions`: `backoff`", &format!("{first} to {most}"));
}

#[test]
fn should_document_the_default_retry_policy_and_limits() {
    let policy = RetryPolicy::new();
    assert_row("`RetryPolicy`: attempts", &policy.max_attempts.to_string());
    let (first, longest) = (span(policy.initial_delay), span(policy.max_delay));
    let delays = format!("{first}, {}, {longest}, {}", policy.factor, policy.jitter);
    assert_row("`RetryPolicy`: first delay, factor, longest delay, jitter", &delays);
    assert_row("timeout of `TaskClient::task`", &span(TaskClient::DEFAULT_TIMEOUT));
    let concurrency = AgentDefinition::DEFAULT_CONCURRENCY.to_string();
    assert_row("`AgentDefinition`: concurrency", &concurrency);
    assert_row("shards of a store", &SHARDS.to_string());
    assert_eq!(MAX_PAGE, 10_000);
    assert_row("events in one page of a read", "10,000");
}

/// Checks the fields of options that only their `Debug` output shows.
fn assert_shown(options: &impl Debug, fields: &[&str]) {
    let shown = format!("{options:?}");
    for field in fields {
        assert!(shown.contains(field), "{field} is not in {shown}");
    }
}

#[test]
fn should_document_the_default_options_of_stores_and_subscriptions() {
    let sqlite =
        ["readers: 4,", "lock_wait: 0ns,", "synchronous: Full,", "max_database_bytes: None"];
    assert_shown(&SqliteOptions::memory(), &sqlite);
    assert_row("`SqliteOptions`: `readers`, `lock_wait`, `synchronous`", "4, 0 s, `Full`");
    assert_row("`SqliteOptions`: `max_database_bytes`", "the size of the disk");
    let postgres = [
        "max_connections: 10,",
        "connect_timeout: 5s,",
        "statement_timeout: 30s,",
        "lock_timeout: 10s,",
        "append_timeout: 30s,",
    ];
    assert_shown(&PostgresOptions::new("postgres://me@host/db"), &postgres);
    assert_row(
        "`PostgresOptions`: `max_connections`, not counting the connection that listens",
        "10",
    );
    assert_row(
        "`PostgresOptions`: `connect_timeout`, `statement_timeout`, `lock_timeout`, `append_timeout`",
        "5 s, 30 s, 10 s, 30 s",
    );
    let subscription = Subscription::mailbox("a".parse().unwrap());
    let row = format!("{}, {}", subscription.prefetch, subscription.retry.max_attempts);
    assert_row("`Subscription`: prefetch, attempts", &row);
}

#[test]
fn should_document_how_long_names_are() {
    assert_row("event id, source, stream", &format!("{MAX_NAME_BYTES} bytes"));
    assert!("x".repeat(255).parse::<EventId>().is_ok());
    assert!("x".repeat(256).parse::<EventId>().is_err());
    assert_row("agent type, workflow, projection", "100 bytes");
    assert!(Name::new("x".repeat(100)).is_ok());
    assert!(Name::new("x".repeat(101)).is_err());
    assert_row("group, mailbox", "200 bytes");
    assert!("x".repeat(200).parse::<Mailbox>().is_ok());
    assert!("x".repeat(201).parse::<Mailbox>().is_err());
}

#[tokio::test]
async fn should_document_how_long_a_run_id_is() {
    assert_row("run id", "200 bytes");
    let runtime = crate::support::workflows::runtime(&crate::support::workflows::store());
    let runtime = runtime.start().await.unwrap();
    let start = |bytes: usize| runtime.task("missing", &1).id("x".repeat(bytes));
    assert!(start(200).await.is_ok());
    assert!(start(201).await.is_err());
}

/// Events without a row of their own are in the row of others.
#[test]
fn should_document_every_event_of_the_catalogue() {
    for kind in catalog::all() {
        let name = |line: &&str| {
            line.contains(&format!("`{}`", kind.action))
                || line.contains(&format!(".{}`", kind.action))
        };
        let line = PAGE.lines().find(name);
        let line = line.unwrap_or_else(|| panic!("{}.{} is missing", kind.domain, kind.action));
        let is_row_of_a_run =
            kind.action != workflow::REGISTERED && line.starts_with("| `workflows.");
        if kind.domain == workflow::DOMAIN && is_row_of_a_run {
            assert_eq!(line.ends_with("| yes |"), kind.relayed, "{}", kind.action);
        }
    }
}

#[test]
fn should_document_every_code_of_the_catalogue() {
    for known in codes::CODES {
        let (retry, meaning) = (known.retry.as_str(), known.meaning);
        let row = format!("| `{}` | {} | {retry} | {meaning} |", known.code, known.raised_by);
        assert!(PAGE.contains(&row), "{row}");
    }
}

/// Names in capitals that are not codes.
const OTHER_NAMES: [&str; 3] = ["AIOS_", "CARGO_", "PG"];

/// Names of the Gemini API, of statuses of gRPC and of an encoding of PostgreSQL, which are not codes of aios.
const NAMES_OF_OTHERS: [&str; 13] = [
    "ALREADY_EXISTS",
    "API_KEY_INVALID",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "MAX_TOKENS",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "PROHIBITED_CONTENT",
    "RESOURCE_EXHAUSTED",
    "SQL_ASCII",
];

/// The texts of the files with this extension, without comments and unit tests.
fn sources(folder: &Path, extension: &str, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The table of HTTP statuses names every code.
        let is_suite = path.ends_with("conformance")
            || path.ends_with("tests.rs")
            || path.ends_with("protocol/status.rs");
        if path.is_dir() && !is_suite {
            sources(&path, extension, texts);
        } else if path.extension().is_some_and(|it| it == extension) && !is_suite {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let is_code = |line: &&str| {
                // Examples of a schema must be literals.
                !line.trim_start().starts_with("//") && !line.contains("#[schema(")
            };
            let lines = code.lines().filter(is_code);
            texts.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The texts in quotes that look like codes.
fn codes_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').filter(|quoted| {
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        quoted.contains('_')
            && quoted.starts_with(|first: char| first.is_ascii_uppercase())
            && quoted.bytes().all(is_name)
            && !OTHER_NAMES.iter().any(|other| quoted.starts_with(other))
            && !NAMES_OF_OTHERS.contains(quoted)
    })
}

/// The codes that a Python text gives to errors: names in capitals, in a line about a code. They may
/// have no `_`.
fn python_codes_in(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| line.contains("code"));
    let quoted = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    quoted.filter(|it| {
        it.len() > 3 && it.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    })
}

#[test]
fn should_list_exactly_the_codes_that_are_raised() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut texts = Vec::new();
    for package in [
        "aios-core",
        "aios-broker",
        "aios-store",
        "aios-agents",
        "aios-llm",
        "aios-service",
        "aios-py",
    ] {
        sources(&root.join(package).join("src"), "rs", &mut texts);
    }
    let mut python = Vec::new();
    sources(&root.join("aios-py/python"), "py", &mut python);
    let literals: BTreeSet<_> = texts.iter().flat_map(|text| codes_in(text)).collect();
    assert!(literals.is_empty(), "not constants of the catalogue: {literals:?}");
    let raised: BTreeSet<_> = python.iter().flat_map(|text| python_codes_in(text)).collect();
    let unlisted: Vec<_> = raised.iter().filter(|code| codes::find(code).is_none()).collect();
    assert!(unlisted.is_empty(), "not in the catalogue: {unlisted:?}");
    let is_raised = |code: &str| {
        let (constant, quoted) = (format!("codes::{code}"), format!("\"{code}\""));
        // Another code may begin with this one.
        let ends =
            |rest: &str| !rest.starts_with(|next: char| next == '_' || next.is_alphanumeric());
        texts.iter().any(|text| text.split(&constant).skip(1).any(ends))
            || python.iter().any(|text| text.contains(&quoted))
    };
    let unused: Vec<_> = codes::CODES.iter().filter(|known| !is_raised(known.code)).collect();
    assert!(unused.is_empty(), "raised nowhere: {unused:?}");
}
