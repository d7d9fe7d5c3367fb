//! The two that are compared, as processes in the forwarder's namespace.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cpu::Accounts;
use crate::forwarder;
use crate::frame;
use crate::wire::{Placement, Wire};

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Contender {
    /// The bench's own minimal forwarder.
    Baseline,
    /// `pointsman run`.
    Pointsman,
}

impl Contender {
    /// As it is called in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Pointsman => "pointsman",
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

/// A forwarder that forwards. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: File,
    accounts: Accounts,
}

impl Running {
    /// Starts it on this wire, and returns when it is ready and its NAPI is in place.
    pub(crate) fn start(contender: Contender, wire: &Wire, site: &Site) -> Result<Self> {
        let mut command = match contender {
            Contender::Baseline => baseline(wire, site)?,
            Contender::Pointsman => pointsman(wire, site)?,
        };
        // A file, not a pipe: nobody reads it while packets are counted.
        let log = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let child = command.spawn().with_context(|| format!("starting {}", contender.name()))?;
        let accounts = Accounts { process: child.id(), kernel_threads: Vec::new() };
        let mut running = Self { child, log, accounts };
        let stdout = running.child.stdout.take().context("no stdout")?;
        // Both give up after some seconds if they cannot start, and then the stream ends.
        let ready = BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line == "ready");
        if !ready {
            let status = running.child.wait()?;
            bail!("{} did not start ({status}): {}", contender.name(), running.log()?.trim_end());
        }
        running.accounts.kernel_threads = wire.place_napi(site.placement, site.cpu)?;
        Ok(running)
    }

    /// Whose CPU time is its.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Asks it to end, waits for that, and returns what it said on standard error.
    pub(crate) fn stop(mut self) -> Result<String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        self.child.wait()?;
        self.log()
    }

    fn log(&mut self) -> Result<String> {
        let mut text = String::new();
        self.log.rewind()?;
        self.log.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill, which is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn baseline(wire: &Wire, site: &Site) -> Result<Command> {
    let way = wire.way();
    let way_out = wire.interfaces().get(1).map(String::as_str);
    let line = forwarder::Arguments::line(&site.object, &wire.interfaces()[0], way_out, way.encapsulates(), site.cpu);
    let mut command = wire.forwarder().command(std::env::current_exe()?);
    command.args(line);
    Ok(command)
}

fn pointsman(wire: &Wire, site: &Site) -> Result<Command> {
    let config = site.directory.join("pointsman.toml");
    fs::write(&config, configuration(wire, site.cpu, &site.directory))?;
    let mut command = wire.forwarder().command(env!("CARGO_BIN_EXE_pointsman"));
    command.args([Path::new("run"), Path::new("--config"), &config]).env("NO_COLOR", "1");
    Ok(command)
}

/// What pointsman is to do on this wire.
fn configuration(wire: &Wire, cpu: usize, directory: &Path) -> String {
    let mut toml = format!(
        "[node]\nname = \"bench\"\nstate_dir = \"{}\"\n\n[dataplane]\ncores = [{cpu}]\n",
        directory.join("state").display()
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
