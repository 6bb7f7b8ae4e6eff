//! A database that an earlier version wrote.

use aios_store::postgres::{PostgresOptions, PostgresStore};
use aios_tests::postgres::PostgresServer;

use crate::fixture::old_schema;

#[tokio::test(flavor = "multi_thread")]
async fn should_read_back_what_an_earlier_version_wrote() {
    let Some(server) = PostgresServer::start() else { return };
    server.script(include_str!("../fixture/old/postgres.sql"));
    let options = PostgresOptions::new(&server.url());
    let store = PostgresStore::connect_with(options).await.unwrap();
    old_schema::check(&store).await;
}
