//! How much of a server small applications use.

use std::sync::Arc;

use aios_agents::prelude::*;
use aios_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use aios_tests::rabbitmq::RabbitMqServer;

/// Applications, each with a process that advances runs and another one that hosts agents.
const APPLICATIONS: usize = 4;
/// Files and sockets that a server may have open under the default limit of Linux.
const FILES: usize = 1024;

struct Double;

impl Agent for Double {
    type Parameters = u32;
    type Output = u32;

    async fn process_task(&self, _: &TaskContext, number: u32) -> Result<u32, TaskError> {
        Ok(number * 2)
    }
}

async fn double(context: WorkflowContext, number: u32) -> Result<u32, WorkflowError> {
    context.task("double", &number).await
}

async fn broker(server: &RabbitMqServer, application: usize) -> Arc<RabbitMqBroker> {
    let options = RabbitMqOptions::new(server.url());
    let options = options.with_prefix(format!("app{application}"));
    Arc::new(RabbitMqBroker::connect_with(options).await.unwrap())
}

/// How many files and sockets the server has open.
fn open_files(server: &RabbitMqServer) -> usize {
    let code = r#"length(filelib:wildcard("/proc/self/fd/*"))."#;
    server.ctl(&["eval", code]).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(target_os = "linux"), ignore = "open files are counted in /proc")]
async fn should_leave_most_of_a_small_server_to_others() {
    let Some(server) = RabbitMqServer::start() else { return };
    let before = open_files(&server);
    let mut running = Vec::new();
    for application in 0..APPLICATIONS {
        let store = aios_store::connect("memory://").await.unwrap();
        let engine = Runtime::builder()
            .store(store)
            .broker(broker(&server, application).await)
            .workflow("double", double)
            .start()
            .await
            .unwrap();
        let agents = Runtime::builder()
            .broker(broker(&server, application).await)
            .agent("double", Double)
            .start()
            .await
            .unwrap();
        let run = engine.start("double", &21).await.unwrap();
        assert_eq!(run.result::<u32>().await.unwrap(), 42);
        running.push((engine, agents));
    }
    let used = open_files(&server) - before;
    println!("{APPLICATIONS} applications use {used} files and sockets of the server");
    assert!(used < FILES / 4, "{used} of {FILES} files and sockets");
}
