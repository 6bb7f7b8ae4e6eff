//! Unsettled runs are found fast, even before the server has gathered statistics.

use std::time::Duration;

use aios_core::store::{PageRequest, Shard, Unsettled, Waits};
use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;

/// Inserts waiting runs of one shard. Some have no recorded wait, and some have later events in their
/// journals.
const FILL: &str = "\
    ALTER TABLE {schema}.run_waits SET (autovacuum_enabled = false);
    ALTER TABLE {schema}.workflow_runs SET (autovacuum_enabled = false);
    CREATE TEMP TABLE n AS SELECT gen_random_uuid() AS id, i FROM generate_series(1, 30000) i;
    INSERT INTO {schema}.workflow_runs
        (id, workflow, workflow_version, shard, status, position, created_at, updated_at)
    SELECT id, 'deploy', 1, 3, 'running', 1, now(), now() FROM n;
    INSERT INTO {schema}.run_waits (shard, id, stream_id, version, wake_at)
    SELECT 3, id, i, 1, i FROM n WHERE i % 1000 <> 0;
    INSERT INTO {schema}.events
        (id, position, stream_id, created_at, version, type_id, source_id, payload)
    SELECT gen_random_uuid(), i, i, 0, 1 + (i % 1000 = 1)::integer, 1, 1, '{}' FROM n";

/// A nested loop over all runs would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn should_find_unsettled_runs_without_statistics() {
    let Some(server) = PostgresServer::shared() else { return };
    let schema = server.new_name();
    let options = PostgresOptions::new(&server.url()).with_schema(&schema);
    let options = options.with_statement_timeout(Duration::from_secs(15));
    let store = PostgresStore::connect_with(options).await.unwrap();
    server.sql(&FILL.replace("{schema}", &schema));
    let page = PageRequest::first(1000);
    for which in [Unsettled::Unnoted, Unsettled::Outdated] {
        let found = store.unsettled_runs(&[Shard::new(3).unwrap()], which, &page).await.unwrap();
        assert_eq!((found.rows.len(), found.next), (30, None), "{which:?}");
    }
}
