//! Runs the programs as a user would.

#[cfg(test)]
mod code_review;
#[cfg(test)]
mod envelope;
#[cfg(test)]
mod examples;
#[cfg(unix)]
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod guarantees;
#[cfg(test)]
mod guide;
#[cfg(unix)]
#[cfg(test)]
mod kill_sweep;
#[cfg(unix)]
#[cfg(test)]
mod model_review;
#[cfg(unix)]
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod oidc;
#[cfg(unix)]
#[cfg(test)]
mod probes;
#[cfg(unix)]
#[cfg(test)]
mod process;
#[cfg(test)]
mod review;
#[cfg(unix)]
#[cfg(test)]
mod service_kill;
#[cfg(unix)]
#[cfg(test)]
mod services;
#[cfg(unix)]
#[cfg(test)]
mod traces;
#[cfg(test)]
mod typescript;
