//! Both ends of the traffic: floods and single frames into the forwarder, and the count of what comes out.
//!
//! Frames are made by an XDP program that the kernel runs over and over (`BPF_PROG_TEST_RUN` with live frames,
//! `Documentation/bpf/bpf_prog_run.rst`) and go to the veth as a NIC's frames go to XDP: no stack, no `sk_buff`. One
//! CPU makes several million a second, more than any forwarder here takes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, DevMap, MapData, PerCpuArray};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use pointsman::lab::wait_until;

use crate::frame;
use crate::interrupt::interrupt;
use crate::wire::Wire;

/// Frames that the kernel makes before it hands them on together: a NAPI budget, as a NIC would.
const BATCH: u32 = 64;

/// Frames of one test run. Setting one up takes 25 ms, a gap in the traffic: so many last minutes, and a run is
/// interrupted when it is to end.
const FRAMES_PER_RUN: u32 = 1 << 30;

/// How long a probe may take: far beyond the longest sleep of any forwarder.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How fast frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// As fast as one CPU can.
    FlatOut,
    /// So many a second.
    PerSecond(u32),
}

/// What has been counted since the traffic was set up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Frames sent towards the forwarder.
    pub(crate) generated: u64,
    /// Frames that came out of it as they should.
    pub(crate) good: u64,
    /// IPv4 frames that came out of it otherwise.
    pub(crate) bad: u64,
}

/// The generator on one end of the wire and the sink on the other.
pub(crate) struct Traffic {
    bpf: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    pace: Array<MapData, u64>,
    moments: Array<MapData, u64>,
    cpu: usize,
}

/// Compiles the programs, and says where the object is.
pub(crate) fn compile(directory: &Path) -> Result<PathBuf> {
    let object = directory.join("traffic.o");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/end_to_end/traffic.bpf.c");
    let status = Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Debian keeps asm/types.h in the architecture's own folder, which -target bpf does not search.
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .args(["-c", source, "-o"])
        .arg(&object)
        .status()
        .context("clang compiles the bench's XDP programs")?;
    if !status.success() {
        bail!("clang could not compile {source}: {status}");
    }
    Ok(object)
}

impl Traffic {
    /// Puts generator and sink to the ends of `wire`; the generator will work on `cpu`.
    pub(crate) fn set_up(object: &Path, wire: &Wire, flows: u32, cpu: usize) -> Result<Self> {
        let way = wire.way();
        let mut bpf = EbpfLoader::new()
            .override_global("flows", &flows, true)
            .override_global("vip", &u32::from(frame::VIP), true)
            .override_global("first_source", &u32::from(frame::FIRST_CLIENT), true)
            .override_global("first_member", &u32::from(frame::member(way.egress(), 0)), true)
            .override_global("members", &u32::from(frame::MEMBERS), true)
            .override_global("encapsulated", &u32::from(way.encapsulates()), true)
            .load_file(object)?;
        for name in ["generate", "probe", "sink"] {
            program(&mut bpf, name)?.load()?;
        }
        let (namespace, interface) = wire.source();
        namespace.enter(|| -> Result<()> {
            let mut way_out = DevMap::try_from(bpf.map_mut("way_out").context("no map")?)?;
            Ok(way_out.set(0, if_nametoindex(interface)?, None, 0)?)
        })??;
        let (namespace, interface) = wire.sink();
        namespace.enter(|| -> Result<()> {
            program(&mut bpf, "sink")?.attach(interface, XdpMode::Driver)?;
            Ok(())
        })??;
        let mut map = |name: &str| bpf.take_map(name).with_context(|| format!("no map {name}"));
        let counters = PerCpuArray::try_from(map("counters")?)?;
        let pace = Array::try_from(map("pace")?)?;
        let moments = Array::try_from(map("moments")?)?;
        Ok(Self { bpf, counters, pace, moments, cpu })
    }

    /// What has been counted so far. The numbers are read one after the other, not at once.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let sum = |index| -> Result<u64> { Ok(self.counters.get(&index, 0)?.iter().sum()) };
        Ok(Counts { generated: sum(0)?, good: sum(1)?, bad: sum(2)? })
    }

    /// Sends frames for as long as `work` takes.
    pub(crate) fn flood<T>(&mut self, rate: Rate, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let step = match rate {
            Rate::FlatOut => 0,
            Rate::PerSecond(frames) => 256_000_000_000 / u64::from(frames.max(1)),
        };
        self.pace.set(0, step, 0)?;
        let generate = loaded(&self.bpf, "generate")?;
        let (over, thread) = (AtomicBool::new(false), AtomicI32::new(0));
        thread::scope(|scope| {
            let generator = scope.spawn(|| {
                thread.store(gettid().as_raw(), Ordering::Relaxed);
                pin(self.cpu)?;
                while !over.load(Ordering::Relaxed) {
                    run(generate, FRAMES_PER_RUN, BATCH)?;
                }
                Ok(())
            });
            let running = Running { over: &over, thread: &thread, generator: &generator };
            let result = work(self);
            drop(running);
            match generator.join() {
                Ok(ended) => ended.and(result),
                Err(_) => bail!("the generator panicked"),
            }
        })
    }

    /// Sends one frame and says how long it was on its way through the forwarder; `None` if it did not arrive.
    pub(crate) fn probe(&mut self) -> Result<Option<Duration>> {
        const LEFT: u32 = 0;
        const ARRIVED: u32 = 1;
        self.moments.set(ARRIVED, 0, 0)?;
        run(loaded(&self.bpf, "probe")?, 1, 1)?;
        let mut read = Ok(0);
        wait_until(PROBE_TIMEOUT, || {
            read = self.moments.get(&ARRIVED, 0);
            !matches!(read, Ok(0))
        });
        let (left, arrived) = (self.moments.get(&LEFT, 0)?, read?);
        // The sink awaits nothing any more.
        self.moments.set(LEFT, 0, 0)?;
        Ok((arrived > 0).then(|| Duration::from_nanos(arrived.saturating_sub(left))))
    }

    /// Waits until nothing has arrived for a while: what was under way is counted then, or lost.
    pub(crate) fn settle(&self) -> Result<Counts> {
        const QUIET: Duration = Duration::from_millis(20);
        const LONGEST: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + LONGEST;
        let mut before = self.counts()?;
        loop {
            thread::sleep(QUIET);
            let now = self.counts()?;
            if (now.good, now.bad) == (before.good, before.bad) || Instant::now() > deadline {
                return Ok(now);
            }
            before = now;
        }
    }
}

/// While this lives the generator runs; when it is dropped, be it by a panic, the generator has ended.
struct Running<'a> {
    over: &'a AtomicBool,
    thread: &'a AtomicI32,
    generator: &'a ScopedJoinHandle<'a, Result<()>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // A signal between the look at `over` and the system call is lost: so it is sent until it has been heard.
        while !self.generator.is_finished() {
            let thread = self.thread.load(Ordering::Relaxed);
            if thread != 0 {
                // Nothing can be wrong with a signal to a thread of one's own.
                let _ = interrupt(Pid::from_raw(thread));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Has the kernel run the program on so many frames, or until a signal.
fn run(program: &Xdp, frames: u32, batch: u32) -> Result<()> {
    let template = frame::template();
    let options = TestRunOptions {
        data_in: Some(&template),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(batch),
        ..TestRunOptions::new()
    };
    match program.test_run(options) {
        Ok(_) => Ok(()),
        Err(ProgramError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error).context("running the generator (live frames: Linux 5.18 or later)"),
    }
}

fn program<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(bpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn loaded<'a>(bpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    Ok(bpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("CPU {cpu}"))
}
