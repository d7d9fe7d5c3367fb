//! Where a packet's walk ends: a closed set of named verdicts.
//!
//! The name of a [`DropReason`] is at the same time the label of its counter, the word in logs and status, and the
//! row in `docs/drops.md`.

use super::ids::{MemberId, VipId};

/// What becomes of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it on to this member, out of the interface that its next hop is on.
    Transmit(MemberId),
    /// Turn it around: the frame becomes our answer and leaves where it came in.
    Answer(Answer),
    /// Forget it; the reason is counted.
    Drop(DropReason),
}

/// An answer that this node gives by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An ARP reply: "this VIP is at our MAC" (RFC 826).
    ArpReply,
    /// An ICMP echo reply from a VIP (RFC 792).
    EchoReply,
}

/// What is to become of a packet, and what is to be remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where its walk ends.
    pub verdict: Verdict,
    /// What follows from it besides.
    pub effects: Effects,
}

/// What a packet leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// The VIP that the packet is counted for.
    pub vip: Option<VipId>,
    /// Another host's claim to a VIP's address.
    pub conflict: Option<Conflict>,
    /// What becomes of the packet's flow in the connection table.
    pub flow: FlowEffect,
}

/// What a packet does to the connection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)] // One byte, that a register takes: anything larger would go through memory for every packet.
pub enum FlowEffect {
    /// Nothing.
    #[default]
    None,
    /// Its flow is known, and its state or the moment it was last seen changes.
    Advance,
    /// Its flow is new, and the budget for new flows is spent: it goes where hashing, or persistence, sends its later
    /// packets, too, as long as persistence learns nothing new of its client.
    Hashed,
    /// Its flow is new, and is entered with the verdict's member if there is room. If not, it goes there all the same, as
    /// in `Hashed`.
    Insert,
    /// The same with a member that only the entry would name: if the flow is not entered, it goes where its later
    /// packets will.
    InsertScheduled,
    /// The same, and its VIP's next turn is taken: if another worker was quicker, the member is that turn's.
    InsertInTurn,
    /// It is entered in the place of an earlier flow between the same ports: that takes no room, and asks for no budget.
    TakeOver,
    /// The same, and its VIP's next turn is taken.
    TakeOverInTurn,
    /// Its flow is known, and its member cannot be reached any more: the verdict's member takes over.
    Rebind,
    /// No flow is entered (the VIP's mode is one packet): only persistence remembers the client.
    Pass,
    /// The same, and its VIP's next turn is taken.
    PassInTurn,
    /// Its flow is known, its member cannot be reached any more, and it is forgotten.
    Forget,
}

/// Another host claims a VIP's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The VIP's address.
    pub address: u32,
    /// The MAC of who claims it.
    pub mac: [u8; 6],
}

impl Decision {
    pub(super) fn plain(verdict: Verdict) -> Self {
        Self { verdict, effects: Effects::default() }
    }
}

macro_rules! drop_reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal, )+) => {
        /// Why a packet was dropped. Closed: there is no "other".
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $( $(#[doc = $doc])+ $variant, )+ }

        impl DropReason {
            /// Every reason, in the order of the packet's walk.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: counter label, log word, JSON value.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }

            /// One sentence for a human.
            pub const fn explanation(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc,)+).trim_ascii(), )+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame is shorter than an Ethernet header (14 bytes).
    EthernetTruncated = "ethernet_truncated",
    /// The frame's destination MAC is not this interface's: a switch flooded it.
    OtherHost = "other_host",
    /// The frame carries a VLAN tag (802.1Q, 802.1ad); tagged traffic is not served.
    VlanTagged = "vlan_tagged",
    /// The EtherType is neither IPv4 nor ARP.
    EtherTypeUnknown = "ether_type_unknown",
    /// The frame ends before the IPv4 header does.
    Ipv4Truncated = "ipv4_truncated",
    /// The EtherType says IPv4 and the version field says otherwise.
    Ipv4Version = "ipv4_version",
    /// The IPv4 header length field is below 20 bytes.
    Ipv4HeaderLength = "ipv4_header_length",
    /// The IPv4 total length is below the header's own length or beyond the end of the frame.
    Ipv4TotalLength = "ipv4_total_length",
    /// A fragment of an IPv4 packet; fragments are not served yet.
    Ipv4Fragment = "ipv4_fragment",
    /// The IPv4 protocol is none of TCP, UDP and ICMP.
    ProtocolUnknown = "protocol_unknown",
    /// The packet ends before the TCP header does.
    TcpTruncated = "tcp_truncated",
    /// The TCP data offset is below 20 bytes.
    TcpDataOffset = "tcp_data_offset",
    /// The packet ends before the UDP header does.
    UdpTruncated = "udp_truncated",
    /// The UDP length is below 8 bytes or beyond the end of the packet.
    UdpLength = "udp_length",
    /// The packet ends before the ICMP header does.
    IcmpTruncated = "icmp_truncated",
    /// The ARP packet is too short or not about IPv4 over Ethernet.
    ArpMalformed = "arp_malformed",
    /// An ARP packet that is not about a VIP this node announces.
    ArpNotOurs = "arp_not_ours",
    /// Another host claims a VIP's address (the control thread raises the alarm).
    ArpConflict = "arp_conflict",
    /// An ICMP message to a VIP that is neither an echo request nor an error.
    IcmpUnhandled = "icmp_unhandled",
    /// An ICMP error whose embedded packet did not come from one of our VIPs.
    IcmpUnrelated = "icmp_unrelated",
    /// The destination address is not a VIP's.
    NoVip = "no_vip",
    /// The destination address is a VIP's, but nobody serves this protocol and port on it.
    NoService = "no_service",
    /// The VIP's pool has no member that could take the packet.
    NoMember = "no_member",
    /// The packet begins a flow, and its VIP has as many as its `connection_limit` allows.
    ConnectionLimit = "connection_limit",
    /// Every member of the VIP's pool that could take a new flow has too many.
    MembersOverloaded = "members_overloaded",
    /// The flow's member cannot be reached, and its pool keeps flows where they are (`on_member_down = "keep"`).
    MemberDownKept = "member_down_kept",
    /// The flow's member could not be reached any more, and the flow was forgotten (`on_member_down = "drop"`).
    MemberDownDropped = "member_down_dropped",
    /// The packet is larger than the MTU on the way to its member.
    Oversize = "oversize",
    /// In a tunnel, the packet and its outer header are larger than the MTU on the way to its member.
    TunnelOversize = "tunnel_oversize",
    /// The packet's TTL is 0, and such a packet may not enter a tunnel (RFC 2003 §3.1).
    TunnelTtlZero = "tunnel_ttl_zero",
    /// The packet's source is an end of the tunnel that it would be sent into: a loop (RFC 2003 §3.2).
    TunnelLoop = "tunnel_loop",
    /// The frame has no room in front for an outer header.
    NoHeadroom = "no_headroom",
    /// The interface that leads to the member is not one of the listed ones.
    NoEgress = "no_egress",
    /// The tx ring was full: more was to be sent than the interface takes.
    TxRingFull = "tx_ring_full",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_metric_labels_and_every_reason_explains_itself() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{reason:?} indexes its own counter");
            assert!(
                reason.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
            );
            assert!(reason.explanation().ends_with('.'));
        }
    }

    #[test]
    fn every_reason_has_its_row_in_the_docs() {
        let docs = include_str!("../../docs/drops.md");
        for reason in DropReason::ALL {
            let row = format!("| `{}` | {} |", reason.name(), reason.explanation());
            assert!(docs.contains(&row), "docs/drops.md lacks the row: {row}");
        }
    }
}
