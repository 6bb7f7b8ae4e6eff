//! The options of the sockets of this process.

use std::{fs, net::SocketAddr};

use rustix::{
    net::{getpeername, sockopt::tcp_nodelay},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// For each TCP connection of this process to one of the local ports, whether it sends data at once
/// (`TCP_NODELAY`).
///
/// Reports that the test is skipped where the kernel does not let a process inspect its own
/// sockets.
///
/// # Panics
///
/// The same as [`skip`](crate::skip).
#[must_use]
pub fn without_delay(ports: &[u16]) -> Option<Vec<bool>> {
    let descriptors = fs::read_dir("/proc/self/fd").ok()?.flatten();
    let Ok(process) = pidfd_open(getpid(), PidfdFlags::empty()) else {
        crate::skip("the kernel has no pidfd_open");
        return None;
    };
    let mut found = Vec::new();
    for descriptor in descriptors {
        let link = fs::read_link(descriptor.path()).unwrap_or_default();
        if !link.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number = descriptor.file_name().to_string_lossy().parse().unwrap_or_default();
        match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => {
                let peer = getpeername(&socket).ok().flatten();
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                if peer.is_some_and(|peer| ports.contains(&peer.port())) {
                    found.push(tcp_nodelay(&socket).unwrap_or_default());
                }
            }
            // The socket was closed in the meantime.
            Err(rustix::io::Errno::BADF) => {}
            Err(error) => {
                crate::skip(&format!("the kernel refuses pidfd_getfd: {error}"));
                return None;
            }
        }
    }
    Some(found)
}
