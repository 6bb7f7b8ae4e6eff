//! Stored positions of readers.

use super::harness::Harness;

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

/// Readers with different names have different checkpoints.
pub async fn should_keep_readers_apart(harness: Harness<'_>) {
    for (reader, position) in [("a", 1), ("A", 2), ("ä", 3), ("", 4)] {
        harness.store.save_checkpoint(reader, position).await.unwrap();
    }
    for (reader, position) in [("a", 1), ("A", 2), ("ä", 3), ("", 4), ("b", 0)] {
        assert_eq!(harness.store.load_checkpoint(reader).await.unwrap(), position);
    }
}
