use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use aios_agents::trace::SpanId;
use aios_core::store::RecordedEvent;
use aios_service::{
    client::{Client, ClientError},
    config::{Protocol, TelemetrySettings, TracesSettings},
    telemetry::{
        otlp::Collector,
        traces::{AttributeValue, Span, SpanStatus, spans_of},
    },
};
use axum::http::Uri;
use serde_json::json;

use super::runs::Pages;
use crate::{
    arguments::{Connection, Listed, Trace},
    error::CliError,
    output::{Output, Table},
    settings,
};

/// How many runs a trace may have: a run, those that continue it, its children, and theirs.
const MAX_RUNS: usize = 1000;
/// How many spans are sent at once.
const BATCH: usize = 512;

/// A run of a trace, and the span that names it.
enum Named {
    /// Asked for.
    Here,
    /// A child of an operation.
    Child(SpanId),
    /// The run that continues another one.
    Next(SpanId),
}

impl Named {
    /// Whether this is the span of that run. Another run may have the id now.
    fn is(&self, span: &Span) -> bool {
        match self {
            Self::Here => true,
            Self::Child(operation) => span.parent == Some(*operation),
            Self::Next(run) => span.links.iter().any(|link| link.span_id == *run),
        }
    }
}

/// Shows the trace of a run, of its children and of the runs that continue them, or sends it to a
/// collector.
pub(super) async fn show(
    connection: &Connection,
    client: &Client,
    arguments: &Trace,
    output: &mut Output,
) -> Result<(), CliError> {
    let spans = spans_of_runs(client, &arguments.run, output).await?;
    if let Some(url) = &arguments.export {
        let settings = settings::load(connection)?;
        let collector = collector(settings.telemetry(), url, arguments.protocol)?;
        return export(&collector, spans, output).await;
    }
    if output.is_json() {
        return Ok(spans.iter().try_for_each(|span| output.json(span))?);
    }
    if let Some(span) = spans.first() {
        // A run without a caller begins a trace of its own, also if it continues another one.
        let ids: BTreeSet<_> = spans.iter().map(|span| span.trace_id.to_string()).collect();
        let others = match ids.len() {
            1 => String::new(),
            2 => ", continued in another".to_owned(),
            count => format!(", continued in {} others", count - 1),
        };
        output.line(format_args!("trace {}{others}", span.trace_id))?;
    }
    Ok(Tree::new(&spans).table().write(output)?)
}

/// The spans of a run, then those of its children and of the runs that continue it.
async fn spans_of_runs(
    client: &Client,
    run_id: &str,
    output: &Output,
) -> Result<Vec<Span>, CliError> {
    let mut spans = Vec::new();
    let mut is_cut = false;
    let mut known = BTreeSet::from([run_id.to_owned()]);
    let mut next = VecDeque::from([(run_id.to_owned(), Named::Here)]);
    while let Some((run_id, named)) = next.pop_front() {
        let journal = match journal(client, &run_id).await {
            // It has not begun, or was removed.
            Err(ClientError::Service { status: 404, .. }) if !matches!(named, Named::Here) => {
                continue;
            }
            journal => journal?,
        };
        let trace = spans_of(&journal);
        let found: Vec<_> = trace.spans.into_iter().chain(trace.open).collect();
        let root = trace.context.map(|context| context.span_id);
        let is_named = |span: &Span| Some(span.span_id) == root && named.is(span);
        if !matches!(named, Named::Here) && !found.iter().any(is_named) {
            continue;
        }
        for (run_id, named) in found.iter().flat_map(others) {
            if known.len() >= MAX_RUNS {
                is_cut |= !known.contains(run_id);
            } else if known.insert(run_id.to_owned()) {
                next.push_back((run_id.to_owned(), named));
            }
        }
        spans.extend(found);
    }
    if is_cut {
        let text = format_args!("the trace has more than {MAX_RUNS} runs; the others are left out");
        output.lacks(&json!({ "limit_reached": MAX_RUNS }), text);
    }
    Ok(spans)
}

/// The other runs that a span names.
fn others(span: &Span) -> impl Iterator<Item = (&str, Named)> {
    let names = [
        ("aios.child_run_id", Named::Child(span.span_id)),
        ("aios.next_run_id", Named::Next(span.span_id)),
    ];
    names.into_iter().filter_map(|(attribute, named)| match span.attribute(attribute)? {
        AttributeValue::Text(run_id) => Some((&**run_id, named)),
        _ => None,
    })
}

async fn journal(client: &Client, run_id: &str) -> Result<Vec<RecordedEvent>, ClientError> {
    let run = client.run(run_id);
    let mut events = Vec::new();
    let mut pages = Pages::new(&Listed { limit: 1, all: true, after: None });
    while let Some(page) = pages.next() {
        events.extend(pages.took(run.journal(&page).await?));
    }
    Ok(events)
}

/// The collector at a URL. The protocol and the headers of the settings, which may have secrets, are
/// those of the collector of the settings, and not of another one.
fn collector(
    settings: &TelemetrySettings,
    url: &str,
    protocol: Option<Protocol>,
) -> Result<Collector, CliError> {
    let TracesSettings { endpoint, headers, protocol: own, .. } = &settings.traces;
    let is_own = endpoint.as_ref().is_some_and(|own| is_same_server(own.expose(), url));
    let (protocol, headers) = match is_own {
        true => (protocol.unwrap_or(*own), headers),
        false => (protocol.unwrap_or_default(), &BTreeMap::new()),
    };
    let collector = Collector::new(url, &settings.service_name)?;
    Ok(collector.try_with_protocol(protocol)?.try_with_secret_headers(headers)?)
}

/// Whether two URLs have the same scheme, host and port.
fn is_same_server(one: &str, other: &str) -> bool {
    let server = |url: &str| {
        let uri: Uri = url.trim().parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    server(one).is_some_and(|one| server(other) == Some(one))
}

/// Sends the spans that have ended. They have the same ids each time.
async fn export(
    collector: &Collector,
    mut spans: Vec<Span>,
    output: &mut Output,
) -> Result<(), CliError> {
    spans.retain(|span| span.end.is_some());
    let mut rejected = 0;
    for batch in spans.chunks(BATCH) {
        let receipt = collector.send(batch).await?;
        rejected += receipt.rejected;
        if let Some(message) = receipt.message {
            output.note(format_args!("the collector says: {message}"));
        }
    }
    let sent = spans.len();
    if output.is_json() {
        let trace_id = spans.first().map(|span| span.trace_id);
        output.json(&json!({ "sent": sent, "rejected": rejected, "trace_id": trace_id }))?;
    } else {
        output
            .line(format_args!("sent {sent} spans, of which the collector rejected {rejected}"))?;
    }
    Ok(())
}

/// The spans by their parents.
struct Tree<'s> {
    roots: Vec<&'s Span>,
    children: BTreeMap<SpanId, Vec<&'s Span>>,
}

impl<'s> Tree<'s> {
    fn new(spans: &'s [Span]) -> Self {
        let known: BTreeSet<_> = spans.iter().map(|span| span.span_id).collect();
        let mut roots = Vec::new();
        let mut children = BTreeMap::<_, Vec<_>>::new();
        for span in spans {
            match span.parent.filter(|parent| known.contains(parent)) {
                Some(parent) => children.entry(parent).or_default().push(span),
                None => roots.push(span),
            }
        }
        roots.sort_by_key(|span| span.start);
        children.values_mut().for_each(|spans| spans.sort_by_key(|span| span.start));
        Self { roots, children }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["span", "begins", "takes", "outcome"]);
        // The last one is the next: its depth, and the parts of the tree before its name.
        let mut next: Vec<_> =
            self.roots.iter().rev().map(|span| (*span, String::new(), String::new())).collect();
        let begun = self.roots.first().map(|span| span.start);
        while let Some((span, branch, below)) = next.pop() {
            let name = format!("{branch}{}{}", span.name, number(span));
            let begins = begun.map(|begun| span.start.duration_since(begun)).unwrap_or_default();
            let takes = span.end.map(|end| time(end.duration_since(span.start)));
            table.row([
                name,
                format!("+{}", time(begins)),
                takes.unwrap_or_default(),
                outcome(span),
            ]);
            let children = self.children.get(&span.span_id).map(Vec::as_slice).unwrap_or_default();
            for (index, child) in children.iter().enumerate().rev() {
                let (branch, rest) = match index + 1 == children.len() {
                    true => ("└─ ", "   "),
                    false => ("├─ ", "│  "),
                };
                next.push((child, format!("{below}{branch}"), format!("{below}{rest}")));
            }
        }
        table
    }
}

/// The number of an attempt.
fn number(span: &Span) -> String {
    match span.attribute("aios.attempt") {
        Some(AttributeValue::Number(number)) => format!(" {number}"),
        _ => String::new(),
    }
}

fn outcome(span: &Span) -> String {
    match (&span.status, span.end) {
        (SpanStatus::Error(code), _) => code.to_string(),
        (SpanStatus::Ok, _) => "ok".to_owned(),
        (_, None) => "in progress".to_owned(),
        _ => "not needed".to_owned(),
    }
}

/// A time with the unit that fits.
fn time(time: Duration) -> String {
    match time.as_secs() {
        0 if time.as_millis() < 10 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        0 => format!("{} ms", time.as_millis()),
        seconds if seconds < 60 => format!("{:.2} s", time.as_secs_f64()),
        seconds if seconds < 3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_write_times_with_the_unit_that_fits() {
        for (millis, text) in [
            (0, "0.0 ms"),
            (9, "9.0 ms"),
            (12, "12 ms"),
            (1_500, "1.50 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), text);
        }
    }
}
