//! Meanings and units of the metrics of aios.
//!
//! The metrics are recorded in all crates. Their meanings are in one place, because the text of
//! OpenMetrics and the messages of OTLP show them, and because tests compare this list with what
//! the code records and what the documentation says.

/// Name and meaning.
const METRICS: &[(&str, &str)] = &[
    ("aios_runs_started_total", "Runs that were started by this process"),
    ("aios_runs_ended_total", "Runs that ended, by status"),
    ("aios_runs_blocked_total", "How often runs were blocked, by code"),
    ("aios_run_seconds", "How long runs took, from their start to their end"),
    ("aios_runs_moved_total", "Runs that moved to an engine that has their code"),
    ("aios_runs_unhosted", "Runs that no engine has the code for"),
    ("aios_steps_completed_total", "Steps whose result was recorded"),
    ("aios_step_seconds", "How long the last attempts of steps took"),
    ("aios_operations_failed_total", "Steps, tasks and children that failed permanently"),
    ("aios_retries_scheduled_total", "Failed attempts of steps and tasks that are retried"),
    ("aios_timers_fired_total", "Durable timers that fired"),
    ("aios_timer_late_seconds", "How late durable timers fire"),
    ("aios_tasks_assigned_total", "Attempts of tasks that were assigned to agents"),
    ("aios_task_answers_total", "Answers of agents that were recorded, by outcome"),
    ("aios_task_seconds", "How long tasks took, from their first assignment to their result"),
    ("aios_tasks_queued", "Tasks that no agent has begun yet, as far as this engine knows"),
    ("aios_tasks_unclaimed", "Tasks that no agent has begun for a long time"),
    (
        "aios_tasks_redispatched_total",
        "Tasks that were dispatched again because their delivery seemed to be lost",
    ),
    ("aios_tasks_without_agent_total", "Tasks that no agent of the type could take"),
    ("aios_waits_refused_total", "Notes of waiting runs that the store refused, by code"),
    ("aios_agent_tasks_total", "Attempts of tasks that agents of this process ended, by outcome"),
    ("aios_agent_task_seconds", "How long attempts of tasks took"),
    ("aios_agent_task_wait_seconds", "How long attempts of tasks waited until an agent began them"),
    ("aios_agent_tasks_running", "Attempts of tasks in progress"),
    ("aios_agent_tasks_overdue", "Attempts of tasks that run after their timeout"),
    ("aios_agents_blocked_total", "How often the code of agents blocked its thread or event loop"),
    ("aios_runs_blocking", "Runs whose code blocks its thread or event loop"),
    ("aios_idle_continuations_total", "Delayed runs that continue others which requested nothing"),
    ("aios_run_blocks_total", "How often the code of a run blocked its thread or event loop"),
    ("aios_store_append_seconds", "How long an append took until it was durable or refused"),
    ("aios_store_append_events", "How many events an append had"),
    ("aios_store_appends_refused_total", "Appends that the store refused, by reason"),
    ("aios_store_appends_waiting", "Appends that wait for their commit"),
    ("aios_store_commit_appends", "How many appends were committed together"),
    ("aios_store_commit_seconds", "How long a commit of appends took"),
    ("aios_store_commits_failed_total", "Attempts to commit that failed because of the database"),
    ("aios_store_connections", "Connections of the pool to the database, by state"),
    ("aios_leases_held", "Leases on shards that this engine holds"),
    ("aios_leases_taken_total", "Shards that this engine took"),
    ("aios_leases_lost_total", "Leases that this engine lost to others"),
    ("aios_leases_handed_over_total", "Shards that this engine handed to others"),
    (
        "aios_appends_fenced_total",
        "Appends that were refused because another engine owns the shard",
    ),
    ("aios_relay_lag_events", "Events of the log that the relay has not passed"),
    ("aios_relay_published_total", "Events that the relay published"),
    ("aios_relay_skipped_total", "Events that the relay could not publish, by code"),
    ("aios_projection_events_total", "Events that projections applied"),
    ("aios_projection_lag", "Events of the log that a projection has not passed"),
    ("aios_projection_dead_letters_total", "Events that projections could not apply"),
    ("aios_trace_spans_sent_total", "Spans that the collector of traces has taken"),
    ("aios_trace_spans_dropped_total", "Spans that were not sent, by reason"),
    ("aios_metrics_exports_total", "Exports of metrics to a collector, by outcome"),
    ("aios_http_request_seconds", "How long requests took, by method, route and status"),
    ("aios_http_requests_running", "Requests in progress"),
    ("aios_consumers_replaced_total", "Consumers of the broker that were replaced, by reason"),
    ("aios_dead_letters_total", "Events that this process gave up and moved to dead letters"),
    ("aios_events_missed_by_groups_total", "Events that their mailbox has, but not all groups"),
    (
        "aios_events_unclaimed",
        "Events that were not retried, because their group or mailbox was deleted",
    ),
    ("aios_broker_connected", "1 while the broker is connected, and 0 otherwise"),
    ("aios_runtime_running", "1 while all parts of the runtime are running, and 0 otherwise"),
    ("process_cpu_seconds_total", "Time of the processor that this process has used"),
    ("process_resident_memory_bytes", "Memory of this process in RAM"),
    ("process_open_fds", "Open files of this process"),
    ("process_threads", "Threads of this process"),
];

/// The meaning of a metric.
pub(super) fn help(name: &str) -> Option<&'static str> {
    METRICS.iter().find(|(known, _)| *known == name).map(|(_, help)| *help)
}

/// The unit of a name that ends with one.
pub(super) fn unit(base: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| base.ends_with(&format!("_{unit}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::METRICS;

    const GUIDE: &str = include_str!("../../../../docs/guide/pages/operating.md");

    #[test]
    fn should_be_in_the_guide() {
        for (name, _) in METRICS.iter().filter(|(name, _)| name.starts_with("aios")) {
            assert!(GUIDE.contains(&format!("`{name}`")), "{name} is not in the guide");
        }
    }

    /// OpenMetrics names a counter without `_total`, and has each name once.
    #[test]
    fn should_have_names_that_differ_without_their_suffixes() {
        let mut bases = BTreeSet::new();
        for (name, _) in METRICS {
            assert!(bases.insert(name.strip_suffix("_total").unwrap_or(name)), "{name}");
        }
    }
}
