//! Direct routing: the frame keeps every byte but its MAC addresses.

/// Puts the member's destination and source MAC in front of the frame. `parse` has seen a whole Ethernet header.
#[inline]
pub(super) fn direct_route(frame: &mut [u8], macs: &[u8; 12]) {
    if let Some(head) = frame.first_chunk_mut() {
        *head = *macs;
    }
}
