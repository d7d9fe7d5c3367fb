//! An entry's second word: everything that is known of a flow, so that one compare-and-swap changes it.
//!
//! ```text
//!  bits   0..20  member id
//!        20..36  destination port; 0 on a VIP with a port of its own
//!        36..59  tick in which the flow was last seen
//!        59..62  phase
//!        62..64  marks; they belong to the line, and only its first entry's are used
//! ```

use super::super::ids::MemberId;
use super::time::Tick;

const MEMBER_BITS: u32 = 20;
const PORT_SHIFT: u32 = MEMBER_BITS;
const TICK_SHIFT: u32 = PORT_SHIFT + 16;
const PHASE_SHIFT: u32 = TICK_SHIFT + Tick::BITS;
const MARKS_SHIFT: u32 = PHASE_SHIFT + 3;

/// The members that a table can name: ids below this.
pub const MEMBERS: u32 = 1 << MEMBER_BITS;
const _: () = assert!(MEMBERS as usize == MemberId::MOST);

/// Both marks of a line.
pub(super) const MARKS: u64 = 0b11 << MARKS_SHIFT;

/// What an entry is at, or what its slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nobody's.
    Free = 0,
    /// Claimed: its key is being replaced.
    Busy = 1,
    /// It has its key, and its maker makes sure that there is no other entry of that key.
    Pending = 2,
    /// A live entry's state, from here on.
    Embryonic = 3,
    Established = 4,
    Closing = 5,
    Single = 6,
    Stream = 7,
}

/// How far a flow has come, as told by the client's half alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// TCP: a SYN, or one packet in mid-stream, and nothing more.
    Embryonic = Phase::Embryonic as u8,
    /// TCP: more came after that.
    Established = Phase::Established as u8,
    /// TCP: a FIN or RST came.
    Closing = Phase::Closing as u8,
    /// UDP: one datagram and nothing more.
    Single = Phase::Single as u8,
    /// UDP: more than one datagram.
    Stream = Phase::Stream as u8,
}

impl FlowState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Embryonic, Self::Established, Self::Closing, Self::Single, Self::Stream];

    #[inline]
    pub(super) const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            3 => Some(Self::Embryonic),
            4 => Some(Self::Established),
            5 => Some(Self::Closing),
            6 => Some(Self::Single),
            7 => Some(Self::Stream),
            _ => None,
        }
    }

    /// The word for it in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embryonic => "embryonic",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Single => "single",
            Self::Stream => "stream",
        }
    }

    /// Whether the flow counts as one of its member's active ones: all but closing TCP, as in IPVS since Linux 4.8
    /// (`tcp_state_active_table`, `net/netfilter/ipvs/ip_vs_proto_tcp.c`). If those that open did not count, many clients
    /// that come at once would all find the same member the idlest.
    #[inline]
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::Closing)
    }

    /// Whether the flow's client has shown that it exists: it has answered, or come again.
    #[inline]
    pub const fn is_confirmed(self) -> bool {
        matches!(self, Self::Established | Self::Stream)
    }

    /// Whether the flow may have to make room for a new one before it expires.
    #[inline]
    pub const fn is_evictable(self) -> bool {
        matches!(self, Self::Embryonic | Self::Single)
    }
}

/// The word. Two live entries that a slot held one after the other never have equal words: their ticks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    /// A live entry's.
    #[inline]
    pub(super) fn new(member: MemberId, destination_port: u16, tick: Tick, state: FlowState) -> Self {
        debug_assert!(member.0 < MEMBERS);
        Self(
            u64::from(member.0 & (MEMBERS - 1))
                | u64::from(destination_port) << PORT_SHIFT
                | u64::from(tick.get()) << TICK_SHIFT
                | (state as u64) << PHASE_SHIFT,
        )
    }

    /// A slot's that was given back in this tick. Not 0, which says that a slot was never used.
    pub(super) fn free(tick: Tick) -> Self {
        Self(1 | u64::from(tick.get()) << TICK_SHIFT)
    }

    /// A slot's that was claimed in this tick.
    pub(super) fn busy(tick: Tick) -> Self {
        Self(u64::from(tick.get()) << TICK_SHIFT | (Phase::Busy as u64) << PHASE_SHIFT)
    }

    /// The same in another phase.
    #[inline]
    pub(super) fn pending(self) -> Self {
        Self(self.0 & !(0b111 << PHASE_SHIFT) | (Phase::Pending as u64) << PHASE_SHIFT)
    }

    #[inline]
    pub(super) fn with_marks_of(self, other: Self) -> Self {
        Self(self.0 & !MARKS | other.0 & MARKS)
    }

    #[inline]
    pub(super) fn without_marks(self) -> Self {
        Self(self.0 & !MARKS)
    }

    #[inline]
    pub(super) fn marks(self) -> u64 {
        self.0 & MARKS
    }

    #[inline]
    pub(super) fn member(self) -> MemberId {
        MemberId(self.0 as u32 & (MEMBERS - 1))
    }

    #[inline]
    pub(super) fn destination_port(self) -> u16 {
        (self.0 >> PORT_SHIFT) as u16
    }

    #[inline]
    pub(super) fn tick(self) -> Tick {
        Tick::from_bits((self.0 >> TICK_SHIFT) as u32)
    }

    /// The phase as an index into a table of eight.
    #[inline]
    pub(super) fn phase_index(self) -> usize {
        (self.0 >> PHASE_SHIFT) as usize & 0b111
    }

    #[inline]
    pub(super) fn is_pending(self) -> bool {
        self.phase_index() == Phase::Pending as usize
    }

    #[inline]
    pub(super) fn is_free(self) -> bool {
        self.phase_index() == Phase::Free as usize
    }

    #[inline]
    pub(super) fn is_never_used(self) -> bool {
        self.without_marks().0 == 0
    }

    /// A live entry's state.
    #[inline]
    pub(super) fn state(self) -> Option<FlowState> {
        FlowState::from_bits(self.phase_index() as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_keeps_to_its_bits() {
        for state in FlowState::ALL {
            for (member, port, tick) in [(0, 0, 0), (MEMBERS - 1, 0, 0), (0, u16::MAX, 0), (0, 0, Tick::MASK)] {
                for marks in [0, MARKS] {
                    let word = Word::new(MemberId(member), port, Tick::from_bits(tick), state);
                    let word = Word(word.0 | marks);
                    assert_eq!(word.member(), MemberId(member));
                    assert_eq!(word.destination_port(), port);
                    assert_eq!(word.tick(), Tick::from_bits(tick));
                    assert_eq!(word.state(), Some(state));
                    assert_eq!(word.marks(), marks);
                    assert!(!word.is_free() && !word.is_pending() && !word.is_never_used());
                    assert_eq!(word.pending().state(), None);
                    assert!(word.pending().is_pending());
                    assert_eq!(word.pending().member(), MemberId(member));
                }
            }
        }
    }

    #[test]
    fn a_slot_that_was_given_back_is_not_one_that_was_never_used() {
        let zero = Word::free(Tick::from_bits(0));
        assert!(zero.is_free() && !zero.is_never_used());
        assert!(Word(MARKS).is_never_used() && Word(MARKS).is_free());
        assert_eq!(Word::busy(Tick::from_bits(7)).state(), None);
    }
}
