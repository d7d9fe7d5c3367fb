//! Moving a packet's start into its frame's headroom, which xsk-rs 0.11 has no function for.
//!
//! An outer header grows to the front, so the descriptor that goes onto the tx ring must name an address below the one
//! that the kernel gave. xsk-rs keeps that address in a private field. [`AddressField::find`] looks for the field by
//! what it does, and says so if it finds none: then no port opens, rather than one that writes somewhere else.

#![expect(unsafe_code, reason = "a private field of xsk-rs's is written through a pointer")]

use std::mem::{align_of, size_of};

use xsk_rs::umem::frame::FrameDesc;

/// Where the packet's address stands in a [`FrameDesc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressField {
    /// Which word of the descriptor it is, from 0: all of the word is inside.
    word: usize,
}

impl AddressField {
    /// Finds the field: the word that changes what [`FrameDesc::addr`] says, and nothing else that can be seen.
    pub(super) fn find() -> Option<Self> {
        // Two values that no length, option or address of a fresh descriptor has.
        const PROBES: [usize; 2] = [0x5a5a_1238, 0x2525_6540];
        if !align_of::<FrameDesc>().is_multiple_of(align_of::<usize>()) {
            return None;
        }
        let words = size_of::<FrameDesc>() / size_of::<usize>();
        (0..words).map(|word| Self { word }).find(|field| {
            PROBES.iter().all(|&probe| {
                let mut descriptor = FrameDesc::default();
                field.set(&mut descriptor, probe);
                let lengths = descriptor.lengths();
                descriptor.addr() == probe
                    && descriptor.options() == 0
                    && (lengths.headroom(), lengths.data()) == (0, 0)
            })
        })
    }

    /// Has the descriptor name another address.
    #[inline]
    pub(super) fn set(self, descriptor: &mut FrameDesc, address: usize) {
        let words = std::ptr::from_mut(descriptor).cast::<usize>();
        // SAFETY: `find` offers only words that lie inside the descriptor.
        let field = unsafe { words.add(self.word) };
        // SAFETY: the pointer is inside a live descriptor that is borrowed exclusively, and aligned: `find` has seen that
        // a descriptor is aligned for `usize`. Whatever stands there may hold any value: a `FrameDesc` consists
        // of integers (xsk-rs 0.11, umem/frame/mod.rs), which Cargo.toml's version requirement holds fast.
        unsafe { field.write(address) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_and_moves_the_address_alone() {
        let field = AddressField::find().expect("xsk-rs 0.11 has it");
        let mut descriptor = FrameDesc::default();
        descriptor.set_options(7);
        field.set(&mut descriptor, 4096 + 236);
        assert_eq!(descriptor.addr(), 4096 + 236);
        assert_eq!(descriptor.options(), 7);
        assert_eq!(descriptor.lengths().data(), 0);
        assert_eq!(descriptor.lengths().headroom(), 0);
    }
}
