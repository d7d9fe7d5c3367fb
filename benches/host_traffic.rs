//! What the host keeps: ping and TCP to the host's own address on the interface that pointsman is attached to, beside
//! the same under a bare `XDP_PASS` program. Interleaved rounds; prints each figure's median and the ratio's.
//!
//! `cargo bench --bench host_traffic` (root; clang). Namespaces only; ends by itself after about a minute.

use std::error::Error;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aya::programs::{Xdp, XdpMode};
use pointsman::lab::{Lab, Load, Service, Topology, wait_until};

const ROUNDS: usize = 9;
const PORT: u16 = 2222;

/// Figures of one round, each per second: more is better.
#[derive(Debug, Clone, Copy)]
struct Figures {
    pings: f64,
    requests: f64,
    megabytes: f64,
}

type Figure = fn(&Figures) -> f64;

fn main() -> Result<(), Box<dyn Error>> {
    let topology = Topology { program: program(), ..Topology::default() };
    let lab = Lab::build(&topology)?;
    let mut server = lab.balancer().command(&topology.program);
    server.args(["lab", "member", "--name", "host", "--listen"]).arg(format!("0.0.0.0:{PORT}"));
    let mut server = lab.spawn({
        server.stdout(Stdio::null());
        server
    })?;
    let object = compile_pass(&lab.directory())?;
    let config = lab.config(&[Service::http(&[1, 1, 1])]);

    let (mut pass, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Whoever is first changes with the round.
        for turn in [round % 2, (round + 1) % 2] {
            if turn == 0 {
                pass.push(under_pass(&lab, &object)?);
            } else {
                let mut balancer = lab.spawn_balancer(&config)?;
                ours.push(measure(&lab)?);
                balancer.stop()?;
            }
        }
    }
    server.kill()?;
    server.wait()?;

    println!("{ROUNDS} interleaved rounds, medians      XDP_PASS    pointsman   ratio (median of pairs)");
    let rows: [(&str, Figure); 3] = [
        ("ping, one at a time, 1/s", |figures| figures.pings),
        ("HTTP keep-alive, requests/s", |figures| figures.requests),
        ("TCP, MB/s", |figures| figures.megabytes),
    ];
    for (name, figure) in rows {
        let ratios = pass.iter().zip(&ours).map(|(pass, ours)| figure(ours) / figure(pass));
        println!(
            "{name:<32} {:>10.0} {:>12.0} {:>7.3}",
            median(pass.iter().map(figure)),
            median(ours.iter().map(figure)),
            median(ratios)
        );
    }
    Ok(())
}

fn under_pass(lab: &Lab, object: &Path) -> Result<Figures, Box<dyn Error>> {
    let mut bpf = aya::Ebpf::load_file(object)?;
    lab.balancer().enter(|| -> Result<(), String> {
        let program: &mut Xdp =
            bpf.program_mut("pass").ok_or("no program")?.try_into().map_err(|error| format!("{error}"))?;
        program.load().map_err(|error| error.to_string())?;
        program.attach("eth0", XdpMode::Driver).map_err(|error| error.to_string())?;
        Ok(())
    })??;
    measure(lab)
}

fn measure(lab: &Lab) -> Result<Figures, Box<dyn Error>> {
    let host = Topology::BALANCER.to_string();
    wait_until(std::time::Duration::from_secs(5), || lab.gateway().run(["ping", "-c", "1", "-W", "1", &host]).is_ok());
    // Flood with an interval of 0: the next request leaves when the reply is there.
    let report = lab.gateway().run(["ping", "-q", "-f", "-c", "20000", &host])?;
    let milliseconds: f64 = report
        .split_once("time ")
        .and_then(|(_, rest)| rest.split_once("ms"))
        .and_then(|(time, _)| time.trim().parse().ok())
        .ok_or("ping's summary has no time")?;
    let target = SocketAddrV4::new(Topology::BALANCER, PORT);
    let get = Load { target, connections: 16, concurrency: 16, requests: 2000, ..lab.get() };
    let get = lab.client_load(&get)?;
    let transfer = Load { target, connections: 16, concurrency: 4, bytes: 10_000_000, ..lab.transfer() };
    let transfer = lab.client_load(&transfer)?;
    if get.failures + transfer.failures > 0 {
        return Err(format!("{:?} {:?}", get.failure_counts, transfer.failure_counts).into());
    }
    Ok(Figures {
        pings: 20_000.0 / milliseconds * 1e3,
        requests: get.requests as f64 / get.elapsed_ms as f64 * 1e3,
        megabytes: transfer.bytes as f64 / transfer.elapsed_ms as f64 / 1e3,
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The release binary beside this bench.
fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pointsman"))
}

fn compile_pass(directory: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let object = directory.join("pass.o");
    let status = Command::new("clang")
        .args(["-target", "bpf", "-O2", "-g", "-c", concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pass.bpf.c"), "-o"])
        .arg(&object)
        .status()?;
    if status.success() { Ok(object) } else { Err("clang failed".into()) }
}
