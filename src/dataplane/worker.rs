//! The loop around the packet's walk: reclaim → refill → receive → process → transmit, then sleep if there was
//! nothing to do. Tables are swapped between two rounds, never within one. No parsing here.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::counters::Counters;
use super::flow::{FlowTable, NewFlowBudget, Now};
use super::port::{Port, RingStatistics};
use super::process::{Ingress, Ledger, NOTHING, Prepared, State, conclude_known, conclude_rest, postpone, prepare};
use super::tables::{Egress, InterfaceId, Tables};
use super::verdict::{Conflict, DropReason};

/// Packets that are processed between two looks at anything else. The kernel's own NAPI budget; twice as many add
/// latency and no speed, half as many spread the fixed costs of a burst over too few packets.
pub const BURST: usize = 64;

/// Full bursts from one port before what came of them is handed on: a system call to send costs as much as balancing
/// some ten packets, and four bursts are a quarter of a millisecond at a million packets a second.
pub const BURSTS: usize = 4;

/// Frames ahead of the one that is being read whose first cache line is asked for: reading one takes some 10 ns, memory
/// some 80.
const AHEAD: usize = 16;

/// New flows per second and worker that are entered into the connection table: at some 90 ns each they take a twentieth
/// of a core. Real peaks are well below; a flood is above, and is hashed.
pub const NEW_FLOWS: u64 = 500_000;

/// Orders that control can give before a worker has taken the first.
const ORDERS: usize = 64;

/// Claims to VIPs' addresses that wait for control; more are dropped, since the alarm has been raised by then.
const CONFLICTS: usize = 64;

/// Empty rounds before a worker sleeps: a few hundred nanoseconds in which the next packet of a busy link arrives.
const ROUNDS_BEFORE_SLEEP: u32 = 8;

/// The longest sleep: how late the ring statistics may be on an idle machine.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The sleep while frames wait in a tx ring that the device did not take at once, or none are left to receive into.
const SHORT_SLEEP: Duration = Duration::from_millis(1);

/// Nanoseconds between two readings of the kernel's ring statistics (a system call).
const STATISTICS_INTERVAL: u64 = 1_000_000_000;

/// What control tells a worker.
#[derive(Debug)]
pub enum Order {
    /// Work by these tables from the next round on.
    Publish(Arc<Tables>),
    /// Send this frame out of that interface.
    Send(InterfaceId, Box<[u8]>),
}

/// The two ends' common ground: orders one way, conflicts and retired tables the other. Lock-free and bounded.
#[derive(Debug)]
pub struct Mailbox {
    orders: ArrayQueue<Order>,
    /// One more than orders can wait: a worker that takes all of them finds room for what they replace.
    retired: ArrayQueue<Arc<Tables>>,
    conflicts: ArrayQueue<Conflict>,
    /// Not an order: it must arrive even if orders are left lying.
    stop: AtomicBool,
    wake: EventFd,
}

impl Mailbox {
    /// An empty mailbox; an error if the process may open no more files.
    pub fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            orders: ArrayQueue::new(ORDERS),
            retired: ArrayQueue::new(ORDERS + 1),
            conflicts: ArrayQueue::new(CONFLICTS),
            stop: AtomicBool::new(false),
            wake: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Control's side: leaves an order and wakes the worker. The order comes back if the worker has not taken the
    /// last `ORDERS` of them.
    pub fn order(&self, order: Order) -> Result<(), Order> {
        self.collect_retired();
        let result = self.orders.push(order);
        // EAGAIN: the counter is at its maximum, so the worker is awake or will be.
        let _ = self.wake.write(1);
        result
    }

    /// Control's side: whether orders that are not urgent may be left now. The other half is for tables: they must
    /// always find room.
    pub fn has_room(&self) -> bool {
        self.orders.len() < ORDERS / 2
    }

    /// Control's side: has the worker end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.wake.write(1);
    }

    /// Control's side: frees tables that the worker has left. Freeing is control's work: it takes time.
    pub fn collect_retired(&self) {
        while self.retired.pop().is_some() {}
    }

    /// Control's side: the oldest claim that has not been looked at.
    pub fn conflict(&self) -> Option<Conflict> {
        self.conflicts.pop()
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn clear_wake(&self) {
        // EAGAIN: nobody woke us.
        let _ = self.wake.read();
    }
}

/// How a worker spends the time in which there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Sleep until the kernel has a packet.
    Sleep,
    /// Look again at once: a core for the last microsecond of latency.
    Spin,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts<P: Port> {
    /// One port per listed interface, in the order of [`InterfaceId`]. They share one memory: a frame that came in by
    /// one of them leaves by any.
    pub ports: Vec<P>,
    /// All their frames.
    pub frames: Vec<P::Frame>,
    /// Its end of the talk with control.
    pub mailbox: Arc<Mailbox>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// What is known of flows; all workers share it.
    pub flows: Arc<FlowTable>,
    /// New flows per second that it may enter into the connection table.
    pub new_flows: u64,
    /// What it does when there is nothing to do.
    pub idle: Idle,
}

/// Frames to send out of one interface, and how many bytes they are together.
#[derive(Debug)]
struct Outgoing<F> {
    frames: Vec<F>,
    bytes: u64,
}

/// One pinned thread's state.
#[derive(Debug)]
pub struct Worker<P: Port> {
    ports: Vec<P>,
    /// Frames that belong to no ring.
    free: Vec<P::Frame>,
    /// Frames to send, by interface; empty between two rounds.
    outgoing: Vec<Outgoing<P::Frame>>,
    /// The frames that came in by one port, and the interfaces that they leave by; empty between two ports' turns.
    received: Vec<P::Frame>,
    egresses: Box<[Egress; BURSTS * BURST]>,
    /// What was read in the frames of one burst.
    prepared: Box<[Prepared; BURST]>,
    budget: NewFlowBudget,
    tables: Arc<Tables>,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    flows: Arc<FlowTable>,
    idle: Idle,
    statistics_due: u64,
    /// What earlier rings of this worker counted, before their interface was made anew.
    rings_before: RingStatistics,
    all_sent: bool,
    stopped: bool,
}

impl<F> Outgoing<F> {
    #[inline]
    fn push(&mut self, frame: F, length: usize) {
        self.frames.push(frame);
        self.bytes += length as u64;
    }
}

impl<P: Port> Worker<P> {
    /// A worker that serves nothing until tables are published to it.
    pub fn new(parts: Parts<P>) -> Self {
        let Parts { ports, frames: free, mailbox, counters, flows, new_flows, idle } = parts;
        let total = free.len();
        Self {
            outgoing: ports.iter().map(|_| Outgoing { frames: Vec::with_capacity(total), bytes: 0 }).collect(),
            received: Vec::with_capacity(total),
            egresses: Box::new([Egress::NONE; BURSTS * BURST]),
            prepared: Box::new([NOTHING; BURST]),
            budget: NewFlowBudget::new(new_flows, flows.now()),
            tables: Arc::new(Tables::empty()),
            statistics_due: 0,
            rings_before: counters.rings(),
            all_sent: true,
            stopped: false,
            ports,
            free,
            mailbox,
            counters,
            flows,
            idle,
        }
    }

    /// Works until it is told to stop, and then until its rings are empty.
    pub fn run(&mut self) {
        let mut empty_rounds = 0;
        while !self.stopped {
            if self.round() > 0 {
                empty_rounds = 0;
            } else if self.idle == Idle::Sleep {
                empty_rounds += 1;
                if empty_rounds >= ROUNDS_BEFORE_SLEEP {
                    empty_rounds = 0;
                    self.sleep();
                }
            }
        }
        // Nothing is steered here any more; what has come in is still sent on.
        let rounds = self.ports.iter().map(Port::held).sum::<usize>() / BURST;
        for _ in 0..=rounds {
            if self.round() == 0 {
                break;
            }
        }
        self.read_statistics();
    }

    /// One round: up to `BURSTS` bursts from every port. Says how many packets there were.
    pub fn round(&mut self) -> usize {
        // One clock read per round, and one more if packets came; tables are swapped between two rounds only. Packets
        // may wait while orders are carried out: that is part of their residence.
        let now = self.flows.now();
        self.obey();
        let mut received = 0;
        for index in 0..self.ports.len() {
            self.ports[index].reclaim(&mut self.free);
            self.ports[index].refill(&mut self.free);
            received += self.serve(index, now);
        }
        self.transmit();
        if received > 0 {
            self.counters.residence.record(self.flows.now().0.saturating_sub(now.0), received);
        }
        if now.0 >= self.statistics_due {
            self.statistics_due = now.0 + STATISTICS_INTERVAL;
            self.read_statistics();
        }
        received
    }

    /// Frames that the worker and its ports own together: all there are, at any moment between two rounds.
    pub fn frames(&self) -> usize {
        let held: usize = self.ports.iter().map(Port::held).sum();
        self.free.len() + held
    }

    /// Its ports.
    pub fn ports(&mut self) -> &mut [P] {
        &mut self.ports
    }

    /// Does what control ordered since the last round.
    fn obey(&mut self) {
        while let Some(order) = self.mailbox.orders.pop() {
            match order {
                Order::Publish(tables) => {
                    self.counters.generation.set(tables.generation);
                    let retired = std::mem::replace(&mut self.tables, tables);
                    // There is room: control frees before it orders. If ever not, freeing here is merely slow.
                    drop(self.mailbox.retired.push(retired));
                }
                Order::Send(interface, bytes) => self.inject(interface, &bytes),
            }
        }
        self.stopped = self.mailbox.stop.load(Ordering::Relaxed);
    }

    /// Sends a frame of control's making.
    fn inject(&mut self, interface: InterfaceId, bytes: &[u8]) {
        let index = usize::from(interface.0);
        let Some(port) = self.ports.get(index) else { return };
        self.counters.injected.add(1);
        let Some(mut frame) = self.free.pop() else {
            self.counters.dropped_for(DropReason::TxRingFull).add(1);
            return;
        };
        if port.write(&mut frame, bytes) {
            self.outgoing[index].push(frame, bytes.len());
        } else {
            self.counters.dropped_for(DropReason::Oversize).add(1);
            self.free.push(frame);
        }
    }

    /// Takes what a port has, up to so many bursts, and processes it burst by burst, in two steps each: see `process`.
    fn serve(&mut self, index: usize, now: Now) -> usize {
        for _ in 0..BURSTS {
            if self.ports[index].receive(&mut self.received, BURST) < BURST {
                break;
            }
        }
        let count = self.received.len();
        self.budget.refill(now);
        for start in (0..count).step_by(BURST) {
            self.read(index, start);
            self.conclude(index, start, now);
        }
        self.sort(index);
        count
    }

    /// Reads a burst's packets. (A function of its own, as is the other step: together they need more registers than
    /// there are.)
    #[inline(never)]
    fn read(&mut self, index: usize, start: usize) {
        let (port, ingress) = (&self.ports[index], Ingress::by(InterfaceId(index as u8), &self.tables));
        let state = State { tables: &self.tables, flows: &self.flows, may_enter: false };
        let frames = &self.received[start..];
        // The lines of later bursts' frames have been asked for while the burst before was concluded.
        let ahead = if start == 0 { frames.get(AHEAD..).unwrap_or_default() } else { &[] };
        let mut total = 0;
        for ((at, frame), prepared) in frames.iter().enumerate().zip(self.prepared.iter_mut()) {
            if let Some(ahead) = ahead.get(at) {
                port.prefetch(ahead);
            }
            let bytes = port.bytes(frame);
            total += bytes.len();
            prepare(&state, bytes, ingress, prepared);
        }
        self.counters.received.add(frames.len().min(BURST), total);
    }

    /// Decides about a burst's packets, and notes where they leave.
    #[inline(never)]
    fn conclude(&mut self, index: usize, start: usize, now: Now) {
        let (port, ingress) = (&self.ports[index], InterfaceId(index as u8));
        let state = State { tables: &self.tables, flows: &self.flows, may_enter: self.budget.has_left() };
        let conflicts = &self.mailbox.conflicts;
        let mut ledger = Ledger { counters: &self.counters, budget: &mut self.budget, conflicts };
        let frames = &mut self.received[start..];
        let (frames, later) = frames.split_at_mut(BURST.min(frames.len()));
        let egresses = &mut self.egresses[start..];
        let (mut rest, mut count) = ([0u8; BURST], 0);
        let each = frames.iter_mut().zip(egresses.iter_mut()).zip(self.prepared.iter());
        for (at, ((frame, egress), prepared)) in each.enumerate() {
            // Memory answers so many requests at a time: those of the next burst are spread over this one.
            if let Some(later) = later.get(at) {
                port.prefetch(later);
            }
            match conclude_known(&state, (prepared, ingress), (port, frame), &ledger, now) {
                Some(known) => *egress = known,
                None if state.may_enter => {
                    postpone(&state, prepared);
                    rest[count % BURST] = at as u8;
                    count += 1;
                }
                // In a flood few lie in second lines, or are entered.
                None => *egress = conclude_rest(&state, (prepared, ingress), (port, frame), &mut ledger, now),
            }
        }
        for at in rest.iter().take(count).map(|&at| usize::from(at) % BURST) {
            let (frame, prepared) = (&mut frames[at], &self.prepared[at]);
            egresses[at] = conclude_rest(&state, (prepared, ingress), (port, frame), &mut ledger, now);
        }
    }

    /// Puts a port's frames where they leave, or to the free ones.
    fn sort(&mut self, index: usize) {
        let port = &self.ports[index];
        let egresses = &self.egresses[..self.received.len()];
        let first = egresses.first().copied().unwrap_or(Egress::NONE);
        // Nearly always all leave by the same interface, and are moved together.
        let differing = egresses.iter().fold(0, |differing, egress| differing | egress.differs(first));
        if differing == 0
            && let Some(outgoing) = self.outgoing.get_mut(first.index())
        {
            outgoing.bytes += self.received.iter().map(|frame| port.length(frame) as u64).sum::<u64>();
            if outgoing.frames.is_empty() {
                std::mem::swap(&mut outgoing.frames, &mut self.received);
            } else {
                outgoing.frames.append(&mut self.received);
            }
            return;
        }
        for (frame, &egress) in self.received.drain(..).zip(self.egresses.iter()) {
            // `decide` lets nothing through to an interface that there is no port for.
            match self.outgoing.get_mut(egress.index()) {
                Some(outgoing) => {
                    let length = port.length(&frame);
                    outgoing.push(frame, length);
                }
                None => self.free.push(frame),
            }
        }
    }

    /// Hands what is to be sent to the ports; what a full tx ring does not take is dropped and counted.
    fn transmit(&mut self) {
        self.all_sent = true;
        for (port, outgoing) in self.ports.iter_mut().zip(&mut self.outgoing) {
            let Outgoing { frames, bytes } = outgoing;
            if !frames.is_empty() {
                let (wanted, bytes) = (frames.len(), std::mem::take(bytes));
                port.transmit(frames);
                if !frames.is_empty() {
                    // The device may have finished some since the round began.
                    port.flush();
                    port.reclaim(&mut self.free);
                    port.transmit(frames);
                }
                let lost: usize = frames.iter().map(|frame| port.length(frame)).sum();
                self.counters.transmitted.add(wanted - frames.len(), bytes as usize - lost);
                self.counters.dropped_for(DropReason::TxRingFull).add(frames.len() as u64);
                self.free.append(frames);
            }
            self.all_sent &= port.flush();
        }
    }

    fn sleep(&mut self) {
        self.counters.sleeps.add(1);
        // The kernel wakes for packets, not for frames that have been sent and could be received into again.
        let is_waiting = !self.all_sent || self.ports.iter().any(Port::is_starving);
        let timeout = if is_waiting { SHORT_SLEEP } else { LONGEST_SLEEP };
        P::wait(&mut self.ports, self.mailbox.wake(), timeout);
        self.mailbox.clear_wake();
    }

    fn read_statistics(&mut self) {
        let rings = self.ports.iter().fold(self.rings_before, |sum, port| sum + port.statistics());
        self.counters.set_rings(rings);
        let in_kernel: usize = self.ports.iter_mut().map(Port::in_kernel).sum();
        self.counters.frames_free.set(self.free.len() as u64);
        self.counters.frames_held.set((self.frames() - self.free.len()) as u64);
        self.counters.frames_in_kernel.set(in_kernel as u64);
    }
}
