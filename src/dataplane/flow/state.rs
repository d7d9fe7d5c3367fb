//! What a packet does to its flow's state: the client's half of TCP, and UDP.

use super::word::FlowState;

/// What a packet says about its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// TCP: SYN without ACK or RST. Opens a connection.
    Syn = 0,
    /// TCP: none of the others.
    Segment = 1,
    /// TCP: FIN without RST.
    Fin = 2,
    /// TCP: RST.
    Rst = 3,
    /// UDP.
    Datagram = 4,
    /// An ICMP error about the flow: says nothing about its state, and nothing about whether it lives.
    Error = 5,
}

impl Signal {
    /// From the TCP header's fourteenth byte (RFC 9293 §3.1). A client that accepts a member's RST has none to wait
    /// for, so RST beats FIN, and FIN beats SYN: what closes never opens.
    #[inline]
    pub const fn from_tcp_flags(flags: u8) -> Self {
        // By table: which flags come next cannot be predicted.
        BY_FLAGS[(flags & (FIN | SYN | RST | ACK)) as usize]
    }

    /// The state in which a flow that nobody has seen before begins with this packet; `None`: it does not.
    #[inline]
    pub const fn begins_as(self) -> Option<FlowState> {
        match self {
            // A segment in mid-stream: after a restart of ours, or from somebody who sends at random.
            Self::Syn | Self::Segment => Some(FlowState::Embryonic),
            // Its client's last words will come, and are to find the same member.
            Self::Fin => Some(FlowState::Closing),
            Self::Rst | Self::Error => None,
            Self::Datagram => Some(FlowState::Single),
        }
    }

    /// The state in which a flow goes on at another member, which does not know it, with this packet. A TCP connection
    /// is over: that member resets it, which is not seen here. But a SYN begins one.
    #[inline]
    pub const fn goes_on_elsewhere_as(self, state: FlowState) -> FlowState {
        match (self, state) {
            (_, FlowState::Single | FlowState::Stream) => state,
            (Self::Syn, _) => FlowState::Embryonic,
            _ => FlowState::Closing,
        }
    }

    /// Whether this packet, on an expired flow that is still there, is the first of a new one. (A TCP segment is not:
    /// its connection is alive at both ends, and its member is known.)
    #[inline]
    pub(super) const fn is_first_after_expiry(self) -> bool {
        matches!(self, Self::Syn | Self::Datagram)
    }

    /// Whether a packet that says this is worth writing down at all.
    #[inline]
    pub(super) const fn is_of_its_flow(self) -> bool {
        !matches!(self, Self::Error)
    }

    /// Whether a flow in this phase stays in it on this packet; never for a slot that has no flow.
    #[inline]
    pub(super) fn keeps(self, phase: usize) -> bool {
        KEEPS[self as usize] >> (phase & 7) & 1 != 0
    }

    /// The phase that follows this one on this packet; `AFRESH`: the packet is the first of another flow.
    #[inline]
    pub(super) fn next(self, phase: usize) -> u8 {
        NEXT[self as usize][phase & 7]
    }
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

const BY_FLAGS: [Signal; 1 + (FIN | SYN | RST | ACK) as usize] = {
    let mut signals = [Signal::Segment; 1 + (FIN | SYN | RST | ACK) as usize];
    let mut flags = 0;
    while flags < signals.len() {
        let bits = flags as u8;
        signals[flags] = if bits & RST != 0 {
            Signal::Rst
        } else if bits & FIN != 0 {
            Signal::Fin
        } else if bits & (SYN | ACK) == SYN {
            Signal::Syn
        } else {
            Signal::Segment
        };
        flags += 1;
    }
    signals
};

/// No state: the old flow is over and a new one begins.
pub(super) const AFRESH: u8 = 0;

/// By signal and phase. A VIP has one protocol, so a flow never sees the other one's signals: they change nothing.
const NEXT: [[u8; 8]; 6] = {
    const E: u8 = FlowState::Embryonic as u8;
    const T: u8 = FlowState::Established as u8;
    const C: u8 = FlowState::Closing as u8;
    const U: u8 = FlowState::Single as u8;
    const S: u8 = FlowState::Stream as u8;
    [
        // Free, busy, pending: no flow. Then embryonic, established, closing, single, stream.
        // SYN: again, as long as the first one was not answered; a connection that is up answers it by itself
        // (RFC 5961 §4); one that is over makes way (RFC 9293 §3.6.1: the client may use its port again).
        [0, 0, 0, E, T, AFRESH, U, S],
        // Segment. A half-closed connection stays closing for as long as its client acknowledges.
        [0, 0, 0, T, T, C, U, S],
        // FIN, RST.
        [0, 0, 0, C, C, C, U, S],
        [0, 0, 0, C, C, C, U, S],
        // Datagram.
        [0, 0, 0, E, T, C, S, S],
        // Error.
        [0, 0, 0, E, T, C, U, S],
    ]
};

/// By signal: the phases that stay as they are, a bit each.
const KEEPS: [u8; 6] = {
    let mut keeps = [0; 6];
    let mut signal = 0;
    while signal < keeps.len() {
        let mut phase = FlowState::Embryonic as usize;
        while phase < 8 {
            if NEXT[signal][phase] as usize == phase {
                keeps[signal] |= 1 << phase;
            }
            phase += 1;
        }
        signal += 1;
    }
    keeps
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_flags_say_what_they_say() {
        for (flags, signal) in [
            (0x02, Signal::Syn),
            (0xc2, Signal::Syn), // with ECN (RFC 3168 §6.1.1)
            (0x0a, Signal::Syn),
            (0x12, Signal::Segment),
            (0x10, Signal::Segment),
            (0x18, Signal::Segment),
            (0x00, Signal::Segment),
            (0x11, Signal::Fin),
            (0x01, Signal::Fin),
            (0x03, Signal::Fin),
            (0x04, Signal::Rst),
            (0x14, Signal::Rst),
            (0x07, Signal::Rst),
        ] {
            assert_eq!(Signal::from_tcp_flags(flags), signal, "{flags:#04x}");
        }
    }

    #[test]
    fn states_follow_the_clients_half() {
        use FlowState::{Closing, Embryonic, Established, Single, Stream};
        for (state, signal, next) in [
            (Embryonic, Signal::Syn, Some(Embryonic)),
            (Embryonic, Signal::Segment, Some(Established)),
            (Embryonic, Signal::Fin, Some(Closing)),
            (Embryonic, Signal::Rst, Some(Closing)),
            (Established, Signal::Syn, Some(Established)),
            (Established, Signal::Segment, Some(Established)),
            (Established, Signal::Fin, Some(Closing)),
            (Established, Signal::Rst, Some(Closing)),
            (Closing, Signal::Syn, None),
            (Closing, Signal::Segment, Some(Closing)),
            (Closing, Signal::Fin, Some(Closing)),
            (Closing, Signal::Rst, Some(Closing)),
            (Single, Signal::Datagram, Some(Stream)),
            (Stream, Signal::Datagram, Some(Stream)),
            (Embryonic, Signal::Error, Some(Embryonic)),
            (Established, Signal::Error, Some(Established)),
            (Closing, Signal::Error, Some(Closing)),
            (Single, Signal::Error, Some(Single)),
            (Stream, Signal::Error, Some(Stream)),
        ] {
            assert_eq!(signal.keeps(state as usize), next == Some(state), "{state:?} {signal:?}");
            let found = signal.next(state as usize);
            assert_eq!(found, next.map_or(AFRESH, |next| next as u8), "{state:?} {signal:?}");
        }
    }

    #[test]
    fn a_slot_without_a_flow_is_never_kept() {
        use Signal::{Datagram, Error, Fin, Rst, Segment, Syn};
        for signal in [Syn, Segment, Fin, Rst, Datagram, Error] {
            assert!((0..FlowState::Embryonic as usize).all(|phase| !signal.keeps(phase)), "{signal:?}");
        }
    }

    #[test]
    fn a_reset_never_begins_a_flow() {
        assert_eq!(Signal::Rst.begins_as(), None);
        assert_eq!(Signal::Error.begins_as(), None);
    }

    #[test]
    fn a_flow_that_begins_with_its_end_does_not_live_long() {
        assert_eq!(Signal::Fin.begins_as(), Some(FlowState::Closing));
    }

    #[test]
    fn a_connection_is_over_when_its_member_is_another() {
        use FlowState::{Closing, Embryonic, Established, Single, Stream};
        for (signal, before, after) in [
            (Signal::Syn, Embryonic, Embryonic),
            (Signal::Segment, Embryonic, Closing),
            (Signal::Segment, Established, Closing),
            (Signal::Fin, Established, Closing),
            (Signal::Syn, Established, Embryonic),
            (Signal::Segment, Closing, Closing),
            (Signal::Datagram, Single, Single),
            (Signal::Datagram, Stream, Stream),
        ] {
            assert_eq!(signal.goes_on_elsewhere_as(before), after, "{signal:?} {before:?}");
        }
    }
}
