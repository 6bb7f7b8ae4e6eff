//! The command line.

use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand};

/// Reviews a source tree: counts lines, finds TODOs, over-long functions, likely secrets and
/// duplicated files, and writes report.md and report.json.
#[derive(Debug, Parser)]
#[command(name = "code-review", version, args_conflicts_with_subcommands = true)]
#[command(arg_required_else_help = true, flatten_help = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) whole: Option<Whole>,
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// The parts of a review that can be separate processes, with PostgreSQL and RabbitMQ.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Runs workflows and leaves the tasks to agents in other processes; needs a store and a broker
    Engine(Engine),
    /// Runs tasks, in any number of processes; needs a broker and no store
    Agent(Agent),
    /// Starts a review that an engine and agents in other processes carry out, and waits for the
    /// report
    Start(Job),
    /// Serves an HTTP API that starts reviews, shows how far they are and streams their events
    Serve(Serve),
}

/// A review by this process alone. It is present if its path is.
#[derive(Debug, Args)]
#[group(args = ["path"])]
pub(crate) struct Whole {
    #[command(flatten)]
    pub(crate) job: Job,
    /// Broker of the tasks; agents in other processes help if it is a server
    #[arg(long, value_name = "URL", default_value = "memory://")]
    pub(crate) broker: String,
    #[command(flatten)]
    pub(crate) trace: Trace,
}

/// A tree to review.
#[derive(Debug, Args)]
pub(crate) struct Job {
    /// Root of the tree to review
    pub(crate) path: PathBuf,
    /// Where the review's progress is stored, so that it resumes after a crash
    #[arg(long, value_name = "URL", default_value = "sqlite://code-review.db")]
    pub(crate) store: String,
    /// Start over instead of resuming an unfinished review
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Folder for the reports; it is created if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    /// How many files are analysed concurrently; a resumed review never exceeds the number it began
    /// with
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) concurrency: NonZeroU16,
    /// Assign Python files to agents of the type python_analyzer, such as the one in
    /// aios-py/examples
    #[arg(long)]
    pub(crate) python_agent: bool,
    #[command(flatten)]
    pub(crate) model: ModelName,
}

/// A model that reviews too. All processes of a review name the same one.
#[derive(Debug, Args)]
pub(crate) struct ModelName {
    /// Let a model review each file too: `openai:MODEL`, `anthropic:MODEL` and others with the key
    /// AIOS_LLM_API_KEY, or offline
    #[arg(long = "model", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// A process that runs workflows.
#[derive(Debug, Args)]
pub(crate) struct Engine {
    /// Where runs are stored
    #[arg(long, value_name = "URL")]
    pub(crate) store: String,
    /// Broker of the tasks
    #[arg(long, value_name = "URL")]
    pub(crate) broker: String,
    #[command(flatten)]
    pub(crate) model: ModelName,
}

/// A process that runs tasks.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Broker of the tasks
    #[arg(long, value_name = "URL")]
    pub(crate) broker: String,
    /// How many files this process analyses concurrently
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) concurrency: NonZeroU16,
    #[command(flatten)]
    pub(crate) model: ModelName,
    #[command(flatten)]
    pub(crate) trace: Trace,
}

/// A service.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address and port of the API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,
    /// Only trees below this folder are reviewed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) root: PathBuf,
    /// Folder for the reports; it is created if it is missing
    #[arg(long, value_name = "DIR", default_value = "code-reviews")]
    pub(crate) reports: PathBuf,
    /// Where runs are stored
    #[arg(long, value_name = "URL", default_value = "sqlite://code-review.db")]
    pub(crate) store: String,
    /// Broker of the tasks; agents in other processes help if it is a server
    #[arg(long, value_name = "URL", default_value = "memory://")]
    pub(crate) broker: String,
    /// How many files are analysed concurrently, in each review and by this process
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) concurrency: NonZeroU16,
    #[command(flatten)]
    pub(crate) trace: Trace,
}

/// Options for tests.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Appends a line to this file for each execution of the analysis
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) trace_executions: Option<PathBuf>,
}

impl Job {
    /// The state file, if the store is one.
    pub(crate) fn state_file(&self) -> Option<&Path> {
        let path = self.store.strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        (!path.is_empty() && path != ":memory:").then(|| Path::new(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(["code-review"].iter().chain(arguments))
    }

    fn job(arguments: &[&str]) -> Job {
        parse(arguments).unwrap().whole.unwrap().job
    }

    #[test]
    fn should_have_defaults_for_all_but_the_path() {
        let whole = parse(&["src"]).unwrap().whole.unwrap();
        assert_eq!(whole.broker, "memory://");
        let job = whole.job;
        assert_eq!(job.path, Path::new("src"));
        assert_eq!(job.out, Path::new("."));
        assert_eq!((job.fresh, job.concurrency.get()), (false, 16));
        assert_eq!(job.state_file(), Some(Path::new("code-review.db")));
        assert!(parse(&[]).is_err());
        assert!(parse(&["--fresh"]).is_err());
        assert!(parse(&["src", "--concurrency", "0"]).is_err());
    }

    #[test]
    fn should_know_the_parts_and_what_they_need() {
        let part = |arguments: &[&str]| parse(arguments).map(|line| line.part);
        let broker = ["--broker", "amqp://x"];
        assert!(matches!(part(&[&["agent"], &broker[..]].concat()), Ok(Some(Part::Agent(_)))));
        assert!(part(&["agent"]).is_err());
        let engine = [&["engine", "--store", "postgres://x"], &broker[..]].concat();
        assert!(matches!(part(&engine), Ok(Some(Part::Engine(_)))));
        assert!(part(&[&["engine"], &broker[..]].concat()).is_err());
        assert!(matches!(part(&["start", "src"]), Ok(Some(Part::Start(_)))));
        assert!(part(&["start"]).is_err());
        assert!(matches!(part(&["serve", "--root", "src"]), Ok(Some(Part::Serve(_)))));
        let model = ["--model", "offline"];
        let named = |model: ModelName| assert_eq!(model.name.as_deref(), Some("offline"));
        named(job(&[&["src"], &model[..]].concat()).model);
        match part(&[&engine[..], &model].concat()) {
            Ok(Some(Part::Engine(engine))) => named(engine.model),
            other => panic!("{other:?}"),
        }
        assert_eq!(job(&["./engine"]).path, Path::new("./engine"));
    }

    #[test]
    fn should_find_the_state_file_in_the_url() {
        let state = |url| job(&["src", "--store", url]).state_file().map(PathBuf::from);
        assert_eq!(state("sqlite:///a/b.db?mode=rwc"), Some(PathBuf::from("/a/b.db")));
        assert_eq!(state("sqlite:b.db"), Some(PathBuf::from("b.db")));
        assert_eq!(state("sqlite://:memory:"), None);
        assert_eq!(state("sqlite::memory:"), None);
        assert_eq!(state("postgres://localhost/x"), None);
    }
}
