//! Destination → VIP: an exact port beats "any".

use std::sync::Arc;

use super::ids::VipId;

/// A destination that a VIP serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The VIP's address.
    pub address: u32,
    /// TCP or UDP, as in the IPv4 header.
    pub protocol: u8,
    /// The VIP's port; 0: any port.
    pub port: u16,
}

/// A destination as one word, put together from a packet's bytes as they lie there. In memory: the address and the port
/// as on the wire, bytes 0 to 4 and 6 to 8, and the protocol in byte 4. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceKey(u64);

impl ServiceKey {
    const SOURCE_PORT: u64 = u64::from_le_bytes([0, 0, 0, 0, 0xff, 0xff, 0, 0]);
    const PORT: u64 = u64::from_le_bytes([0, 0, 0, 0, 0, 0, 0xff, 0xff]);

    /// This destination's.
    #[inline]
    pub fn new(address: u32, protocol: u8, port: u16) -> Self {
        let (address, port) = (u64::from(address.swap_bytes()), u64::from(port.swap_bytes()));
        Self(address | u64::from(protocol) << 32 | port << 48)
    }

    /// From what follows an IPv4 header's source address where the header has no options: destination address, source
    /// port, destination port.
    #[inline]
    pub fn from_wire(bytes: [u8; 8], protocol: u8) -> Self {
        Self(u64::from_le_bytes(bytes) & !Self::SOURCE_PORT | u64::from(protocol) << 32)
    }

    /// The port.
    #[inline]
    pub fn port(self) -> u16 {
        ((self.0 >> 48) as u16).swap_bytes()
    }

    /// The address.
    #[inline]
    pub fn address(self) -> u32 {
        (self.0 as u32).swap_bytes()
    }

    fn of_any_port(self) -> Self {
        Self(self.0 & !Self::PORT)
    }
}

/// An open-addressed hash table from [`Destination`] to [`VipId`], built once and then only read; a clone is the same one.
///
/// An attacker chooses destinations only among those that exist, so the hash needs no secret.
#[derive(Debug, Clone)]
pub struct ServiceTable {
    /// A power of two of them, at most half full; a free entry has `key == 0`, which no destination's is.
    entries: Arc<[Entry]>,
    /// `64 - log2(entries.len())`: the hash's top bits choose the entry.
    shift: u32,
    /// Whether any VIP is on any port: without one the second look is not needed.
    any_port: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    key: u64,
    vip: u16,
}

impl ServiceTable {
    /// Builds the table. Of equal destinations the last one counts.
    pub fn new(services: &[(Destination, VipId)]) -> Self {
        let size = (services.len() * 2).next_power_of_two().max(2);
        let mut entries = vec![Entry::default(); size];
        let shift = 64 - size.trailing_zeros();
        for (destination, vip) in services {
            let ServiceKey(key) = ServiceKey::new(destination.address, destination.protocol, destination.port);
            let mut index = home(key, shift);
            while entries[index].key != 0 && entries[index].key != key {
                index = (index + 1) & (size - 1);
            }
            entries[index] = Entry { key, vip: vip.0 };
        }
        let any_port = services.iter().any(|(destination, _)| destination.port == 0);
        Self { entries: entries.into(), shift, any_port }
    }

    /// The VIP that serves this destination, and whether it does so on any port.
    #[inline]
    pub fn lookup(&self, destination: ServiceKey) -> Option<(VipId, bool)> {
        let exact = self.find(destination.0);
        if exact.is_none() && self.any_port {
            return self.find(destination.of_any_port().0).map(|vip| (vip, true));
        }
        exact.map(|vip| (vip, false))
    }

    #[inline]
    fn find(&self, key: u64) -> Option<VipId> {
        let home = home(key, self.shift);
        // Nearly always there; and there is one, so this is no more than the look itself.
        let entry = self.entries.get(home)?;
        if entry.key == key { Some(VipId(entry.vip)) } else { self.find_beyond(home, key) }
    }

    /// Looks on behind the entry where the key should be.
    #[inline(never)]
    fn find_beyond(&self, home: usize, key: u64) -> Option<VipId> {
        let (before, from) = self.entries.split_at_checked(home)?;
        // Ends: at least half of the entries are free.
        let seen = from.iter().chain(before).find(|entry| entry.key == key || entry.key == 0)?;
        (seen.key == key).then_some(VipId(seen.vip))
    }
}

#[inline]
fn home(key: u64, shift: u32) -> usize {
    // Fibonacci hashing: 2^64 / golden ratio, odd (Knuth, TAOCP 3, §6.4).
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    use ServiceKey as Key;

    #[test]
    fn an_exact_port_beats_any_and_protocols_are_apart() {
        let at = |address, protocol, port| Destination { address, protocol, port };
        let table =
            ServiceTable::new(&[(at(10, 6, 0), VipId(1)), (at(10, 6, 80), VipId(2)), (at(10, 17, 53), VipId(3))]);
        assert_eq!(table.lookup(Key::new(10, 6, 80)), Some((VipId(2), false)));
        assert_eq!(table.lookup(Key::new(10, 6, 81)), Some((VipId(1), true)));
        assert_eq!(table.lookup(Key::new(10, 17, 53)), Some((VipId(3), false)));
        assert_eq!(table.lookup(Key::new(10, 17, 54)), None);
        assert_eq!(table.lookup(Key::new(11, 6, 80)), None);
    }

    #[test]
    fn port_zero_on_the_wire_is_no_service_unless_any_port_is() {
        let exact = ServiceTable::new(&[(Destination { address: 10, protocol: 6, port: 80 }, VipId(0))]);
        assert_eq!(exact.lookup(Key::new(10, 6, 0)), None);
    }

    #[test]
    fn every_one_of_many_services_is_found_and_its_neighbours_are_not() {
        let services: Vec<_> = (0..60_000u32)
            .map(|i| {
                (
                    Destination { address: 0x0a00_0000 + i / 100, protocol: 6, port: (i % 100 + 1) as u16 },
                    VipId(i as u16),
                )
            })
            .collect();
        let table = ServiceTable::new(&services);
        for (destination, vip) in &services {
            assert_eq!(table.lookup(Key::new(destination.address, 6, destination.port)), Some((*vip, false)));
            assert_eq!(table.lookup(Key::new(destination.address, 17, destination.port)), None);
            assert_eq!(table.lookup(Key::new(destination.address, 6, destination.port + 1000)), None);
        }
    }

    #[test]
    fn a_key_says_what_it_is_of_and_comes_from_the_wire() {
        let key = Key::new(0xcb00_7102, 6, 0x1f90);
        assert_eq!((key.address(), key.port()), (0xcb00_7102, 0x1f90));
        assert_eq!(Key::from_wire([0xcb, 0x00, 0x71, 0x02, 0x9c, 0x40, 0x1f, 0x90], 6), key);
        assert_eq!(key.of_any_port(), Key::new(0xcb00_7102, 6, 0));
    }

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(ServiceTable::new(&[]).lookup(Key::new(0, 6, 0)), None);
    }
}
