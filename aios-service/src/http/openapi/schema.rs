//! Schemas of types of other crates, which do not depend on utoipa. The values of statuses are
//! taken from those types, so that a new one is documented by itself.

use aios_core::store;
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! status {
    ($($(#[$doc:meta])* $name:ident,)+) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let values = store::$name::ALL.iter().map(|status| status.as_str());
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values)).into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

status! {
    /// Status of a run.
    RunStatus,
    /// Status of a task.
    TaskStatus,
    /// Status of an agent.
    AgentStatus,
}

/// The reason of a failure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// Stable name of the kind of failure.
    #[schema(example = "TASK_TIMEOUT")]
    code: String,
    /// A human-readable message.
    message: String,
    /// Details for programs.
    #[schema(required = false)]
    details: serde_json::Value,
}
