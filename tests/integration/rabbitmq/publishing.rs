//! Cases that only a server that coalesces its confirms can get wrong.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_broker::rabbitmq::RabbitMqBroker;
use aios_core::{
    broker::{Broker, Publish, Subscription},
    event::Event,
};
use aios_tests::rabbitmq::RabbitMqServer;
use tokio::time::timeout;
use tracing::{
    Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use super::traffic::rest;

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

/// Lines of lapin about returned events, from its own threads.
static RETURNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Returned;

impl Subscriber for Returned {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "lapin::returned_messages"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        RETURNED.lock().unwrap().push(format!("{event:?}"));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// lapin logs what the server returns with its data. An event that needs no route is not returned.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_have_events_returned_that_need_no_route() {
    let Some(server) = RabbitMqServer::shared() else { return };
    tracing::subscriber::set_global_default(Returned).unwrap();
    let broker = RabbitMqBroker::connect(&server.url()).await.unwrap();
    let event = |name: &str| Event::new(name.parse().unwrap(), "test", &"secret").unwrap();
    let optional = Publish::new(event("nowhere.optional.event"));
    broker.publish(vec![optional]).await.remove(0).unwrap();
    let required = Publish::new(event("nowhere.required.event")).with_required_route();
    let refused = broker.publish(vec![required]).await.remove(0).unwrap_err();
    assert_eq!(refused.code(), "UNROUTABLE");
    let returned = RETURNED.lock().unwrap();
    let is_logged = |name| returned.iter().any(|line| line.contains(name));
    assert_eq!((is_logged("nowhere.required"), is_logged("nowhere.optional")), (true, false));
}

/// Confirms that have arrived when the channel ends belong to publishers, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn should_answer_every_publisher_when_it_is_closed() {
    let Some(server) = RabbitMqServer::shared() else { return };
    for pause in 0..20 {
        let broker = Arc::new(RabbitMqBroker::connect(&server.url()).await.unwrap());
        let publish = |number: u32| {
            let event = Event::new("nowhere.closing.event".parse().unwrap(), "test", &number);
            Publish::new(event.unwrap())
        };
        broker.publish(vec![publish(0)]).await.remove(0).unwrap();
        let publishers: Vec<_> = (1..1_000)
            .map(|number| {
                let (broker, publish) = (Arc::clone(&broker), publish(number));
                tokio::spawn(async move { broker.publish(vec![publish]).await.remove(0) })
            })
            .collect();
        rest(Duration::from_micros(pause * 1_000)).await;
        broker.close(Duration::ZERO).await.unwrap();
        for publisher in publishers {
            // The timeout of publishing is 30 s.
            let answer = timeout(Duration::from_secs(10), publisher).await;
            let answer = answer.expect("the publisher has an answer").unwrap();
            if let Err(error) = answer {
                assert!(["UNCERTAIN", "BROKER_CLOSED"].contains(&error.code()), "{error:?}");
            }
        }
    }
}
