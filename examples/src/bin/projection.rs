//! A projection that stores its view and its position in one transaction of its own database.
//!
//! Every event is applied to the view exactly once, whenever a process crashes: either both the
//! view and the position change, or neither does.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_agents::{prelude::*, projection::Batch};
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    customer: String,
    amount: u64,
}

/// How much each customer has ordered.
#[derive(Clone)]
struct Sales(Arc<Mutex<Connection>>);

impl Sales {
    fn open(path: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS sales (customer TEXT PRIMARY KEY, amount INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS positions (name TEXT PRIMARY KEY, position INTEGER NOT NULL);",
        )?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    fn transaction<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        let changed = change(&transaction)?;
        transaction.commit()?;
        Ok(changed)
    }

    /// Changes the view, and the position with it, unless another process has. A real database would be called from
    /// `tokio::task::spawn_blocking`, or asynchronously as with sqlx.
    fn apply(&self, batch: &Batch) -> Result<(), TaskError> {
        self.transaction(|transaction| {
            let first = batch.events().first().filter(|_| !batch.is_redriven());
            let first = first.map_or(batch.position(), |recorded| recorded.position);
            let moved = transaction.execute(
                "INSERT INTO positions VALUES ('sales', ?1)
                 ON CONFLICT (name) DO UPDATE SET position = excluded.position
                 WHERE positions.position < ?2",
                (i64::try_from(batch.position())?, i64::try_from(first)?),
            )?;
            // This process was frozen for longer than its lease.
            if moved == 0 {
                let failure =
                    Failure::new("STALE_BATCH", "another process has applied these events");
                return Err(TaskError::retryable(failure));
            }
            for recorded in batch.events() {
                let order: Order = recorded.event.data()?;
                transaction.execute(
                    "INSERT INTO sales VALUES (?1, ?2)
                     ON CONFLICT (customer) DO UPDATE SET amount = amount + excluded.amount",
                    (order.customer, i64::try_from(order.amount)?),
                )?;
            }
            Ok(())
        })
    }

    fn position(&self) -> Result<u64, TaskError> {
        self.transaction(|transaction| {
            let sql = "SELECT coalesce(max(position), 0) FROM positions";
            let position: i64 = transaction.query_one(sql, [], |row| row.get(0))?;
            Ok(u64::try_from(position)?)
        })
    }

    fn of(&self, customer: &str) -> Result<i64, TaskError> {
        self.transaction(|transaction| {
            let sql = "SELECT coalesce(sum(amount), 0) FROM sales WHERE customer = ?1";
            Ok(transaction.query_one(sql, [customer], |row| row.get(0))?)
        })
    }
}

async fn buy(context: WorkflowContext, order: Order) -> Result<(), WorkflowError> {
    context.emit(Event::new("orders.order.placed".parse()?, "shop", &order)?)
}

#[tokio::main]
#[allow(clippy::disallowed_methods, reason = "it waits for what another task does")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder()
        .store(aios_store::connect("sqlite://shop.db").await?)
        .broker(aios_broker::connect("memory://").await?)
        .workflow("buy", buy)
        .start()
        .await?;
    let sales = Sales::open("sales.db")?;
    let applying = sales.clone();
    let loading = sales.clone();
    let projection = runtime
        .projection("sales", move |batch: Batch| std::future::ready(applying.apply(&batch)))
        .patterns(["orders.order.placed".parse()?])
        .position_from(move || std::future::ready(loading.position()))
        .await?;

    for (id, amount) in [("order-1", 20), ("order-2", 22)] {
        let order = Order { customer: "Ada".to_owned(), amount };
        // Under one id the order is placed once, however often this program runs.
        runtime.start("buy", &order).id(id).await?.result::<()>().await?;
    }
    while sales.of("Ada").map_err(|error| error.failure)? < 42 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("Ada has ordered for {}", sales.of("Ada").map_err(|error| error.failure)?);
    println!("{} orders could not be read", projection.dead_letters(0, 10).await?.len());
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
