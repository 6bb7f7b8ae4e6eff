//! Agents over language models as agent types: their tasks are runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{Runtime, prelude::*};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::Broker,
    store::{PageRequest, RunFilter, RunRecord},
};
use aios_llm::{
    LlmAgent, ModelRequest, ModelResponse, Prompt, RuntimeBuilderExt, model::Role,
    testing::FunctionModel,
};
use tokio::sync::watch;

use crate::support::{in_time, runtime, scripted, search_call, search_tool, store, text};

#[tokio::test]
async fn should_perform_tasks() {
    let model = scripted([search_call("one"), text("two"), text("three")]);
    let runtime = runtime(LlmAgent::new(Arc::clone(&model)).tool(search_tool())).await;
    let task = runtime.task("agent", "go").await.unwrap();
    assert_eq!(in_time(task.result::<String>()).await.unwrap(), "two");
    let prompt = Prompt::new("go").with_instructions("Be brief.");
    let task = runtime.task("agent", &prompt).await.unwrap();
    assert_eq!(in_time(task.result::<String>()).await.unwrap(), "three");
    assert_eq!(model.requests()[2].instructions.as_deref(), Some("Be brief."));
}

async fn ask(context: WorkflowContext, question: String) -> Result<String, WorkflowError> {
    let answer: String = context.task("agent", &question).timeout(Duration::from_secs(600)).await?;
    Ok(answer.to_uppercase())
}

/// A model that calls a tool, and then waits until the test lets it answer.
struct Slow {
    /// Requests of each turn.
    requests: [AtomicUsize; 2],
    answers: watch::Sender<bool>,
}

impl Slow {
    async fn respond(self: Arc<Self>, request: ModelRequest) -> ModelResponse {
        let turn = request.messages.iter().filter(|it| it.role == Role::Assistant).count();
        self.requests[turn].fetch_add(1, Ordering::SeqCst);
        if turn == 0 {
            return search_call("one");
        }
        self.answers.subscribe().wait_for(|answers| *answers).await.unwrap();
        text("done")
    }

    async fn asked(&self, turn: usize, times: usize) {
        in_time(async {
            while self.requests[turn].load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn should_pay_for_no_turn_of_a_task_again_after_its_process_has_ended() {
    let (store, broker): (_, Arc<dyn Broker>) = (store(), Arc::new(MemoryBroker::new()));
    let model = Arc::new(Slow { requests: Default::default(), answers: watch::Sender::new(false) });
    let process = async || {
        let model = Arc::clone(&model);
        let respond = move |request| {
            let model = Arc::clone(&model);
            async move { Ok(model.respond(request).await) }
        };
        let agent = LlmAgent::new(FunctionModel::new(respond)).tool(search_tool());
        let builder = Runtime::builder().store(Arc::clone(&store)).broker(Arc::clone(&broker));
        let builder = builder.llm_agent("agent", agent).unwrap().workflow("ask", ask);
        builder.start().await.unwrap()
    };
    let first = process().await;
    first.start("ask", "go").id("asking").await.unwrap();
    model.asked(1, 1).await;
    drop(first);
    let second = process().await;
    model.asked(1, 2).await;
    model.answers.send_replace(true);
    let asking = second.handle("asking").await.unwrap();
    assert_eq!(in_time(asking.result::<String>()).await.unwrap(), "DONE");
    let requests = [0, 1].map(|turn| model.requests[turn].load(Ordering::SeqCst));
    assert_eq!(requests, [1, 2], "only the request in flight is repeated");
    let filter = RunFilter { workflow: Some("agent".to_owned()), ..RunFilter::default() };
    let runs: Vec<RunRecord> = store.runs(&filter, &PageRequest::default()).await.unwrap().rows;
    assert_eq!(runs.len(), 1);
}
