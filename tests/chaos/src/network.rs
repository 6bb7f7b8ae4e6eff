//! A network namespace for each process, where the machine permits it. Packets are lost there,
//! while the proxies drop bytes of connections that both ends consider open.

use std::{
    io,
    process::{Child, Command, Stdio},
};

/// Removes the namespace as soon as the harness is gone, which closes the pipe that `cat` reads.
const JANITOR: &str = r#"trap '' INT TERM HUP; cat > /dev/null; ip netns del "$1""#;

/// A namespace with one link to the host.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its name.
    pub(crate) name: String,
    /// Address of the host's end of the link.
    pub(crate) host: String,
    /// The host's end of the link.
    link: String,
    /// The other end.
    inner: String,
    /// A process whose end tells it to clean up.
    janitor: Child,
}

impl Namespace {
    /// Creates a namespace, which requires root and the programs of iproute2.
    pub(crate) fn new(number: usize) -> io::Result<Self> {
        let pid = std::process::id();
        let name = format!("aios-chaos-{pid}-{number}");
        let (link, inner) = (format!("ax{pid}h{number}"), format!("ax{pid}p{number}"));
        let net = |last: usize| format!("10.{}.{}.{}", 100 + pid % 100, pid / 100 % 256, last);
        let (host, process) = (net(number * 4 + 1), net(number * 4 + 2));
        ip(&["netns", "add", &name])?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor", &name])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let namespace = Self { name, host, link, inner, janitor };
        let Self { name, host, link, inner, .. } = &namespace;
        ip(&["link", "add", link, "type", "veth", "peer", "name", inner, "netns", name])?;
        ip(&["addr", "add", &format!("{host}/30"), "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{process}/30"), "dev", inner])?;
        ip(&["-n", name, "link", "set", inner, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Drops every packet, or none.
    pub(crate) fn cut(&self, is_cut: bool) {
        ip(&["link", "set", &self.link, if is_cut { "down" } else { "up" }])
            .expect("a link is set");
    }

    /// Drops everything that the process sends, or nothing. It still receives everything.
    pub(crate) fn mute(&self, is_mute: bool) {
        let Self { name, inner, .. } = self;
        let mut arguments = vec!["netns", "exec", name, "tc", "qdisc"];
        match is_mute {
            true => arguments.extend(["replace", "dev", inner, "root", "pfifo", "limit", "0"]),
            false => arguments.extend(["del", "dev", inner, "root"]),
        }
        ip(&arguments).expect("a queue is set");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // If this fails, the namespace remains; nothing can be done about that here.
        self.janitor.wait().ok();
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), errors.trim()))),
    }
}
