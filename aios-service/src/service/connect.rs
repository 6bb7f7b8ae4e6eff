//! Functions that open a store or a broker.
//!
//! The service does not depend on the adapters. The program passes `aios_store::connect` or a
//! function of its own, which is called with the URL of the settings when the service starts.

use std::{future::Future, pin::Pin, sync::Arc};

/// An async function that opens what a URL names, such as `aios_store::connect`. Every
/// `async fn(&str) -> Result<T, E>` is one.
///
/// It exists because the future of an async function borrows its argument, which the bounds of a
/// closure cannot express for every lifetime. There is no need to implement it.
pub trait Connect<'u, T, E> {
    /// The future of the call.
    type Opening: Future<Output = Result<T, E>> + Send + 'u;

    /// Opens what the URL names.
    fn connect(self, url: &'u str) -> Self::Opening;
}

impl<'u, F, T, E, Fut> Connect<'u, T, E> for F
where
    F: FnOnce(&'u str) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'u,
{
    type Opening = Fut;

    fn connect(self, url: &'u str) -> Fut {
        self(url)
    }
}

/// An opening in progress.
type Opening<T, E> = Pin<Box<dyn Future<Output = Result<Arc<T>, E>> + Send>>;

/// A store or a broker: there already, or opened when the service starts.
pub(super) enum Part<T: ?Sized, E> {
    /// The program opened it, and closes it.
    Ready(Arc<T>),
    /// The service opens and closes it.
    Connect(Box<dyn FnOnce(String) -> Opening<T, E> + Send>),
}

impl<T: ?Sized + 'static, E: 'static> Part<T, E> {
    /// A part that is opened by this function. The URL is moved into the future, which the function
    /// borrows from.
    pub(super) fn connect<F>(connect: F) -> Self
    where
        F: for<'u> Connect<'u, Arc<T>, E> + Send + 'static,
    {
        Self::Connect(Box::new(|url| Box::pin(async move { connect.connect(&url).await })))
    }
}
