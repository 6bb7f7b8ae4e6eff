//! The suite that every [`Broker`] passes.
//!
//! An adapter's tests implement [`BrokerFixture`] and call
//! [`broker_conformance!`](crate::broker_conformance), which generates one test per case:
//!
//! ```ignore
//! mod conformance {
//!     aios_core::broker_conformance!(super::MemoryFixture::new());
//! }
//! ```
//!
//! Each case has its own groups, mailboxes and event types. Fixtures may share a server, but not its
//! events: one case has a group that gets events of every type.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a case fails by panicking, as a test does"
)]

pub mod close;
pub mod consuming;
pub mod dead_letter;
pub mod envelope;
mod harness;
pub mod lifetime;
pub mod mailbox;
pub mod publishing;
pub mod retry;
pub mod routing;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::harness::{Harness, Place, Reader};
use crate::broker::{Broker, BrokerError, Group};

/// Everything that the suite needs from an adapter.
#[async_trait]
pub trait BrokerFixture: Send + Sync {
    /// Whether the broker's server is available. If not, cases are skipped, and the fixture has
    /// reported it.
    fn is_there(&self) -> bool;

    /// Creates another connection to the one broker of this fixture.
    ///
    /// # Errors
    ///
    /// Errors reported by the adapter; the case fails.
    async fn connect(&self) -> Result<Arc<dyn Broker>, BrokerError>;

    /// Lets time pass on the clock that the broker's delays follow: advances a virtual one, waits
    /// for a real one.
    async fn pass(&self, duration: Duration);

    /// Waits as long as the broker may need to deliver pending events. Must be much shorter than
    /// [`delay`](Self::delay) if both follow the same clock.
    async fn quiet(&self);

    /// Completes when a single step of a case has taken so long, in real time, that it must be
    /// hanging.
    async fn overdue(&self);

    /// The delay that cases about retries use.
    fn delay(&self) -> Duration;

    /// Size of an event's data, in bytes, that the broker must refuse.
    fn too_many_bytes(&self) -> usize;

    /// A connection on which the group, which no one has declared yet, is full with `events` events. `None` if
    /// the adapter has no such limits, or the fixture can't set them; the cases are skipped.
    async fn limited(&self, group: &Group, events: u32) -> Option<Arc<dyn Broker>> {
        let _ = (group, events);
        None
    }

    /// The capabilities that the adapter lacks. The related cases are reported as skipped.
    fn lacks(&self) -> &[Capability];
}

/// A capability that an adapter may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Capability {
    /// Events of one publisher arrive in the order of their publishing.
    Ordering,
    /// A mailbox has one reader at a time.
    SingleReader,
    /// An event without subscribers can be an error.
    RequiredRoute,
    /// Temporary groups and mailboxes are deleted with their last subscription.
    Temporary,
    /// Large events are refused.
    SizeLimit,
}

/// Runs one case; the macro calls it.
pub async fn run<F: BrokerFixture>(fixture: F, case: impl AsyncFnOnce(Harness<'_>)) {
    if fixture.is_there() {
        case(Harness::new(&fixture).await).await;
    }
}

/// Generates one `#[tokio::test]` per case, for the [`BrokerFixture`] that an expression creates.
/// The expression is evaluated again for each case, inside an async function, so it may await.
///
/// Needs `tokio` with the features `macros` and `rt` among the caller's dev-dependencies.
#[macro_export]
macro_rules! broker_conformance {
    ($fixture:expr) => {
        $crate::broker_conformance! { @themes $fixture;
            routing:
                should_deliver_to_every_group
                should_follow_patterns
                should_deliver_once_however_many_patterns_match
                should_add_patterns_to_a_group
                should_keep_events_while_no_consumer_is_subscribed
                should_report_an_unroutable_event
                should_count_a_durable_group_without_consumer_as_route
                should_answer_in_the_order_of_the_batch;
            publishing:
                should_refuse_an_event_that_is_too_large
                should_include_metadata_in_the_size
                should_take_an_event_just_below_the_limit
                should_deliver_events_of_many_publishers_exactly_once
                should_keep_the_order_of_one_publisher;
            envelope:
                should_carry_the_envelope_unchanged
                should_carry_unicode
                should_carry_a_mebibyte;
            consuming:
                should_share_a_group_between_consumers
                should_hold_back_beyond_the_prefetch
                should_give_back_a_dropped_delivery
                should_mark_redelivered_events
                should_leave_no_consumer_of_a_cancelled_subscription
                should_release_prefetched_events_of_a_dropped_subscription
                should_redeliver_unsettled_events_of_a_lost_connection
                should_settle_after_the_subscription_is_gone
                should_lose_nothing_when_next_is_cancelled
                should_not_let_a_slow_consumer_hurt_others
                should_refuse_an_invalid_subscription;
            mailbox:
                should_reach_a_mailbox_beside_the_groups
                should_count_a_mailbox_as_route
                should_require_the_mailbox_that_is_named
                should_answer_for_the_required_mailbox_when_a_group_is_full
                should_keep_mailboxes_apart_from_a_group_of_all_types
                should_keep_mailboxes_with_similar_names_apart
                should_not_count_a_deleted_mailbox_as_a_route
                should_let_one_reader_have_the_mailbox
                should_hand_the_mailbox_over;
            retry:
                should_retry_after_the_delay_and_count
                should_retry_after_an_explicit_delay
                should_not_deliver_before_the_longest_delay
                should_wait_longer_each_time
                should_not_hold_back_others_while_one_is_delayed
                should_not_count_a_release
                should_deliver_a_released_event_before_later_ones;
            dead_letter:
                should_dead_letter_a_poison_event_with_reason_and_attempts
                should_dead_letter_a_last_attempt_with_an_explicit_delay
                should_remember_the_first_failure
                should_dead_letter_an_event_that_was_given_up
                should_discard_poison_events_if_configured
                should_redrive_all_with_a_fresh_count
                should_redrive_by_id
                should_purge
                should_count_waiting_events
                should_count_a_retried_event_when_it_is_due
                should_list_the_oldest_first_up_to_the_limit
                should_visit_every_dead_letter
                should_not_count_the_events_of_an_address_that_is_gone
                should_report_an_unknown_address_of_dead_letters;
            lifetime:
                should_drop_a_temporary_group_with_its_last_subscription
                should_refuse_another_lifetime;
            close:
                should_wait_for_unsettled_deliveries
                should_publish_while_it_drains
                should_give_up_waiting_at_the_deadline
                should_end_subscriptions
                should_refuse_work_after_close
                should_lose_nothing_at_shutdown;
        }
    };
    (@themes $fixture:expr; $($theme:ident: $($case:ident)+;)+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                $crate::conformance::broker::run(
                    $fixture,
                    $crate::conformance::broker::$theme::$case,
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
            include_str!("close.rs"),
            include_str!("consuming.rs"),
            include_str!("dead_letter.rs"),
            include_str!("envelope.rs"),
            include_str!("lifetime.rs"),
            include_str!("mailbox.rs"),
            include_str!("publishing.rs"),
            include_str!("retry.rs"),
            include_str!("routing.rs"),
        ];
        let cases = themes.iter().flat_map(|theme| theme.split("pub async fn ").skip(1));
        for case in cases.filter_map(|rest| rest.split('(').next()) {
            assert!(list.contains(&format!("  {case}")), "{case} is not in the macro");
        }
    }
}
