//! The least that can be done with the same frames: parse, hash, one-line lookup, MAC write; for tunnels, the same and
//! twenty fixed bytes in front. What the walk costs is judged beside it.

use std::sync::atomic::{AtomicU64, Ordering};

use pointsman::dataplane::encap::OUTER_LENGTH;
use pointsman::dataplane::memory::{LINE_WORDS, Lines, prefetch};
use pointsman::dataplane::parse::{FlowKey, Parsed, parse};
use pointsman::dataplane::port::Port;

use super::generator::{Frame, Loop};

/// A table of lines that hold up to four keys and values each, the same density as the connection table's.
pub(super) struct Bare {
    port: Loop,
    lines: Lines,
    burst: Vec<Frame>,
    read: Vec<(u64, usize)>,
    macs: [u8; 12],
    /// What is written in front of every packet, behind its MACs, if anything is.
    outer: Option<[u8; OUTER_LENGTH]>,
    counted: [u64; 2],
}

const BURST: usize = 64;
const AHEAD: usize = 8;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Bare {
    pub(super) fn new(port: Loop, flows: usize, macs: [u8; 12], outer: Option<[u8; OUTER_LENGTH]>) -> Self {
        let lines = Lines::new((flows * 576).div_ceil(1024).max(16), false).expect("memory");
        let mut bare = Self { port, lines, burst: Vec::new(), read: Vec::new(), macs, outer, counted: [0; 2] };
        // Every flow goes where there is room in its line; those of full lines are simply not found.
        let mut keys = Vec::new();
        bare.port.receive(&mut bare.burst, usize::MAX);
        keys.extend(bare.burst.iter().map(|&frame| bare.read(frame)));
        for (key, line) in keys {
            let line = &bare.lines[line].0;
            if let Some(free) = (0..LINE_WORDS).step_by(2).find(|&word| line[word].load(Ordering::Relaxed) == 0) {
                line[free].store(key, Ordering::Relaxed);
                line[free + 1].store(1, Ordering::Relaxed);
            }
        }
        bare.port.give_back(&mut bare.burst);
        bare
    }

    #[inline]
    fn read(&self, frame: Frame) -> (u64, usize) {
        let Ok(Parsed::Flow { key: FlowKey { source, source_port, destination_port, .. }, .. }) =
            parse(self.port.bytes(&frame))
        else {
            return (0, 0);
        };
        let key = u64::from(source) << 32 | u64::from(source_port) << 16 | u64::from(destination_port);
        let hash = fold(key ^ 0x2d35_8dcc_aa6c_78a5, 0x8bb8_4b93_962e_acc9);
        (key, ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize)
    }

    /// One burst.
    #[inline]
    pub(super) fn round(&mut self) {
        match self.outer {
            None => self.round_of::<false>([0; OUTER_LENGTH]),
            Some(outer) => self.round_of::<true>(outer),
        }
    }

    #[inline]
    fn round_of<const IN_TUNNEL: bool>(&mut self, outer: [u8; OUTER_LENGTH]) {
        self.port.receive(&mut self.burst, BURST);
        self.read.clear();
        for (at, frame) in self.burst.iter().enumerate() {
            if let Some(ahead) = self.burst.get(at + AHEAD) {
                self.port.prefetch(ahead);
            }
            let (key, line) = self.read(*frame);
            prefetch(&self.lines[line]);
            self.read.push((key, line));
        }
        for (frame, &(key, line)) in self.burst.iter_mut().zip(&self.read) {
            let line: &[AtomicU64; LINE_WORDS] = &self.lines[line].0;
            let found = (0..LINE_WORDS).step_by(2).find(|&word| line[word].load(Ordering::Relaxed) == key);
            let has_grown = IN_TUNNEL && self.port.grow(frame, OUTER_LENGTH);
            let bytes = self.port.bytes_mut(frame);
            if has_grown && let Some(room) = bytes.get_mut(12..14 + OUTER_LENGTH) {
                room[..2].copy_from_slice(&[8, 0]);
                room[2..].copy_from_slice(&outer);
            }
            self.counted[0] += found.map_or(0, |word| line[word + 1].load(Ordering::Relaxed));
            self.counted[1] += bytes.len() as u64;
            if let Some(head) = bytes.first_chunk_mut() {
                *head = self.macs;
            }
        }
        self.port.transmit(&mut self.burst);
    }
}
