//! Simulates seeds, and the planted faults.
//!
//! - `AIOS_SEEDS` is how many seeds are simulated, `AIOS_FIRST` the first of them.
//! - `AIOS_ALL=1` simulates all of them, even if some violate an invariant.
//! - `AIOS_SEED` simulates one, and prints its trace.
//! - `AIOS_PLANT` is the only planted fault that is looked for.
//! - `AIOS_SCENARIO` is the kind of scenario: `any`, `zombies`, `calm`, `fleet` or `replaced`.
//! - `AIOS_ZOMBIES=1` lets engines outlive their leases with every seed, not only with odd ones.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::catch_unwind,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aios_simulation::{Invariant, Outcome, Plant, Scenario};

/// The number of seeds that are simulated without `AIOS_SEEDS`.
const SEEDS: u64 = 2_000;
/// The largest number of seeds needed to find a planted fault.
const BOUND: u64 = 1_500;

#[allow(clippy::disallowed_methods, reason = "what is tested is chosen from outside")]
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    assert!(number.is_ok(), "{name} is not a number: {text}");
    number.ok()
}

/// A kind of scenario: its name and that of a seed.
type Kind = (&'static str, fn(u64) -> Scenario);

/// The kinds of scenarios that are simulated without a planted fault.
const KINDS: [Kind; 5] = [
    ("any", Scenario::new),
    ("zombies", |seed| Scenario::with_zombies(seed, true)),
    ("calm", Scenario::calm),
    ("fleet", Scenario::fleet),
    ("replaced", Scenario::replaced),
];

/// The kind of scenario that is chosen from outside.
#[allow(clippy::disallowed_methods, reason = "what is tested is chosen from outside")]
fn chosen() -> Kind {
    let name = match (std::env::var("AIOS_SCENARIO"), number("AIOS_ZOMBIES")) {
        (Ok(name), _) => name,
        (Err(_), Some(1)) => "zombies".to_owned(),
        (Err(_), _) => "any".to_owned(),
    };
    let kind = KINDS.into_iter().find(|(known, _)| *known == name);
    kind.unwrap_or_else(|| panic!("AIOS_SCENARIO is not a kind of scenario: {name}"))
}

/// Simulates seeds on all threads, until one violates an invariant.
fn simulate(seeds: u64, first: u64, judge: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    if judge(seed) {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

fn explain(kind: Kind, seed: u64, outcome: &Outcome) -> String {
    let violations: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    format!(
        "seed {seed}: {}\nrun it again with its trace: AIOS_SEED={seed} AIOS_SCENARIO={} cargo test --profile simulation -p aios-simulation should_hold -- --nocapture",
        violations.join("; "),
        kind.0
    )
}

#[test]
fn should_hold_every_invariant_and_repeat_every_trace() {
    let kind = chosen();
    if let Some(seed) = number("AIOS_SEED") {
        let scenario = kind.1(seed);
        println!("{scenario:#?}");
        let outcome = scenario.run(None);
        outcome.trace.iter().for_each(|line| println!("{line}"));
        assert!(outcome.violations.is_empty(), "{}", explain(kind, seed, &outcome));
        return;
    }
    let found: Mutex<BTreeMap<Invariant, Vec<String>>> = Mutex::default();
    let polls = AtomicU64::new(0);
    let all = number("AIOS_ALL").is_some();
    simulate(number("AIOS_SEEDS").unwrap_or(SEEDS), number("AIOS_FIRST").unwrap_or(0), |seed| {
        let outcome = catch_unwind(|| kind.1(seed).run(None));
        let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed} panicked"));
        let again = kind.1(seed).run(None);
        polls.fetch_add(outcome.polls, Ordering::Relaxed);
        if outcome.digest != again.digest {
            let place = outcome.trace.iter().zip(&again.trace).position(|(one, two)| one != two);
            let lines = place.map(|place| (&outcome.trace[place], &again.trace[place]));
            panic!("seed {seed} has two traces: {lines:?}");
        }
        if let Some(violation) = outcome.violations.first() {
            let mut found = found.lock().unwrap();
            found.entry(violation.invariant).or_default().push(explain(kind, seed, &outcome));
            return !all;
        }
        false
    });
    println!("polled {} tasks", polls.into_inner());
    let found = found.into_inner().unwrap();
    for (invariant, all) in &found {
        println!("{invariant:?} does not hold in {} simulations", all.len());
        all.iter().take(3).for_each(|one| println!("{one}"));
    }
    assert!(found.is_empty(), "some invariants do not hold");
}

/// Runs move between engines that stop and start, and every attempt begins once.
#[test]
fn should_begin_every_attempt_once_while_runs_move_without_a_fault() {
    hold("calm");
}

/// Simulates some kind of scenario without a planted fault.
fn hold(name: &str) {
    let kind = KINDS.into_iter().find(|(known, _)| *known == name).expect("a kind");
    let seeds = number("AIOS_SEEDS").unwrap_or(SEEDS) / 4;
    let found: Mutex<Vec<String>> = Mutex::default();
    let all = number("AIOS_ALL").is_some();
    simulate(seeds, number("AIOS_FIRST").unwrap_or(0), |seed| {
        let outcome = kind.1(seed).run(None);
        let is_violated = !outcome.violations.is_empty();
        if is_violated {
            found.lock().unwrap().push(explain(kind, seed, &outcome));
        }
        is_violated && !all
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "{} simulations:\n{}", found.len(), found.join("\n"));
}

/// Engines come and go, and are replaced one after the other.
#[test]
fn should_share_the_shards_with_few_moves_as_engines_come_and_go() {
    hold("fleet");
}

/// The broker is replaced by one without its data.
#[test]
fn should_end_every_run_although_the_broker_is_replaced() {
    hold("replaced");
}

/// Every invariant has a planted fault, which the next test finds by it.
#[test]
fn should_plant_a_fault_for_every_invariant() {
    let planted: BTreeSet<Invariant> = Plant::ALL.iter().map(|(_, invariant)| *invariant).collect();
    let missing: Vec<_> = Invariant::ALL.iter().filter(|it| !planted.contains(it)).collect();
    assert!(missing.is_empty(), "no fault is planted for {missing:?}");
}

/// A planted fault shows that its invariant is checked, and that faults can violate it.
#[test]
fn should_find_every_planted_fault_by_its_invariant() {
    #[allow(clippy::disallowed_methods, reason = "what is tested is chosen from outside")]
    let only = std::env::var("AIOS_PLANT").ok();
    for (plant, invariant) in Plant::ALL.iter().copied() {
        if only.as_ref().is_some_and(|only| *only != format!("{plant:?}")) {
            continue;
        }
        let (found, by) = (Mutex::new(BTreeMap::<Invariant, u64>::new()), AtomicU64::new(BOUND));
        simulate(BOUND, 0, |seed| {
            let outcome = plant.scenario(seed).run(Some(plant));
            for violation in &outcome.violations {
                *found.lock().unwrap().entry(violation.invariant).or_default() += 1;
            }
            let is_it = outcome.violations.iter().any(|it| it.invariant == invariant);
            if is_it {
                by.fetch_min(seed, Ordering::Relaxed);
            }
            is_it
        });
        let (found, by) = (found.into_inner().unwrap(), by.into_inner());
        assert!(by < BOUND, "{plant:?} is not found by {invariant:?} in {BOUND} seeds: {found:?}");
        let clean = plant.scenario(by).run(None);
        assert!(
            clean.violations.is_empty(),
            "without the fault, {}",
            explain(("planted", Scenario::new), by, &clean)
        );
        println!("{plant:?} is found by {invariant:?} with seed {by}");
    }
}

/// The digest depends on everything that is simulated, not on the seed alone.
#[test]
fn should_take_another_path_with_another_seed() {
    let digests: BTreeSet<u64> = (0..10).map(|seed| Scenario::new(seed).run(None).digest).collect();
    assert_eq!(digests.len(), 10);
}
