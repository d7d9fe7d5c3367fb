//! The balancers that are compared, each in the lab's balancer namespace, on one CPU, with one worker.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman::lab::{Lab, Namespace, Process, Service, Topology, wait_until};

use crate::installed;

/// The port of the service, and of its members.
pub(crate) const PORT: u16 = 80;

/// Debian's path of nginx's module for TCP (package libnginx-mod-stream).
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// How long a balancer or a member may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Balancer {
    /// `pointsman run`, direct routing.
    Pointsman,
    /// haproxy in TCP mode.
    Haproxy,
    /// nginx's stream module.
    Nginx,
}

impl Balancer {
    /// As it is called in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pointsman => "pointsman",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Why it cannot be measured on this machine, if it cannot.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Pointsman => None,
            Self::Haproxy => installed::missing(&["haproxy"])
                .map(|program| format!("{program} is not installed; on Debian: apt-get install haproxy")),
            Self::Nginx => installed::missing(&["nginx"])
                .or_else(|| (!Path::new(NGINX_STREAM).exists()).then(|| NGINX_STREAM.to_owned()))
                .map(|what| format!("{what} is missing; on Debian: apt-get install nginx-light libnginx-mod-stream")),
        }
    }
}

/// A balancer that balances. It ends when this is dropped.
#[derive(Debug)]
pub(crate) enum Running<'a> {
    Pointsman(Process),
    Proxy { lab: &'a Lab, child: Child },
}

impl<'a> Running<'a> {
    /// Starts it on `cpu`, and returns when it takes connections.
    pub(crate) fn start(balancer: Balancer, lab: &'a Lab, cpu: usize) -> Result<Self> {
        if balancer == Balancer::Pointsman {
            offload(lab, "off")?;
            let cores = format!("cores = [{cpu}]");
            let weights = vec![1; lab.topology().members];
            let config = lab.config_with(&[&cores], &[Service { port: Some(PORT), ..Service::http(&weights) }]);
            return Ok(Self::Pointsman(lab.spawn_balancer(&config)?));
        }
        // A proxy on virtual Ethernet need not wait for checksums that AF_XDP must have.
        offload(lab, "on")?;
        let directory = lab.directory();
        // A root that has given up its privileges must still find its file.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        let file = directory.join(format!("{}.conf", balancer.name()));
        let (text, words): (_, &[&str]) = match balancer {
            Balancer::Haproxy => (haproxy(lab), &["haproxy", "-db", "-f"]),
            _ => (nginx(lab, &directory), &["nginx", "-c"]),
        };
        fs::write(&file, text)?;
        lab.balancer().run(["ip", "address", "add", &format!("{}/32", Topology::VIP), "dev", "eth0"])?;
        let log = fs::File::create(directory.join("proxy.log"))?;
        let mut command = lab.balancer().command("taskset");
        command.args(["-c", &cpu.to_string()]).args(words).arg(&file);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut running = Self::Proxy { lab, child: lab.spawn(command)? };
        let listens = wait_listening(lab.balancer(), || running.has_ended());
        let said = fs::read_to_string(directory.join("proxy.log")).unwrap_or_default();
        ensure!(listens, "{} does not listen: {}", balancer.name(), said.trim_end());
        Ok(running)
    }

    /// Its process: the CPU time of all its threads is the balancer's.
    pub(crate) fn process(&self) -> u32 {
        match self {
            Self::Pointsman(process) => process.pid(),
            Self::Proxy { child, .. } => child.id(),
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Pointsman(process) => process.status().is_some(),
            Self::Proxy { child, .. } => matches!(child.try_wait(), Ok(Some(_)) | Err(_)),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        match self {
            Self::Pointsman(process) => {
                // One that does not end is killed.
                let _ = process.stop();
            }
            Self::Proxy { lab, child } => {
                let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
                wait_until(PATIENCE, || matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
                let _ = child.kill();
                let _ = child.wait();
                let _ = lab.balancer().run(["ip", "address", "del", &format!("{}/32", Topology::VIP), "dev", "eth0"]);
            }
        }
    }
}

/// Transmit offloads of what sends to the balancer: `AF_XDP` on veth must have them off, others are better off with them.
fn offload(lab: &Lab, state: &str) -> Result<()> {
    for (namespace, device) in [(lab.client(), "eth0"), (lab.gateway(), "balancer")] {
        namespace.run(["ethtool", "-K", device, "tx", state])?;
    }
    Ok(())
}

/// Waits until somebody listens on [`PORT`] in a namespace, unless that has become hopeless; says whether so.
pub(crate) fn wait_listening(namespace: &Namespace, mut is_hopeless: impl FnMut() -> bool) -> bool {
    // Local address, remote address, state 0A: listening (net/ipv4/tcp_ipv4.c, get_tcp4_sock).
    let end = format!(":{PORT:04X} 00000000:0000 0A ");
    let mut listens = false;
    wait_until(PATIENCE, || {
        listens = namespace.run(["cat", "/proc/net/tcp"]).is_ok_and(|table| table.contains(&end));
        listens || is_hopeless()
    });
    listens
}

fn haproxy(lab: &Lab) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
         timeout server 60s\nlisten vip\n  bind {}:{PORT} backlog 4096\n  balance roundrobin\n",
        Topology::VIP
    );
    for index in 0..lab.topology().members {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "  server member{index} {}:{PORT}", lab.topology().member_address(index));
    }
    text
}

fn nginx(lab: &Lab, directory: &Path) -> String {
    let mut members = String::new();
    for index in 0..lab.topology().members {
        let _ = write!(members, "server {}:{PORT}; ", lab.topology().member_address(index));
    }
    // One process: its master would have nothing to do, and a worker outlives a master that is killed.
    format!(
        "load_module {NGINX_STREAM};\ndaemon off;\nmaster_process off;\npid {0}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 16384; }}\n\
         stream {{\n  access_log off;\n  upstream members {{ {members}}}\n  \
         server {{ listen {1}:{PORT} backlog=4096; proxy_pass members; }}\n}}\n",
        directory.display(),
        Topology::VIP
    )
}

/// A member's process; killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Member(Child);

impl Member {
    /// Starts `command` in a member's namespace.
    pub(crate) fn start(lab: &Lab, index: usize, command: Command) -> Result<Self> {
        let mut member = Self(lab.spawn(command)?);
        let listens = wait_listening(lab.member(index), || !matches!(member.0.try_wait(), Ok(None)));
        ensure!(listens, "member {index} does not listen");
        Ok(member)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has the balancer's interface received by a kernel thread on `cpu`, as a network card's interrupts would have it, so
/// that what receiving costs is the balancer's and counted. Returns the thread.
pub(crate) fn receive_on(lab: &Lab, cpu: usize) -> Result<Vec<Pid>> {
    let before = napi_threads();
    // A veth has NAPI only with a program attached, or with GRO.
    lab.balancer().run(["ethtool", "-K", "eth0", "gro", "on"])?;
    let script = "mount -t sysfs none /sys && echo 1 > /sys/class/net/eth0/threaded";
    lab.balancer().run(["unshare", "--mount", "sh", "-c", script])?;
    let mut threads = Vec::new();
    wait_until(Duration::from_secs(1), || {
        threads = napi_threads().into_iter().filter(|thread| !before.contains(thread)).collect();
        !threads.is_empty()
    });
    ensure!(!threads.is_empty(), "the balancer's eth0: no kernel thread runs its NAPI");
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(cpu)?;
    for &thread in &threads {
        nix::sched::sched_setaffinity(thread, &cpus).with_context(|| format!("NAPI thread {thread} to CPU {cpu}"))?;
    }
    Ok(threads)
}

/// Kernel threads that receive for an eth0, in whatever namespace.
fn napi_threads() -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let receives =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("napi/eth0"));
    pids.filter(receives).map(Pid::from_raw).collect()
}
