//! Property test that a replay equals the live run: for generated workflows, every prefix of the
//! journal replays to the observations of the live run, and the run can resume from there and end.
//!
//! `AIOS_PROGRAMS` sets the number of programs, `AIOS_SEED` the first seed.
//!
//! A program is data: operations, combinators and events from outside. An interpreter performs it
//! as a workflow, and notes what the code sees: outcomes, winners, random values, times. A replay
//! must see the same, up to the point where the journal ends. A program that fails is made smaller
//! until no smaller one fails, and is then printed as JSON, so that it can be added to `FOUND`.

mod generate;
mod perform;
mod program;

use std::{sync::Arc, time::Duration};

use aios_core::event::{Event, Payload};
use parking_lot::Mutex;

use self::{generate::Generator, perform::interpreter, program::Program};
use super::{TestedRun, WorkflowTest, replay, run::Simulation};

/// Default number of programs.
const PROGRAMS: u64 = 300;
/// Number of programs shared with the Python tests.
const SHARED: u64 = 200;

/// The observations of a run, in order.
type Seen = Arc<Mutex<Vec<String>>>;

/// A copy of the observations so far.
fn seen(seen: &Seen) -> Vec<String> {
    seen.lock().clone()
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    #[allow(clippy::disallowed_methods, reason = "the environment sets the size of the test")]
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap())
}

/// A test of a program, with an agent and a child that sometimes fail.
fn scripted(program: &Program, seen: &Seen) -> WorkflowTest {
    let answer = |value: u8| match value % 5 {
        0 => Err("not this one".into()),
        _ => Ok(value),
    };
    let test = WorkflowTest::of(interpreter(seen)).agent("agent", answer).child("child", answer);
    program.outside(test)
}

/// Runs a program and returns its observations.
async fn live(program: &Program) -> (TestedRun, Vec<String>) {
    let saw = Seen::default();
    let run = scripted(program, &saw).run(program).await;
    let saw = seen(&saw);
    (run, saw)
}

/// Runs a program, replays every prefix of its journal, and resumes the run from some of them.
async fn check(program: &Program) -> Result<usize, String> {
    let (run, saw) = live(program).await;
    let journal = run.events().unwrap();
    if let Some(failure) = run.block_reason() {
        return Err(format!("the live run is blocked: {failure}"));
    }
    check_prefixes(&journal, &saw).await?;
    for end in (1..journal.len()).step_by(1 + journal.len() / 4) {
        let again = Seen::default();
        let test = scripted(program, &again);
        let input = Payload::encode(program).unwrap();
        let resumed = Simulation::resumed(test, input, run.entries(end)).run().await;
        if let Some(failure) = resumed.block_reason() {
            return Err(format!("after {end} entries the run is blocked: {failure}"));
        }
        let journal = resumed.events().unwrap();
        let saw = seen(&again);
        check_prefixes(&journal, &saw).await.map_err(|error| format!("from {end} on: {error}"))?;
    }
    Ok(journal.len())
}

/// Checks that every prefix of a journal replays to a prefix of the run's observations, and the whole
/// journal to all of them.
async fn check_prefixes(journal: &[Event], saw: &[String]) -> Result<(), String> {
    let mut before = 0;
    for end in 1..=journal.len() {
        let again = Seen::default();
        let replayed = replay(interpreter(&again), &journal[..end]).await;
        replayed.map_err(|error| format!("{end} entries do not replay: {error:?}"))?;
        let again = seen(&again);
        if !saw.starts_with(&again) || again.len() < before {
            return Err(format!("after {end} entries: saw {again:?}, live {saw:?}"));
        }
        before = again.len();
    }
    if before < saw.len() {
        return Err(format!("the whole journal replays to {before} of {saw:?}"));
    }
    Ok(())
}

/// Shrinks a failing program.
async fn shrink(mut program: Program) -> Program {
    'smaller: loop {
        for candidate in program.smaller() {
            if check(&candidate).await.is_err() {
                program = candidate;
                continue 'smaller;
            }
        }
        return program;
    }
}

/// Fails the test with the smallest program that fails in some way.
async fn fail(seed: u64, program: Program, error: String) -> ! {
    let smallest = shrink(program).await;
    let again = check(&smallest).await.err().unwrap_or(error);
    let text = serde_json::to_string(&smallest).unwrap();
    let journal = live(&smallest).await.0;
    let journal: Vec<_> = journal.journal().map(|entry| format!("{entry:?}\n")).collect();
    panic!("seed {seed}: {again}\n{text}\n{}", journal.concat());
}

#[tokio::test]
async fn should_replay_every_prefix_of_generated_runs_as_they_were_live() {
    let first = number("AIOS_SEED", 0);
    let programs = number("AIOS_PROGRAMS", PROGRAMS);
    let mut entries = 0;
    for seed in first..first + programs {
        let program = Generator::new(seed).program();
        match check(&program).await {
            Ok(journal) => entries += journal,
            Err(error) => fail(seed, program, error).await,
        }
        if seed % 10_000 == 9_999 {
            println!("{} programs, {entries} entries", seed + 1 - first);
        }
    }
    println!("{programs} programs with {entries} entries, every prefix of them replayed");
}

/// Programs that once did not replay.
const FOUND: [&str; 3] = [
    r#"{"code":[{"Signal":[1,9]},{"Unordered":[{"Sequence":["Yield",{"Step":71}]},{"SlowStep":20}]}],"outside":[]}"#,
    r#"{"code":[{"Receive":[1,2]},{"Unordered":[{"Sequence":["Yield","Emit"]},{"SlowStep":7}]}],"outside":[]}"#,
    r#"{"code":[{"Signal":[0,3]},{"Version":1},{"Step":0}],"outside":[[1,{"Signal":[0,64]}],[1,"Pause"]]}"#,
];

#[tokio::test]
async fn should_replay_programs_that_once_did_not() {
    for text in FOUND {
        let program: Program = serde_json::from_str(text).unwrap();
        if let Err(error) = check(&program).await {
            fail(0, program, error).await;
        }
    }
}

/// Selects that poll in random order choose the same branch in every replay.
#[tokio::test]
async fn should_replay_selects_that_poll_at_random() {
    for seed in 0..100 {
        let program = Generator::new(seed).random_select();
        if let Err(error) = check(&program).await {
            fail(seed, program, error).await;
        }
    }
}

/// The Python tests run the programs that are generated here.
#[test]
fn should_share_its_programs_with_other_languages() {
    let lines = (0..SHARED).map(|seed| {
        let program = Generator::new(seed).portable();
        format!("{}\n", serde_json::to_string(&program).unwrap())
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../aios-py/tests/programs.jsonl");
    let written: String = lines.collect();
    if number("AIOS_WRITE_PROGRAMS", 0) == 1 {
        std::fs::write(path, &written).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == written, "set AIOS_WRITE_PROGRAMS=1");
}

const SECOND: Duration = Duration::from_secs(1);
