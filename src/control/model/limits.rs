//! What a VIP and a member may ask for beyond the simplest: whether it fits together.

use super::super::file;
use super::super::reader::Field;
use super::super::report::{Errors, Scope};
use super::super::value::Timeout;
use super::super::word::Protocol;
use super::Timeouts;

/// One VIP's own limits and timeouts.
pub(super) fn check_vip(vip: &file::Vip, errors: &Errors<'_>) {
    let one_packet = vip.one_packet.as_ref().filter(|one_packet| one_packet.value);
    let Some(protocol) = &vip.protocol else { return };
    if let Some(one_packet) = one_packet
        && protocol.value == Protocol::Tcp
    {
        errors.report(
            &one_packet.place,
            "true is for UDP, and the protocol is \"tcp\" (allowed under \"tcp\": false)".to_owned(),
        );
    } else if let (Some(_), Some(limit)) = (one_packet, &vip.connection_limit) {
        errors.report(&limit.place, "one_packet = true keeps no flows that could be limited; leave it out".to_owned());
    }
    if let Some(timeouts) = &vip.timeouts {
        check_timeouts(timeouts, protocol.value, errors);
    }
}

/// A timeout of the other protocol would never be looked at.
fn check_timeouts(timeouts: &file::VipTimeouts, protocol: Protocol, errors: &Errors<'_>) {
    let file::VipTimeouts { tcp_established, tcp_syn, tcp_closing, udp } = timeouts;
    let (others, allowed): (&[&Option<Field<Timeout>>], _) = match protocol {
        Protocol::Tcp => (&[udp], "tcp_established, tcp_syn, tcp_closing"),
        Protocol::Udp => (&[tcp_established, tcp_syn, tcp_closing], "udp"),
    };
    for timeout in others.iter().copied().flatten() {
        errors.report(
            &timeout.place,
            format!("the VIP's protocol is \"{protocol}\" (allowed under \"{protocol}\": {allowed})"),
        );
    }
}

/// One member's thresholds.
pub(super) fn check_member(member: &file::Member, errors: &Errors<'_>) {
    let Some(lower) = &member.lower_threshold else { return };
    match &member.upper_threshold {
        None if member.has_upper_threshold => {}
        None => errors.report_missing(
            &lower.place,
            Scope::Table,
            "there is no upper_threshold beside it (allowed: both, upper_threshold alone, or neither)".to_owned(),
        ),
        Some(upper) if lower.value.0 > upper.value.0 => errors.report(
            &lower.place,
            format!(
                "{} is more than upper_threshold (also at line {}; allowed: 1 to {})",
                lower.value.0,
                errors.line(&upper.place),
                upper.value.0
            ),
        ),
        Some(_) => {}
    }
}

/// The VIP's own timeouts, and for the rest those of all.
pub(super) fn timeouts_of(own: Option<&file::VipTimeouts>, all: &Timeouts) -> Timeouts {
    let Some(own) = own else { return *all };
    let either = |own: &Option<Field<Timeout>>, all| own.as_ref().map_or(all, |own| own.value.0);
    Timeouts {
        tcp_established: either(&own.tcp_established, all.tcp_established),
        tcp_syn: either(&own.tcp_syn, all.tcp_syn),
        tcp_closing: either(&own.tcp_closing, all.tcp_closing),
        udp: either(&own.udp, all.udp),
    }
}
