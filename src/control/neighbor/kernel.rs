//! Netlink: questions to the kernel, and what it says unasked. Decides nothing.
//!
//! Two sockets: one hears events, the other asks, one question at a time. So a burst of events can overflow only the
//! first, and no answer is lost.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage as Rtnl;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::neighbour_table::NeighbourTableMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::proto::{Connection, ConnectionHandle, new_connection};
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::task::JoinSet;

use super::entries::{Asked, Hop, Status};
use super::state::{Event, LinkState, OwnAddress, Route};
use super::{Unresolved, WatchError, decode};

/// The kernel answers in microseconds, or milliseconds when it walks a large table. Only a broken socket takes this
/// long.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of events that may wait in the socket: some 4000 of them (each takes about 1 KiB there). Less loses events
/// when a routing daemon loads its table, which costs a full reading; more is kernel memory that nobody needs.
const EVENT_BUFFER: usize = 4 << 20;

/// How often a dump is repeated that the kernel marks as inconsistent. Should it never be consistent, the events that
/// made it so set it right.
const DUMP_TRIES: usize = 3;

/// What the events socket hears.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Neigh,
];

/// The kernel's route netlink.
pub(super) struct Kernel {
    requests: ConnectionHandle<Message>,
    events: Events,
    /// Message types that could not be read and were complained about.
    complained: BTreeSet<u16>,
    /// The two connections. They end with this.
    _connections: JoinSet<()>,
}

type Events = Pin<Box<dyn Stream<Item = (NetlinkMessage<Message>, SocketAddr)> + Send>>;

impl Kernel {
    /// Opens both sockets, in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, WatchError> {
        let (mut events_connection, _, events) = new_connection(NETLINK_ROUTE).map_err(WatchError::Open)?;
        listen(&mut events_connection).map_err(WatchError::Open)?;
        let (mut request_connection, requests, _) = new_connection(NETLINK_ROUTE).map_err(WatchError::Open)?;
        // Otherwise the end of an answer and the end of the connection look the same.
        request_connection.set_forward_ack(true);
        request_connection.set_forward_done(true);
        let mut connections = JoinSet::new();
        connections.spawn(events_connection);
        connections.spawn(request_connection);
        Ok(Self { requests, events: Box::pin(events), complained: BTreeSet::new(), _connections: connections })
    }

    /// Waits for the next event. May be dropped at any time without losing one.
    pub(super) async fn event(&mut self) -> Result<Event, WatchError> {
        loop {
            let (message, _) = self.events.next().await.ok_or(WatchError::Closed)?;
            if let Some(event) = self.decode_event(message) {
                return Ok(event);
            }
        }
    }

    /// An event that has arrived already.
    pub(super) fn event_now(&mut self) -> Result<Option<Event>, WatchError> {
        self.event().now_or_never().transpose()
    }

    /// All interfaces.
    pub(super) async fn links(&mut self) -> Result<Vec<LinkState>, WatchError> {
        let answers = self.dump("links", Rtnl::GetLink(LinkMessage::default())).await?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            Rtnl::NewLink(message) => decode::link(&message),
            _ => None,
        });
        Ok(links.collect())
    }

    /// All IPv4 addresses of this host.
    pub(super) async fn addresses(&mut self) -> Result<Vec<OwnAddress>, WatchError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self.dump("addresses", Rtnl::GetAddress(message)).await?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            Rtnl::NewAddress(message) => decode::address(&message),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// How often a neighbour table was full, since the machine started.
    pub(super) async fn table_fulls(&mut self) -> Result<u64, WatchError> {
        let mut message = NeighbourTableMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self.dump("neighbour table statistics", Rtnl::GetNeighbourTable(message)).await?;
        let tables = answers.iter().map(|answer| match answer {
            Rtnl::NewNeighbourTable(message) => decode::table_fulls(message),
            _ => 0,
        });
        Ok(tables.sum())
    }

    /// What the kernel would do with a packet of this host to `target`.
    pub(super) async fn route(&mut self, target: Ipv4Addr) -> Result<Result<Route, Unresolved>, WatchError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(target)));
        Ok(match self.ask("route lookup", Rtnl::GetRoute(message), NLM_F_REQUEST).await? {
            Answer::Is(Rtnl::NewRoute(message)) => decode::route(target, &message),
            Answer::Is(_) | Answer::Done | Answer::Unreadable => Err(Unresolved::Unreadable),
            Answer::Error(errno) => Err(decode::route_error(errno)),
        })
    }

    /// What the kernel has about a neighbour. Makes it do nothing.
    pub(super) async fn neighbor(&mut self, hop: Hop) -> Result<Status, WatchError> {
        let request = Rtnl::GetNeighbour(neighbor_message(hop));
        Ok(match self.ask("neighbour entry", request, NLM_F_REQUEST).await? {
            Answer::Is(Rtnl::NewNeighbour(message)) => {
                decode::neighbor(&message).map_or(Status::Absent, |(_, status)| status)
            }
            // No such entry, or no such interface any more.
            _ => Status::Absent,
        })
    }

    /// Makes the kernel treat a neighbour as if it had a packet for it: resolve it, or verify a stale entry. (What
    /// `ip neighbor … use` does.)
    ///
    /// Not for entries that are `PERMANENT`: `NTF_USE` takes that away (`__neigh_update` in `net/core/neighbour.c`).
    pub(super) async fn use_neighbor(&mut self, hop: Hop) -> Result<Asked, WatchError> {
        let mut message = neighbor_message(hop);
        message.header.flags = NeighbourFlags::Use;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        Ok(match self.ask("neighbour use", Rtnl::NewNeighbour(message), flags).await? {
            Answer::Error(nix::libc::ENOBUFS) => Asked::TableFull,
            Answer::Error(errno) => Asked::Refused(errno),
            _ => Asked::Accepted,
        })
    }

    fn decode_event(&mut self, message: NetlinkMessage<Message>) -> Option<Event> {
        match message.payload {
            NetlinkPayload::Overrun(_) => Some(Event::Overrun),
            NetlinkPayload::InnerMessage(Message::Known(message)) => decode::event(&message),
            NetlinkPayload::InnerMessage(Message::Unreadable { kind, why }) => {
                self.complain(kind, &why);
                decode::unreadable_event(kind)
            }
            _ => None,
        }
    }

    /// A question with one answer.
    async fn ask(&mut self, what: &'static str, request: Rtnl, flags: u16) -> Result<Answer, WatchError> {
        let mut answers = self.send(request, flags)?;
        let answer = next(&mut answers, what).await?;
        Ok(self.read(answer))
    }

    /// A question with many answers.
    async fn dump(&mut self, what: &'static str, request: Rtnl) -> Result<Vec<Rtnl>, WatchError> {
        let mut answers = Vec::new();
        for _ in 0..DUMP_TRIES {
            let (found, consistent) = self.dump_once(what, request.clone()).await?;
            answers = found;
            if consistent {
                break;
            }
        }
        Ok(answers)
    }

    async fn dump_once(&mut self, what: &'static str, request: Rtnl) -> Result<(Vec<Rtnl>, bool), WatchError> {
        let mut stream = self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut answers = Vec::new();
        let mut consistent = true;
        loop {
            let message = next(&mut stream, what).await?;
            consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match self.read(message) {
                Answer::Is(answer) => answers.push(answer),
                Answer::Done => return Ok((answers, consistent)),
                Answer::Error(errno) => return Err(WatchError::Refused(what, io::Error::from_raw_os_error(errno))),
                Answer::Unreadable => {}
            }
        }
    }

    fn send(
        &self,
        request: Rtnl,
        flags: u16,
    ) -> Result<impl Stream<Item = NetlinkMessage<Message>> + use<>, WatchError> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Message::Known(request)));
        self.requests.request(request, SocketAddr::new(0, 0)).map_err(|_| WatchError::Closed)
    }

    fn read(&mut self, message: NetlinkMessage<Message>) -> Answer {
        match message.payload {
            NetlinkPayload::InnerMessage(Message::Known(message)) => Answer::Is(message),
            NetlinkPayload::InnerMessage(Message::Unreadable { kind, why }) => {
                self.complain(kind, &why);
                Answer::Unreadable
            }
            NetlinkPayload::Error(error) => match error.code {
                Some(code) => Answer::Error(code.get().saturating_abs()),
                None => Answer::Done,
            },
            NetlinkPayload::Done(done) if done.code < 0 => Answer::Error(done.code.saturating_abs()),
            _ => Answer::Done,
        }
    }

    fn complain(&mut self, kind: u16, why: &str) {
        if self.complained.insert(kind) {
            tracing::warn!("cannot read a netlink message of type {kind} from the kernel, nor others like it: {why}");
        }
    }
}

enum Answer {
    Is(Rtnl),
    /// Acknowledged, or the end of a dump.
    Done,
    /// An error number.
    Error(i32),
    Unreadable,
}

/// A message that is there even if its content cannot be read: a request whose answer vanished would wait for ever, and
/// an event that vanished would leave old facts standing.
#[derive(Debug, Clone)]
enum Message {
    Known(Rtnl),
    Unreadable { kind: u16, why: String },
}

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(match Rtnl::deserialize(header, payload) {
            Ok(message) => Self::Known(message),
            Err(error) => Self::Unreadable { kind: header.message_type, why: error.to_string() },
        })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Known(message) => message.message_type(),
            Self::Unreadable { kind, .. } => *kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Known(message) => NetlinkSerializable::buffer_len(message),
            Self::Unreadable { .. } => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Known(message) = self {
            message.serialize(buffer);
        }
    }
}

async fn next(
    answers: &mut (impl Stream<Item = NetlinkMessage<Message>> + Unpin),
    what: &'static str,
) -> Result<NetlinkMessage<Message>, WatchError> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, answers.next()).await;
    answer.map_err(|_| WatchError::Silent(what))?.ok_or(WatchError::Closed)
}

fn listen(connection: &mut Connection<Message>) -> io::Result<()> {
    let socket = connection.socket_mut().socket_mut();
    // Beyond `net.core.rmem_max` needs CAP_NET_ADMIN; less room only means more full readings.
    if setsockopt(socket, sockopt::RcvBufForce, &EVENT_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &EVENT_BUFFER)?;
    }
    let groups = GROUPS.iter().fold(0, |groups, &group| groups | 1 << (group as u32 - 1));
    socket.bind(&SocketAddr::new(0, groups))
}

fn neighbor_message(hop: Hop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = hop.index;
    message.attributes.push(NeighbourAttribute::Destination(hop.address.into()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: u16, payload: &[u8]) -> Message {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        let Ok(message) = Message::deserialize(&header, payload);
        message
    }

    #[test]
    fn a_message_that_cannot_be_read_is_still_there() {
        assert!(matches!(read(nix::libc::RTM_NEWROUTE, &[2, 32]), Message::Unreadable { kind: 24, .. }));
        assert!(matches!(read(9999, &[]), Message::Unreadable { kind: 9999, .. }));
        let all_routes = Event::Routes { network: Ipv4Addr::UNSPECIFIED, length: 0 };
        assert_eq!(decode::unreadable_event(nix::libc::RTM_NEWROUTE), Some(all_routes));
        assert_eq!(decode::unreadable_event(9999), None);
    }
}
