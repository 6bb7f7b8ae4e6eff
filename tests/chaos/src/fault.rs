//! The kinds of faults, and their schedule.

use std::{fmt, time::Duration};

use clap::ValueEnum;

use crate::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum FaultKind {
    /// SIGKILL of an engine, which is restarted shortly afterwards.
    KillEngine,
    /// SIGKILL of an agent service, which is restarted shortly afterwards.
    KillAgent,
    /// SIGSTOP of an engine for longer than its lease, then SIGCONT.
    FreezeEngine,
    /// SIGSTOP of an agent service, then SIGCONT.
    FreezeAgent,
    /// SIGTERM of one engine after the other.
    RollEngines,
    /// SIGTERM of one agent service after the other.
    RollAgents,
    /// One connection between an engine and PostgreSQL is cut.
    CutStore,
    /// One connection between a process and RabbitMQ is cut.
    CutBroker,
    /// Nothing passes between an engine and PostgreSQL for some time.
    PartStore,
    /// Nothing passes between a process and RabbitMQ for some time.
    PartBroker,
    /// Everything between an engine and PostgreSQL is delayed for some time.
    DelayStore,
    /// Everything between a process and RabbitMQ is delayed for some time.
    DelayBroker,
    /// PostgreSQL is restarted, and disconnects all clients.
    PostgresFast,
    /// PostgreSQL is restarted without a clean shutdown.
    PostgresImmediate,
    /// PostgreSQL is killed and started again.
    PostgresKill,
    /// Every packet between a process and the servers is lost for some time.
    PartNetwork,
    /// Every packet that a process sends is lost for some time; those sent to it arrive.
    MuteNetwork,
    /// RabbitMQ is restarted; in a cluster, a node is.
    RabbitmqRestart,
    /// RabbitMQ is killed and started again; in a cluster, a node is.
    RabbitmqKill,
    /// RabbitMQ is replaced by a server without its data.
    RabbitmqReplace,
    /// In a cluster, the node that leads the queue of the tasks is killed and started again.
    RabbitmqLeader,
    /// The clock of an engine jumps, and jumps back later.
    ClockEngine,
    /// The clock of an agent service jumps, and jumps back later.
    ClockAgent,
}

impl FaultKind {
    /// Whether it makes RabbitMQ lose acknowledgements or redeliver.
    pub(crate) fn is_of_broker(self) -> bool {
        matches!(
            self,
            Self::RabbitmqRestart
                | Self::RabbitmqKill
                | Self::RabbitmqReplace
                | Self::RabbitmqLeader
        )
    }

    /// Whether packets are lost, which requires a network namespace.
    pub(crate) fn is_of_network(self) -> bool {
        matches!(self, Self::PartNetwork | Self::MuteNetwork)
    }

    /// Whether it makes PostgreSQL unavailable.
    pub(crate) fn is_of_store(self) -> bool {
        matches!(self, Self::PostgresFast | Self::PostgresImmediate | Self::PostgresKill)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        formatter.write_str(value.as_ref().map_or("?", |value| value.get_name()))
    }
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// When it happens, counted from the beginning.
    pub(crate) at: Duration,
    /// The kind of fault.
    pub(crate) kind: FaultKind,
    /// How long it lasts, unless it is instantaneous.
    pub(crate) time: Duration,
    /// Decides which process is affected, and how.
    pub(crate) chance: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, kind, time, chance } = self;
        write!(
            formatter,
            "{:>8.3} s  {kind} for {:.1} s (chance {chance})",
            at.as_secs_f64(),
            time.as_secs_f64()
        )
    }
}

/// All faults: each kind once in random order, then again.
pub(crate) fn schedule(
    seed: u64,
    kinds: &[FaultKind],
    lease: Duration,
    every: Duration,
    until: Duration,
) -> Vec<Fault> {
    let mut random = Random::new(seed, u64::MAX);
    let (mut faults, mut round) = (Vec::new(), Vec::new());
    let mut at = Duration::from_secs(2);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    while at < until {
        if round.is_empty() {
            round = kinds.to_vec();
            random.shuffle(&mut round);
        }
        let Some(kind) = round.pop() else { break };
        let time = match kind {
            FaultKind::FreezeEngine
            | FaultKind::PartStore
            | FaultKind::PartBroker
            | FaultKind::PartNetwork
            | FaultKind::MuteNetwork => {
                lease.mul_f64(1.2) + Duration::from_millis(random.between(0, millis(lease)))
            }
            FaultKind::FreezeAgent | FaultKind::ClockEngine | FaultKind::ClockAgent => {
                Duration::from_millis(random.between(3_000, 12_000))
            }
            _ => Duration::from_millis(random.between(0, 2_000)),
        };
        faults.push(Fault { at, kind, time, chance: random.bits() });
        at += Duration::from_millis(random.between(millis(every) / 4, millis(every) * 7 / 4));
    }
    faults
}
