//! The cases: what comes in, into which table, and what must have become of it for the time to mean anything.

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use pointsman::dataplane::encap::OUTER_LENGTH;
use pointsman::dataplane::parse::parse;
use pointsman::dataplane::worker::BURST;

use super::bare::Bare;
use super::generator::Loop;
use super::packet::{ACK, OTHERS, SYN, icmp_error, tcp, udp, vlan_tcp};
use super::walk::{Counted, Forward, Start, Walk, macs};

/// As many new flows a second as there are packets.
const UNLIMITED: u64 = 1 << 32;

/// New flows a second that are entered in a flood: a quarter of the daemon's budget for a worker, so that the packets
/// that are measured are those above it.
pub(super) const FLOOD_BUDGET: u64 = 125_000;

/// Frames that there are at least, so that a round is full.
const FRAMES: usize = 512;

/// What the packets are, and what the table knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Parse, hash, one-line lookup, MAC write: not the walk but what it is judged by.
    Bare,
    /// Packets of established TCP connections, all of them in a table that was made for as many.
    Established,
    /// The first packet of each flow, into an empty table for as many.
    New,
    /// SYNs above the budget for new flows; the table fits a quarter of them and is half full of others' connections.
    Flood,
    /// Segments of forty times more flows than the table fits, without a budget.
    Thrash,
    /// ICMP errors about established connections.
    IcmpError,
}

/// What is only parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    /// With a VLAN tag: refused.
    VlanTcp,
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Process { kind: Kind, forward: Forward, flows: usize },
    Parse(Protocol),
}

/// Numbers of flows, and what they are called.
pub(super) const FLOWS: [(usize, &str); 5] =
    [(1, "1"), (1000, "1k"), (64_000, "64k"), (1_000_000, "1m"), (4_000_000, "4m")];

impl Case {
    pub(super) fn name(self) -> String {
        let (kind, forward, flows) = match self {
            Self::Parse(Protocol::Tcp) => return "parse/v4-tcp".to_owned(),
            Self::Parse(Protocol::Udp) => return "parse/v4-udp".to_owned(),
            Self::Parse(Protocol::VlanTcp) => return "parse/vlan-v4-tcp".to_owned(),
            Self::Process { kind, forward, flows } => (kind, forward, flows),
        };
        let kind = match kind {
            Kind::Bare => "bare",
            Kind::Established => "established",
            Kind::New => "new",
            Kind::Flood => "flood",
            Kind::Thrash => "thrash",
            Kind::IcmpError => "icmp-error",
        };
        let forward = match forward {
            Forward::Direct => "dr",
            Forward::Ipip => "ipip",
        };
        let flows = FLOWS.iter().find(|(number, _)| *number == flows).map_or("?", |(_, name)| name);
        format!("process/{kind}/v4/{forward}/{flows}")
    }

    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let mut cases = [Protocol::Tcp, Protocol::Udp, Protocol::VlanTcp].map(Self::Parse).to_vec();
        for (flows, _) in FLOWS {
            for kind in [Kind::Bare, Kind::Established, Kind::New, Kind::Flood, Kind::Thrash, Kind::IcmpError] {
                // A thousand sources are no flood, and one flow is new but once.
                let fewest = match kind {
                    Kind::Bare | Kind::Established | Kind::IcmpError => 1,
                    Kind::New => 1000,
                    Kind::Flood | Kind::Thrash => 64_000,
                };
                if flows >= fewest {
                    cases.extend([Forward::Direct, Forward::Ipip].map(|forward| Self::Process {
                        kind,
                        forward,
                        flows,
                    }));
                }
            }
        }
        cases
    }

    /// What runs it, with that budget for new flows if it is a flood; takes memory and seconds with many flows.
    pub(super) fn contender(self, budget: u64) -> Contender {
        match self {
            Self::Parse(protocol) => Contender::Parse(frames(protocol)),
            Self::Process { kind: Kind::Bare, forward, flows } => {
                let outer = (forward == Forward::Ipip).then_some([0x45; OUTER_LENGTH]);
                Contender::Bare(Box::new(Bare::new(looped(Kind::Bare, flows), flows, macs(), outer)))
            }
            Self::Process { kind, forward, flows } => Process::contender(kind, forward, flows, budget),
        }
    }
}

fn frames(protocol: Protocol) -> Vec<Vec<u8>> {
    let frame = |flow| match protocol {
        Protocol::Tcp => tcp(flow, ACK),
        Protocol::Udp => udp(flow),
        Protocol::VlanTcp => vlan_tcp(flow),
    };
    (0..BURST as u64).map(frame).collect()
}

/// One frame of every flow, in random order; with few flows several of each.
fn looped(kind: Kind, flows: usize) -> Loop {
    let mut order: Vec<u64> = (0..flows.max(FRAMES)).map(|at| (at % flows) as u64).collect();
    let mut dice = Dice(7);
    for at in (1..order.len()).rev() {
        order.swap(at, dice.roll(at as u64 + 1) as usize);
    }
    Loop::new(order.into_iter().map(|flow| match kind {
        Kind::Bare | Kind::Established | Kind::Thrash => tcp(flow, ACK),
        Kind::New | Kind::Flood => tcp(flow, SYN),
        Kind::IcmpError => icmp_error(flow),
    }))
}

/// `SplitMix64`.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }
}

/// What is measured.
pub(super) enum Contender {
    Bare(Box<Bare>),
    Parse(Vec<Vec<u8>>),
    Process(Box<Process>),
}

/// The walk in one case.
pub(super) struct Process {
    kind: Kind,
    forward: Forward,
    flows: usize,
    walk: Walk,
}

impl Process {
    fn contender(kind: Kind, forward: Forward, flows: usize, budget: u64) -> Contender {
        let walk = Self::walk(kind, forward, (flows, budget), looped(kind, flows));
        let mut contender = Contender::Process(Box::new(Self { kind, forward, flows, walk }));
        if kind != Kind::New {
            // Twice round: every flow is begun and then established.
            contender.forward(2 * flows.max(FRAMES) as u64);
        }
        contender
    }

    fn walk(kind: Kind, forward: Forward, (flows, budget): (usize, u64), port: Loop) -> Walk {
        let number = flows as u64;
        let (capacity, new_flows, known) = match kind {
            Kind::Bare | Kind::Established | Kind::New => (flows.max(1024), UNLIMITED, 0..0),
            Kind::Flood => (flows / 4, budget, OTHERS..OTHERS + number / 8),
            Kind::Thrash => (flows / 40, budget, 0..0),
            Kind::IcmpError => (flows.max(1024), UNLIMITED, 0..number),
        };
        Walk::new(port, Start { forward, capacity, new_flows, known: &mut known.into_iter() })
    }

    /// Another walk with the same frames that knows no flow.
    fn forget(&mut self) {
        let one = Loop::new(std::iter::once(tcp(0, SYN)));
        let mut fresh = Self::walk(self.kind, self.forward, (self.flows, UNLIMITED), one);
        self.walk.swap_frames(&mut fresh);
        self.walk = fresh;
    }

    /// Packets that can be new until one comes a second time.
    fn all_once(&self) -> u64 {
        (self.flows / ROUND * ROUND) as u64
    }

    /// What must hold of so many packets, or the case is not what its name says.
    fn check(&self, counted: Counted) {
        let Counted { received, transmitted, begun, over_budget, without_room } = counted;
        let at_least = |number: u64, percent: f64| number as f64 >= received as f64 * percent / 100.0;
        let holds = match self.kind {
            Kind::Bare => true,
            // Of as many flows as a table is for, a few in a thousand do not fit: they are looked for and hashed. (How
            // many is what the bench `flow` prints.)
            Kind::Established => at_least(received - begun - without_room, 99.0),
            Kind::New => at_least(begun, 99.0),
            // In a slow run the budget is worth more packets.
            Kind::Flood => at_least(over_budget, 80.0),
            // Those that came first stay, and come again in their part of the loop.
            Kind::Thrash => at_least(begun + over_budget + without_room, 70.0),
            Kind::IcmpError => begun + over_budget + without_room == 0,
        };
        let name = Case::Process { kind: self.kind, forward: self.forward, flows: self.flows }.name();
        assert!(holds && received == transmitted && received > 0, "{name} is not what it should be: {counted:?}");
    }
}

/// Packets of the worker's full round.
const ROUND: usize = 4 * BURST;

impl Contender {
    /// Makes a contender that measures what happens once ready for it to happen again.
    pub(super) fn prepare(&mut self) {
        match self {
            Self::Process(process) if process.kind == Kind::New => process.forget(),
            _ => {}
        }
    }

    /// Forwards at least so many packets, or as many as it can before it must be prepared; says how many it was.
    pub(super) fn forward(&mut self, packets: u64) -> u64 {
        let mut done = 0;
        match self {
            Self::Bare(bare) => {
                while done < packets {
                    bare.round();
                    done += BURST as u64;
                }
            }
            Self::Parse(frames) => {
                while done < packets {
                    for frame in &*frames {
                        black_box(parse(black_box(frame)).ok());
                    }
                    done += frames.len() as u64;
                }
            }
            Self::Process(process) => {
                let packets = if process.kind == Kind::New { packets.min(process.all_once()) } else { packets };
                while done < packets {
                    done += process.walk.round() as u64;
                }
            }
        }
        done
    }

    /// CPU time of at least so many packets, and how many it was. What the walk counted meanwhile is checked.
    pub(super) fn time(&mut self, packets: u64) -> (Duration, u64) {
        let (mut done, mut time) = (0, Duration::ZERO);
        while done < packets {
            self.prepare();
            let before = self.counted();
            let start = cpu_time();
            done += self.forward(packets - done);
            time += cpu_time().saturating_sub(start);
            self.check(before);
        }
        (time, done)
    }

    /// What the walk has counted.
    pub(super) fn counted(&self) -> Counted {
        match self {
            Self::Process(process) => process.walk.counted(),
            Self::Bare(_) | Self::Parse(_) => Counted::default(),
        }
    }

    /// Checks what the walk has counted since.
    pub(super) fn check(&self, before: Counted) {
        if let Self::Process(process) = self {
            process.check(process.walk.counted().since(before));
        }
    }
}

/// CPU time of this thread: stands still while others have the CPU.
pub(super) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the kernel knows this clock").into()
}
