//! Callers without credentials.
//!
//! The address of the peer alone does not tell whether someone on this machine sent a request: a
//! web page in a browser on this machine can send one too. Therefore the request has to name a
//! loopback host, which a page that was rebound by DNS does not, and its `Origin`, if it has one,
//! has to be loopback.

use std::net::IpAddr;

use async_trait::async_trait;
use axum::http::{HeaderMap, Uri};

use super::{AuthError, Authenticator, Credentials, Identity, Permissions};

/// Subject of callers without credentials.
const SUBJECT: &str = "anonymous";

/// Lets callers in without credentials: by default only those on this machine.
///
/// A web page that is open in a browser on this machine is not admitted: a request must name a
/// loopback host, and its `Origin`, if it has one, must be a loopback host too.
///
/// The address of the caller comes from [`serve`](crate::http::serve), or from
/// `into_make_service_with_connect_info::<SocketAddr>()` where your own program serves the router.
/// A server behind a proxy on the same machine sees only callers on this machine: do not use this
/// there.
///
/// # Examples
///
/// ```
/// use aios_service::{
///     auth::{Anonymous, Permissions},
///     http::ApiOptions,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A dashboard on this machine may look, and change nothing.
/// let readers = Permissions::parse(["runs:read", "tasks:read", "agents:read"])?;
/// let local = Anonymous::on_loopback().with_permissions(readers);
/// let options = ApiOptions::new().with_authenticator(local);
/// # drop(options);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Anonymous {
    /// The permissions of every caller that is admitted.
    permissions: Permissions,
    /// Whether the address does not matter.
    is_anywhere: bool,
}

impl Anonymous {
    /// Lets in callers on this machine, which may do everything.
    #[must_use]
    pub fn on_loopback() -> Self {
        Self { permissions: Permissions::all(), is_anywhere: false }
    }

    /// Lets in every caller from everywhere. Choose the permissions with care: there is no other
    /// protection.
    ///
    /// # Examples
    ///
    /// A public catalogue, which every caller may read. Callers with a key may do more: their key
    /// is checked first, because its authenticator comes first:
    ///
    /// ```
    /// use aios_service::{
    ///     auth::{Anonymous, ApiKeys, Permissions},
    ///     http::ApiOptions,
    /// };
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = ApiKeys::new([]);
    /// let options = ApiOptions::new()
    ///     .with_authenticator(keys)
    ///     .with_authenticator(Anonymous::anywhere(Permissions::parse(["workflows:read"])?));
    /// # drop(options);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn anywhere(permissions: Permissions) -> Self {
        Self { permissions, is_anywhere: true }
    }

    /// Sets what callers may do.
    #[must_use]
    pub fn with_permissions(mut self, permissions: Permissions) -> Self {
        self.permissions = permissions;
        self
    }
}

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<Identity>, AuthError> {
        let is_local = || {
            let peer = credentials.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
            peer && names_loopback(credentials.headers)
        };
        let identity = || Identity {
            subject: SUBJECT.into(),
            scope: SUBJECT.into(),
            permissions: self.permissions.clone(),
            expires_at: None,
        };
        Ok((self.is_anywhere || is_local()).then(identity))
    }
}

/// Whether the request was addressed to this machine, and not sent by a page from another host.
///
/// A request without `Host` does not count as local. A program that is not a browser sends no
/// `Origin`, so only `Host` is checked then.
pub(super) fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get("host").and_then(|host| host.to_str().ok());
    let is_host = host.is_some_and(|host| is_loopback(&format!("http://{host}")));
    is_host && headers.get_all("origin").iter().all(|origin| origin.to_str().is_ok_and(is_loopback))
}

/// Whether the host of a URL is this machine.
pub(crate) fn is_loopback(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_tell_loopback_hosts_from_others() {
        for (origin, expected) in [
            ("http://localhost:8080", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:80", true),
            ("http://localhost.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://user@example.com", false),
            ("http://192.168.0.1", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(origin), expected, "{origin}");
        }
    }
}
