//! Whose XDP programs are on an interface: a single question, without following anything.

use std::collections::BTreeSet;

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage as Rtnl;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The ids of the XDP programs that are attached to an interface, in any mode and by any means; `None` where the kernel
/// does not say.
pub fn xdp_programs(interface: &str) -> Option<Vec<u32>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(interface.to_owned()));
    match ask(Rtnl::GetLink(message))? {
        Rtnl::NewLink(message) => Some(programs(&message)),
        _ => None,
    }
}

fn ask(request: Rtnl) -> Option<Rtnl> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE).ok()?;
    // The kernel answers while it is being asked, so there is nothing to wait for.
    socket.set_non_blocking(true).ok()?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    match NetlinkMessage::deserialize(&answer).ok()?.payload {
        NetlinkPayload::InnerMessage(answer) => Some(answer),
        _ => None,
    }
}

fn programs(message: &LinkMessage) -> Vec<u32> {
    let mut ids = BTreeSet::new();
    for attribute in &message.attributes {
        let LinkAttribute::Xdp(facts) = attribute else { continue };
        for fact in facts {
            // The first is one of the others, where there is only one.
            if let LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) = fact
            {
                ids.insert(*id);
            }
        }
    }
    ids.remove(&0);
    ids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_named_once() {
        let mut message = LinkMessage::default();
        assert!(programs(&message).is_empty());
        message.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::Xdp(vec![
                LinkXdp::ProgId(7),
                LinkXdp::SkbProgId(7),
                LinkXdp::DrvProgId(5),
                LinkXdp::HwProgId(0),
            ]),
        ];
        assert_eq!(programs(&message), [5, 7]);
    }
}
