//! Generates programs for the property test.
//!
//! A number determines a program. The number of parts is limited, so that programs stay small and
//! always end. A program for all languages uses no part that only futures in Rust have.

use super::program::{Do, ExternalEvent, Program};

/// Generates a program from a seed: the same in every run and on every machine.
pub(super) struct Generator {
    /// State of the random numbers.
    state: u64,
    /// Whether to use only parts that all languages support.
    portable: bool,
    /// How many more parts may be generated.
    left: u32,
    /// Number of guards around the current part.
    guards: u8,
}

impl Generator {
    /// A generator with a seed. Similar seeds give unrelated programs.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            portable: false,
            left: 24,
            guards: 0,
        }
    }

    /// A program of any parts.
    pub(super) fn program(mut self) -> Program {
        let code = self.parts(1, 6, 3);
        Program { code, outside: self.outside() }
    }

    /// A program of operations, combinators and coroutines only.
    pub(super) fn portable(mut self) -> Program {
        self.portable = true;
        self.program()
    }

    /// A program whose operations are ready together and polled in random order.
    pub(super) fn random_select(mut self) -> Program {
        let selects = (0..3).map(|_| {
            let branches = (0..3).map(|_| (self.below(4), self.below(2) == 0)).collect();
            vec![Do::Random(branches), Do::Sleep(self.below(6))]
        });
        let code = selects.collect::<Vec<_>>().concat();
        Program { code, outside: self.outside() }
    }

    /// Events from outside: signals, and sometimes a pause or a cancellation.
    fn outside(&mut self) -> Vec<(u8, ExternalEvent)> {
        let signals = self.below(8);
        let mut outside: Vec<_> = (0..signals)
            .map(|_| (self.below(20), ExternalEvent::Signal(self.below(3), self.below(100))))
            .collect();
        if self.below(5) == 0 {
            let at = self.below(15);
            outside.push((at, ExternalEvent::Pause));
            outside.push((at + 1 + self.below(15), ExternalEvent::Resume));
        }
        if self.below(5) == 0 {
            outside.push((self.below(20), ExternalEvent::Cancel));
        }
        outside
    }

    /// The next random number.
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A random number below a limit. The small bias of the remainder does not matter here.
    fn below(&mut self, limit: u8) -> u8 {
        u8::try_from(self.next() % u64::from(limit.max(1))).unwrap_or_default()
    }

    /// Several parts.
    fn parts(&mut self, least: u8, most: u8, depth: u8) -> Vec<Do> {
        let count = least + self.below(most - least + 1);
        (0..count).map(|_| self.part(depth)).collect()
    }

    /// A part with at most `depth` levels of parts inside.
    fn part(&mut self, depth: u8) -> Do {
        self.left = self.left.saturating_sub(1);
        if depth == 0 || self.left == 0 || self.below(5) < 3 {
            return self.leaf();
        }
        let depth = depth - 1;
        // The first cases are those that all languages have.
        match self.below(if self.portable { 6 } else { 10 }) {
            0 => Do::Sequence(self.parts(1, 3, depth)),
            1 | 2 => Do::All(self.parts(1, 4, depth)),
            3 | 4 => Do::First(self.parts(1, 4, depth)),
            5 => Do::Loop(self.below(20), Box::new(self.part(depth))),
            6 => Do::Drop(Box::new(self.part(depth))),
            7 => {
                self.guards += 1;
                let guarded = Do::Guarded(self.guards, Box::new(self.part(depth)));
                self.guards -= 1;
                guarded
            }
            8 => Do::Unordered(self.parts(1, 4, depth)),
            _ => Do::Random((0..3).map(|_| (self.below(9), self.below(2) == 0)).collect()),
        }
    }

    /// A part without others inside.
    fn leaf(&mut self) -> Do {
        match self.below(if self.portable { 16 } else { 22 }) {
            0 | 1 => Do::Step(self.below(100)),
            2 => Do::FailingStep,
            3 | 4 => Do::Task(self.below(100)),
            5 => Do::Child(self.below(100)),
            6 | 7 => Do::Sleep(self.below(12)),
            8..=10 => Do::Signal(self.below(3), self.below(15)),
            11 => Do::Emit,
            12 => Do::Status,
            13 => Do::Draw,
            14 => Do::Compensate(self.below(100)),
            15 if self.below(3) == 0 => Do::Fail,
            15 => Do::Version(self.below(2)),
            16 => Do::SlowStep(self.below(100)),
            17 | 18 => Do::Yield,
            19 | 20 => Do::Send(self.below(2)),
            _ => Do::Receive(self.below(2), self.below(9)),
        }
    }
}
