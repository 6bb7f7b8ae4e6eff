//! Runs code-review on a generated tree, each review in its own folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use aios_core::event::Event;
use aios_tests::program::program;
use serde_json::Value;
use tempfile::TempDir;

/// How many files are analysed at once in these tests.
pub(crate) const CONCURRENCY: usize = 4;

/// The event type of a recorded result of an analysis.
pub(crate) const RESULT: &str = "agents.analyzer.task_completed";

/// How often the progress of a review is checked.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A tree of small files, all different.
pub(crate) fn tree(files: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..files {
        let path = folder.path().join(format!("{}/file_{number}.rs", number % 7));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("// TODO: {number}\nfn f() -> u32 {{\n    {number}\n}}\n"))
            .unwrap();
    }
    folder
}

/// The file that a result is about.
pub(crate) fn reviewed_path(result: &Event) -> String {
    let data: Value = result.data().unwrap();
    data["output"]["reviewed"]["path"].as_str().unwrap().to_owned()
}

/// Where reviews of a tree store their state and write their reports.
pub(crate) struct Review {
    folder: TempDir,
    tree: PathBuf,
}

impl Review {
    pub(crate) fn of(tree: &Path) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tree: tree.to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("code-review"));
        command
            .arg(&self.tree)
            .args(["--concurrency", &CONCURRENCY.to_string()])
            .arg("--trace-executions")
            .arg(self.trace_file())
            .args(arguments)
            .current_dir(self.folder.path());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs to the end, which must be successful; returns the output.
    pub(crate) fn finish(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts, and runs concurrently with the test.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until this many executions have begun since the first start, or the program has ended.
    pub(crate) fn wait_for(&self, child: &mut Child, executions: usize) {
        while self.executions().len() < executions && child.try_wait().unwrap().is_none() {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn trace_file(&self) -> PathBuf {
        self.folder.path().join("executions")
    }

    /// The path of every file whose analysis began, once for each time, across all starts.
    pub(crate) fn executions(&self) -> Vec<String> {
        let text = fs::read_to_string(self.trace_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn state_url(&self) -> String {
        format!("sqlite://{}", self.folder.path().join("code-review.db").display())
    }

    /// Whether there is a stored state.
    pub(crate) fn has_state(&self) -> bool {
        self.folder.path().join("code-review.db").exists()
    }

    /// The bytes of report.json.
    pub(crate) fn report_text(&self) -> String {
        fs::read_to_string(self.folder.path().join("report.json")).unwrap()
    }

    pub(crate) fn report(&self) -> Value {
        serde_json::from_str(&self.report_text()).unwrap()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, and good enough to choose times.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end).unwrap()
    }
}
