//! Limits that may change while the API runs, for example by a reload of the configuration.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;

use crate::http::RateLimit;

/// The limits of requests to an [`api`](crate::http::api), which may change while it runs. Clones share
/// their values. A request in progress keeps those with which it began.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::http::{ApiOptions, RateLimit};
///
/// # fn main() -> Result<(), aios_service::http::InvalidRateLimit> {
/// let options = ApiOptions::new();
/// let limits = options.limits();
/// // … later, while the API is serving and a client sends too much:
/// limits.set_rate_limit(Some(RateLimit::new(20, Duration::from_secs(1))?));
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Limits(Arc<RwLock<Values>>);

/// The values of one moment. Small, so a reader copies them and holds no lock.
#[derive(Clone, Copy, Debug)]
struct Values {
    /// Largest body of a request.
    max_body_bytes: usize,
    /// Time in which a request has to be answered.
    request_timeout: Duration,
    /// Per caller; `None` for no limit.
    rate_limit: Option<RateLimit>,
}

impl Limits {
    /// Limits without a rate.
    pub(crate) fn new(max_body_bytes: usize, request_timeout: Duration) -> Self {
        Self::of(Values { max_body_bytes, request_timeout, rate_limit: None })
    }

    /// Limits with these values.
    fn of(values: Values) -> Self {
        Self(Arc::new(RwLock::new(values)))
    }

    /// Limits with the same values that change by themselves.
    pub(crate) fn detached(&self) -> Self {
        Self::of(self.values())
    }

    /// Sets the size of the largest body of a request, in bytes.
    ///
    /// A larger body is answered with 413, `BODY_TOO_LARGE`.
    pub fn set_max_body_bytes(&self, bytes: usize) {
        self.change(|values| values.max_body_bytes = bytes);
    }

    /// Sets how long a request may take, at least 1 ms.
    ///
    /// Waits for results that begin later are limited to 4/5 of this time.
    pub fn set_request_timeout(&self, timeout: Duration) {
        self.change(|values| values.request_timeout = timeout.max(Duration::from_millis(1)));
    }

    /// Sets how many requests each caller may send. `None` means that there is no limit.
    ///
    /// A new limit applies to the counts so far: a caller that has used up the old one waits until
    /// its bucket has room by the new one.
    pub fn set_rate_limit(&self, limit: Option<RateLimit>) {
        self.change(|values| values.rate_limit = limit);
    }

    /// Largest body of a request, in bytes.
    pub(crate) fn max_body_bytes(&self) -> usize {
        self.values().max_body_bytes
    }

    /// Time in which a request has to be answered.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.values().request_timeout
    }

    /// How many requests each caller may send.
    pub(crate) fn rate_limit(&self) -> Option<RateLimit> {
        self.values().rate_limit
    }

    /// A copy of the present values.
    fn values(&self) -> Values {
        *self.0.read()
    }

    /// Changes one of the values, for all clones.
    fn change(&self, change: impl FnOnce(&mut Values)) {
        change(&mut self.0.write());
    }
}
