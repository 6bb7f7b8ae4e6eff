//! A cluster of three nodes, one of which dies.

use std::time::Duration;

use aios_core::broker::Broker;
use aios_tests::rabbitmq::{RabbitMqCluster, RabbitMqServer};

use super::traffic::{Traffic, connect, rest, subscription};

const DAY: Duration = Duration::from_secs(86_400);

/// The node that leads the group's queue.
fn leader(node: &RabbitMqServer) -> String {
    let queues = node.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", "leader"]);
    let queue = queues.lines().find_map(|line| line.strip_prefix("aios.group.chaos\t"));
    queue.unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_lose_nothing_when_the_leaders_node_dies() {
    let Some(cluster) = RabbitMqCluster::start(3) else { return };
    let [first, second, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let declaring = connect(first).await;
    drop(declaring.subscribe(subscription()).await.unwrap());
    declaring.close(DAY).await.unwrap();
    assert_eq!(leader(second), first.node());

    let broker = connect(second).await;
    let traffic = Traffic::start(&broker).await;
    first.kill();
    let confirmed = traffic.read(|seen| seen.confirmed.len());
    traffic.advances().await;
    rest(Duration::from_secs(2)).await;
    let grown = traffic.read(|seen| seen.confirmed.len());
    assert!(grown > confirmed, "{grown} events were confirmed, {confirmed} before the kill");
    assert_ne!(leader(second), first.node());
    traffic.finish(&["UNCERTAIN", "BROKER_TIMEOUT"]).await;
    broker.close(DAY).await.unwrap();
}
