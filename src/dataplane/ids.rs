//! The integers by which tables, verdicts, counters and flows name things.

/// Names a member. The same number means the same member in every published snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

/// Names a VIP. The same number means the same VIP in every published snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipId(pub u16);

impl MemberId {
    /// How many there can be: every id is below. (A flow's entry has 20 bits for it.)
    pub const MOST: usize = 1 << 20;
}

impl VipId {
    /// How many there can be: every id is below.
    pub const MOST: usize = 1 << u16::BITS;
}

/// Some ids, a bit each. Ids beyond its end are none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdSet(Box<[u64]>);

impl IdSet {
    /// Whether this id is one of them.
    #[inline]
    pub fn contains(&self, id: usize) -> bool {
        self.0.get(id / 64).is_some_and(|bits| bits >> (id % 64) & 1 == 1)
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<usize> for IdSet {
    fn from_iter<T: IntoIterator<Item = usize>>(ids: T) -> Self {
        let mut words = Vec::new();
        for id in ids {
            if words.len() <= id / 64 {
                words.resize(id / 64 + 1, 0);
            }
            words[id / 64] |= 1 << (id % 64);
        }
        Self(words.into())
    }
}

/// Names an interface of the data plane: its place in the configuration's list, less those that do not exist now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u8);

/// The interface that a frame leaves by, or that it does not leave; one byte, which a register takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress(u8);

impl Egress {
    /// It stays.
    pub const NONE: Self = Self(u8::MAX);

    /// The interface.
    #[inline]
    pub fn interface(self) -> Option<InterfaceId> {
        (self != Self::NONE).then_some(InterfaceId(self.0))
    }

    /// Whether two frames leave by the same interface: 0 if they do.
    #[inline]
    pub fn differs(self, other: Self) -> u8 {
        self.0 ^ other.0
    }

    /// As an index: that of the interface, or of none.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl From<InterfaceId> for Egress {
    #[inline]
    fn from(interface: InterfaceId) -> Self {
        Self(interface.0)
    }
}

/// Some of the listed interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceSet(u16);

impl InterfaceSet {
    /// How many interfaces can be told apart.
    pub const MOST: usize = u16::BITS as usize;

    /// Whether the interface is one of them.
    #[inline]
    pub fn contains(self, interface: InterfaceId) -> bool {
        self.0.checked_shr(u32::from(interface.0)).is_some_and(|bits| bits & 1 == 1)
    }
}

impl FromIterator<InterfaceId> for InterfaceSet {
    /// Interfaces beyond [`InterfaceSet::MOST`] are no interfaces.
    fn from_iter<T: IntoIterator<Item = InterfaceId>>(interfaces: T) -> Self {
        let bits = interfaces.into_iter().filter_map(|interface| 1u16.checked_shl(interface.0.into()));
        Self(bits.fold(0, |set, bit| set | bit))
    }
}
