//! What the client is asked to do, and what it reports.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Child;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{LabError, Topology};

/// What the client does on each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// `GET /`, as often as the load says, on one TCP connection.
    #[default]
    Get,
    /// Uploads pseudo-random bytes and compares the member's hash of them, then downloads as many and compares them.
    Transfer,
    /// One UDP datagram from a port of its own, and its answer.
    Udp,
}

/// What the client is asked to do: every load is bounded in count and time.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Whom to call
    #[arg(long, default_value_t = SocketAddrV4::new(Topology::VIP, 80))]
    pub target: SocketAddrV4,
    /// What to do on each connection
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// Connections (or UDP exchanges) in all
    #[arg(long, default_value_t = 1000)]
    pub connections: u64,
    /// Connections at a time
    #[arg(long, default_value_t = 64)]
    pub concurrency: u64,
    /// Connections begun in a second at most; 0: as fast as they end
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Requests on each connection
    #[arg(long, default_value_t = 1)]
    pub requests: u64,
    /// Bytes that each connection uploads, and downloads
    #[arg(long, default_value_t = 1_000_000)]
    pub bytes: u64,
    /// Addresses to call from, in turn; none: the kernel's choice
    #[arg(long, value_delimiter = ',')]
    pub sources: Vec<Ipv4Addr>,
    /// Seconds that one connection may take
    #[arg(long, default_value_t = 10)]
    pub patience_seconds: u64,
    /// Seconds that everything may take
    #[arg(long, default_value_t = 60)]
    pub limit_seconds: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            target: SocketAddrV4::new(Topology::VIP, 80),
            mode: Mode::Get,
            connections: 1000,
            concurrency: 64,
            rate: 0,
            requests: 1,
            bytes: 1_000_000,
            sources: Vec::new(),
            patience_seconds: 10,
            limit_seconds: 60,
        }
    }
}

impl Load {
    /// The command line that means this load.
    pub(super) fn arguments(&self) -> Vec<String> {
        let Self { target, mode, connections, concurrency, rate, requests, bytes, sources, .. } = self;
        let Self { patience_seconds, limit_seconds, .. } = self;
        let mode = match mode {
            Mode::Get => "get",
            Mode::Transfer => "transfer",
            Mode::Udp => "udp",
        };
        let mut arguments = vec![
            format!("--target={target}"),
            format!("--mode={mode}"),
            format!("--connections={connections}"),
            format!("--concurrency={concurrency}"),
            format!("--rate={rate}"),
            format!("--requests={requests}"),
            format!("--bytes={bytes}"),
            format!("--patience-seconds={patience_seconds}"),
            format!("--limit-seconds={limit_seconds}"),
        ];
        arguments.extend(sources.iter().map(|source| format!("--sources={source}")));
        arguments
    }
}

/// What came of a load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Connections on which all went well.
    pub connections: u64,
    /// Requests that were answered as they should.
    pub requests: u64,
    /// Connections that failed, or were not begun or finished within the limit.
    pub failures: u64,
    /// How often each kind of failure happened.
    pub failure_counts: BTreeMap<String, u64>,
    /// When the last failure happened, in milliseconds since the start.
    pub last_failure_ms: Option<u64>,
    /// The first few failures, with the connection that had them.
    pub first_failures: Vec<String>,
    /// Connections by the member that answered on them.
    pub connections_by_member: BTreeMap<String, u64>,
    /// Requests by the member that answered them.
    pub requests_by_member: BTreeMap<String, u64>,
    /// Requests by the client address that the member saw.
    pub requests_by_client: BTreeMap<String, u64>,
    /// Clients, as address and port, that members saw instead of the one that called: must be empty.
    pub wrong_clients: BTreeSet<String>,
    /// The most connections that were open at the same time.
    pub concurrent_max: u64,
    /// Bytes of bodies that members have confirmed or that were received from them.
    pub bytes: u64,
    /// How long requests took, from the call (or on a used connection from the request) to the answer's last byte.
    pub latency: Latency,
    /// How long all of it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the requests were faster.
    pub p50_us: u64,
    /// 99 of 100 requests were faster.
    pub p99_us: u64,
    /// The slowest request.
    pub max_us: u64,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Connections done.
    pub connections: u64,
    /// Requests answered.
    pub requests: u64,
    /// Connections that failed.
    pub failures: u64,
    /// Milliseconds since the start.
    pub elapsed_ms: u64,
}

/// One line of the client's standard output, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    /// Every 200 ms.
    Progress(Progress),
    /// Once, at the end.
    Report(LoadReport),
}

/// Follows a client to its end.
pub(super) fn collect(mut client: Child, mut progress: impl FnMut(&Progress)) -> Result<LoadReport, LabError> {
    let mut report = None;
    if let Some(output) = client.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Line::Progress(step)) => progress(&step),
                Ok(Line::Report(end)) => report = Some(end),
                // Not the client's: its end will tell what went wrong.
                Err(_) => {}
            }
        }
    }
    let mut stderr = String::new();
    if let Some(mut stream) = client.stderr.take() {
        let _ = stream.read_to_string(&mut stderr);
    }
    let status = client.wait().map_err(LabError::system("waiting for the client"))?;
    report.ok_or(LabError::NoReport { status, stderr })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Client {
        #[command(flatten)]
        load: Load,
    }

    #[test]
    fn a_load_survives_its_command_line() {
        let load = Load {
            target: "198.51.100.60:53".parse().unwrap(),
            mode: Mode::Udp,
            connections: 7,
            concurrency: 6,
            rate: 8,
            requests: 5,
            bytes: 4,
            sources: vec!["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()],
            patience_seconds: 3,
            limit_seconds: 2,
        };
        let words = std::iter::once("client".to_owned()).chain(load.arguments());
        assert_eq!(format!("{:?}", Client::parse_from(words).load), format!("{load:?}"));
        assert_eq!(format!("{:?}", Client::parse_from(["client"]).load), format!("{:?}", Load::default()));
    }
}
