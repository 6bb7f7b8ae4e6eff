//! The schemas of workflows, as the API and other programs see them.

use serde_json::Value;

use crate::workflow::Workflow;

/// The JSON Schemas of a workflow, as far as they are known.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WorkflowSchemas {
    /// Name of the workflow.
    pub workflow: String,
    /// Its version.
    pub version: u32,
    /// JSON Schema of the input, if it is known.
    pub input: Option<Value>,
    /// JSON Schema of the result, if it is known.
    pub output: Option<Value>,
}

impl WorkflowSchemas {
    /// The schemas of one version of a workflow.
    pub(super) fn of(workflow: &dyn Workflow) -> Self {
        Self {
            workflow: workflow.name().to_string(),
            version: workflow.version(),
            input: workflow.input_schema().cloned(),
            output: workflow.output_schema().cloned(),
        }
    }
}
