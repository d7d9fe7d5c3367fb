//! What a worker counts: plain integers, one writer each, named by cause. Summing is the reader's job.

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use super::ids::{MemberId, VipId};
use super::memory::all_zero;
use super::port::RingStatistics;
use super::residence::Residence;
use super::verdict::DropReason;

/// A counter that one thread writes and any thread reads. Wraps after 2^64.
#[derive(Debug, Default, FromZeros)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker calls this: a plain load and store, no locked instruction.
    #[inline]
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Replaces the value; only the owner calls this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets and their bytes (Ethernet header included, frame check sequence not).
#[derive(Debug, Default, FromZeros)]
pub struct Traffic {
    /// Number of packets.
    pub packets: Counter,
    /// Number of bytes.
    pub bytes: Counter,
}

impl Traffic {
    /// Counts one packet.
    #[inline]
    pub fn add_packet(&self, length: usize) {
        self.add(1, length);
    }

    /// Counts so many packets of so many bytes together.
    #[inline]
    pub fn add(&self, packets: usize, bytes: usize) {
        self.packets.add(packets as u64);
        self.bytes.add(bytes as u64);
    }

    fn forget(&self) {
        self.packets.set(0);
        self.bytes.set(0);
    }
}

/// One worker's counters. Control allocates them at start and they live as long as the process, across restarts of
/// the worker.
#[derive(Debug)]
#[repr(align(128))] // Two cache lines, as the prefetcher of x86-64 pairs them: neighbours never share a line.
pub struct Counters {
    /// The generation of the tables that the worker works by.
    pub generation: Counter,
    /// Frames taken from rx rings.
    pub received: Traffic,
    /// Frames given to tx rings.
    pub transmitted: Traffic,
    /// ARP requests for VIPs answered.
    pub arp_replies: Counter,
    /// ICMP echo requests to VIPs answered.
    pub echo_replies: Counter,
    /// Frames sent on behalf of the control thread (announcements).
    pub injected: Counter,
    /// Flows entered into the connection table.
    pub flows_begun: Counter,
    /// Packets of new flows that were hashed and not entered: more than the budget for new flows.
    pub flows_over_budget: Counter,
    /// Packets of new flows that were hashed and not entered: the table had no room.
    pub flows_without_room: Counter,
    /// Flows that were given another member because theirs could not be reached any more.
    pub flows_rebound: Counter,
    /// Flows that were forgotten because their member could not be reached any more.
    pub flows_forgotten: Counter,
    /// Flows that went where persistence had their client: new ones, and those of a lost member.
    pub persistence_followed: Counter,
    /// Clients that persistence remembered anew.
    pub persistence_begun: Counter,
    /// Clients that were given another member because theirs was not usable any more.
    pub persistence_moved: Counter,
    /// Clients that persistence did not remember: its table had no room.
    pub persistence_without_room: Counter,
    /// How long packets stayed: from the beginning of the round that took them from the rx ring to its end, when the
    /// kernel has been told to send them.
    pub residence: Residence,
    /// Times the worker went to sleep for want of packets.
    pub sleeps: Counter,
    /// Frames that the kernel could not deliver for want of free buffers (`rx_fill_ring_empty_descs`).
    pub fill_ring_empty: Counter,
    /// Frames that the kernel could not deliver because the rx ring was full (`rx_ring_full`).
    pub rx_ring_full: Counter,
    /// Frames that the kernel dropped on the way to the rx ring for other reasons (`rx_dropped`).
    pub rx_dropped: Counter,
    /// Descriptors that the kernel refused (`rx_invalid_descs` + `tx_invalid_descs`): a bug if not 0.
    pub invalid_descriptors: Counter,
    /// Frames that belong to no ring; with the next one, all frames that there are.
    pub frames_free: Counter,
    /// Frames that the ports' rings hold.
    pub frames_held: Counter,
    /// Of these, frames that no ring shows.
    pub frames_in_kernel: Counter,
    drops: [Counter; DropReason::COUNT],
    /// With a place for every id there can be: no index is out of bounds, and nothing has to grow while a worker counts.
    vips: Box<[Traffic; VipId::MOST]>,
    members: Box<[Traffic; MemberId::MOST]>,
    /// Flows entered into the connection table, by VIP and by member: apart, since only a flow's first packet counts here.
    vip_flows: Box<[Counter; VipId::MOST]>,
    member_flows: Box<[Counter; MemberId::MOST]>,
}

/// Every id that there is is below [`MemberId::MOST`]: this says so to the compiler.
#[inline]
fn index(id: MemberId) -> usize {
    id.0 as usize % MemberId::MOST
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// All at 0. 25 MiB of addresses, in memory that the kernel gives when it is first written to.
    pub fn new() -> Self {
        Self {
            generation: Counter::default(),
            received: Traffic::default(),
            transmitted: Traffic::default(),
            arp_replies: Counter::default(),
            echo_replies: Counter::default(),
            injected: Counter::default(),
            flows_begun: Counter::default(),
            flows_over_budget: Counter::default(),
            flows_without_room: Counter::default(),
            flows_rebound: Counter::default(),
            flows_forgotten: Counter::default(),
            persistence_followed: Counter::default(),
            persistence_begun: Counter::default(),
            persistence_moved: Counter::default(),
            persistence_without_room: Counter::default(),
            residence: Residence::new(),
            sleeps: Counter::default(),
            fill_ring_empty: Counter::default(),
            rx_ring_full: Counter::default(),
            rx_dropped: Counter::default(),
            invalid_descriptors: Counter::default(),
            frames_free: Counter::default(),
            frames_held: Counter::default(),
            frames_in_kernel: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
            vips: all_zero(),
            members: all_zero(),
            vip_flows: all_zero(),
            member_flows: all_zero(),
        }
    }

    /// Packets dropped for this reason.
    #[inline]
    pub fn dropped_for(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }

    /// Packets to this VIP.
    #[inline]
    pub fn vip(&self, id: VipId) -> &Traffic {
        &self.vips[usize::from(id.0)]
    }

    /// Packets sent to this member.
    #[inline]
    pub fn member(&self, id: MemberId) -> &Traffic {
        &self.members[index(id)]
    }

    /// Counts a flow that was entered into the connection table.
    #[inline]
    pub fn begin_flow(&self, vip: VipId, member: MemberId) {
        self.flows_begun.add(1);
        self.vip_flows[usize::from(vip.0)].add(1);
        self.member_flows[index(member)].add(1);
    }

    /// Flows to this VIP that were entered.
    pub fn flows_of_vip(&self, id: VipId) -> u64 {
        self.vip_flows[usize::from(id.0)].get()
    }

    /// Flows to this member that were entered.
    pub fn flows_of_member(&self, id: MemberId) -> u64 {
        self.member_flows[index(id)].get()
    }

    /// Has a VIP begin at 0. Only while no tables name it that the worker may have: otherwise they would count at once.
    pub fn forget_vip(&self, id: VipId) {
        self.vip(id).forget();
        self.vip_flows[usize::from(id.0)].set(0);
    }

    /// Has a member begin at 0, under the same condition.
    pub fn forget_member(&self, id: MemberId) {
        self.member(id).forget();
        self.member_flows[index(id)].set(0);
    }

    /// What the kernel counted for the worker's rings.
    pub fn rings(&self) -> RingStatistics {
        RingStatistics {
            rx_dropped: self.rx_dropped.get(),
            rx_ring_full: self.rx_ring_full.get(),
            fill_ring_empty: self.fill_ring_empty.get(),
            invalid_descriptors: self.invalid_descriptors.get(),
        }
    }

    /// Replaces what the kernel counted; only the owner calls this.
    pub fn set_rings(&self, rings: RingStatistics) {
        self.rx_dropped.set(rings.rx_dropped);
        self.rx_ring_full.set(rings.rx_ring_full);
        self.fill_ring_empty.set(rings.fill_ring_empty);
        self.invalid_descriptors.set(rings.invalid_descriptors);
    }

    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }
}
