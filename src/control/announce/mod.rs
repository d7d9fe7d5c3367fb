//! Who owns a VIP's address: says so to the network, and listens whether somebody else does.

pub mod arp;
