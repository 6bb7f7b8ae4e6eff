//! Cases that only a server that coalesces its confirms can get wrong.

use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    broker::{Broker, Publish, Subscription},
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;

/// lapin attaches a returned event to whichever confirm comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_tell_which_of_many_events_was_unroutable() {
    let Some(server) = RabbitMqServer::shared() else { return };
    let broker = RabbitMqBroker::connect(&server.url()).await.unwrap();
    let pattern = "mixed.routed.*".parse().unwrap();
    let subscription = Subscription::group("mixed".parse().unwrap(), [pattern]);
    drop(broker.subscribe(subscription).await.unwrap());
    let is_routed = |number: u32| !number.is_multiple_of(3);
    let publish = |number: u32| {
        let name = if is_routed(number) { "mixed.routed.here" } else { "mixed.lost.here" };
        let event = Event::new(name.parse().unwrap(), "test", &number).unwrap();
        Publish::new(event).with_required_route()
    };
    for _ in 0..5 {
        let answers = broker.publish((0..2_000).map(publish).collect()).await;
        for (number, answer) in (0..).zip(answers) {
            match answer {
                Ok(()) => assert!(is_routed(number), "{number}"),
                Err(error) => {
                    assert_eq!(
                        (error.code(), is_routed(number)),
                        ("UNROUTABLE", false),
                        "{number}"
                    );
                }
            }
        }
    }
}
