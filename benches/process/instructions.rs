//! Instructions per packet: what a change costs or saves, seen at once and on any machine, however busy.
//!
//! Valgrind's callgrind counts only what `counted` calls (`--toggle-collect`), so making tables and frames is left out.
//! The loop's own work on frames is in, as it is in the nanoseconds.

use std::collections::BTreeMap;
use std::env::{consts, current_exe};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::cases::{Case, Contender, Kind, Protocol};
use super::walk::Forward;

/// Packets that are counted: some thousand rounds, in a second or two under valgrind.
const PACKETS: u64 = 200_000;

/// How much more than the baseline a case may take, per cent. The connection table's secret is another in every run, so
/// its flows lie differently: that moves `new` by up to 1 %, and the others by up to 0.2 %.
const TOLERANCE: f64 = 3.0;

/// What is committed.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    /// `rustc --version` of who accepted it.
    compiler: String,
    /// The processor's architecture.
    architecture: String,
    /// By case.
    instructions_per_packet: BTreeMap<String, f64>,
}

/// The cases that are counted. Thrash is not: whether an entry may be evicted depends on the time.
fn cases() -> Vec<Case> {
    let process = |kind, forward, flows| Case::Process { kind, forward, flows };
    vec![
        process(Kind::Bare, Forward::Direct, 64_000),
        process(Kind::Established, Forward::Direct, 1),
        process(Kind::Established, Forward::Direct, 64_000),
        process(Kind::Established, Forward::Ipip, 64_000),
        process(Kind::New, Forward::Direct, 64_000),
        process(Kind::Flood, Forward::Direct, 64_000),
        process(Kind::IcmpError, Forward::Direct, 64_000),
        Case::Parse(Protocol::Tcp),
        Case::Parse(Protocol::Udp),
    ]
}

/// Runs one case, to be counted from outside; prints how many packets `counted` took.
pub(super) fn count(name: &str) -> Result<()> {
    let case = cases().into_iter().find(|case| case.name() == name).with_context(|| format!("no case {name:?}"))?;
    // Under valgrind a second holds few packets, and a budget per second many of them.
    let mut contender = case.contender(0);
    contender.prepare();
    let before = contender.counted();
    println!("{}", counted(&mut contender));
    contender.check(before);
    Ok(())
}

/// The name that callgrind looks for.
#[inline(never)]
fn counted(contender: &mut Contender) -> u64 {
    contender.forward(PACKETS)
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json")
}

/// Counts all cases and compares them with the baseline; whether none takes more than it may. `accept` makes what was
/// counted the baseline.
pub(super) fn check(accept: bool) -> Result<bool> {
    let path = baseline_path();
    let found = Baseline {
        compiler: compiler(),
        architecture: consts::ARCH.to_owned(),
        instructions_per_packet: cases()
            .into_iter()
            .map(|case| Ok((case.name(), under_valgrind(&case.name())?)))
            .collect::<Result<_>>()?,
    };
    let committed = fs::read_to_string(&path).with_context(|| format!("{}", path.display()));
    if accept {
        let old = committed.ok().and_then(|text| serde_json::from_str(&text).ok());
        print(&found, old.as_ref());
        fs::write(&path, serde_json::to_string_pretty(&found)? + "\n")
            .with_context(|| format!("{}", path.display()))?;
        println!("accepted: commit benches/instructions.json, and say in the message why the numbers moved");
        return Ok(true);
    }
    let committed: Baseline = serde_json::from_str(&committed?).with_context(|| format!("{}", path.display()))?;
    let worse = print(&found, Some(&committed));
    if found.architecture != committed.architecture {
        println!("not compared: the baseline is of {}, this is {}", committed.architecture, found.architecture);
        return Ok(true);
    }
    if worse.is_empty() {
        return Ok(true);
    }
    eprintln!("\nmore than {TOLERANCE} % above benches/instructions.json: {}", worse.join(", "));
    if found.compiler != committed.compiler {
        eprintln!(
            "the baseline was made with {}, this is {}: that alone may be it",
            committed.compiler, found.compiler
        );
    }
    eprintln!("if it is an accident, find it: valgrind --tool=callgrind, then callgrind_annotate (benches/README.md)");
    eprintln!("if it is worth it, make it the baseline and say why: scripts/bench --instructions --accept");
    Ok(false)
}

/// Prints what was counted beside what was to be expected; returns the cases that take more than they may.
fn print(found: &Baseline, expected: Option<&Baseline>) -> Vec<String> {
    let mut worse = Vec::new();
    println!("{:<34} {:>8} {:>8} {:>8}", "instructions per packet", "baseline", "now", "change");
    for (name, now) in &found.instructions_per_packet {
        let Some(before) = expected.and_then(|expected| expected.instructions_per_packet.get(name)) else {
            println!("{name:<34} {:>8} {now:>8.1} {:>8}", "-", "new");
            // A case without a baseline is one that nobody watches.
            worse.push(name.clone());
            continue;
        };
        let change = (now / before - 1.0) * 100.0;
        let remark = if change > TOLERANCE {
            worse.push(name.clone());
            "  too many"
        } else if change < -TOLERANCE {
            "  better: accept it, so that it stays"
        } else {
            ""
        };
        println!("{name:<34} {before:>8.1} {now:>8.1} {change:>+7.2}%{remark}");
    }
    worse
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(
        |_| "an unknown compiler".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Instructions per packet of one case.
fn under_valgrind(name: &str) -> Result<f64> {
    let scratch = tempfile::tempdir()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*instructions*counted*"])
        .arg(format!("--callgrind-out-file={}", scratch.path().join("out").display()))
        .arg(current_exe()?)
        .args(["count", name])
        .output()
        .context("valgrind is needed: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} under valgrind: {}\n{said}", output.status);
    }
    // "==123== Collected : 4567"
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
    let packets = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().ok();
    match (collected, packets) {
        // An order of magnitude is enough to notice that nothing was counted.
        (Some(collected), Some(packets)) if collected > packets => {
            Ok((collected as f64 / packets as f64 * 100.0).round() / 100.0)
        }
        _ => bail!("{name} under valgrind: {collected:?} instructions of {packets:?} packets\n{said}"),
    }
}
