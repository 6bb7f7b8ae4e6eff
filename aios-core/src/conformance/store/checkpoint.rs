//! Stored positions of readers.

use super::{Capability, harness::Harness};
use crate::store::Checkpoint;

/// A reader that never saved begins at the start.
pub async fn should_begin_without_a_checkpoint(harness: Harness<'_>) {
    assert_eq!(harness.store.load_checkpoint("reader").await.unwrap(), 0);
}

/// A reader continues from the last saved position.
pub async fn should_resume_from_the_saved_checkpoint(harness: Harness<'_>) {
    for position in [1, 7, 1_000_000_000_000] {
        harness.store.save_checkpoint("reader", position).await.unwrap();
        assert_eq!(harness.store.load_checkpoint("reader").await.unwrap(), position);
    }
}

/// A reader that saves late does not move its position back.
pub async fn should_never_move_a_checkpoint_back(harness: Harness<'_>) {
    for (saved, loaded) in [(5, 5), (3, 5), (0, 5), (6, 6)] {
        harness.store.save_checkpoint("reader", saved).await.unwrap();
        assert_eq!(harness.store.load_checkpoint("reader").await.unwrap(), loaded);
    }
}

/// A position beyond the numbers of a database is the last one.
pub async fn should_save_the_last_position_for_any_later_one(harness: Harness<'_>) {
    harness.store.save_checkpoint("reader", u64::MAX).await.unwrap();
    let last = i64::MAX.cast_unsigned();
    assert_eq!(harness.store.load_checkpoint("reader").await.unwrap(), last);
}

/// Readers with different names have different checkpoints.
pub async fn should_keep_readers_apart(harness: Harness<'_>) {
    for (reader, position) in [("a", 1), ("A", 2), ("ä", 3), ("", 4)] {
        harness.store.save_checkpoint(reader, position).await.unwrap();
    }
    for (reader, position) in [("a", 1), ("A", 2), ("ä", 3), ("", 4), ("b", 0)] {
        assert_eq!(harness.store.load_checkpoint(reader).await.unwrap(), position);
    }
}

/// Checkpoints are listed by name, and deleted one by one.
pub async fn should_list_and_delete_checkpoints(harness: Harness<'_>) {
    let store = &harness.store;
    assert_eq!(store.checkpoints().await.unwrap(), []);
    for (reader, position) in [("b", 2), ("a", 1), ("ä", 4), ("B", 3), ("b/1", 0), ("b", 5)] {
        store.save_checkpoint(reader, position).await.unwrap();
    }
    let expected = [("B", 3), ("a", 1), ("b", 5), ("b/1", 0), ("ä", 4)];
    let expected = expected.map(|(reader, at)| Checkpoint::new(reader.to_owned(), at));
    assert_eq!(store.checkpoints().await.unwrap(), expected);
    for (reader, was_there) in [("b", true), ("b", false), ("c", false), ("ä", true), ("A", false)]
    {
        assert_eq!(store.delete_checkpoint(reader).await.unwrap(), was_there, "{reader}");
    }
    let [first, second, _, third, _] = expected;
    assert_eq!(store.checkpoints().await.unwrap(), [first, second, third]);
    assert_eq!(store.load_checkpoint("b").await.unwrap(), 0);
    store.save_checkpoint("b", 1).await.unwrap();
    assert_eq!(store.load_checkpoint("b").await.unwrap(), 1);
}

/// The names of readers may contain any character. U+001A is the one with which an adapter escapes others.
pub async fn should_keep_nul_characters_in_names_of_readers(harness: Harness<'_>) {
    if harness.lacks(Capability::NulCharacters) {
        return;
    }
    let store = &harness.store;
    let readers = ["\0", "a", "a\0", "a\0b", "a\u{1}", "a\u{1a}", "a\u{1a}0", "a\u{1a}1"];
    for (reader, position) in readers.iter().rev().zip((1..=8).rev()) {
        store.save_checkpoint(reader, position).await.unwrap();
    }
    let expected = readers.iter().zip(1..).map(|(it, at)| Checkpoint::new((*it).to_owned(), at));
    assert_eq!(store.checkpoints().await.unwrap(), expected.collect::<Vec<_>>());
    for (reader, position) in readers.iter().zip(1..) {
        assert_eq!(store.load_checkpoint(reader).await.unwrap(), position, "{reader:?}");
        assert!(store.delete_checkpoint(reader).await.unwrap(), "{reader:?}");
        assert_eq!(store.load_checkpoint(reader).await.unwrap(), 0, "{reader:?}");
    }
    assert_eq!(store.checkpoints().await.unwrap(), []);
}
