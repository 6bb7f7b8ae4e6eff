//! A proxy that sees each AMQP frame between clients and a server, and can withhold frames or add some.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use aios_tests::rabbitmq::RabbitMqServer;

/// Class and method of frames that tests look for.
pub(crate) const OPEN_OK: Method = (10, 41);
pub(crate) const CONNECTION_CLOSE: Method = (10, 50);
pub(crate) const EXCHANGE_DECLARE: Method = (40, 10);
pub(crate) const QUEUE_DECLARE: Method = (50, 10);
pub(crate) const QUEUE_BIND: Method = (50, 20);
const CONSUME_OK: Method = (60, 21);
const CANCEL: Method = (60, 30);

const METHOD: u8 = 1;
const BODY: u8 = 3;
const END: u8 = 0xce;
/// `AMQP` and the version of the protocol, which a client sends first.
const GREETING: usize = 8;

pub(crate) type Method = (u16, u16);

/// A frame on its way.
pub(crate) struct Frame {
    kind: u8,
    channel: u16,
    payload: Vec<u8>,
}

/// How a frame is passed on.
pub(crate) enum Verdict {
    Pass,
    Withhold,
    /// Passes other bytes on.
    Replace(Vec<u8>),
    /// Passes it on, and sends these bytes to the same side right after it.
    Then(Vec<u8>),
}

/// A consumer that the server has begun.
struct Consumer {
    client: Client,
    channel: u16,
    tag: Vec<u8>,
}

type Client = Arc<Mutex<TcpStream>>;
type Rule = dyn Fn(&Frame) -> Verdict + Send + Sync;

/// Accepts clients until the test's process ends.
pub(crate) struct Proxy {
    port: u16,
    consumers: Arc<Mutex<Vec<Consumer>>>,
}

impl Proxy {
    /// Passes frames on in both directions as the rule says.
    pub(crate) fn start(
        server: &RabbitMqServer,
        rule: impl Fn(&Frame) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), consumers: Arc::default() };
        let (consumers, server) = (Arc::clone(&proxy.consumers), server.port());
        let rule: Arc<Rule> = Arc::new(rule);
        thread::spawn(move || {
            for client in listener.incoming() {
                let upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
                pass_on(client.unwrap(), upstream, &rule, &consumers);
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Sends `basic.cancel` to the consumers, as a server does that ends them and keeps their channels.
    pub(crate) fn cancel_consumers(&self) {
        for Consumer { client, channel, tag } in self.consumers.lock().unwrap().drain(..) {
            client.lock().unwrap().write_all(&cancel(channel, &tag)).unwrap();
        }
    }

    /// The frame that cancels the last consumer.
    pub(crate) fn cancel_frame(&self) -> Vec<u8> {
        let consumers = self.consumers.lock().unwrap();
        let consumer = consumers.last().unwrap();
        cancel(consumer.channel, &consumer.tag)
    }
}

impl Frame {
    /// The class and the method, if it begins one.
    pub(crate) fn method(&self) -> Option<Method> {
        let number = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        (self.kind == METHOD).then(|| (number(0), number(2)))
    }

    /// Whether it holds data of a message.
    pub(crate) fn is_body(&self) -> bool {
        self.kind == BODY
    }

    /// A declaration of an exchange that asks only whether it exists.
    pub(crate) fn passive(&self) -> Vec<u8> {
        let mut payload = self.payload.clone();
        // The class, the method, and a reserved number; the name; the kind; the flags.
        let kind = 7 + usize::from(payload[6]);
        let flags = kind + 1 + usize::from(payload[kind]);
        payload[flags] |= 1;
        bytes(self.kind, self.channel, &payload)
    }

    fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut head = [0; 7];
        stream.read_exact(&mut head)?;
        let [kind, c1, c2, s1, s2, s3, s4] = head;
        let size = u32::from_be_bytes([s1, s2, s3, s4]);
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        stream.read_exact(&mut payload)?;
        assert_eq!(payload.pop(), Some(END));
        Ok(Self { kind, channel: u16::from_be_bytes([c1, c2]), payload })
    }

    fn bytes(&self) -> Vec<u8> {
        bytes(self.kind, self.channel, &self.payload)
    }
}

/// The frame with which a server says that it blocks publishers.
pub(crate) fn blocked_frame() -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 60];
    payload.extend(short("low on memory".as_bytes()));
    bytes(METHOD, 0, &payload)
}

fn cancel(channel: u16, tag: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(CANCEL.0.to_be_bytes());
    payload.extend(CANCEL.1.to_be_bytes());
    payload.extend(short(tag));
    // No answer is wanted.
    payload.push(1);
    bytes(METHOD, channel, &payload)
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn bytes(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    let [c1, c2] = channel.to_be_bytes();
    let mut bytes = vec![kind, c1, c2];
    bytes.extend(size.to_be_bytes());
    bytes.extend(payload);
    bytes.push(END);
    bytes
}

/// Passes the frames of one connection on, on threads of their own.
fn pass_on(
    client: TcpStream,
    server: TcpStream,
    rule: &Arc<Rule>,
    consumers: &Arc<Mutex<Vec<Consumer>>>,
) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let to_client: Client = Arc::new(Mutex::new(client.try_clone().unwrap()));
    let to_server = Arc::new(Mutex::new(server.try_clone().unwrap()));
    let (mut from_client, rules) = (client, Arc::clone(rule));
    thread::spawn(move || {
        let mut greeting = [0; GREETING];
        if from_client.read_exact(&mut greeting).is_ok() {
            to_server.lock().unwrap().write_all(&greeting).unwrap();
            copy(&mut from_client, &to_server, &*rules, |_| {});
        }
        end(&from_client, &to_server);
    });
    let (mut from_server, rules, consumers) = (server, Arc::clone(rule), Arc::clone(consumers));
    thread::spawn(move || {
        copy(&mut from_server, &to_client, &*rules, |frame| {
            if frame.method() == Some(CONSUME_OK) {
                let [_, _, _, _, length, tag @ ..] = &frame.payload[..] else { return };
                let tag = tag[..usize::from(*length)].to_vec();
                let client = Arc::clone(&to_client);
                consumers.lock().unwrap().push(Consumer { client, channel: frame.channel, tag });
            }
        });
        end(&from_server, &to_client);
    });
}

/// Copies frames until one side is gone.
fn copy(from: &mut TcpStream, to: &Mutex<TcpStream>, rule: &Rule, see: impl Fn(&Frame)) {
    while let Ok(frame) = Frame::read(from) {
        see(&frame);
        let bytes = match rule(&frame) {
            Verdict::Pass => frame.bytes(),
            Verdict::Withhold => continue,
            Verdict::Replace(other) => other,
            Verdict::Then(more) => [frame.bytes(), more].concat(),
        };
        if to.lock().unwrap().write_all(&bytes).is_err() {
            return;
        }
    }
}

fn end(from: &TcpStream, to: &Mutex<TcpStream>) {
    // The other side may be gone already.
    from.shutdown(Shutdown::Both).unwrap_or_default();
    to.lock().unwrap().shutdown(Shutdown::Both).unwrap_or_default();
}
