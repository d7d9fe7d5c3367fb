//! The integers by which tables, verdicts, counters and flows name things.

/// Names a member. The same number means the same member in every published snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

/// Names a VIP. The same number means the same VIP in every published snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipId(pub u16);

/// Names a listed interface: its place in the configuration's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterfaceId(pub u8);
