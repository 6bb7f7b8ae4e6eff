//! Kills code-review repeatedly, at seeded times.

use std::{collections::HashSet, os::unix::process::ExitStatusExt, path::Path, time::Duration};

use aios_core::store::{
    EventStore, MAX_PAGE, PageRequest, ReadModels, RunFilter, RunStatus, StreamId,
};
use aios_store::sqlite::SqliteStore;

use crate::review::{CONCURRENCY, RESULT, Random, Review, reviewed_path, tree};

const FILES: usize = 300;
/// Kills in each sweep; two sweeps run in parallel.
const KILLS: usize = 50;
const SEEDS: [u64; 2] = [0x5eed_0001, 0x5eed_0002];
const SIGKILL: i32 = 9;

#[test]
fn should_survive_a_hundred_kills() {
    let tree = tree(FILES);
    let uninterrupted = Review::of(tree.path());
    uninterrupted.finish(&[]);
    let expected = uninterrupted.report_text();
    std::thread::scope(|scope| {
        for seed in SEEDS {
            let (tree, expected) = (tree.path(), expected.as_str());
            scope.spawn(move || sweep(Random(seed), tree, expected));
        }
    });
}

/// Reviews the tree as often as it takes for enough kills.
fn sweep(mut random: Random, tree: &Path, expected: &str) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut kills = 0;
    while kills < KILLS {
        let review = Review::of(tree);
        let crashes = crash_until_done(&mut random, &review, &tokio);
        assert_eq!(review.report_text(), expected, "after {kills} kills and {crashes:?}");
        check_executions(&review.executions(), &crashes);
        kills += crashes.len();
    }
}

/// The state that a kill halfway through a review left behind.
#[derive(Debug)]
struct Crash {
    /// How many executions had begun.
    executions: usize,
    /// The files whose result was recorded.
    recorded: HashSet<String>,
}

/// Runs one review to its end through many kills.
fn crash_until_done(
    random: &mut Random,
    review: &Review,
    tokio: &tokio::runtime::Runtime,
) -> Vec<Crash> {
    let mut crashes = Vec::new();
    loop {
        let mut child = review.start(&[]);
        // Relative to the progress, so that the kills are spread over the run on machines of any
        // speed.
        let more = random.below(30);
        review.wait_for(&mut child, review.executions().len() + more);
        std::thread::sleep(Duration::from_micros(random.below(20_000).try_into().unwrap()));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.signal() != Some(SIGKILL) {
            assert!(status.success(), "{status}");
            return crashes;
        }
        let (is_done, recorded) = match review.has_state() {
            true => tokio.block_on(recorded(review)),
            false => (false, HashSet::new()),
        };
        if is_done {
            return crashes;
        }
        crashes.push(Crash { executions: review.executions().len(), recorded });
    }
}

/// Whether the review is complete, and the files whose result its journal has.
async fn recorded(review: &Review) -> (bool, HashSet<String>) {
    let store = SqliteStore::connect(&review.state_url()).await.unwrap();
    let filter = RunFilter { workflow: Some("code_review".to_owned()), ..RunFilter::default() };
    let runs = store.runs(&filter, &PageRequest::first(10)).await.unwrap().rows;
    let Some(run) = runs.first() else { return (false, HashSet::new()) };
    assert_eq!(runs.len(), 1, "a kill must not start another review");
    let stream = StreamId::of_run(&run.id).unwrap();
    let journal = store.read_stream(&stream, 0, MAX_PAGE).await.unwrap();
    let events = journal.iter().map(|recorded| &recorded.event);
    let results = events.filter(|event| event.event_type.as_str() == RESULT);
    let paths = results.map(reviewed_path).collect();
    (run.status == RunStatus::Completed, paths)
}

/// No file was analysed again after its result was recorded, and only files that were in flight at
/// a kill were analysed more than once.
fn check_executions(executions: &[String], crashes: &[Crash]) {
    for Crash { executions: before, recorded } in crashes {
        let again = executions[*before..].iter().find(|path| recorded.contains(*path));
        assert_eq!(again, None, "its result was recorded");
    }
    let files: HashSet<&String> = executions.iter().collect();
    assert_eq!(files.len(), FILES);
    let most = FILES + CONCURRENCY * crashes.len();
    assert!(executions.len() <= most, "{} executions, at most {most}", executions.len());
}
