//! The suite that every [`Store`] passes.
//!
//! An adapter's tests implement [`StoreFixture`] and call
//! [`store_conformance!`](crate::store_conformance), which generates one test per case:
//!
//! ```ignore
//! mod conformance {
//!     aios_core::store_conformance!(super::MemoryFixture::new());
//! }
//! ```
//!
//! Each case has its own empty database.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a case fails by panicking, as a test does"
)]

pub mod append;
pub mod checkpoint;
pub mod close;
pub mod closed;
pub mod envelope;
pub mod fence;
mod harness;
pub mod identity;
pub mod json;
pub mod lease;
pub mod list;
pub mod maintenance;
pub mod read;
pub mod read_model;
pub mod rebuild;
pub mod repeat;
pub mod subscribe;
pub mod transition;
pub mod wait;

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{Either, select};

pub use self::harness::Harness;
use crate::store::{Store, StoreError};

/// Everything that the suite needs from an adapter.
///
/// One fixture stands for one database, which is empty at first.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// Opens the database. Called again while a handle is open only if
    /// [`Capability::SecondHandle`] is not lacked, and after the only handle was closed only if
    /// [`Capability::Durability`] is not lacked.
    ///
    /// # Errors
    ///
    /// Errors reported by the adapter; the case fails.
    async fn connect(&self) -> Result<Arc<dyn Store>, StoreError>;

    /// Lets time pass on the clock by which leases expire: advances a virtual one, waits for a real
    /// one.
    async fn pass(&self, duration: Duration);

    /// The duration of leases in the cases. Must be much longer than a few calls take if the clock
    /// is real.
    fn lease_time(&self) -> Duration;

    /// Completes when a case has taken so long, in real time, that it must be hanging.
    async fn overdue(&self);

    /// Size of an event's data, in bytes, that the store must refuse; more than 4 MiB.
    fn too_many_bytes(&self) -> usize;

    /// The capabilities that the adapter lacks. The related cases are reported as skipped.
    fn lacks(&self) -> &[Capability];
}

/// A capability that an adapter may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Capability {
    /// The database can be open twice at the same time.
    SecondHandle,
    /// Data is read back character by character, not only as equal JSON.
    VerbatimData,
    /// The strings of data, and the names of readers and owners, may contain the character U+0000.
    NulCharacters,
    /// Heartbeats of agents are recorded in their rows, outside the log.
    SignsOfLife,
    /// Streams that are needed for a time only are removed.
    Maintenance,
    /// The database outlives its handle: it can be opened again after it was closed.
    Durability,
    /// Waits of runs are recorded.
    Waits,
    /// Waiting callers are notified of releases of leases.
    ReleaseNotifications,
}

/// Runs one case; the macro calls it.
pub async fn run<F: StoreFixture>(fixture: F, case: impl AsyncFnOnce(Harness<'_>)) {
    let played = pin!(async { case(Harness::new(&fixture).await).await });
    if let Either::Right(_) = select(played, fixture.overdue()).await {
        panic!("the case hangs");
    }
}

/// Generates one `#[tokio::test]` per case, for the [`StoreFixture`] that an expression creates.
/// The expression is evaluated again for each case, inside an async function, so it may await.
///
/// Needs `tokio` with the features `macros` and `rt-multi-thread` among the caller's
/// dev-dependencies.
#[macro_export]
macro_rules! store_conformance {
    ($fixture:expr) => {
        $crate::store_conformance! { @themes $fixture;
            append:
                should_append_several_events_in_order
                should_check_the_expected_version
                should_report_the_version_really_found
                should_refuse_an_append_without_events
                should_append_all_or_nothing
                should_fail_one_append_alone_among_hundreds
                should_return_results_and_positions_in_the_order_of_the_batch
                should_commit_appends_in_the_order_in_which_they_were_begun
                should_answer_an_empty_batch
                should_keep_positions_dense_under_concurrent_writers
                should_let_one_of_many_writers_succeed
                should_stay_usable_after_a_cancelled_append;
            repeat:
                should_answer_a_repeated_append_with_the_first_result
                should_answer_a_repetition_whatever_its_expectation_and_fence
                should_recognise_a_repeat_within_one_batch
                should_recognise_repeats_that_are_called_at_the_same_time
                should_recognise_the_repeated_part_of_a_longer_stream
                should_refuse_an_append_that_is_stored_in_part
                should_refuse_repeated_events_in_another_order
                should_refuse_an_id_that_another_stream_has
                should_refuse_a_duplicate_id_in_one_append
                should_keep_derived_and_foreign_ids_apart
                should_store_nothing_of_a_refused_append;
            closed:
                should_append_nothing_after_the_end
                should_report_a_wrong_expectation_about_a_closed_stream
                should_answer_a_repetition_after_the_end
                should_stay_closed_after_refused_and_repeated_appends
                should_refuse_appends_after_the_end_in_one_batch
                should_refuse_an_append_with_events_after_the_end
                should_stay_open_after_events_that_end_no_run
                should_let_one_of_many_writers_end_a_run
                should_see_that_another_handle_closed_a_stream;
            read:
                should_page_through_a_stream
                should_page_through_the_log
                should_leave_out_types_of_the_log
                should_limit_a_page_to_the_maximum
                should_find_nothing_in_an_unknown_stream
                should_find_nothing_beyond_the_end
                should_return_the_head
                should_keep_streams_with_similar_names_apart
                should_append_to_streams_that_are_named_like_a_prefix;
            subscribe:
                should_switch_from_catching_up_to_live_without_gaps
                should_wake_waiting_callers
                should_not_wait_for_existing_events
                should_lose_nothing_when_waiting_is_cancelled
                should_see_appends_of_another_handle
                should_leave_no_gap_to_a_reader_while_several_handles_append;
            checkpoint:
                should_begin_without_a_checkpoint
                should_resume_from_the_saved_checkpoint
                should_never_move_a_checkpoint_back
                should_save_the_last_position_for_any_later_one
                should_list_and_delete_checkpoints
                should_keep_readers_apart
                should_keep_nul_characters_in_names_of_readers;
            lease:
                should_take_free_shards_under_the_first_epoch
                should_leave_out_shards_of_another_owner
                should_keep_the_epoch_of_an_owner
                should_take_over_an_expired_lease_under_the_next_epoch
                should_renew_from_now_on
                should_not_renew_a_lost_lease
                should_renew_an_expired_lease_that_was_not_taken
                should_hand_over_what_was_released
                should_notify_of_releases
                should_notify_other_handles_of_releases
                should_not_release_a_shard_that_another_owner_took
                should_list_what_has_not_expired
                should_assign_each_shard_to_one_of_many_owners
                should_keep_nul_characters_in_names_of_owners;
            fence:
                should_let_the_owner_append
                should_refuse_an_owner_that_lost_its_shard
                should_let_the_owner_append_until_another_takes_the_shard
                should_refuse_a_shard_that_was_never_owned
                should_refuse_a_future_epoch
                should_fence_off_one_append_alone
                should_store_nothing_of_an_owner_after_another_one_took_the_shard;
            close:
                should_keep_what_it_answered_before_it_was_closed
                should_refuse_calls_after_it_was_closed;
            read_model:
                should_follow_a_run
                should_follow_a_task
                should_leave_a_task_alone_that_a_late_event_does_not_concern
                should_follow_an_agent
                should_record_heartbeats_of_agents_outside_the_log
                should_list_workflows_by_version
                should_filter_runs
                should_filter_tasks_and_agents
                should_page_in_the_order_of_keys
                should_find_runs_changed_after_a_position
                should_hide_deleted_rows_unless_requested
                should_change_nothing_for_a_refused_append
                should_ignore_events_that_do_not_match
                should_refuse_a_page_after_an_invalid_id
                should_leave_out_ids_that_nothing_can_have;
            list:
                should_keep_an_agent_deleted_whatever_is_reported_late
                should_list_runs_of_a_time_in_order
                should_list_tasks_of_a_time_in_order;
            maintenance:
                should_remove_old_answers_and_nothing_else
                should_remove_old_output_of_ended_runs
                should_remove_only_streams_of_the_kind_of_a_page
                should_use_a_removed_stream_again
                should_keep_streams_that_are_named_like_a_prefix;
            json:
                should_keep_the_json_of_runs_character_by_character
                should_keep_the_json_of_agents_and_failures_character_by_character
                should_summarise_runs
                should_keep_every_character_of_a_status_text;
            transition:
                should_follow_every_transition_of_a_run
                should_never_leave_the_end_of_a_task;
            rebuild:
                should_rebuild_what_was_live
                should_rebuild_while_others_append;
            wait:
                should_leave_out_runs_with_a_recorded_wait
                should_return_pages_of_unsettled_runs_whatever_the_limit
                should_find_runs_whose_recorded_wait_is_outdated
                should_leave_out_runs_that_have_ended
                should_find_due_runs_in_order
                should_replace_a_recorded_wait_by_one_that_is_not_older
                should_not_change_recorded_waits_of_a_later_owner
                should_remove_recorded_waits
                should_record_no_wait_of_runs_without_a_journal
                should_find_runs_to_read_after_a_rebuild
                should_record_waits_of_runs_with_every_kind_of_id
                should_keep_the_waits_of_different_shards_apart
                should_read_several_streams_at_once;
            identity:
                should_keep_its_identity
                should_share_its_identity_with_every_handle;
            envelope:
                should_return_the_envelope_it_got
                should_keep_unknown_metadata
                should_keep_metadata_in_journals
                should_keep_foreign_ids_verbatim
                should_keep_unicode_everywhere
                should_keep_data_character_by_character
                should_keep_nul_characters
                should_keep_the_first_and_the_last_timestamp
                should_keep_large_data
                should_refuse_an_event_that_is_too_large
                should_keep_names_of_every_length
                should_take_a_batch_of_many_large_events;
        }
    };
    (@themes $fixture:expr; $($theme:ident: $($case:ident)+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                $crate::conformance::store::run(
                    $fixture,
                    $crate::conformance::store::$theme::$case,
                )
                .await;
            }
        )+)+
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn should_have_a_test_for_every_case() {
        let list = include_str!("mod.rs");
        let themes = [
            include_str!("append.rs"),
            include_str!("checkpoint.rs"),
            include_str!("close.rs"),
            include_str!("closed.rs"),
            include_str!("envelope.rs"),
            include_str!("fence.rs"),
            include_str!("identity.rs"),
            include_str!("json.rs"),
            include_str!("lease.rs"),
            include_str!("list.rs"),
            include_str!("maintenance.rs"),
            include_str!("read.rs"),
            include_str!("read_model.rs"),
            include_str!("rebuild.rs"),
            include_str!("repeat.rs"),
            include_str!("subscribe.rs"),
            include_str!("transition.rs"),
            include_str!("wait.rs"),
        ];
        let cases = themes.iter().flat_map(|theme| theme.split("pub async fn ").skip(1));
        for case in cases.filter_map(|rest| rest.split('(').next()) {
            assert!(list.contains(&format!("  {case}")), "{case} is not in the macro");
        }
    }
}
