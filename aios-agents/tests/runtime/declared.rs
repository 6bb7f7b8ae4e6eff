use aios_agents::{prelude::*, workflow::Target};

use crate::support::workflows::{Doubler, PATIENCE, result, runtime, store};

const DOUBLER: AgentRef<u64, u64> = AgentRef::new("doubler");
const QUADRUPLE: WorkflowRef<u64, u64> = WorkflowRef::new("quadruple");
const OUTER: WorkflowRef<String, u64> = WorkflowRef::new("outer");

async fn quadruple(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    let twice = DOUBLER.task(&context, &number).await?;
    DOUBLER.task(&context, &twice).retry(RetryPolicy::never()).await
}

async fn outer(context: WorkflowContext, number: String) -> Result<u64, WorkflowError> {
    let number: u64 = number.parse()?;
    QUADRUPLE.child(&context, &number).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_run_what_was_declared_with_its_types() {
    let runtime = runtime(&store())
        .agents(DOUBLER.instance(Doubler::default()))
        .workflow(QUADRUPLE, quadruple)
        .workflow(OUTER, outer)
        .start()
        .await
        .unwrap();
    let run = runtime.start(QUADRUPLE, &2).id("q1").await.unwrap();
    let four = tokio::time::timeout(PATIENCE, run.result()).await.unwrap().unwrap();
    assert_eq!(four + 1, 9);
    assert_eq!(run.id(), "q1");
    // Text, and input that is borrowed from the declared value.
    let run = runtime.start(OUTER, "3").await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, run.result()).await.unwrap().unwrap(), 12);
    let again = OUTER.handle(&runtime, run.id()).await.unwrap();
    assert_eq!(again.result().await.unwrap(), 12);
    let other = QUADRUPLE.handle(&runtime, run.id()).await.unwrap_err();
    assert_eq!(other.code(), "RUN_NOT_FOUND");
    let run = runtime.task(DOUBLER, &21).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, run.result()).await.unwrap().unwrap(), 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_names_as_text_of_any_kind() {
    let runtime = runtime(&store())
        .agent("doubler", Doubler::default())
        .workflow(String::from("quadruple"), quadruple)
        .start()
        .await
        .unwrap();
    let name = String::from("quadruple");
    for run in [
        runtime.start("quadruple", &1_u64).await.unwrap(),
        runtime.start(&name, &1_u64).await.unwrap(),
        runtime.start(name.clone(), &1_u64).await.unwrap(),
    ] {
        assert_eq!(result::<u64>(&run).await.unwrap(), 4);
    }
}

#[test]
fn should_address_a_type_or_one_agent() {
    let of_type = Target::from("backend");
    assert_eq!(of_type, Target::from(String::from("backend")));
    assert_eq!(of_type, Target::from(&String::from("backend")));
    let one = Target::agent("backend", "backend-1");
    assert_eq!(one, Target::from(("backend", "backend-1")));
    assert_eq!(one, Target::from((String::from("backend"), String::from("backend-1"))));
    assert_ne!(one, of_type);
}

async fn to_one(context: WorkflowContext, id: String) -> Result<u64, WorkflowError> {
    let twice: u64 = context.task(("doubler", id.as_str()), &2).await?;
    DOUBLER.task_of(id, &context, &twice).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_assign_a_task_to_one_agent() {
    let agent = aios_agents::agent::RegisteredAgent::new("doubler", "one", Payload::null());
    let definition = aios_agents::agent::AgentDefinition::factory("doubler", |(): ()| {
        Ok::<_, TaskError>(Doubler::default())
    })
    .register_agent(agent.with_id("d-1"));
    let builder = runtime(&store()).agents(definition).workflow("to_one", to_one);
    let runtime = builder.start().await.unwrap();
    let run = runtime.start("to_one", "d-1").await.unwrap();
    assert_eq!(result::<u64>(&run).await.unwrap(), 8);
}
