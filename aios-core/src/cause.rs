use std::{error::Error, fmt, sync::Arc};

/// The error that a backend's driver reported, shared so that every member of a failed batch can
/// carry it.
///
/// It displays, and has the sources, of the error of the driver, which [`get_ref`](Self::get_ref)
/// returns.
///
/// # Examples
///
/// ```
/// use std::io;
///
/// use aios_core::Cause;
///
/// let cause = Cause::new(io::Error::from(io::ErrorKind::ConnectionReset));
/// assert!(cause.get_ref().is::<io::Error>());
/// assert_eq!(cause.to_string(), "connection reset");
/// ```
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync + 'static>);

impl Cause {
    /// Wraps the error of a driver.
    #[must_use]
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// The error of the driver.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
