//! The workflows of the sweep, and what a client does with each.

use std::{sync::Arc, time::Duration};

use aios_agents::{
    output::OutputContent,
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
    workflow::FnWorkflow,
};
use aios_core::broker::Broker;
use serde_json::{Value, json};

use super::{
    executions::{Executions, moment},
    script::{Script, end, given},
};
use crate::support::workflows::quick;

const BRIEFLY: Duration = Duration::from_millis(3);

/// A step that is noted.
async fn did(
    executions: &Executions,
    context: &WorkflowContext,
    name: &str,
    value: u64,
) -> Result<u64, WorkflowError> {
    let run_id = context.run_id().to_owned();
    let step = || async {
        executions.note(&run_id, name);
        moment().await;
        Ok::<_, TaskError>(value)
    };
    context.step(name, step).await
}

/// Doubles a number, and fails its first attempts if it is asked to.
struct Worker(Executions);

impl Agent for Worker {
    type Parameters = (u64, u32);
    type Output = u64;

    async fn process_task(
        &self,
        context: &TaskContext,
        (number, failures): (u64, u32),
    ) -> Result<u64, TaskError> {
        self.0.note(&context.task_id().to_string(), &format!("attempt {}", context.attempt()));
        moment().await;
        match context.attempt() <= failures {
            true => Err(TaskError::retryable(Failure::new("NOT_YET", "not yet"))),
            false => Ok(number * 2),
        }
    }
}

/// Writes numbers to a stream, and fails its first attempt in the middle.
struct Speaker(Executions);

impl Agent for Speaker {
    type Parameters = u64;
    type Output = u64;

    async fn process_task(&self, context: &TaskContext, most: u64) -> Result<u64, TaskError> {
        self.0.note(&context.task_id().to_string(), &format!("attempt {}", context.attempt()));
        let stream = context.stream("spoken")?;
        for number in 1..=most {
            stream.write(&number)?;
            moment().await;
            if number == 2 && context.attempt() == 1 {
                return Err(TaskError::retryable(Failure::new("NOT_YET", "not yet")));
            }
        }
        Ok(most)
    }
}

/// The items of a stream since it was last reset.
async fn written(run: &RunHandle, name: &str) -> Result<Vec<u64>, RuntimeError> {
    let mut items = run.stream(name).read_from(0);
    let mut written = Vec::new();
    while let Some(item) = items.next().await {
        match item?.content {
            OutputContent::Item(item) => written.push(item.decode().unwrap()),
            _ => written.clear(),
        }
    }
    Ok(written)
}

fn undo(executions: &Executions, context: &WorkflowContext, name: &'static str) {
    let executions = executions.clone();
    context.compensate(name, move |context| async move {
        did(&executions, &context, name, 0).await?;
        Ok(())
    });
}

/// All workflows.
#[allow(clippy::too_many_lines, reason = "one workflow after the other")]
pub(super) fn register(builder: RuntimeBuilder, executions: &Executions) -> RuntimeBuilder {
    macro_rules! with {
        (|$executions:ident, $context:ident, $input:ident: $type:ty| -> $output:ty $body:block) => {{
            let kept = executions.clone();
            move |$context: WorkflowContext, $input: $type| {
                let $executions = kept.clone();
                async move { Ok::<$output, WorkflowError>($body) }
            }
        }};
    }
    let mixed = with!(|executions, context, input: u64| -> Value {
        context.set_status("begun");
        let one = did(&executions, &context, "one", input).await?;
        let version = context.version("change", 1..=2)?;
        undo(&executions, &context, "undo one");
        let (two, three) = futures_util::future::try_join(
            context.task::<u64>("worker", &(one, 0)),
            did(&executions, &context, "three", 3),
        )
        .await?;
        context.sleep(BRIEFLY).await?;
        let noted = "orders.order.noted".parse().unwrap();
        context.emit(Event::new(noted, "test", &two).unwrap())?;
        let child = context.child::<u64>("leaf", &three).await?;
        context.set_progress("nearly", &json!({ "done": child }))?;
        let four = did(&executions, &context, "four", child).await?;
        json!([two, three, version, child, four])
    });
    let leaf = with!(|executions, context, input: u64| -> u64 {
        let value = did(&executions, &context, "leaf", input).await?;
        context.task::<u64>("worker", &(value, 0)).await?
    });
    let family = with!(|executions, context, input: u64| -> Value {
        let first = did(&executions, &context, "begin", input).await?;
        let named = format!("{}-named", context.run_id());
        let children = (
            context.child::<u64>("leaf", &first),
            context.child::<u64>("chained", &(0, 3)).id(named),
            context.child::<u64>("middle", &first),
        );
        let (one, two, three) =
            futures_util::future::try_join3(children.0, children.1, children.2).await?;
        let failed = context.child::<u64>("failing", &first).await.unwrap_err();
        json!([one, two, three, failed.code()])
    });
    let middle = with!(|executions, context, input: u64| -> u64 {
        let value = context.child::<u64>("leaf", &(input + 1)).await?;
        did(&executions, &context, "middle", value).await?
    });
    let failing = with!(|executions, context, _input: u64| -> u64 {
        undo(&executions, &context, "undo failing");
        let step = || async { Err::<u64, _>(TaskError::terminal(Failure::new("BROKEN", "it is"))) };
        context.step("break", step).await?
    });
    let kept = executions.clone();
    let chained = move |context: WorkflowContext, (round, rounds): (u64, u64)| {
        let executions = kept.clone();
        async move {
            did(&executions, &context, "round", round).await?;
            match round == rounds {
                true => Ok(round),
                false => Err(WorkflowError::continue_as_new(&(round + 1, rounds))),
            }
        }
    };
    let kept = executions.clone();
    let collect = move |context: WorkflowContext, mut taken: Vec<u64>| {
        let executions = kept.clone();
        async move {
            taken.push(context.signal("number").await?);
            did(&executions, &context, "took", taken.len() as u64).await?;
            match taken.len() {
                5 => Ok(taken),
                _ => Err(WorkflowError::continue_as_new(&taken)),
            }
        }
    };
    let saga = with!(|executions, context, input: u64| -> u64 {
        did(&executions, &context, "book", input).await?;
        undo(&executions, &context, "undo book");
        let kid = context.child::<u64>("waiting", &input);
        let kept = executions.clone();
        context.compensate("undo with a task and a child", move |context| async move {
            context.task::<u64>("worker", &(1, 1)).retry(quick(3)).await?;
            context.sleep(BRIEFLY).await?;
            context.child::<u64>("leaf", &2).await?;
            did(&kept, &context, "undo the rest", 0).await?;
            Ok(())
        });
        context.set_status("ready");
        kid.await?
    });
    let waiting = with!(|executions, context, _input: u64| -> u64 {
        undo(&executions, &context, "undo waiting");
        context.signal("never").await?
    });
    let retries = with!(|executions, context, input: u64| -> Value {
        let run_id = context.run_id().to_owned();
        let noted = executions.clone();
        let flaky = context.step_with("flaky", |step| {
            let (noted, run_id, attempt) = (noted.clone(), run_id.clone(), step.attempt());
            async move {
                noted.note(&run_id, &format!("flaky {attempt}"));
                match attempt {
                    3 => Ok(attempt),
                    _ => Err(TaskError::retryable(Failure::new("NOT_YET", "not yet"))),
                }
            }
        });
        let flaky = flaky.retry(quick(4)).await?;
        let slow = context.step_with("slow", |step| async move {
            if step.attempt() == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, TaskError>(0_u64)
        });
        let slow = slow.timeout(Duration::from_millis(40)).retry(quick(50)).await?;
        let task = context.task::<u64>("worker", &(input, 2)).retry(quick(4)).await?;
        let spent = context.task::<u64>("worker", &(input, 9)).retry(quick(2)).await;
        json!([flaky, slow, task, spent.unwrap_err().code()])
    });
    let ordered = with!(|executions, context, input: u64| -> Value {
        let mut taken = Vec::new();
        for _ in 0..input {
            let number = context.signal::<u64>("number").await?;
            taken.push(did(&executions, &context, &format!("took {number}"), number).await?);
            context.sleep(BRIEFLY).await?;
        }
        json!(taken)
    });
    let choosing = with!(|executions, context, input: u64| -> Value {
        let mut seen = Vec::new();
        let mut deadline = context.sleep(Duration::from_secs(3600));
        for _ in 0..input {
            let mut next = context.signal::<u64>("number").timeout(Duration::from_secs(3600));
            let child = context.child::<u64>("waiting", &1).cancel_when_dropped();
            let number = aios_agents::select! {
                number = &mut next => number?,
                _ = child => 0,
                _ = &mut deadline => 0,
            };
            seen.push(did(&executions, &context, &format!("chose {number}"), number).await?);
        }
        drop(deadline);
        let missed = context.signal::<u64>("nothing").timeout(BRIEFLY).await.unwrap_err();
        json!([seen, missed.code()])
    });
    let detached = with!(|executions, context, input: u64| -> u64 {
        let left = context.child::<u64>("leaf", &input).leave_running();
        let kept = context.child::<u64>("leaf", &input);
        context.set_status("ready");
        let number = aios_agents::select! {
            number = left => number?,
            number = kept => number?,
            number = context.signal::<u64>("number") => number?,
        };
        did(&executions, &context, "leave", number).await?;
        0
    });
    let streaming = with!(|executions, context, input: u64| -> u64 {
        let stream = context.stream("written").unwrap();
        for number in 1..=input {
            stream.write(&number).unwrap();
            stream.write(&(number * 10)).unwrap();
            did(&executions, &context, &format!("step {number}"), number).await?;
        }
        context.sleep(BRIEFLY).await?;
        stream.write(&7).unwrap();
        context.task::<u64>("speaker", &4_u64).retry(quick(3)).await?
    });
    let tree = with!(|executions, context, depth: u64| -> u64 {
        did(&executions, &context, "enter", depth).await?;
        let kept = executions.clone();
        context.compensate("leave", move |context| async move {
            did(&kept, &context, "leave", 0).await?;
            context.child::<u64>("leaf", &depth).await?;
            Ok(())
        });
        if depth == 0 {
            context.set_status("deep");
            return context.signal("never").await;
        }
        let left = context.child::<u64>("tree", &(depth - 1));
        let nap = context.sleep(Duration::from_secs(3600));
        aios_agents::select! {
            value = left => value?,
            _ = nap => 0,
        }
    });
    let failing_once = with!(|executions, context, _input: u64| -> u64 {
        let one = did(&executions, &context, "one", 1).await?;
        let again = context.run_id().ends_with("again");
        let step = move || async move {
            match again {
                true => Ok(2),
                false => Err(TaskError::terminal(Failure::new("BROKEN", "it is"))),
            }
        };
        let two: u64 = context.step("two", step).await?;
        let signaled: u64 = context.signal("number").await?;
        one + two + signaled
    });
    let kept = executions.clone();
    let rounds = move |context: WorkflowContext, round: u64| {
        let executions = kept.clone();
        async move {
            did(&executions, &context, "round", round).await?;
            undo(&executions, &context, "undo round");
            let child = context.child::<u64>("leaf", &round).await?;
            let waited = context.signal::<u64>("skip").timeout(BRIEFLY).await;
            if round == 2 {
                context.set_status("ready");
                context.signal::<u64>("never").await?;
            }
            let next = round + u64::from(child > 0 || waited.is_err());
            Err::<u64, _>(WorkflowError::continue_as_new(&next))
        }
    };
    let mixed_ahead = |context: WorkflowContext, number: u64| async move {
        let mut sum = number;
        for _ in 0..3 {
            let (task, signal) = futures_util::future::try_join(
                context.task::<u64>("worker", &(sum, 0)),
                context.signal::<u64>("number").timeout(Duration::from_secs(3600)),
            )
            .await?;
            sum = task + signal;
        }
        Ok::<_, WorkflowError>(sum)
    };
    let mixed_ahead =
        Arc::new(FnWorkflow::new("mixed_ahead", mixed_ahead).unwrap().with_lookahead());
    let tasks = |context: WorkflowContext, number: u64| async move {
        let mut number = number;
        for _ in 0..4 {
            number = context.task::<u64>("worker", &(number, 0)).await?;
        }
        context.sleep(BRIEFLY).await?;
        let last = context.task::<u64>("worker", &(number, 1)).retry(quick(2)).await?;
        Ok::<_, WorkflowError>(last)
    };
    let tasks = Arc::new(FnWorkflow::new("tasks", tasks).unwrap().with_lookahead());
    builder
        .agent("worker", Worker(executions.clone()))
        .agent("speaker", Speaker(executions.clone()))
        .workflow("mixed", mixed)
        .workflow("leaf", leaf)
        .workflow("family", family)
        .workflow("middle", middle)
        .workflow("failing", failing)
        .workflow("chained", chained)
        .workflow("collect", collect)
        .workflow("saga", saga)
        .workflow("waiting", waiting)
        .workflow("retries", retries)
        .workflow("ordered", ordered)
        .workflow("choosing", choosing)
        .workflow("detached", detached)
        .workflow("streaming", streaming)
        .workflow("tree", tree)
        .workflow("failing_once", failing_once)
        .workflow("rounds", rounds)
        .workflow_dyn(mixed_ahead)
        .workflow_dyn(tasks)
}

/// A runtime on a store, as a process of its own.
pub(super) fn process(
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    executions: &Executions,
    lease_time: Duration,
) -> RuntimeBuilder {
    let options = EngineOptions::new()
        .with_lease_time(lease_time)
        .with_child_poll_interval(Duration::from_millis(500));
    let builder = Runtime::builder().store(store).broker(broker).engine_options(options);
    register(builder, executions)
}

async fn until_status(run: &RunHandle, text: &str) -> Result<(), RuntimeError> {
    loop {
        let row = run.status().await?;
        if row.status.is_final() || row.status_text.as_deref() == Some(text) {
            return Ok(());
        }
        moment().await;
    }
}

macro_rules! plain {
    ($workflow:literal, $input:expr) => {
        |runtime, id| {
            Box::pin(async move { end(&runtime.start($workflow, &$input).id(id).await?).await })
        }
    };
}

/// The scripts, by name.
pub(super) const SHAPES: &[(&str, Script)] = &[
    ("mixed", plain!("mixed", 7_u64)),
    ("family", plain!("family", 5_u64)),
    ("chained", plain!("chained", (0_u64, 3_u64))),
    ("retries", plain!("retries", 3_u64)),
    ("tasks", plain!("tasks", 1_u64)),
    ("collect", |runtime, id| {
        Box::pin(async move {
            let mut start = runtime.start("collect", &Vec::<u64>::new()).id(id);
            for number in 1..=2_u64 {
                start = start.signal("number", &number).signal_id(format!("{id}-{number}"));
            }
            let run = start.await?;
            for number in 3..=5_u64 {
                let sent = run
                    .clone()
                    .with_request_id(format!("{id}-{number}"))
                    .signal("number", &number)
                    .await;
                given(sent)?;
            }
            end(&run).await
        })
    }),
    ("ordered", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("ordered", &4_u64).id(id).after(Duration::from_millis(5));
            let run = run.await?;
            for number in 1..=4_u64 {
                if number == 2 || number == 4 {
                    given(run.pause().await)?;
                }
                let sender = run.clone().with_request_id(format!("{id}-{number}"));
                given(sender.signal("number", &number).await)?;
                moment().await;
                given(run.resume().await)?;
            }
            end(&run).await
        })
    }),
    ("choosing", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("choosing", &3_u64).id(id).await?;
            for number in 1..=3_u64 {
                let sender = run.clone().with_request_id(format!("{id}-{number}"));
                given(sender.signal("number", &number).await)?;
                moment().await;
            }
            end(&run).await
        })
    }),
    ("detached", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("detached", &1_u64).id(id).await?;
            until_status(&run, "ready").await?;
            let sender = run.clone().with_request_id(format!("{id}-1"));
            given(sender.signal("number", &1_u64).await)?;
            end(&run).await
        })
    }),
    ("streaming", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("streaming", &3_u64).id(id).await?;
            let outcome = end(&run).await?;
            Ok(json!([outcome, written(&run, "written").await?, written(&run, "spoken").await?]))
        })
    }),
    ("saga", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("saga", &1_u64).id(id).await?;
            until_status(&run, "ready").await?;
            given(run.cancel("enough").await)?;
            given(run.cancel("again").await)?;
            end(&run).await
        })
    }),
    ("paused saga", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("saga", &1_u64).id(id).await?;
            until_status(&run, "ready").await?;
            given(run.pause().await)?;
            given(run.cancel("enough").await)?;
            end(&run).await
        })
    }),
    ("tree", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("tree", &2_u64).id(id).await?;
            let deepest = format!("{id}~2~2");
            loop {
                match runtime.handle(&deepest).await {
                    Ok(deepest) => break until_status(&deepest, "deep").await?,
                    Err(error) if error.code() == "RUN_NOT_FOUND" => {
                        // It failed if its child could not be started.
                        if run.status().await?.status.is_final() {
                            break;
                        }
                        moment().await;
                    }
                    Err(error) => return Err(error),
                }
            }
            given(run.cancel("enough").await)?;
            end(&run).await
        })
    }),
    ("retry", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("failing_once", &1_u64).id(id);
            let run = run.signal("number", &4_u64).signal_id(format!("{id}-4")).await?;
            let first = end(&run).await?;
            let again = format!("{id}-again");
            let again = run.clone().with_request_id(&*again).retry(again.clone()).await?;
            Ok(json!([first, end(&again).await?]))
        })
    }),
    ("rounds", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("rounds", &0_u64).id(id).await?;
            until_status(&run, "ready").await?;
            given(run.pause().await)?;
            given(run.cancel("enough").await)?;
            end(&run).await
        })
    }),
    ("ahead", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("mixed_ahead", &1_u64).id(id).await?;
            for number in 1..=3_u64 {
                let sender = run.clone().with_request_id(format!("{id}-{number}"));
                given(sender.signal("number", &number).await)?;
                if number == 2 {
                    given(run.pause().await)?;
                    moment().await;
                    given(run.resume().await)?;
                }
            }
            end(&run).await
        })
    }),
    ("early", |runtime, id| {
        Box::pin(async move {
            let start = runtime.start("mixed", &7_u64).id(id).after(Duration::from_secs(3600));
            let run = start.await?;
            given(run.pause().await)?;
            given(run.cancel("enough").await)?;
            end(&run).await
        })
    }),
    ("fork", |runtime, id| {
        Box::pin(async move {
            let run = runtime.start("mixed", &7_u64).id(id).await?;
            let first = end(&run).await?;
            let fork = run
                .clone()
                .with_request_id(format!("{id}-fork"))
                .fork(5, format!("{id}-fork"))
                .await?;
            Ok(json!([first, end(&fork).await?]))
        })
    }),
];
