//! What a demo is going to send: a VIP for each method of forwarding, and its part of the requests.

use std::net::{Ipv4Addr, SocketAddrV4};

use clap::ValueEnum;

use crate::lab::{Service, Topology};

/// What `--forward` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Forward {
    /// Direct routing: the member's MAC
    Dr,
    /// IPIP: a tunnel to the member
    Ipip,
    /// A VIP for each
    Both,
}

impl Forward {
    /// The VIPs, and how many of the requests each gets: two thirds and one third where there are two.
    pub(super) fn parts(self, requests: u64) -> Vec<Part> {
        let tunnelled = requests / 3;
        match self {
            Self::Dr => vec![Part { method: Method::Dr, requests }],
            Self::Ipip => vec![Part { method: Method::Ipip, requests }],
            Self::Both => vec![
                Part { method: Method::Dr, requests: requests - tunnelled },
                Part { method: Method::Ipip, requests: tunnelled },
            ],
        }
    }
}

/// How a VIP's requests are brought to its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Dr,
    Ipip,
}

impl Method {
    /// The word for it in a configuration.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Ipip => "ipip",
        }
    }

    /// For people, with what it does to a request.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Dr => "direct routing: the same packet, with the member's MAC",
            Self::Ipip => "IPIP: the packet inside another one to the member's own address",
        }
    }

    /// A VIP of its own, with or without the other one.
    pub(super) fn vip(self) -> Ipv4Addr {
        match self {
            Self::Dr => Topology::VIP,
            Self::Ipip => Ipv4Addr::from_bits(Topology::VIP.to_bits() + 1),
        }
    }
}

/// One VIP, and how many requests it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) method: Method,
    pub(super) requests: u64,
}

impl Part {
    pub(super) fn target(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.method.vip(), 80)
    }

    pub(super) fn service(self, weights: &[u16]) -> Service {
        let key = self.method.key();
        Service { name: key.to_owned(), address: self.method.vip(), forward: key, ..Service::http(weights) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let requests = |forward: Forward, all| -> Vec<(&str, u64)> {
            forward.parts(all).iter().map(|part| (part.method.key(), part.requests)).collect()
        };
        assert_eq!(requests(Forward::Both, 30_000), [("dr", 20_000), ("ipip", 10_000)]);
        assert_eq!(requests(Forward::Both, 1000), [("dr", 667), ("ipip", 333)]);
        assert_eq!(requests(Forward::Dr, 1000), [("dr", 1000)]);
        assert_eq!(requests(Forward::Ipip, 1000), [("ipip", 1000)]);
    }

    #[test]
    fn every_part_is_a_service_of_its_own() {
        let services: Vec<Service> = Forward::Both.parts(1000).iter().map(|part| part.service(&[1, 2])).collect();
        let told: Vec<String> = services
            .iter()
            .map(|one| format!("{} {} {} {:?}", one.name, one.address, one.forward, one.weights))
            .collect();
        assert_eq!(told, ["dr 198.51.100.50 dr [1, 2]", "ipip 198.51.100.51 ipip [1, 2]"]);
    }
}
