//! Models for tests, which make no requests, and a provider on this machine.
//!
//! ```
//! use aios_llm::{LanguageModel, ModelRequest, ModelResponse, testing::ScriptedModel};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), aios_llm::ModelError> {
//! let model = ScriptedModel::new([ModelResponse::text("Paris")]);
//! let response = model.complete(&ModelRequest::new("What is the capital of France?")).await?;
//! assert_eq!(response.output_text(), "Paris");
//! model.assert_finished();
//! # Ok(())
//! # }
//! ```
//!
//! | model | answers | use it to test |
//! |---|---|---|
//! | [`ScriptedModel`] | from a list, in order | one path through an agent |
//! | [`FunctionModel`] | by a function of the request | answers that depend on the request |
//! | [`SchemaModel`] | by the schemas of tools and output | that an agent fits together |
//! | [`Recorded`] | from the journal of a run | changed tools or code against a real run |
//! | [`FakeProvider`] | over HTTP, faults included | adapters and clients |

mod fake_provider;
mod function;
mod recorded;
mod schema;
mod scripted;

pub use self::{
    fake_provider::{FakeProvider, FakeReply, FakeRequest},
    function::FunctionModel,
    recorded::Recorded,
    schema::SchemaModel,
    scripted::ScriptedModel,
};
