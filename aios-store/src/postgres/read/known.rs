//! The last event that this process knows, and the reads that compare it with the log.
//!
//! After a failover that lost commits, the positions of lost events are given to others. A reader that has
//! passed a lost event would never read the other one. So every position that a reader can have is recorded
//! in `Head` together with the id of the last event, and every statement that reads events, or reads or saves
//! a position, first compares that event with the log of the server that runs it. The same comparison
//! detects that two connections of the pool lead to servers with different logs.
//!
//! A loss that removed and restored the same number of events is detected by the id. It is not detected if
//! retention has removed the event that has the known position.

use aios_core::store::RecordedEvent;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::signed;
use crate::postgres::connection::{Sql, Statement};

/// The last event of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastEvent {
    /// 0 if there is none.
    pub(crate) position: u64,
    /// The key of its id, if it is known.
    pub(crate) key: Option<Uuid>,
}

/// The columns of [`LastEvent`].
pub(crate) const LAST_EVENT: &str = "\
    (SELECT max(position) FROM {schema}.events),
    (SELECT id FROM {schema}.events ORDER BY position DESC LIMIT 1)";

impl LastEvent {
    /// Decodes [`LAST_EVENT`], the first columns of a row.
    pub(crate) fn read(row: &PgRow) -> sqlx::Result<Self> {
        let position: Option<i64> = row.try_get(0)?;
        let position = position.and_then(|position| u64::try_from(position).ok());
        Ok(Self { position: position.unwrap_or_default(), key: row.try_get(1)? })
    }

    /// The last one of some events.
    pub(crate) fn of(events: &[RecordedEvent]) -> Option<Self> {
        let last = events.iter().max_by_key(|recorded| recorded.position)?;
        Some(Self { position: last.position, key: Some(last.event.id.key()) })
    }

    /// A statement with the condition `{known}`, whose first two parameters are this event.
    pub(crate) fn statement(self, sql: Sql) -> Statement {
        Statement::new(sql).bind(signed(self.position)).bind(self.key)
    }
}

#[cfg(test)]
mod tests {
    use aios_tests::postgres::PostgresServer;

    use crate::postgres::{PostgresOptions, PostgresStore, schema::Schema};

    /// Whether the log has a known event at position 3. `Some` is the id of another event there.
    async fn has_lost(server: &PostgresServer, events: &[(u32, u32)], id: &str) -> bool {
        let schema = server.new_name();
        let options = PostgresOptions::new(&server.url()).with_schema(&schema);
        PostgresStore::connect_with(options).await.unwrap();
        let schema: Schema = schema.parse().unwrap();
        for (position, id) in events {
            server.sql(&schema.fill(&format!(
                "INSERT INTO {{schema}}.events
                    (id, position, stream_id, created_at, version, type_id, source_id, payload)
                VALUES (lpad('{id}', 32, '0')::uuid, {position}, 1, 0, {position}, 1, 1, '1')"
            )));
        }
        let sql = format!(
            "CREATE FUNCTION {{schema}}.has_lost() RETURNS boolean LANGUAGE plpgsql AS $$
            DECLARE
                is_known boolean;
            BEGIN
                EXECUTE 'SELECT {{known}}' INTO is_known
                USING 3::bigint, lpad({id}, 32, '0')::uuid;
                RETURN NOT is_known;
            EXCEPTION WHEN SQLSTATE 'ZA001' THEN
                RETURN true;
            END $$;
            SELECT {{schema}}.has_lost()"
        );
        server.sql(&schema.fill(&sql)) == "t"
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn should_find_a_loss_by_another_event_in_the_same_place() {
        let Some(server) = PostgresServer::start() else { return };
        assert!(has_lost(&server, &[], "'1'").await);
        assert!(has_lost(&server, &[(2, 2)], "'1'").await);
        assert!(has_lost(&server, &[(3, 2)], "'1'").await);
        assert!(has_lost(&server, &[(3, 2), (4, 3)], "'1'").await);
        // Retention may have removed the event.
        assert!(!has_lost(&server, &[(4, 2)], "'1'").await);
        assert!(!has_lost(&server, &[(3, 1), (4, 2)], "'1'").await);
        // The id is not known.
        assert!(!has_lost(&server, &[(3, 2), (4, 3)], "NULL").await);
        assert!(has_lost(&server, &[(2, 2)], "NULL").await);
    }
}
