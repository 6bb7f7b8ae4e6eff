//! Names that a workflow gives to its operations are refused at once if their counterpart refuses them: no
//! client could send, take or read what has such a name.

use std::pin::Pin;

use aios_agents::{prelude::*, testing::WorkflowTest, workflow::StepContext};
use aios_core::{event::Event, output::OutputError};

use crate::support::workflows::{Doubler, PATIENCE, result, runtime, store};

type Code = Pin<Box<dyn Future<Output = Result<u64, WorkflowError>> + Send>>;

/// Uses a name in an operation of a workflow.
fn name_it(context: WorkflowContext, (verb, name): (String, String)) -> Code {
    Box::pin(async move {
        match verb.as_str() {
            "signal" => context.signal(name).await,
            "signal in time" => context.signal(name).timeout(PATIENCE).await,
            "task" => context.task(name, &1).await,
            "agent" => context.task(("doubler", name), &1).await,
            "child" => context.child(name, &1).await,
            "child id" => context.child("name_it", &("signal", "go")).id(name).await,
            "stream" => {
                context.stream(&name)?;
                Ok(1)
            }
            "stream of a step" => {
                let step = |step: StepContext| {
                    let opened = step.stream(&name).map(drop);
                    let refused = |error: OutputError| {
                        TaskError::terminal(Failure::from_error(error.code(), &error))
                    };
                    std::future::ready(opened.map_err(refused))
                };
                context.step_with("opens", step).await.map(|()| 1)
            }
            "event type" => {
                context.emit(Event::new(name.parse()?, "shop", &1)?)?;
                Ok(1)
            }
            _ => {
                let mut event = Event::new("shop.order.placed".parse()?, "shop", &1)?;
                event.source = name.into();
                context.emit(event)?;
                Ok(1)
            }
        }
    })
}

/// The code with which the counterpart of an operation refuses a name.
async fn counterpart(runtime: &Runtime, verb: &str, name: &str) -> String {
    let code = |code: &str| code.to_owned();
    match verb {
        "signal" | "signal in time" => {
            let run = runtime.handle("waits").await.unwrap();
            run.signal(name, &1).await.unwrap_err().code().to_owned()
        }
        "task" => code(runtime.task(name, &1).await.unwrap_err().code()),
        // A workflow learns that there is no such agent, whether or not there could be one.
        "agent" => {
            let refused = runtime.task(("doubler", name), &1).await.unwrap_err();
            assert_eq!(refused.code(), "INVALID_AGENT_ID");
            code("AGENT_NOT_FOUND")
        }
        "child" => {
            let registered = crate::support::workflows::runtime(&store()).workflow(name, name_it);
            code(registered.start().await.unwrap_err().code())
        }
        "child id" => {
            let start = runtime.start("name_it", &("signal", "go")).id(name);
            code(start.await.unwrap_err().code())
        }
        "stream" | "stream of a step" => {
            let run = runtime.handle("waits").await.unwrap();
            let mut reader = run.stream(name).read_from(0);
            code(reader.next().await.unwrap().unwrap_err().code())
        }
        _ => code(Event::check_source(name).unwrap_err().code()),
    }
}

/// The verbs, and names that each refuses.
fn refused() -> Vec<(&'static str, Vec<String>)> {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let long = "x".repeat(201);
    let signals = texts(&["", "a\0b", "\n", "a\u{85}", &long]);
    let names = texts(&["", "a\0b", "\n", "A", "a b", "1", "a.b", "a~b", &long]);
    vec![
        ("signal", signals.clone()),
        ("signal in time", signals),
        ("task", names.clone()),
        ("agent", texts(&["", "a\0b", "\n", "a b", "a.#", ".", "..", &"x".repeat(256)])),
        ("child", names.clone()),
        ("child id", texts(&["", "a\0b", "\n", "a~b", ".", "..", &long])),
        ("stream", names.clone()),
        ("stream of a step", names),
        ("event source", texts(&["", &"x".repeat(256)])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn should_refuse_the_names_that_their_counterparts_refuse() {
    let builder = runtime(&store()).agent("doubler", Doubler::default());
    let runtime = builder.workflow("name_it", name_it).start().await.unwrap();
    runtime.start("name_it", &("signal", "go")).id("waits").await.unwrap();
    for (verb, names) in refused() {
        for name in names {
            let run = runtime.start("name_it", &(verb, &name)).await.unwrap();
            let ended = result::<u64>(&run).await.unwrap_err();
            let expected = counterpart(&runtime, verb, &name).await;
            assert!(matches!(ended, RunError::Failed { .. }), "{verb} {name:?}: {ended:?}");
            assert_eq!(ended.code(), expected, "{verb} {name:?}: {ended:?}");
        }
    }
}

/// Steps have no output streams in a test of a workflow.
#[tokio::test]
async fn should_refuse_the_same_names_in_a_test_of_a_workflow() {
    let started = store();
    let runtime = runtime(&started).workflow("name_it", name_it).start().await.unwrap();
    runtime.start("name_it", &("signal", "go")).id("waits").await.unwrap();
    for (verb, names) in refused().into_iter().filter(|(verb, _)| *verb != "stream of a step") {
        for name in names {
            let test = WorkflowTest::new("name_it", name_it).unwrap();
            let ended = test.run(&(verb, &name)).await.result::<u64>().unwrap_err();
            let expected = counterpart(&runtime, verb, &name).await;
            assert_eq!(ended.code(), expected, "{verb} {name:?}: {ended}");
            if verb == "signal" {
                let test = WorkflowTest::new("name_it", name_it).unwrap();
                let sent = test.signal(PATIENCE, &name, &1).run(&("signal", "go")).await;
                assert_eq!(sent.result::<u64>().unwrap_err().code(), expected, "{name:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_wait_for_every_name_that_a_signal_can_have() {
    let runtime = runtime(&store()).workflow("name_it", name_it).start().await.unwrap();
    for name in ["a", "Freigabe erteilt", "approval-3/1", "~", &"ü".repeat(100)] {
        let run = runtime.start("name_it", &("signal", name)).await.unwrap();
        run.signal(name, &7).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 7, "{name:?}");
    }
}
