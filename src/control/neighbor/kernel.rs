//! Netlink: questions to the kernel, and what it says unasked. Decides nothing.
//!
//! Two sockets: one hears events, the other asks ([`questions`](super::questions)). So a burst of events can overflow
//! only the first, and no answer is lost.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;

use futures_util::{FutureExt, Stream, StreamExt};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage as Rtnl;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::neighbour_table::NeighbourTableMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::proto::{Connection, new_connection};
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::task::JoinSet;

use super::entries::{Asked, Hop, Status};
use super::message::Message;
use super::questions::{Answer, Questions};
use super::state::{Event, LinkState, OwnAddress, Route};
use super::{Unresolved, WatchError, decode};

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
    questions: Questions,
    events: Events,
    /// Message types that could not be read and were complained about.
    complained: BTreeSet<u16>,
    /// Reads the events' socket. It ends with this.
    _connection: JoinSet<()>,
}

type Events = Pin<Box<dyn Stream<Item = (NetlinkMessage<Message>, SocketAddr)> + Send>>;

impl Kernel {
    /// Opens both sockets, in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, WatchError> {
        let (mut connection, _, events) = new_connection(NETLINK_ROUTE).map_err(WatchError::Open)?;
        listen(&mut connection).map_err(WatchError::Open)?;
        let questions = Questions::open().map_err(WatchError::Open)?;
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        Ok(Self { questions, events: Box::pin(events), complained: BTreeSet::new(), _connection: connections })
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

    /// What the kernel would do with packets of this host to `targets`, in their order.
    pub(super) async fn routes(&mut self, targets: &[Ipv4Addr]) -> Result<Vec<Result<Route, Unresolved>>, WatchError> {
        let questions = targets.iter().map(|&target| Rtnl::GetRoute(route_message(target))).collect();
        let answers = self.questions.ask("route lookup", NLM_F_REQUEST, questions).await?;
        let routes = targets.iter().zip(answers).map(|(&target, answer)| match answer {
            Answer::Error(errno) => Err(decode::route_error(errno)),
            answer => match self.known(answer) {
                Some(Rtnl::NewRoute(message)) => decode::route(target, &message),
                _ => Err(Unresolved::Unreadable),
            },
        });
        Ok(routes.collect())
    }

    /// What the kernel has about neighbours, in their order. Makes it do nothing.
    pub(super) async fn neighbors(&mut self, hops: &[Hop]) -> Result<Vec<Status>, WatchError> {
        let questions = hops.iter().map(|&hop| Rtnl::GetNeighbour(neighbor_message(hop))).collect();
        let answers = self.questions.ask("neighbour entry", NLM_F_REQUEST, questions).await?;
        let statuses = answers.into_iter().map(|answer| match self.known(answer) {
            Some(Rtnl::NewNeighbour(message)) => {
                decode::neighbor(&message).map_or(Status::Absent, |(_, status)| status)
            }
            // No such entry, or no such interface any more.
            _ => Status::Absent,
        });
        Ok(statuses.collect())
    }

    /// Makes the kernel treat neighbours as if it had packets for them: resolve them, or verify stale entries. (What
    /// `ip neighbor … use` does.)
    ///
    /// Not for entries that are `PERMANENT`: `NTF_USE` takes that away (`__neigh_update` in `net/core/neighbour.c`).
    pub(super) async fn use_neighbors(&mut self, hops: &[Hop]) -> Result<Vec<Asked>, WatchError> {
        let question = |&hop: &Hop| {
            let mut message = neighbor_message(hop);
            message.header.flags = NeighbourFlags::Use;
            Rtnl::NewNeighbour(message)
        };
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let answers = self.questions.ask("neighbour use", flags, hops.iter().map(question).collect()).await?;
        let outcomes = answers.into_iter().map(|answer| match answer {
            Answer::Error(nix::libc::ENOBUFS) => Asked::TableFull,
            Answer::Error(errno) => Asked::Refused(errno),
            Answer::Done | Answer::Is(_) => Asked::Accepted,
        });
        Ok(outcomes.collect())
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
        let mut entries = Vec::new();
        let mut consistent = true;
        for (flags, answer) in self.questions.dump(what, request).await? {
            consistent &= flags & NLM_F_DUMP_INTR == 0;
            if let Answer::Error(errno) = answer {
                return Err(WatchError::Refused(what, io::Error::from_raw_os_error(errno)));
            }
            entries.extend(self.known(answer));
        }
        Ok((entries, consistent))
    }

    /// The content of an answer, if there is one and it can be read.
    fn known(&mut self, answer: Answer) -> Option<Rtnl> {
        match answer {
            Answer::Is(Message::Known(message)) => Some(message),
            Answer::Is(Message::Unreadable { kind, why }) => {
                self.complain(kind, &why);
                None
            }
            Answer::Done | Answer::Error(_) => None,
        }
    }

    fn complain(&mut self, kind: u16, why: &str) {
        if self.complained.insert(kind) {
            tracing::warn!("cannot read a netlink message of type {kind} from the kernel, nor others like it: {why}");
        }
    }
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

fn route_message(target: Ipv4Addr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(target)));
    message
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

    #[test]
    fn an_event_that_cannot_be_read_may_have_changed_any_route() {
        let all_routes = Event::Routes { network: Ipv4Addr::UNSPECIFIED, length: 0 };
        assert_eq!(decode::unreadable_event(nix::libc::RTM_NEWROUTE), Some(all_routes));
        assert_eq!(decode::unreadable_event(9999), None);
    }
}
