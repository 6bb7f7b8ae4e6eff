use aios_agents::prelude::*;

use crate::workflow_support::{Doubler, result, runtime, store};

async fn double(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    context.task("doubler", &number).await
}

/// The first answers used to find no mailbox if they arrived before the engine read it.
#[tokio::test(flavor = "multi_thread")]
async fn should_lose_no_answer_that_comes_right_after_the_start() {
    for round in 0..50 {
        let runtime = runtime(&store())
            .agent("doubler", Doubler::default())
            .workflow("double", double)
            .start()
            .await
            .unwrap();
        let run = runtime.start("double", &round).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), round * 2);
    }
}
