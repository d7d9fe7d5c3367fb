//! More than can be carried: rings that run full on real sockets, and nothing of it left behind.
//!
//! Topology: see `pointsman::lab`, `Layout::TwoArmed`. The gateway sends frames written by hand as fast as it can.

mod support;

#[path = "support/lab.rs"]
mod in_lab;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use in_lab::{assert_clean, assert_frames_accounted_for, build, statistic, topology};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use pointsman::dataplane::port::xdp;
use pointsman::lab::{Lab, Layout, Load, Process, Service, Topology, wait_until};
use support::Frame;

const PATIENCE: Duration = Duration::from_secs(10);
/// Frames that two queues' fill rings hold.
const RINGS: u64 = 2 * xdp::RING as u64;

/// Sends `count` datagrams for the VIP, of many flows. Members drop them unanswered: their checksum is wrong.
fn flood(lab: &Lab, count: u32) {
    // `IPPROTO_RAW` implies `IP_HDRINCL` (raw(7)).
    let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
    let socket: OwnedFd = lab.gateway().enter(open).expect("the gateway").expect("a socket");
    let to = SockaddrIn::from(SocketAddrV4::new(Topology::VIP, 0));
    let mut frame = Frame { destination: Topology::VIP, ..Frame::udp(0, 53, 18) };
    frame.payload[6..8].copy_from_slice(&[0xde, 0xad]);
    let started = Instant::now();
    for number in 0..count {
        frame.source = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 10)) + number % 4);
        frame.payload[..2].copy_from_slice(&((1024 + number % 60_000) as u16).to_be_bytes());
        // What the gateway itself has no room for is lost on the way, as floods are.
        let _ = sendto(socket.as_raw_fd(), &frame.packet(), &to, MsgFlags::MSG_DONTWAIT);
    }
    println!("{count} datagrams in {:?}", started.elapsed());
}

/// Has the balancer miss everything for a while, and come back in the middle of a flood.
fn flood_over_an_absence(lab: &Lab, balancer: &Process, meanwhile: impl FnOnce()) {
    balancer.signal(Signal::SIGSTOP).expect("SIGSTOP");
    meanwhile();
    std::thread::scope(|scope| {
        let arrived = || lab.gateway().interface_counters("balancer").expect("counters").tx_packets;
        let enough = arrived() + 2 * RINGS;
        let flood = scope.spawn(|| flood(lab, 40_000));
        // Twice what the rings of both queues hold, since one of them gets more than the other.
        assert!(wait_until(PATIENCE, || arrived() >= enough || flood.is_finished()), "nothing came of the flood");
        balancer.signal(Signal::SIGCONT).expect("SIGCONT");
    });
}

fn set_eth1(lab: &Lab, state: &str) {
    lab.balancer().run(["ip", "link", "set", "eth1", state]).expect("ip");
}

#[test]
fn full_rings_lose_packets_by_name_and_no_frame() {
    let Some(lab) = build(&Topology { layout: Layout::TwoArmed, queues: 2, ..topology() }) else { return };
    let _members = lab.spawn_member_servers().expect("members");
    let services = [Service::http(&[1, 1, 1]), Service::dns(&[1, 1, 1])];
    let mut balancer = lab.spawn_balancer(&lab.config(&services)).expect("balancer");
    let assert_forwards = || {
        for load in [lab.get(), lab.udp()] {
            assert_clean(&lab.client_load(&Load { connections: 500, ..load }).expect("load"), 500);
        }
    };
    assert_forwards();

    // Nobody takes what comes in: there are no frames left to receive into.
    flood_over_an_absence(&lab, &balancer, || ());
    assert_forwards();

    // Nobody takes what goes out: a rx ring's worth of frames, and what comes after it, meets a tx ring that stands
    // still. Control learns of the link at the same moment and ends it within milliseconds; five times are enough.
    for _ in 0..5 {
        flood_over_an_absence(&lab, &balancer, || set_eth1(&lab, "down"));
        set_eth1(&lab, "up");
        let one = Load { connections: 1, patience_seconds: 1, limit_seconds: 2, ..lab.get() };
        let forwards = || lab.client_load(&one).is_ok_and(|report| report.failures == 0);
        assert!(wait_until(PATIENCE, forwards), "the members are found again");
    }
    assert_forwards();

    // As fast as it goes.
    flood(&lab, 300_000);
    assert_forwards();

    assert!(balancer.stop().expect("stop").success());
    let of = |keys: &[&str]| keys.iter().map(|key| statistic(&balancer, key)).sum::<u64>();
    let lost = of(&["ring.fill_ring_empty", "ring.rx_ring_full", "ring.rx_dropped"]);
    let full = of(&["drop.tx_ring_full"]);
    let [received, sent, dropped] = ["received", "transmitted", "dropped"].map(|key| of(&[key]));
    println!("{received} received, {sent} sent, {dropped} dropped ({full} for a full tx ring), {lost} not received");
    assert!(lost > 0, "the run did not come to an empty fill ring");
    assert!(full > 0, "the run did not come to a full tx ring");
    // Announcements and replies to ARP are sent as well, which nobody has forwarded.
    assert!((received..received + 100).contains(&(sent + dropped)), "every packet was sent or dropped by name");
    assert_frames_accounted_for(&balancer);
}
