//! Those that are compared: what runs in the forwarder's namespace, and how it is started and ended.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::lab::wait_until;

use crate::cpu::Accounts;
use crate::forwarder;
use crate::frame;
use crate::installed;
use crate::peers;
use crate::wire::{Placement, Wire};

/// How long a forwarder may take to start; testpmd takes a second or two.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to end before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Contender {
    /// The bench's own minimal forwarder.
    Baseline,
    /// `pointsman run`.
    Pointsman,
    /// DPDK's testpmd on its AF_XDP driver.
    Testpmd,
    /// The kernel's packet filter, without a process.
    Nftables,
}

impl Contender {
    /// As it is called in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Pointsman => "pointsman",
            Self::Testpmd => "testpmd",
            Self::Nftables => "nftables",
        }
    }

    /// Why it cannot be measured on this machine, if it cannot.
    pub(crate) fn missing(self) -> Option<String> {
        let (programs, packages) = match self {
            Self::Baseline | Self::Pointsman => return None,
            Self::Testpmd => (&["dpdk-testpmd", "stdbuf"][..], "dpdk-dev librte-net-af-xdp23"),
            Self::Nftables => (&["nft", "ethtool"][..], "nftables ethtool"),
        };
        let program = installed::missing(programs)?;
        Some(format!("{program} is not installed; on Debian 12: apt-get install {packages}"))
    }

    /// Who receives when pointsman is compared with this one, unless one asks for another. testpmd never sleeps, so it
    /// is at its best when it polls; pointsman has to beat it there.
    pub(crate) fn placement(self) -> Placement {
        if self == Self::Testpmd { Placement::Polled } else { Placement::Shared }
    }

    /// What it prints when it forwards.
    fn ready_line(self) -> &'static str {
        match self {
            Self::Testpmd => peers::TESTPMD_READY,
            _ => "ready",
        }
    }
}

/// Where processes find what they need, and where they run.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Files of the bench, gone with it.
    pub(crate) directory: PathBuf,
    /// The bench's XDP programs.
    pub(crate) object: PathBuf,
    /// The forwarder's CPU.
    pub(crate) cpu: usize,
    /// Where NAPI runs.
    pub(crate) placement: Placement,
}

/// A forwarder that forwards. It is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    contender: Contender,
    wire: &'a Wire,
    /// nftables has none.
    child: Option<Child>,
    log: PathBuf,
    accounts: Accounts,
}

impl<'a> Running<'a> {
    /// Starts it on this wire, and returns when it is ready and its NAPI is in place.
    pub(crate) fn start(contender: Contender, wire: &'a Wire, site: &Site) -> Result<Self> {
        let log = site.directory.join("contender.log");
        let accounts = Accounts { processes: Vec::new(), kernel_threads: Vec::new() };
        let mut running = Self { contender, wire, child: None, log, accounts };
        let command = match contender {
            Contender::Baseline => Some(baseline(wire, site)?),
            Contender::Pointsman => Some(pointsman(wire, site)?),
            Contender::Testpmd => Some(peers::testpmd(wire, site)?),
            Contender::Nftables => {
                peers::start_nftables(wire, site)?;
                None
            }
        };
        if let Some(command) = command {
            running.spawn(command)?;
        }
        running.accounts.kernel_threads = wire.place_napi(site.placement, site.cpu)?;
        Ok(running)
    }

    /// Starts the process, and waits until it has said that it is ready.
    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let name = self.contender.name();
        // A file, not a pipe: nobody reads it while packets are counted.
        let log = File::create(&self.log)?;
        // testpmd ends when its standard input does.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = self.child.insert(command.spawn().with_context(|| format!("starting {name}"))?);
        self.accounts.processes = vec![child.id()];
        let mut ended: Option<ExitStatus> = None;
        let is_ready = || {
            fs::read_to_string(&self.log).is_ok_and(|log| log.lines().any(|line| line == self.contender.ready_line()))
        };
        wait_until(READY_WITHIN, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || is_ready()
        });
        if ended.is_none() && is_ready() {
            return Ok(());
        }
        let status = ended.map_or_else(|| format!("not within {READY_WITHIN:?}"), |status| status.to_string());
        bail!("{name} did not start ({status}): {}", self.log()?.trim_end());
    }

    /// Whose CPU time is its.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Asks it to end, waits for that, and returns what it said.
    pub(crate) fn stop(mut self) -> Result<String> {
        if let Some(child) = &mut self.child {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            wait_until(STOP_WITHIN, || matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
        }
        self.log()
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(if self.child.is_some() { fs::read_to_string(&self.log)? } else { String::new() })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // After `stop` there is nothing left to kill, which is no error.
            let _ = child.kill();
            let _ = child.wait();
        }
        match self.contender {
            Contender::Testpmd => peers::detach_programs(self.wire),
            Contender::Nftables => peers::stop_nftables(self.wire),
            Contender::Baseline | Contender::Pointsman => {}
        }
    }
}

fn baseline(wire: &Wire, site: &Site) -> Result<Command> {
    ensure!(site.placement != Placement::Polled, "the baseline does not poll");
    let way = wire.way();
    let way_out = wire.interfaces().get(1).map(String::as_str);
    let line = forwarder::Arguments::line(&site.object, &wire.interfaces()[0], way_out, way.encapsulates(), site.cpu);
    let mut command = wire.forwarder().command(std::env::current_exe()?);
    command.args(line);
    Ok(command)
}

fn pointsman(wire: &Wire, site: &Site) -> Result<Command> {
    let config = site.directory.join("pointsman.toml");
    fs::write(&config, configuration(wire, site))?;
    let mut command = wire.forwarder().command(env!("CARGO_BIN_EXE_pointsman"));
    command.args([Path::new("run"), Path::new("--config"), &config]).env("NO_COLOR", "1");
    Ok(command)
}

/// What pointsman is to do on this wire.
fn configuration(wire: &Wire, site: &Site) -> String {
    let mut toml = format!(
        "[node]\nname = \"bench\"\nstate_dir = \"{}\"\n\n[api]\nsocket = \"{}\"\n\n[dataplane]\ncores = [{}]\nbusy_poll = {}\n",
        site.directory.join("state").display(),
        site.directory.join("api.sock").display(),
        site.cpu,
        site.placement == Placement::Polled,
    );
    let forward = if wire.way().encapsulates() { "ipip" } else { "dr" };
    // Writing to a String cannot fail.
    for interface in wire.interfaces() {
        let _ = write!(toml, "\n[[interface]]\nname = \"{interface}\"\n");
    }
    let _ = write!(
        toml,
        "\n[[vip]]\nname = \"bench\"\naddress = \"{}\"\nprotocol = \"udp\"\nport = {}\npool = \"bench\"\n\
         \n[[pool]]\nname = \"bench\"\nforward = \"{forward}\"\n",
        frame::VIP,
        frame::PORT
    );
    for index in 0..frame::MEMBERS {
        let address = frame::member(wire.way().egress(), index);
        let _ = write!(toml, "\n[[pool.member]]\nname = \"member{}\"\naddress = \"{address}\"\n", index + 1);
    }
    toml
}
