//! Why a command failed.

use std::io;

use aios_agents::RuntimeError;
use aios_core::{broker::BrokerError, catalog::codes, store::StoreError};
use aios_service::{
    ServiceError,
    client::{ClientError, ResultError},
    config::SettingsError,
    telemetry::otlp::CollectorError,
};

use crate::exit;

/// The code with which a service answers requests to paths that it does not have.
const NO_PATH: &str = codes::ROUTE_NOT_FOUND;

/// The number of SIGINT.
const INTERRUPT: i32 = 2;

/// The code of arguments that cannot be used.
pub(crate) const INVALID_ARGUMENTS: &str = codes::INVALID_REQUEST;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Client(Box<ClientError>),
    #[error(transparent)]
    Result(Box<ResultError>),
    #[error("can't use the store")]
    Store(#[source] Box<StoreError>),
    #[error("can't use the broker")]
    Broker(#[source] Box<BrokerError>),
    #[error(transparent)]
    Runtime(Box<RuntimeError>),
    #[error(transparent)]
    Service(Box<ServiceError>),
    #[error(transparent)]
    Collector(#[from] CollectorError),
    #[error("invalid {argument}: {reason}")]
    Argument { argument: &'static str, reason: String },
    #[error("can't read {path}")]
    Read { path: String, source: io::Error },
    #[error("can't write {path}")]
    Write { path: String, source: io::Error },
    #[error("can't write the output")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("{text}")]
    Missing { code: &'static str, text: String },
    #[error("{0}")]
    Faults(String),
    #[error("interrupted")]
    Interrupted,
    #[error("terminated")]
    Terminated,
}

impl CliError {
    pub(crate) fn argument(argument: &'static str, reason: impl Into<String>) -> Self {
        Self::Argument { argument, reason: reason.into() }
    }

    /// Stable name of the error: in the catalogue of codes, or one of the program itself, which the guide
    /// lists.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Settings(error) => error.code(),
            Self::Client(error) => error.code(),
            Self::Result(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Broker(error) => error.code(),
            Self::Runtime(error) => error.code(),
            Self::Service(error) => error.code(),
            Self::Collector(error) => error.code(),
            Self::Argument { .. } => INVALID_ARGUMENTS,
            Self::Read { .. } | Self::Write { .. } | Self::Output(_) => "FILE_FAILED",
            Self::Refused(_) => "NOT_CONFIRMED",
            Self::Missing { code, .. } => code,
            Self::Faults(_) => "FAULTS_FOUND",
            Self::Interrupted | Self::Terminated => codes::INTERRUPTED,
        }
    }

    /// Whether the reader of the output has closed it. The command has not failed then.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Argument { .. } => exit::INVALID,
            Self::Client(error) => of_client(error),
            Self::Result(error) => of_result(error),
            Self::Store(error) => of_store(error),
            Self::Broker(error) => of_broker(error),
            Self::Runtime(error) => of_runtime(error),
            Self::Service(error) => of_service(error),
            Self::Collector(error) => of_collector(error),
            Self::Missing { .. } => exit::NOT_FOUND,
            Self::Faults(_) => exit::FAULTS,
            Self::Interrupted => exit::INTERRUPTED,
            Self::Terminated => exit::TERMINATED,
            Self::Read { source, .. } | Self::Write { source, .. } if is_of_path(source) => {
                exit::INVALID
            }
            Self::Read { .. } | Self::Write { .. } | Self::Output(_) | Self::Refused(_) => {
                exit::FAILED
            }
        }
    }

    /// The remedy, if the error does not name it itself.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Read { source, .. } if is_of_path(source) => {
                Some("name a file that exists and that you may read")
            }
            Self::Write { source, .. } if is_of_path(source) => {
                Some("create the folder first, or name one that you may write")
            }
            Self::Client(error) => client_remedy(error),
            Self::Result(error) => match &**error {
                ResultError::Client(error) => client_remedy(error),
                _ => None,
            },
            Self::Store(error) => store_remedy(error),
            Self::Service(error) => match &**error {
                ServiceError::Store(error) => store_remedy(error),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether the path that an argument names is the reason.
fn is_of_path(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn client_remedy(error: &ClientError) -> Option<&'static str> {
    match error {
        ClientError::Unreachable { .. } => Some(
            "start a service, for example with `aios dev`, or name another one with --url or \
             AIOS_API_URL, or a store with --store",
        ),
        ClientError::Service { status: 401, .. } => Some("set AIOS_API_TOKEN or AIOS_API_KEY"),
        ClientError::Service { code, .. } if code == NO_PATH => {
            Some("does the URL name the API, up to and including its prefix such as /api/v1?")
        }
        _ => None,
    }
}

fn store_remedy(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Locked { .. } => {
            Some("use the HTTP API of the process that has it open, with --url")
        }
        StoreError::NewerSchema { .. } => {
            Some("use the version of aios that migrated the database, or a later one")
        }
        _ => None,
    }
}

fn of_result(error: &ResultError) -> u8 {
    match error {
        ResultError::Client(error) => of_client(error),
        _ => exit::RUN_FAILED,
    }
}

fn of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::Service { status: 400 | 413 | 422, .. } => exit::INVALID,
        ClientError::Service { status: 401 | 403, .. } => exit::DENIED,
        // The URL of the service is wrong.
        ClientError::Service { status: 404, code, .. } if code == NO_PATH => exit::FAILED,
        ClientError::Service { status: 404, .. } => exit::NOT_FOUND,
        ClientError::Service { status: 502..=504, .. }
        | ClientError::Unreachable { .. }
        | ClientError::Timeout { .. } => exit::UNREACHABLE,
        ClientError::InvalidConfiguration { .. }
        | ClientError::InvalidArgument { .. }
        | ClientError::Data(_) => exit::INVALID,
        _ => exit::FAILED,
    }
}

fn of_collector(error: &CollectorError) -> u8 {
    match error {
        CollectorError::InvalidConfiguration { .. } => exit::INVALID,
        CollectorError::Unreachable { .. } => exit::UNREACHABLE,
        CollectorError::Refused { status: 401 | 403, .. }
        // PERMISSION_DENIED and UNAUTHENTICATED.
        | CollectorError::GrpcStatus { status: 7 | 16, .. } => exit::DENIED,
        _ => exit::FAILED,
    }
}

fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::InvalidConfiguration { .. } => exit::INVALID,
        StoreError::Locked { .. } | StoreError::Timeout { .. } | StoreError::Backend { .. } => {
            exit::UNREACHABLE
        }
        _ => exit::FAILED,
    }
}

fn of_broker(error: &BrokerError) -> u8 {
    match error {
        BrokerError::InvalidConfiguration { .. } | BrokerError::InvalidAddress(_) => exit::INVALID,
        BrokerError::UnknownAddress { .. } => exit::NOT_FOUND,
        BrokerError::Timeout { .. } | BrokerError::Backend { .. } | BrokerError::Blocked { .. } => {
            exit::UNREACHABLE
        }
        _ => exit::FAILED,
    }
}

fn of_runtime(error: &RuntimeError) -> u8 {
    match error {
        RuntimeError::Store(error) => of_store(error),
        RuntimeError::Broker(error) => of_broker(error),
        _ => exit::FAILED,
    }
}

fn of_service(error: &ServiceError) -> u8 {
    match error {
        ServiceError::Settings(_)
        | ServiceError::Listen { .. }
        | ServiceError::Traces { .. }
        | ServiceError::Metrics { .. } => exit::INVALID,
        ServiceError::Store(error) => of_store(error),
        ServiceError::Broker(error) => of_broker(error),
        ServiceError::Runtime(error) => of_runtime(error),
        _ => exit::FAILED,
    }
}

macro_rules! boxed {
    ($($variant:ident: $error:ty,)+) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })+
    };
}

boxed! {
    Client: ClientError,
    Result: ResultError,
    Store: StoreError,
    Broker: BrokerError,
    Runtime: RuntimeError,
}

impl From<ServiceError> for CliError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Interrupted { signal: INTERRUPT, .. } => Self::Interrupted,
            ServiceError::Interrupted { .. } => Self::Terminated,
            error => Self::Service(Box::new(error)),
        }
    }
}
