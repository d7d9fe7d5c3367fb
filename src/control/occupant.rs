//! Somebody else's XDP program on an interface, in words that help: whose it is, and how to be rid of it.
//!
//! The kernel tells a program's name and how it is attached only to `CAP_SYS_ADMIN`, which `run` gives up at once. So it
//! is asked before that, where it is allowed at all; of later ones only the number is known, and the user is told where
//! to look.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use aya::programs::links::LinkType;
use aya::programs::{loaded_links, loaded_programs};

use super::neighbor::xdp_programs;

/// What our own programs are called (`bpf/`): steering and decapsulation.
const OWN_NAMES: [&str; 2] = ["pointsman_steer", "pointsman_decap"];

/// What is said when the program has gone before it could be looked at.
pub const UNNAMED: &str = "another XDP program is attached";

/// What was known of a program when the process could still ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: String,
    /// Attached through a BPF link: it goes with the process that holds the link.
    is_link: bool,
}

/// By the program's id, which the kernel gives to no other for a very long time (`idr_alloc_cyclic`).
static SEEN: OnceLock<BTreeMap<u32, Seen>> = OnceLock::new();

/// Notes what programs there are: to be called before capabilities are given up. Where it is not allowed, nothing is
/// noted.
pub fn look_while_allowed() {
    let links: Vec<u32> = loaded_links()
        .map_while(Result::ok)
        .filter(|link| link.link_type().is_ok_and(|kind| kind == LinkType::Xdp))
        .map(|link| link.program_id())
        .collect();
    let programs = loaded_programs().map_while(Result::ok).map(|program| {
        let name = program.name_as_str().unwrap_or_default().to_owned();
        (program.id(), Seen { name, is_link: links.contains(&program.id()) })
    });
    // A second call changes nothing.
    let _ = SEEN.set(programs.collect());
}

/// Whose XDP programs are on the interface, and what to do; `None` if there are none, or the kernel does not say.
pub fn describe(interface: &str) -> Option<String> {
    let programs = xdp_programs(interface)?;
    let known = SEEN.get();
    let of = |id| (id, known.and_then(|known| known.get(&id)));
    (!programs.is_empty()).then(|| words(interface, &programs.into_iter().map(of).collect::<Vec<_>>()))
}

fn words(interface: &str, programs: &[(u32, Option<&Seen>)]) -> String {
    let named: Vec<String> = programs
        .iter()
        .map(|(id, seen)| match seen {
            Some(seen) if !seen.name.is_empty() => format!("program {id} \"{}\"", seen.name),
            _ => format!("program {id}"),
        })
        .collect();
    let is_own = |(_, seen): &(u32, Option<&Seen>)| seen.is_some_and(|seen| OWN_NAMES.contains(&seen.name.as_str()));
    let whose = if programs.iter().any(is_own) { "another pointsman is at work here" } else { UNNAMED };
    let off = format!("ip link set dev {interface} xdp off");
    let cure = if programs.iter().all(|(_, seen)| seen.is_some_and(|seen| seen.is_link)) {
        "it is attached by a BPF link, and goes when its process ends".to_owned()
    } else if programs.iter().all(|(_, seen)| seen.is_some_and(|seen| !seen.is_link)) {
        format!("to remove it: {off}")
    } else {
        format!(
            "one attached by a BPF link, as pointsman_steer is, goes when its process ends; to remove any other: {off}"
        )
    };
    format!("{whose}: {} (see: ip -d link show dev {interface}; {cure})", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cure_fits_the_program() {
        let seen = |name: &str, is_link| Seen { name: name.into(), is_link };
        let (own, linked, bare) = (seen("pointsman_steer", true), seen("filter", true), seen("filter", false));
        let rows = [
            (
                Some(&own),
                "another pointsman is at work here: program 7 \"pointsman_steer\" (see: ip -d link show dev eth0; it is \
                 attached by a BPF link, and goes when its process ends)",
            ),
            (
                Some(&linked),
                "another XDP program is attached: program 7 \"filter\" (see: ip -d link show dev eth0; it is attached by \
                 a BPF link, and goes when its process ends)",
            ),
            (
                Some(&bare),
                "another XDP program is attached: program 7 \"filter\" (see: ip -d link show dev eth0; to remove it: ip \
                 link set dev eth0 xdp off)",
            ),
            (
                None,
                "another XDP program is attached: program 7 (see: ip -d link show dev eth0; one attached by a BPF link, \
                 as pointsman_steer is, goes when its process ends; to remove any other: ip link set dev eth0 xdp off)",
            ),
        ];
        for (seen, expected) in rows {
            assert_eq!(words("eth0", &[(7, seen)]), expected);
        }
    }
}
