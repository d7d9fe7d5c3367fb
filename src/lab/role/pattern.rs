//! Bytes that both ends can make: what one sends, the other compares.

use std::convert::Infallible;
use std::hash::Hasher as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// Bytes per frame of a body: several segments at once, yet a thousand of them are only 16 MiB.
const FRAME: u64 = 16 * 1024;

/// A pseudo-random body of a given length; the same seed gives the same bytes.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    state: u64,
    /// The word in progress, and how many of its bytes have been given out.
    word: [u8; 8],
    used: usize,
    left: u64,
}

impl Pattern {
    /// `length` bytes of the sequence that `seed` begins.
    pub(super) fn new(seed: u64, length: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8, left: length }
    }

    /// No bytes: the body of a GET.
    pub(super) fn empty() -> Self {
        Self::new(0, 0)
    }

    /// The next bytes, at most `length` of them.
    pub(super) fn take(&mut self, length: u64) -> Vec<u8> {
        let length = length.min(self.left) as usize;
        self.left -= length as u64;
        let mut bytes = Vec::with_capacity(length + 8);
        bytes.extend_from_slice(&self.word[self.used..]);
        while bytes.len() < length {
            self.word = self.next_word().to_le_bytes();
            bytes.extend_from_slice(&self.word);
        }
        self.used = 8 - (bytes.len() - length);
        bytes.truncate(length);
        bytes
    }

    /// The hash of all bytes that are left.
    pub(super) fn digest(mut self) -> String {
        let mut digest = Digest::default();
        while self.left > 0 {
            digest.add(&self.take(FRAME));
        }
        digest.finish()
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014): a few cycles a word, so that making the bytes is not what is measured.
    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.take(FRAME);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A hash of a body, whatever the pieces it came in: SipHash-1-3 with 128 bits.
#[derive(Default)]
pub(super) struct Digest {
    hasher: SipHasher13,
    length: u64,
}

impl Digest {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.length += bytes.len() as u64;
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn finish(&self) -> String {
        format!("{:032x}", self.hasher.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_its_published_sequence() {
        // The first outputs for seed 1234567, as the reference implementation prints them.
        let mut pattern = Pattern::new(1_234_567, 24);
        let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(pattern.take(24), expected.map(u64::to_le_bytes).concat());
    }

    #[test]
    fn pieces_do_not_matter() {
        let whole = Pattern::new(1, 100_001).take(u64::MAX);
        assert_eq!(whole.len(), 100_001);
        let mut pattern = Pattern::new(1, 100_001);
        let mut pieces = Vec::new();
        let mut digest = Digest::default();
        for length in [1, 7, 8, 9, 3, 5, 16, 4096].into_iter().cycle() {
            let piece = pattern.take(length);
            if piece.is_empty() {
                break;
            }
            digest.add(&piece);
            pieces.extend(piece);
        }
        assert!(pieces == whole);
        assert_eq!(digest.length(), 100_001);
        assert_eq!(digest.finish(), Pattern::new(1, 100_001).digest());
        assert_ne!(digest.finish(), Pattern::new(2, 100_001).digest());
    }
}
