//! Exit codes of the program. They are part of its interface.

/// The command has done what it says.
pub(crate) const DONE: u8 = 0;
/// The command was refused or failed.
pub(crate) const FAILED: u8 = 1;
/// Arguments or configuration are invalid. clap uses the same code.
pub(crate) const INVALID: u8 = 2;
/// There is no such run, workflow, agent, task, address or reader.
pub(crate) const NOT_FOUND: u8 = 3;
/// Credentials are missing, invalid or insufficient.
pub(crate) const DENIED: u8 = 4;
/// The service, the store or the broker is unreachable or in use, or did not answer in time.
pub(crate) const UNREACHABLE: u8 = 5;
/// The run ended without a result, or is blocked.
pub(crate) const RUN_FAILED: u8 = 6;
/// A check has found faults.
pub(crate) const FAULTS: u8 = 7;
/// Ctrl-C, as shells report SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;
/// SIGTERM, as shells report it.
pub(crate) const TERMINATED: u8 = 143;

/// The table of the help text.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    refused or failed
  2    invalid arguments or configuration
  3    no such run, workflow, agent, task, address or reader
  4    credentials are missing, invalid or insufficient
  5    service, store or broker unreachable, in use, or no answer in time
  6    the run ended without a result, or is blocked
  7    a check has found faults
  130  interrupted by Ctrl-C
  143  ended by SIGTERM";
