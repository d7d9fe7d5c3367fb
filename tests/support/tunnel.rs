//! A tunnel that stands in for the balancer: what arrives for the VIP leaves for one member inside an outer header.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use pointsman::lab::{Lab, Topology};

use super::support::Frame;

/// It runs in the balancer's namespace until it is stopped.
pub(crate) struct Tunnel {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Sent>,
}

/// What went into the tunnel.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) packets: u64,
    /// Bytes of the largest, outer header included.
    pub(crate) largest: usize,
}

impl Tunnel {
    /// Has the gateway send the VIP's packets to the balancer, and takes them from there to the member.
    pub(crate) fn start(lab: &Lab, member: usize) -> Self {
        let mac = Topology::BALANCER_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let vip = Topology::VIP.to_string();
        let neighbour = ["ip", "neighbour", "replace", &vip, "lladdr", &mac, "dev", "lan", "nud", "permanent"];
        lab.gateway().run(neighbour).unwrap();
        let (incoming, outgoing) = lab.balancer().enter(|| (listener(), sender())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let member = lab.topology().member_address(member);
        let thread = thread::spawn(move || carry(&incoming, &outgoing, member, &stopped));
        Self { stop, thread }
    }

    /// Ends it; a packet that could not be sent is a panic.
    pub(crate) fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Receives every packet of the namespace, beginning at its IP header.
fn listener() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll).unwrap();
    setsockopt(&listener, RcvBufForce, &(16 << 20)).unwrap();
    setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(20)).unwrap();
    listener
}

/// Sends packets with a header of their own (`IPPROTO_RAW` implies `IP_HDRINCL`).
fn sender() -> OwnedFd {
    socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap()
}

fn carry(incoming: &OwnedFd, outgoing: &OwnedFd, member: Ipv4Addr, stop: &AtomicBool) -> Sent {
    let to = SockaddrIn::from(SocketAddrV4::new(member, 0));
    let mut sent = Sent::default();
    let mut packet = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let length = match recv(incoming.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => length,
            Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => continue,
            Err(error) => panic!("receiving: {error}"),
        };
        let inner = &packet[..length];
        if inner.get(16..20) != Some(&Topology::VIP.octets()) || inner[0] >> 4 != 4 {
            continue;
        }
        let outer = Frame { source: Topology::BALANCER, destination: member, ..Frame::ipv4(4, inner.to_vec()) };
        let outer = outer.packet();
        sendto(outgoing.as_raw_fd(), &outer, &to, MsgFlags::empty())
            .unwrap_or_else(|error| panic!("sending {} bytes to {member}: {error}", outer.len()));
        sent.packets += 1;
        sent.largest = sent.largest.max(outer.len());
    }
    sent
}
