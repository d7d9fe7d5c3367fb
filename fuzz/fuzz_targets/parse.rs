//! The door: whatever comes in, it is named or refused, and everything that is said of it lies inside the frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::dataplane::parse::{ETHERNET_LENGTH, ICMP_LENGTH, Parsed, parse};

fuzz_target!(|frame: &[u8]| {
    match parse(frame) {
        Ok(Parsed::Flow { key, length, .. }) => {
            assert!(ETHERNET_LENGTH + usize::from(length) <= frame.len());
            // IPv4 header and the shortest transport header.
            assert!(usize::from(length) >= 20 + 8);
            assert!(key.protocol == 6 || key.protocol == 17);
        }
        Ok(Parsed::Icmp(icmp)) => {
            assert!(icmp.length >= ICMP_LENGTH);
            assert!(icmp.offset + icmp.length <= frame.len());
            assert_eq!(icmp.offset + icmp.length, ETHERNET_LENGTH + usize::from(icmp.packet_length));
        }
        Ok(Parsed::Arp(_)) => assert!(frame.len() >= ETHERNET_LENGTH + 28),
        Err(reason) => assert!(!reason.name().is_empty()),
    }
});
