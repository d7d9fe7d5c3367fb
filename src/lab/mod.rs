//! The lab: network namespaces with real clients and real members around the real binary.
//!
//! - `topology`: who is connected to whom, and how it is made so
//! - `namespace`: one anonymous namespace, which ends with this process whatever ends it
//! - `inside`, `offload`, `scratch`: system calls that nobody wraps; the lab's only `unsafe`
//! - `decapsulation`: members as the end of IPIP tunnels
//! - `service`: configurations for the balancer
//! - `process`: the balancer and the members' servers as processes
//! - `load`: what the client is asked to do, and its report
//! - `role`: what runs inside the namespaces: the members' server and the client's load generator
//!
//! Nothing of a lab has a name outside its process, so labs run side by side, and nothing of it stays behind when the
//! process ends, be it by SIGKILL: namespaces and files are held by descriptors only, children die with their parent.
//!
//! ```no_run
//! use pointsman::lab::{Lab, Load, Service, Topology};
//!
//! let lab = Lab::build(&Topology::default())?;
//! let members = lab.spawn_member_servers()?;
//! let mut balancer = lab.spawn_balancer(&lab.config(&[Service::http(&[1, 1, 1])]))?;
//! let report = lab.client_load(&Load { connections: 1000, ..lab.get() })?;
//! assert_eq!(report.failures, 0);
//! assert!(balancer.stop()?.success());
//! # drop(members);
//! # Ok::<(), pointsman::lab::LabError>(())
//! ```

mod decapsulation;
mod error;
mod inside;
mod load;
mod namespace;
mod offload;
mod process;
mod role;
mod scratch;
mod service;
mod topology;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use decapsulation::{Decapsulating, Decapsulation};
pub use error::LabError;
pub use load::{Latency, Load, LoadReport, Mode, Progress};
pub use namespace::{InterfaceCounters, Namespace};
pub use process::Process;
pub use role::{LabArguments, role};
pub use service::Service;
pub use topology::{Layout, MEMBERS_MAX, Topology};

use decapsulation::decapsulate;
use process::Spawner;
use scratch::Scratch;
use topology::Places;

/// A client, a gateway, a balancer and members in namespaces of their own.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: processes and programs end before their namespaces.
    spawner: Spawner,
    decapsulating: Vec<Option<Decapsulating>>,
    topology: Topology,
    client: Namespace,
    gateway: Namespace,
    balancer: Namespace,
    members: Vec<Namespace>,
    scratch: Scratch,
    configs: AtomicU32,
}

impl Lab {
    /// Builds the namespaces and joins them. Needs root (`CAP_SYS_ADMIN`, `CAP_NET_ADMIN`) and the program `ip`.
    pub fn build(topology: &Topology) -> Result<Self, LabError> {
        topology.check()?;
        let mut lab = Self {
            client: Namespace::create("client")?,
            gateway: Namespace::create("gateway")?,
            balancer: Namespace::create("balancer")?,
            members: (0..topology.members)
                .map(|index| Namespace::create(&Topology::member_name(index)))
                .collect::<Result<_, _>>()?,
            scratch: Scratch::create()?,
            spawner: Spawner::start()?,
            decapsulating: Vec::new(),
            topology: topology.clone(),
            configs: AtomicU32::new(0),
        };
        let places =
            Places { client: &lab.client, gateway: &lab.gateway, balancer: &lab.balancer, members: &lab.members };
        topology::connect(topology, &places)?;
        let ends = (0..).zip(&lab.members);
        lab.decapsulating = ends
            .map(|(index, member)| decapsulate(member, topology.member_address(index), topology.decapsulation))
            .collect::<Result<_, _>>()?;
        Ok(lab)
    }

    /// What was built.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where the client lives: its interface is `eth0`.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// What joins client and LANs: interfaces `client`, the bridge `lan`, unless the layout is [`Layout::Stick`] the
    /// bridge `back`, and their ports `balancer`, `balancer-back`, `member1`, ….
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// Where the balancer runs: its interfaces are `eth0` and, in [`Layout::TwoArmed`], `eth1`.
    pub fn balancer(&self) -> &Namespace {
        &self.balancer
    }

    /// Where a member lives; the first is number 0. Its interface is `eth0`.
    pub fn member(&self, index: usize) -> &Namespace {
        &self.members[index]
    }

    /// What decapsulates for a member, if anything does.
    pub fn decapsulating(&self, index: usize) -> Option<&Decapsulating> {
        self.decapsulating[index].as_ref()
    }

    /// Packets that a member has received in tunnels, by the count of what decapsulates for it; 0 if nothing does.
    pub fn decapsulated(&self, index: usize) -> Result<u64, LabError> {
        self.decapsulating(index).map_or(Ok(0), |end| end.decapsulated(&self.members[index]))
    }

    /// Every namespace, for those who look at all of them.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.gateway, &self.balancer].into_iter().chain(&self.members)
    }

    /// A directory that vanishes with this process: for state, sockets, captures.
    pub fn directory(&self) -> PathBuf {
        self.scratch.path()
    }

    /// A configuration for the lab's balancer: all its interfaces, and each service a VIP, announced by ARP, with its
    /// own pool of the first members.
    pub fn config(&self, services: &[Service]) -> String {
        self.config_with(&[], services)
    }

    /// A configuration with these lines in its table `[dataplane]`.
    pub fn config_with(&self, dataplane: &[&str], services: &[Service]) -> String {
        service::config(&self.topology, &self.directory(), dataplane, services)
    }

    /// Starts `pointsman run` with this configuration (TOML) in the balancer's namespace and waits for `ready`.
    pub fn spawn_balancer(&self, config: &str) -> Result<Process, LabError> {
        self.configs.fetch_add(1, Ordering::Relaxed);
        let file = self.write_config(config)?;
        let mut command = self.balancer.command(&self.topology.program);
        command.args(["run", "--config"]).args(file.file_name()).current_dir(self.directory());
        Process::start(&self.spawner, "the balancer", command)?.wait_ready()
    }

    /// Puts another configuration in the place of that with which the last balancer was started, whole at any moment;
    /// names the file. (A balancer that has given up its capabilities does not find it by that name: it is in its current
    /// directory.)
    pub fn write_config(&self, config: &str) -> Result<PathBuf, LabError> {
        let number = self.configs.load(Ordering::Relaxed);
        let [file, new] = ["", ".new"].map(|end| self.directory().join(format!("balancer-{number}.toml{end}")));
        let written = fs::write(&new, config).and_then(|()| fs::rename(&new, &file));
        written.map_err(LabError::system(format!("writing {}", file.display())))?;
        Ok(file)
    }

    /// Starts a member's server, on the topology's ports, and waits until it listens.
    pub fn spawn_member_server(&self, index: usize) -> Result<Process, LabError> {
        self.start_member_server(index)?.wait_ready()
    }

    /// Starts every member's server and waits until all listen.
    pub fn spawn_member_servers(&self) -> Result<Vec<Process>, LabError> {
        let started =
            (0..self.members.len()).map(|index| self.start_member_server(index)).collect::<Result<Vec<_>, _>>()?;
        started.into_iter().map(Process::wait_ready).collect()
    }

    /// Starts any command of one of the namespaces so that it lives at most as long as the lab.
    pub fn spawn(&self, command: Command) -> Result<Child, LabError> {
        self.spawner.spawn(command)
    }

    /// A load of GET requests for the first VIP and port from all addresses of the client: say what differs.
    pub fn get(&self) -> Load {
        Load {
            target: self.target(self.topology.tcp_ports.first()),
            sources: self.topology.client_addresses(),
            ..Load::default()
        }
    }

    /// A load of uploads and downloads; a thousand at once take their time.
    pub fn transfer(&self) -> Load {
        Load { mode: Mode::Transfer, patience_seconds: 60, ..self.get() }
    }

    /// A load of UDP requests for the first VIP and UDP port.
    pub fn udp(&self) -> Load {
        Load { mode: Mode::Udp, target: self.target(self.topology.udp_ports.first()), ..self.get() }
    }

    /// Runs a load in the client's namespace to its end.
    pub fn client_load(&self, load: &Load) -> Result<LoadReport, LabError> {
        self.client_load_with(load, |_| ())
    }

    /// Runs a load, and calls `progress` about five times a second.
    pub fn client_load_with(&self, load: &Load, progress: impl FnMut(&Progress)) -> Result<LoadReport, LabError> {
        let mut command = self.client.command(&self.topology.program);
        command.args(["lab", "client"]).args(load.arguments());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        load::collect(self.spawner.spawn(command)?, progress)
    }

    /// Sends what the gateway has for `vip` straight to a member, around the balancer: what the lab itself can do.
    pub fn bypass_balancer(&self, vip: Ipv4Addr, member: usize) -> Result<(), LabError> {
        let line = match self.topology.layout {
            Layout::Stick => {
                let mac = topology::mac_text(Topology::member_mac(member));
                format!("neighbour replace {vip} lladdr {mac} dev lan nud permanent")
            }
            Layout::Routed | Layout::TwoArmed => {
                format!("route replace {vip}/32 via {} dev back", self.topology.member_address(member))
            }
        };
        self.gateway.ip(&[line])
    }

    fn start_member_server(&self, index: usize) -> Result<Process, LabError> {
        let Topology { program, tcp_ports, udp_ports, vips, .. } = &self.topology;
        let name = Topology::member_name(index);
        let mut command = self.members[index].command(program);
        command.args(["lab", "member", "--name", &name]);
        for port in tcp_ports {
            command.arg("--listen").arg(format!("0.0.0.0:{port}"));
        }
        // A UDP socket answers from the address that it is bound to: one socket for each.
        for address in vips.iter().chain([&self.topology.member_address(index)]) {
            for port in udp_ports {
                command.arg("--udp").arg(format!("{address}:{port}"));
            }
        }
        Process::start(&self.spawner, &name, command)
    }

    fn target(&self, port: Option<&u16>) -> SocketAddrV4 {
        SocketAddrV4::new(self.topology.vips.first().copied().unwrap_or(Topology::VIP), port.copied().unwrap_or(80))
    }
}

/// Polls `condition` until it holds or `timeout` has passed; says whether it held.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
