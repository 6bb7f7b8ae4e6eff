//! Machines whose clocks are wrong, or are adjusted while an engine runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_core::{
    BoxFuture,
    clock::{Clock, SystemClock},
    event::Timestamp,
};

use crate::support::workflows::{eventually, result, runtime, store};

const HOUR: i64 = 3_600_000_000;
const MOMENT: Duration = Duration::from_millis(30);

/// A clock that is wrong by some microseconds.
#[derive(Clone, Debug, Default)]
struct WrongClock(Arc<AtomicI64>);

impl WrongClock {
    fn set(&self, by: i64) {
        self.0.store(by, Ordering::SeqCst);
    }
}

impl Clock for WrongClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.0.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(duration)
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            while clock.now() < deadline {
                clock.sleep(deadline.duration_since(clock.now())).await;
            }
        })
    }
}

/// A timer, a deadline and a delay before another attempt.
async fn waits(context: WorkflowContext, (): ()) -> Result<u32, WorkflowError> {
    context.signal::<()>("go").await?;
    context.sleep(MOMENT).await?;
    context.signal::<()>("never").timeout(MOMENT).await.unwrap_err();
    let attempts = context.step_with("fails", |step| {
        let attempt = step.attempt();
        async move { if attempt < 2 { Err(TaskError::from("not yet")) } else { Ok(attempt) } }
    });
    attempts.retry(RetryPolicy::fixed(3, MOMENT)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_the_time_from_the_store_where_the_clock_is_wrong() {
    for by in [HOUR, -HOUR] {
        let (store, clock) = (store(), WrongClock::default());
        clock.set(by);
        let builder = runtime(&store).clock(Arc::new(clock.clone())).workflow("waits", waits);
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("waits", &()).await.unwrap();
        run.signal("go", &()).await.unwrap();
        // It is corrected as soon as a run waits for something recorded earlier.
        eventually("a timer runs", || async {
            let journal = run.journal(0, 1000).await.unwrap();
            journal.iter().any(|it| it.event.event_type.action() == "timer_started")
        })
        .await;
        clock.set(0);
        assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_continue_when_the_clock_is_set_back() {
    let (store, clock) = (store(), WrongClock::default());
    let options = EngineOptions::new().with_lease_time(Duration::from_secs(1));
    let builder = runtime(&store).clock(Arc::new(clock.clone())).engine_options(options);
    let runtime = builder.workflow("waits", waits).start().await.unwrap();
    for hour in 1..=4 {
        let run = runtime.start("waits", &()).await.unwrap();
        let expiry = async || {
            let leases = store.leases().await.unwrap();
            leases.iter().map(|lease| lease.expires_at).max()
        };
        let before = expiry().await;
        eventually("the leases are renewed", || async { expiry().await > before }).await;
        // The engine is now idle between the checks of its leases and of the log.
        clock.set(-HOUR * hour);
        run.signal("go", &()).await.unwrap();
        assert_eq!(result::<u32>(&run).await.unwrap(), 2);
    }
}
