//! Models and tools that are Python functions.
//!
//! # Responses in pieces
//!
//! A model that is a generator passes its text in pieces. The pieces go through a channel from the
//! thread of the function to the stream of the agent; the response that the function returns at its
//! end comes after them. The stream takes pieces first and the outcome only when none is ready, and
//! drains the channel after it, so the order of the text is kept.
//!
//! The channel has no bound, because a function in Python must not be blocked on the event loop.
//! The length of the whole text is bounded by [`MAX_TEXT_BYTES`] instead.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aios_core::{agent::TaskError, catalog::codes, event::Payload};
use aios_llm::{
    LanguageModel, ModelError, ModelRequest, ModelResponse,
    model::{Capabilities, ModelErrorKind, ModelStream, StreamEvent, whole},
};
use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture, stream};
use pyo3::prelude::*;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::{
    convert::{errors::ErrorInfo, json},
    logging::CallScope,
    python::{MakeArguments, PyFunction, PythonExecutors, ThreadPool},
};

/// Longest text of a response in pieces, in bytes. It bounds what waits to be written.
const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;

/// `aios._llm.functions.BoundFunction`.
#[derive(FromPyObject)]
pub(super) struct FunctionArg {
    /// The function of the package that calls the function of the user.
    invoke: Py<PyAny>,
    /// Whether it runs on the event loop.
    pub(super) is_async: bool,
    /// The threads of a plain function.
    pool: Option<Py<ThreadPool>>,
}

impl FunctionArg {
    /// The function, with the threads on which it runs. `name` names it in errors.
    pub(super) fn into_call(self, name: String, executors: &Arc<PythonExecutors>) -> PythonCall {
        let executors = match &self.pool {
            None => Arc::clone(executors),
            Some(pool) => {
                let threads = Arc::clone(&pool.get().queue);
                Arc::new(PythonExecutors { threads, ..PythonExecutors::clone(executors) })
            }
        };
        let function = PyFunction { code: self.invoke, is_async: self.is_async, name: name.into() };
        PythonCall { function: Arc::new(function), executors }
    }
}

/// A Python function and where it runs.
#[derive(Clone)]
pub(super) struct PythonCall {
    function: Arc<PyFunction>,
    executors: Arc<PythonExecutors>,
}

impl PythonCall {
    /// Calls the function with a [`CallScope`] and the arguments. Dropping the future cancels an async
    /// function.
    pub(super) async fn run(&self, arguments: MakeArguments) -> Result<Payload, TaskError> {
        let function = Arc::clone(&self.function);
        let scope = CallScope::current();
        let arguments: MakeArguments = Box::new(move |py| {
            let mut values = arguments(py)?;
            values.insert(0, Bound::new(py, scope)?.into_any());
            Ok(values)
        });
        self.executors.run(function, TaskError::FAILED, arguments).await
    }
}

/// A model that is a Python function.
pub(super) struct PyModel {
    /// The name of the model, as prices and traces have it.
    pub(super) name: String,
    /// The abilities that the function declares.
    pub(super) capabilities: Capabilities,
    /// The function.
    pub(super) call: PythonCall,
    /// Whether the function takes a [`NativePieces`] too.
    pub(super) in_pieces: bool,
}

impl PyModel {
    /// Calls the function, which passes pieces of its response to the sender.
    fn respond(
        &self,
        request: &ModelRequest,
        sender: Option<UnboundedSender<StreamEvent>>,
    ) -> Result<BoxFuture<'static, Result<ModelResponse, ModelError>>, ModelError> {
        let request =
            Payload::encode(request).map_err(|error| invalid_response(&error.to_string()))?;
        let pieces = self.in_pieces.then(|| NativePieces { sender, bytes: AtomicUsize::new(0) });
        let make: MakeArguments = Box::new(move |py| {
            let mut arguments = vec![json::read(py, request.as_str())?];
            if let Some(pieces) = pieces {
                arguments.push(Bound::new(py, pieces)?.into_any());
            }
            Ok(arguments)
        });
        let call = self.call.clone();
        Ok(async move { read(call.run(make).await) }.boxed())
    }
}

/// The error of a function whose result is no response.
fn invalid_response(reason: &str) -> ModelError {
    let reason = format!("the function returned no response of a model: {reason}");
    ModelError::new(ModelErrorKind::InvalidResponse, reason)
}

/// The response, or the error of the model. An exception of a model error keeps its kind; any other
/// one is an error of the backend.
fn read(ended: Result<Payload, TaskError>) -> Result<ModelResponse, ModelError> {
    let response = ended.map_err(|error| {
        ModelError::from_failure(&error.failure).unwrap_or_else(|| {
            ModelError::new(ModelErrorKind::Backend, error.failure.to_string())
                .with_retryable(error.retryable)
        })
    })?;
    response.decode().map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        invalid_response(&source.unwrap_or_else(|| error.to_string()))
    })
}

#[async_trait]
impl LanguageModel for PyModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        self.respond(request, None)?.await
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        if !self.in_pieces {
            return Ok(whole(self.complete(request).await?));
        }
        let (sender, pieces) = mpsc::unbounded_channel();
        let running = Running { response: Some(self.respond(request, Some(sender))?), pieces };
        Ok(Box::pin(stream::unfold((running, None), |(mut running, ended)| async move {
            let (event, ended) = running.next(ended).await?;
            Some((event, (running, ended)))
        })))
    }
}

type Ended = Option<Result<ModelResponse, ModelError>>;

/// A function that responds in pieces.
struct Running {
    /// `None` after its end.
    response: Option<BoxFuture<'static, Result<ModelResponse, ModelError>>>,
    /// The pieces that the function has passed.
    pieces: UnboundedReceiver<StreamEvent>,
}

impl Running {
    /// The next piece, and the outcome of the function if it has ended. Pieces come before it.
    async fn next(&mut self, mut ended: Ended) -> Option<(Result<StreamEvent, ModelError>, Ended)> {
        if let Some(response) = &mut self.response {
            tokio::select! {
                biased;
                Some(piece) = self.pieces.recv() => return Some((Ok(piece), ended)),
                outcome = response => ended = Some(outcome),
            }
            self.response = None;
            self.pieces.close();
        }
        match self.pieces.recv().await {
            Some(piece) => Some((Ok(piece), ended)),
            None => ended.map(|outcome| (outcome.map(StreamEvent::Finished), None)),
        }
    }
}

/// Takes the pieces of the response of a model that is a Python generator, or a client.
#[pyclass(frozen, module = "aios._aios")]
pub(crate) struct NativePieces {
    /// `None` if the response is wanted as a whole.
    sender: Option<UnboundedSender<StreamEvent>>,
    /// The length of the text so far.
    bytes: AtomicUsize,
}

#[pymethods]
impl NativePieces {
    /// Whether the response is wanted in pieces.
    #[getter]
    fn wanted(&self) -> bool {
        self.sender.is_some()
    }

    fn text(&self, py: Python<'_>, text: String) -> PyResult<()> {
        self.push(py, StreamEvent::Text(text))
    }
}

impl NativePieces {
    /// Passes a piece on.
    pub(super) fn push(&self, py: Python<'_>, piece: StreamEvent) -> PyResult<()> {
        let bytes = match &piece {
            StreamEvent::Text(text) | StreamEvent::Reasoning(text) => text.len(),
            StreamEvent::ToolCall { arguments, .. } => arguments.len(),
            _ => 0,
        };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > MAX_TEXT_BYTES {
            let message = format!("the response is longer than {MAX_TEXT_BYTES} bytes");
            return Err(
                ErrorInfo::new("task", codes::MODEL_INVALID_RESPONSE, message).into_error(py)
            );
        }
        if let Some(sender) = &self.sender {
            // Fails if the call was cancelled.
            let _ = sender.send(piece);
        }
        Ok(())
    }

    /// Whether the call was cancelled, so that no piece is read.
    pub(super) fn is_cancelled(&self) -> bool {
        self.sender.as_ref().is_some_and(UnboundedSender::is_closed)
    }
}
