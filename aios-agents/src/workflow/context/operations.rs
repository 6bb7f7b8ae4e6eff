//! The operations of a workflow that end with an outcome.

use std::{future::Future, sync::Arc, time::Duration};

use aios_core::{
    agent::{Name, TaskError},
    catalog::codes,
    event::Payload,
    failure::Failure,
};
use serde::Serialize;

use super::{
    ChildCall, OperationCall, SignalCall, SleepCall, StepCall, StepContext, Target, TaskCall,
    WorkflowContext, checked::checked, step::AttemptStart,
};
use crate::workflow::{
    WorkflowError,
    machine::{ChildRequest, Request, TaskRequest},
};

impl WorkflowContext {
    /// Assigns a task to an agent and waits for its result.
    ///
    /// The call fails with `INVALID_AGENT_TYPE` if the type is not a valid name.
    ///
    /// # Examples
    ///
    /// Tasks that are polled together run concurrently:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn totals(context: WorkflowContext, items: Vec<String>) -> Result<u32, WorkflowError> {
    ///     let prices = items.iter().map(|item| context.task::<u32>("prices", item));
    ///     let prices = futures_util::future::try_join_all(prices).await?;
    ///     Ok(prices.iter().sum())
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("totals", totals)?
    ///     .agent("prices", |item: String| Ok(item.len()))
    ///     .run(&["tea", "milk"])
    ///     .await;
    /// assert_eq!(run.result::<u32>().unwrap(), 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn task<T>(
        &self,
        agent: impl Into<Target>,
        parameters: &(impl Serialize + ?Sized),
    ) -> TaskCall<T> {
        let target = agent.into();
        let agent_type = Name::new(&target.agent_type).map_err(|invalid| {
            WorkflowError::failed(Failure::from_error(codes::INVALID_AGENT_TYPE, &invalid))
        });
        let request = agent_type.and_then(|agent_type| {
            checked(Request::Task(Box::new(TaskRequest {
                agent_type,
                agent_id: target.agent_id,
                parameters: Payload::encode(parameters)?,
                timeout: None,
                total_timeout: None,
                retry: aios_core::retry::RetryPolicy::default(),
            })))
        });
        TaskCall::new(self.call(request))
    }

    /// Runs a piece of code and records its result once. The code may run again if the process dies
    /// before the result is recorded.
    ///
    /// After an error the closure is called again for the next attempt, according to the retry policy.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// # async fn charge(_: &str) -> Result<u32, std::io::Error> { Ok(7) }
    /// async fn pay(context: WorkflowContext, card: String) -> Result<u32, WorkflowError> {
    ///     context
    ///         .step("charge", || charge(&card))
    ///         .timeout(Duration::from_secs(30))
    ///         .retry(RetryPolicy::new().with_max_attempts(3))
    ///         .await
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("pay", pay)?.run("4242").await;
    /// assert_eq!(run.result::<u32>().unwrap(), 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn step<'a, T, E, F, Fut>(&self, name: impl Into<Arc<str>>, mut code: F) -> StepCall<'a, T>
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        StepCall::new(Arc::clone(&self.shared), name.into(), move |_: AttemptStart<'_>| code())
    }

    /// Runs a piece of code that cannot fail and records its result, like [`step`](Self::step).
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn label(context: WorkflowContext, item: String) -> Result<String, WorkflowError> {
    ///     // The id of the process differs in a replay, so it belongs in a step.
    ///     context.run("label", || async { format!("{item} by {}", std::process::id()) }).await
    /// }
    /// # let _ = label;
    /// ```
    pub fn run<'a, T, F, Fut>(&self, name: impl Into<Arc<str>>, mut code: F) -> StepCall<'a, T>
    where
        T: Serialize,
        F: FnMut() -> Fut + Send + 'a,
        Fut: Future<Output = T> + Send + 'a,
    {
        let code = move |_: AttemptStart<'_>| {
            let value = code();
            async move { Ok::<_, TaskError>(value.await) }
        };
        StepCall::new(Arc::clone(&self.shared), name.into(), code)
    }

    /// Runs a piece of code like [`step`](Self::step), and passes it the number of the attempt and an
    /// idempotency key for external systems.
    ///
    /// # Examples
    ///
    /// A service that receives the key twice recognises the repetition of a step whose process died
    /// before its result was recorded:
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// # async fn charge(_key: &str) -> Result<u32, std::io::Error> { Ok(7) }
    /// async fn pay(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    ///     context
    ///         .step_with("charge", |step| async move { charge(step.idempotency_key()).await })
    ///         .await
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("pay", pay)?.run(&()).await;
    /// assert_eq!(run.result::<u32>().unwrap(), 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn step_with<'a, T, E, F, Fut>(
        &self,
        name: impl Into<Arc<str>>,
        mut code: F,
    ) -> StepCall<'a, T>
    where
        T: Serialize,
        E: Into<TaskError>,
        F: FnMut(StepContext) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        let code = move |start: AttemptStart<'_>| code(start.context());
        StepCall::new(Arc::clone(&self.shared), name.into(), code)
    }

    /// Sleeps on a durable timer.
    ///
    /// A duration of more than 100 years fails the call with `INVALID_OPTIONS`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// const MONTH: Duration = Duration::from_secs(30 * 86_400);
    ///
    /// async fn trial(context: WorkflowContext, (): ()) -> Result<String, WorkflowError> {
    ///     context.sleep(MONTH).await?;
    ///     Ok("the trial is over".to_owned())
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("trial", trial)?.run(&()).await;
    /// assert_eq!(run.elapsed(), MONTH); // in virtual time
    /// # Ok(())
    /// # }
    /// ```
    pub fn sleep(&self, duration: Duration) -> SleepCall {
        SleepCall::new(self.call(checked(Request::Sleep { duration })))
    }

    /// Waits for a signal with this name. A signal that arrived earlier is taken as soon as the code is
    /// idle. Each signal is taken by one wait, in the order of arrival.
    ///
    /// The call fails with `INVALID_SIGNAL_NAME` if no signal can have the name, which has 1 to 200
    /// bytes without control characters.
    ///
    /// # Examples
    ///
    /// A wait that ends with a decision, or with a default if no person decides in time:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// const DAY: Duration = Duration::from_secs(86_400);
    ///
    /// async fn approval(context: WorkflowContext, (): ()) -> Result<bool, WorkflowError> {
    ///     match context.signal::<bool>("approve").timeout(DAY).await {
    ///         Err(error) if error.code() == "SIGNAL_TIMEOUT" => Ok(false),
    ///         decision => decision,
    ///     }
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let approved = WorkflowTest::new("approval", approval)?.signal(DAY / 2, "approve", &true);
    /// assert!(approved.run(&()).await.result::<bool>().unwrap());
    /// let ignored = WorkflowTest::new("approval", approval)?;
    /// assert!(!ignored.run(&()).await.result::<bool>().unwrap());
    /// # Ok(())
    /// # }
    /// ```
    pub fn signal<T>(&self, name: impl Into<Box<str>>) -> SignalCall<T> {
        SignalCall::new(self.call(checked(Request::Signal { name: name.into(), timeout: None })))
    }

    /// Starts a run of another workflow and waits for its end. If this run is cancelled, so is the
    /// child, unless it is [left running](ChildCall::leave_running).
    ///
    /// The child begins in the newest version of this engine, else of the other engines, else that any
    /// engine has registered. It waits while no engine has that version.
    ///
    /// The call fails with `INVALID_WORKFLOW_NAME` if the workflow is not a valid name, with
    /// `WORKFLOW_NOT_FOUND` if it was never registered, and with the code of the store and the detail
    /// `is_started: false` if the store refuses the start for good.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// # #[cfg(feature = "testing")]
    /// use aios_agents::testing::WorkflowTest;
    ///
    /// async fn release(context: WorkflowContext, parts: Vec<String>) -> Result<usize, WorkflowError> {
    ///     let builds = parts.iter().map(|part| context.child::<String>("build", part));
    ///     Ok(futures_util::future::try_join_all(builds).await?.len())
    /// }
    ///
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// # #[cfg(feature = "testing")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let run = WorkflowTest::new("release", release)?
    ///     .child("build", |part: String| Ok(format!("{part}.tar")))
    ///     .run(&["web", "api"])
    ///     .await;
    /// assert_eq!(run.result::<usize>().unwrap(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn child<T>(
        &self,
        workflow: impl AsRef<str>,
        input: &(impl Serialize + ?Sized),
    ) -> ChildCall<T> {
        let workflow = Name::new(workflow).map_err(|invalid| {
            WorkflowError::failed(Failure::from_error(codes::INVALID_WORKFLOW_NAME, &invalid))
        });
        let request = workflow.and_then(|workflow| {
            let input = Payload::encode(input)?;
            Ok(Request::Child(Box::new(ChildRequest {
                workflow,
                run_id: None,
                input,
                leave_running: false,
                cancel_when_dropped: false,
            })))
        });
        ChildCall::new(self.call(request))
    }

    /// Requests an operation given as data. For workflows that are not written in Rust.
    pub fn operation(&self, request: Request) -> OperationCall {
        self.call(checked(request))
    }

    /// Turns a request, or the reason why there is none, into a call.
    fn call(&self, request: Result<Request, WorkflowError>) -> OperationCall {
        OperationCall::new(Arc::clone(&self.shared), request)
    }
}
