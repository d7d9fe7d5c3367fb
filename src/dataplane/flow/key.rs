//! What tells one flow from another, and the keyed hash that says where it is looked for.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::ids::VipId;
use super::super::memory::LINE_WORDS;

/// A flow's exact identity, as words of an entry.
///
/// The VIP stands for destination address and protocol, and for the destination port unless it is on any port: then
/// the port is [`Key::destination_port`], and lies in the entry's value word.
pub trait Key: Copy + Eq + fmt::Debug {
    /// Words of an entry that the key takes; one more is the value.
    const WORDS: usize;
    /// Entries in a line.
    const ENTRIES: usize = LINE_WORDS / (Self::WORDS + 1);
    /// Lines for 1024 flows that must fit. Fewer, and some find neither of their two lines with room, or more than
    /// 5 % are found only in the second; see `benches/flow.rs` for what this gives.
    const LINES_PER_1024: usize;

    /// One of the key's words.
    fn word(&self, index: usize) -> u64;
    /// The port on a VIP on any port; else 0.
    fn destination_port(&self) -> u16;
    /// The key of an entry; words beyond [`Key::WORDS`] are ignored.
    fn from_words(words: [u64; 3], destination_port: u16) -> Self;
    /// The VIP.
    fn vip(&self) -> VipId;
    /// The keyed hash.
    fn hash(&self, secret: &Secret) -> u64;
}

/// A client's address and port, as they lie in a packet: the low 32 and the next 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientV4(u64);

impl ClientV4 {
    /// This client.
    #[inline]
    pub fn new(address: Ipv4Addr, port: u16) -> Self {
        Self::from_wire(address.octets(), port.to_be_bytes())
    }

    /// From a packet's bytes.
    #[inline]
    pub fn from_wire(address: [u8; 4], port: [u8; 2]) -> Self {
        Self(u64::from(u32::from_le_bytes(address)) | u64::from(u16::from_le_bytes(port)) << 32)
    }
}

/// A flow over IPv4: 16-byte entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyV4 {
    /// The client, and in the uppermost 16 bits the VIP.
    word: u64,
    destination_port: u16,
}

impl KeyV4 {
    /// `destination_port` is 0 unless the VIP is on any port.
    #[inline]
    pub fn new(client: Ipv4Addr, client_port: u16, vip: VipId, destination_port: u16) -> Self {
        Self::of(ClientV4::new(client, client_port), vip, destination_port)
    }

    /// The same.
    #[inline]
    pub fn of(client: ClientV4, vip: VipId, destination_port: u16) -> Self {
        Self { word: client.0 | u64::from(vip.0) << 48, destination_port }
    }

    /// The client's address.
    pub fn client(&self) -> Ipv4Addr {
        (self.word as u32).to_le_bytes().into()
    }

    /// The client's port.
    pub fn client_port(&self) -> u16 {
        ((self.word >> 32) as u16).swap_bytes()
    }
}

impl Key for KeyV4 {
    const WORDS: usize = 1;
    // 34.3 MiB per million flows: 2.25 entries for each.
    const LINES_PER_1024: usize = 576;

    #[inline]
    fn word(&self, _index: usize) -> u64 {
        self.word
    }

    #[inline]
    fn destination_port(&self) -> u16 {
        self.destination_port
    }

    #[inline]
    fn from_words(words: [u64; 3], destination_port: u16) -> Self {
        Self { word: words[0], destination_port }
    }

    #[inline]
    fn vip(&self) -> VipId {
        VipId((self.word >> 48) as u16)
    }

    #[inline]
    fn hash(&self, secret: &Secret) -> u64 {
        secret.finish(secret.absorb((0, 0), self.word, u64::from(self.destination_port)))
    }
}

/// A flow over IPv6: 32-byte entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyV6 {
    /// Client address, then client port and VIP.
    words: [u64; 3],
    destination_port: u16,
}

impl KeyV6 {
    /// `destination_port` is 0 unless the VIP is on any port.
    #[inline]
    pub fn new(client: Ipv6Addr, client_port: u16, vip: VipId, destination_port: u16) -> Self {
        let address = client.to_bits();
        let rest = u64::from(client_port) << 16 | u64::from(vip.0);
        Self { words: [(address >> 64) as u64, address as u64, rest], destination_port }
    }

    /// The client's address.
    pub fn client(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from(self.words[0]) << 64 | u128::from(self.words[1]))
    }

    /// The client's port.
    pub fn client_port(&self) -> u16 {
        (self.words[2] >> 16) as u16
    }
}

impl Key for KeyV6 {
    const WORDS: usize = 3;
    // 95.4 MiB per million flows: with two entries in a line, a load of 0.31 keeps the second line rare.
    const LINES_PER_1024: usize = 1600;

    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.words[index]
    }

    #[inline]
    fn destination_port(&self) -> u16 {
        self.destination_port
    }

    #[inline]
    fn from_words(words: [u64; 3], destination_port: u16) -> Self {
        Self { words, destination_port }
    }

    #[inline]
    fn vip(&self) -> VipId {
        VipId(self.words[2] as u16)
    }

    #[inline]
    fn hash(&self, secret: &Secret) -> u64 {
        let address = secret.absorb((0, 0), self.words[0], self.words[1]);
        secret.finish(secret.absorb(address, self.words[2], u64::from(self.destination_port)))
    }
}

/// What only this process knows, so that nobody outside can say which flows share a line.
///
/// The hash is wyhash's for 64-bit pairs (Wang Yi, wyhash final version 4, `wyhash64`) with both of its constants
/// replaced by secrets: a 64 × 64 → 128-bit product of the key's halves, each masked by a secret, and the same once
/// more with the product's halves. Which keys collide depends on the secrets through a carry chain of 128 bits (a
/// CRC's or any linear hash's collisions are the same under every seed).
#[derive(Clone, Copy)]
pub struct Secret([u64; 2]);

impl Secret {
    /// Drawn from the operating system's randomness, by way of the standard library's keyed `SipHash`.
    pub fn random() -> Self {
        let random = RandomState::new();
        Self::new([random.hash_one(0u8), random.hash_one(1u8)])
    }

    /// These: for tests, and for a process that takes over another's table.
    pub fn new(secret: [u64; 2]) -> Self {
        Self(secret)
    }

    #[inline]
    fn absorb(&self, before: (u64, u64), a: u64, b: u64) -> (u64, u64) {
        wide(a ^ before.0 ^ self.0[0], b ^ before.1 ^ self.0[1])
    }

    #[inline]
    fn finish(&self, (low, high): (u64, u64)) -> u64 {
        let (low, high) = wide(low ^ self.0[0], high ^ self.0[1]);
        low ^ high
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// The 128-bit product's halves.
#[inline]
fn wide(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    (product as u64, (product >> 64) as u64)
}

/// Maps a hash evenly onto `0..count` without a division (Lemire, "Fast random integer generation in an interval",
/// 2019, §3).
#[inline]
pub(super) fn reduce(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_their_words() {
        let v4 = KeyV4::new(Ipv4Addr::new(192, 0, 2, 7), 40_000, VipId(513), 8080);
        assert_eq!(KeyV4::from_words([v4.word(0), 0, 0], 8080), v4);
        assert_eq!((v4.client(), v4.client_port(), v4.vip()), (Ipv4Addr::new(192, 0, 2, 7), 40_000, VipId(513)));
        let client = "2001:db8::1:2:3".parse().expect("an address");
        let v6 = KeyV6::new(client, 40_000, VipId(513), 8080);
        assert_eq!(KeyV6::from_words([v6.word(0), v6.word(1), v6.word(2)], 8080), v6);
        assert_eq!((v6.client(), v6.client_port(), v6.vip()), (client, 40_000, VipId(513)));
    }

    fn key(i: u32) -> KeyV4 {
        KeyV4::new(Ipv4Addr::from_bits(0xc000_0200 + i % 4), (i / 4) as u16, VipId(0), 0)
    }

    #[test]
    fn every_bit_of_a_key_moves_half_of_the_hash() {
        let secret = Secret::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
        for bit in 0..64 {
            let changed: u32 = (0..1000)
                .map(|i| {
                    let one = key(i);
                    let other = KeyV4::from_words([one.word(0) ^ 1 << bit, 0, 0], 0);
                    (one.hash(&secret) ^ other.hash(&secret)).count_ones()
                })
                .sum();
            assert!((28_000..36_000).contains(&changed), "bit {bit}: {changed} of 64 000");
        }
    }

    /// An attacker who knows a secret finds keys for one line; under another secret they lie anywhere.
    #[test]
    fn keys_that_collide_under_a_known_secret_spread_under_another() {
        const LINES: usize = 65_536;
        let known = Secret::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        let mut colliding = Vec::new();
        for i in 0u64.. {
            // One client cannot reach more than 2^16 keys, a botnet can.
            let key = KeyV4::from_words([i << 16, 0, 0], 0);
            if reduce(key.hash(&known), LINES) == 4711 {
                colliding.push(key);
                if colliding.len() == 256 {
                    break;
                }
            }
        }
        for secret in [Secret::random(), Secret::random(), Secret::random(), Secret::random()] {
            let mut lines: Vec<_> = colliding.iter().map(|key| reduce(key.hash(&secret), LINES)).collect();
            lines.sort_unstable();
            lines.dedup();
            // 256 in 65 536 by chance: half a pair expected in the same line.
            assert!(lines.len() >= 250, "{} lines for 256 keys", lines.len());
        }
    }

    #[test]
    fn two_processes_hash_differently() {
        let (one, other) = (Secret::random(), Secret::random());
        assert!((0..100).all(|i| key(i).hash(&one) != key(i).hash(&other)));
    }
}
