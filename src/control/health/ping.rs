//! ICMP echo (RFC 792) for all members over one raw socket, which `CAP_NET_RAW` opens.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use etherparse::checksum::Sum16BitWords;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::outcome::{Bad, Deadline, Good, Outcome};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;

/// Type, code, checksum, identifier, sequence number; then what nobody else can know.
const LENGTH: usize = 8 + 8;

/// Asks and hears for all ping checks.
#[derive(Debug)]
pub(super) struct Pinger {
    /// A raw one: `UdpSocket` is but a way to wait for it.
    socket: Arc<UdpSocket>,
    shared: Arc<Mutex<Waiting>>,
    identifier: u16,
    secret: RandomState,
    listener: AbortHandle,
}

/// Who waits for which sequence number.
#[derive(Debug, Default)]
struct Waiting {
    next: u16,
    asked: HashMap<u16, Asked>,
}

/// An echo, or what an ICMP error says.
type Answer = Result<(), String>;

#[derive(Debug)]
struct Asked {
    target: Ipv4Addr,
    token: [u8; 8],
    answer: oneshot::Sender<Answer>,
}

/// What came in about an echo of ours.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Reply { from: Ipv4Addr, sequence: u16, token: [u8; 8] },
    Error { target: Ipv4Addr, sequence: u16, why: String },
}

impl Pinger {
    /// Opens the socket; to be called inside the runtime.
    pub(super) fn open() -> io::Result<Pinger> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))?);
        let shared = Arc::new(Mutex::new(Waiting::default()));
        let secret = RandomState::new();
        let identifier = secret.hash_one("identifier") as u16;
        let listener = tokio::spawn(listen(Arc::clone(&socket), Arc::clone(&shared), identifier)).abort_handle();
        Ok(Pinger { socket, shared, identifier, secret, listener })
    }

    pub(super) async fn check(&self, target: Ipv4Addr, deadline: &Deadline) -> Outcome {
        let (sequence, token, heard) = self.expect(target)?;
        let asked = Forgotten { shared: &self.shared, sequence };
        let message = echo(self.identifier, sequence, token);
        self.socket.send_to(&message, SocketAddrV4::new(target, 0)).await?;
        let answer = deadline.keep("waiting for the echo", heard).await;
        drop(asked);
        match answer? {
            Ok(Ok(())) => Ok(Good::default()),
            Ok(Err(why)) => Bad::failed(why),
            // Only when the listener has ended.
            Err(_) => Err(Bad::Skipped("the ICMP socket was closed".to_owned())),
        }
    }

    /// A sequence number that nobody else waits for.
    fn expect(&self, target: Ipv4Addr) -> Result<(u16, [u8; 8], oneshot::Receiver<Answer>), Bad> {
        let mut waiting = lock(&self.shared);
        if waiting.asked.len() > usize::from(u16::MAX) {
            return Err(Bad::Skipped("65536 echoes are under way".to_owned()));
        }
        let sequence = loop {
            waiting.next = waiting.next.wrapping_add(1);
            if !waiting.asked.contains_key(&waiting.next) {
                break waiting.next;
            }
        };
        let token = self.secret.hash_one((target, sequence)).to_be_bytes();
        let (answer, heard) = oneshot::channel();
        waiting.asked.insert(sequence, Asked { target, token, answer });
        Ok((sequence, token, heard))
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Nobody waits any more, also when the check is given up.
struct Forgotten<'a> {
    shared: &'a Mutex<Waiting>,
    sequence: u16,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        lock(self.shared).asked.remove(&self.sequence);
    }
}

fn lock(shared: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket hears all ICMP that reaches this host; most of it is not ours.
async fn listen(socket: Arc<UdpSocket>, shared: Arc<Mutex<Waiting>>, identifier: u16) {
    // More than a header, an error's and the echo in it.
    let mut buffer = [0; 576];
    loop {
        if let Ok(length) = socket.recv(&mut buffer).await
            && let Some(heard) = parse(&buffer[..length], identifier)
        {
            lock(&shared).hear(heard);
        }
    }
}

impl Waiting {
    fn hear(&mut self, heard: Heard) {
        let (sequence, answer) = match heard {
            Heard::Reply { from, sequence, token } => {
                let is_it = self.asked.get(&sequence).is_some_and(|asked| asked.target == from && asked.token == token);
                if !is_it {
                    return;
                }
                (sequence, Ok(()))
            }
            Heard::Error { target, sequence, why } => {
                if self.asked.get(&sequence).is_none_or(|asked| asked.target != target) {
                    return;
                }
                (sequence, Err(why))
            }
        };
        if let Some(asked) = self.asked.remove(&sequence) {
            // It may have given up in this very moment.
            let _ = asked.answer.send(answer);
        }
    }
}

fn echo(identifier: u16, sequence: u16, token: [u8; 8]) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = ECHO;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..].copy_from_slice(&token);
    // RFC 1071; `to_be_bytes` since etherparse sums native words of what it is given in network order.
    let sum = Sum16BitWords::new().add_slice(&message).ones_complement();
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    message
}

/// What an IPv4 packet with ICMP says about an echo with this identifier.
fn parse(packet: &[u8], identifier: u16) -> Option<Heard> {
    let (from, _, icmp) = split(packet)?;
    let (&kind, &code) = (icmp.first()?, icmp.get(1)?);
    match kind {
        ECHO_REPLY => {
            let (theirs, sequence) = echo_of(icmp)?;
            let token = icmp.get(8..16)?.try_into().ok()?;
            (theirs == identifier).then_some(Heard::Reply { from, sequence, token })
        }
        UNREACHABLE | TIME_EXCEEDED => {
            // The packet that could not be delivered: its header and eight bytes at least.
            let (_, target, inner) = split(icmp.get(8..)?)?;
            let (theirs, sequence) = echo_of(inner)?;
            let is_ours = theirs == identifier && inner.first() == Some(&ECHO);
            is_ours.then(|| Heard::Error { target, sequence, why: format!("{} (by {from})", reason(kind, code)) })
        }
        _ => None,
    }
}

/// Source, destination and ICMP message of an IPv4 packet.
fn split(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let first = *packet.first()?;
    let length = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || length < 20 || *packet.get(9)? != 1 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    Some((address(12)?, address(16)?, packet.get(length..)?))
}

fn echo_of(icmp: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(icmp.get(at..at + 2)?.try_into().ok()?));
    Some((word(4)?, word(6)?))
}

/// RFC 792, RFC 1812 §5.2.7.1.
fn reason(kind: u8, code: u8) -> &'static str {
    match (kind, code) {
        (TIME_EXCEEDED, _) => "time to live exceeded",
        (_, 0) => "network unreachable",
        (_, 1) => "host unreachable",
        (_, 2) => "protocol unreachable",
        (_, 9 | 10 | 13) => "administratively prohibited",
        _ => "destination unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: [u8; 4] = [192, 0, 2, 1];
    const MEMBER: [u8; 4] = [192, 0, 2, 7];
    const ROUTER: [u8; 4] = [192, 0, 2, 254];
    const TOKEN: [u8; 8] = *b"whatever";

    /// With a header of 24 bytes, to see that its length is looked at.
    fn packet(from: [u8; 4], to: [u8; 4], icmp: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend([1, 1, 1, 0]);
        bytes.extend(icmp);
        bytes
    }

    #[test]
    fn an_echo_is_what_the_rfc_says() {
        let message = echo(0x1234, 0x0005, TOKEN);
        assert_eq!(message[..2], [8, 0]);
        assert_eq!(message[4..8], [0x12, 0x34, 0, 5]);
        // RFC 1071: the sum over everything, checksum included, is all ones.
        let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn what_is_heard() {
        let mut reply = echo(7, 9, TOKEN);
        reply[0] = ECHO_REPLY;
        let mut unreachable = vec![UNREACHABLE, 1, 0, 0, 0, 0, 0, 0];
        unreachable.extend(packet(US, MEMBER, &echo(7, 9, TOKEN)[..8]));
        let mut of_reply = unreachable.clone();
        of_reply[8 + 24] = ECHO_REPLY;
        let error =
            Heard::Error { target: MEMBER.into(), sequence: 9, why: "host unreachable (by 192.0.2.254)".into() };
        let rows = [
            (
                "a reply",
                packet(MEMBER, US, &reply),
                7,
                Some(Heard::Reply { from: MEMBER.into(), sequence: 9, token: TOKEN }),
            ),
            ("somebody else's", packet(MEMBER, US, &reply), 8, None),
            ("an echo", packet(MEMBER, US, &echo(7, 9, TOKEN)), 7, None),
            ("a short reply", packet(MEMBER, US, &reply[..12]), 7, None),
            ("an error", packet(ROUTER, US, &unreachable), 7, Some(error)),
            ("an error about a reply", packet(ROUTER, US, &of_reply), 7, None),
            ("an error about half a header", packet(ROUTER, US, &unreachable[..20]), 7, None),
            ("nothing", Vec::new(), 7, None),
        ];
        for (what, bytes, identifier, expected) in rows {
            assert_eq!(parse(&bytes, identifier), expected, "{what}");
        }
    }
}
