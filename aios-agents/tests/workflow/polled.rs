//! Operations that are polled without a wait.

use std::{
    pin::Pin,
    task::{Context, Waker},
};

use aios_agents::prelude::*;

use crate::support::workflows::{Doubler, result, runtime, store};

/// Polls an operation once, with a waker that does nothing.
fn begin<T>(operation: &mut (impl Future<Output = T> + Unpin)) {
    let polled = Pin::new(operation).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "no operation ends while the code runs");
}

/// A loop over `now_or_never` sees nothing, and an await after it does.
#[tokio::test(flavor = "multi_thread")]
async fn should_see_an_outcome_only_while_it_waits() {
    async fn polls(context: WorkflowContext, (): ()) -> Result<u64, WorkflowError> {
        let mut doubled = context.task::<u64>("doubler", &1_u64);
        for _ in 0..100 {
            begin(&mut doubled);
        }
        let other = context.task::<u64>("doubler", &2_u64).await?;
        Ok(doubled.await? + other)
    }

    let runtime = runtime(&store()).agent("doubler", Doubler::default());
    let runtime = runtime.workflow("polls", polls).start().await.unwrap();
    let run = runtime.start("polls", &()).await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 6);
}
