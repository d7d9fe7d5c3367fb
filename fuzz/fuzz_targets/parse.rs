//! The door: whatever comes in, it is named or refused, and everything that is said of it lies inside the frame; what is
//! read at a glance is what careful reading finds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pointsman::dataplane::glance::{Glance, glance};
use pointsman::dataplane::parse::{ETHERNET_LENGTH, ICMP_LENGTH, Parsed, parse};

fuzz_target!(|frame: &[u8]| {
    let parsed = parse(frame);
    if let Some(seen) = glance(frame) {
        let Ok(Parsed::Flow { key, length, flags }) = parsed else { panic!("{seen:?} at a glance, and {parsed:?}") };
        assert_eq!(seen, Glance::careful(&key, length, flags));
    }
    match parsed {
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
