//! The baseline: the least that an `AF_XDP` forwarder can do. It looks at nothing, writes the same bytes over the
//! front of every frame, and sends it out of the interface it came by or of a second one. Rings and bursts are
//! pointsman's own; what pointsman costs beyond this is the price of balancing.
//!
//! Runs as a process of its own, so that its CPU time can be told from the bench's.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;
use pointsman::dataplane::worker::{BURST, BURSTS};

use crate::frame;
use crate::rings::{RING, Socket, Umem};

/// How long the queue of a process that has just ended is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The object with the program `redirect`.
    #[arg(long)]
    object: PathBuf,
    /// The interface that frames come in by.
    #[arg(long)]
    way_in: String,
    /// The interface that they leave by, if it is another one.
    #[arg(long)]
    way_out: Option<String>,
    /// Prepend an outer IPv4 header.
    #[arg(long)]
    encapsulate: bool,
    /// The CPU to work on.
    #[arg(long)]
    cpu: usize,
}

impl Arguments {
    /// The command line that says the same.
    pub(crate) fn line(
        object: &Path,
        way_in: &str,
        way_out: Option<&str>,
        encapsulate: bool,
        cpu: usize,
    ) -> Vec<String> {
        let mut line = vec!["forwarder".to_owned(), "--object".to_owned(), object.display().to_string()];
        line.extend(["--way-in".to_owned(), way_in.to_owned(), "--cpu".to_owned(), cpu.to_string()]);
        line.extend(way_out.into_iter().flat_map(|name| ["--way-out".to_owned(), name.to_owned()]));
        line.extend(encapsulate.then(|| "--encapsulate".to_owned()));
        line
    }
}

/// Forwards until it is killed; the kernel then detaches the program and takes the sockets back.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(arguments.cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("CPU {}", arguments.cpu))?;
    let mut forwarder = Forwarder::open(arguments)?;
    let _attached = attach(arguments, forwarder.way_in.fd().as_raw_fd())?;
    println!("ready");
    io::stdout().flush()?;
    loop {
        if forwarder.round() == 0 {
            forwarder.sleep();
        }
    }
}

/// Has all IPv4 frames of the interface sent to this socket.
fn attach(arguments: &Arguments, socket: i32) -> Result<Ebpf> {
    let mut bpf = Ebpf::load_file(&arguments.object)?;
    let mut sockets = XskMap::try_from(bpf.map_mut("sockets").context("no map")?)?;
    sockets.set(0, socket, 0)?;
    let program: &mut Xdp = bpf.program_mut("redirect").context("no program")?.try_into()?;
    program.load()?;
    patiently(|| Ok(program.attach(&arguments.way_in, XdpMode::Driver)?))?;
    Ok(bpf)
}

/// Tries again for as long as the queue or the interface may still be somebody's who is gone.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    let code = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    code == Some(libc::EBUSY)
}

struct Forwarder {
    way_in: Socket,
    /// The socket to send by, where that is not `way_in`.
    way_out: Option<Socket>,
    /// Written over the start of every frame.
    front: Vec<u8>,
    /// How many of its bytes stand before where the frame began.
    growth: u32,
    /// Frames on the tx ring that the kernel has not taken yet.
    unsent: u32,
    // Outlives the sockets: they work in it.
    umem: Umem,
}

impl Forwarder {
    fn open(arguments: &Arguments) -> Result<Self> {
        let umem = Umem::new()?;
        let index = |name: &str| if_nametoindex(name).with_context(|| name.to_owned());
        let (way_in, way_out) = patiently(|| {
            let way_in = Socket::open(index(&arguments.way_in)?, &umem, None)?;
            let second = arguments.way_out.as_deref().map(index).transpose()?;
            let way_out = second.map(|second| Socket::open(second, &umem, Some(&way_in))).transpose()?;
            Ok((way_in, way_out))
        })?;
        let egress = usize::from(way_out.is_some());
        let mut front = Vec::from(frame::member_mac(0));
        front.extend(frame::FORWARDER_MACS[egress]);
        let mut growth = 0;
        if arguments.encapsulate {
            let outer = frame::outer_header();
            front.extend([0x08, 0x00]);
            front.extend(outer);
            growth = outer.len() as u32;
        }
        let mut forwarder = Self { way_in, way_out, front, growth, unsent: 0, umem };
        for (index, chunk) in (0..).zip(Umem::chunks()) {
            forwarder.way_in.fill.write(index, chunk);
        }
        forwarder.way_in.fill.advance(RING);
        Ok(forwarder)
    }

    /// As many bursts as pointsman takes before it sends; says how many frames that were.
    fn round(&mut self) -> u32 {
        self.recycle();
        let received = self.way_in.rx.ready((BURSTS * BURST) as u32);
        let egress = self.way_out.as_mut().map_or(&mut self.way_in.tx, |way_out| &mut way_out.tx);
        // There are as many frames as entries, so there is room for all.
        let count = egress.ready(received);
        for index in 0..count {
            let mut descriptor = self.way_in.rx.read(index);
            descriptor.addr -= u64::from(self.growth);
            descriptor.len += self.growth;
            self.umem.write(descriptor.addr, &self.front);
            egress.write(index, descriptor);
        }
        egress.advance(count);
        self.way_in.rx.advance(count);
        self.unsent += count;
        self.send();
        count
    }

    /// Frames that have been sent are received into again.
    fn recycle(&mut self) {
        let completion = self.way_out.as_mut().map_or(&mut self.way_in.completion, |way_out| &mut way_out.completion);
        let sent = completion.ready(RING);
        // The kernel says a little later that it has taken a chunk from the fill ring: the rest is for the next round.
        let count = self.way_in.fill.ready(sent);
        for index in 0..count {
            self.way_in.fill.write(index, completion.read(index));
        }
        self.way_in.fill.advance(count);
        completion.advance(count);
    }

    /// Has the kernel send what is on the tx ring.
    fn send(&mut self) {
        let socket = self.way_out.as_ref().unwrap_or(&self.way_in);
        for _ in 0..self.unsent.div_ceil(socket.frames_per_send) {
            match send(socket.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {
                    self.unsent = 0;
                    return;
                }
                // EAGAIN: there is more than one call sends.
                Err(Errno::EAGAIN) => {}
                // No memory, link down: another round's matter.
                Err(_) => return,
            }
        }
    }

    fn sleep(&self) {
        let mut entries = [PollFd::new(self.way_in.fd().as_fd(), PollFlags::POLLIN)];
        let timeout = if self.unsent > 0 { 1_u16 } else { 100 };
        // Whatever ends the sleep, the rings say what there is to do.
        let _ = poll(&mut entries, PollTimeout::from(timeout));
    }
}
