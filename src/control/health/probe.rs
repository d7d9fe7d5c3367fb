//! Monitors made ready: patterns compiled, authorities read; and what all checks share.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use regex::bytes::Regex;
use tokio::sync::Semaphore;
use tracing::warn;

use super::dns::Question;
use super::http::Query;
use super::outcome::{Bad, Deadline, Outcome};
use super::ping::Pinger;
use super::script::{Program, Scripts};
use super::tls::Handshake;
use super::udp::Refusals;
use super::{tcp, tls, udp};
use crate::control::model::monitor::{Exchange, Probe};

/// Left to the rest of the process: rings, netlink, the log, the API's connections.
const DESCRIPTORS_RESERVED: u64 = 512;

/// One monitor, ready to look at any member.
pub(super) enum Ready {
    Ping,
    Tcp(Words),
    Tls(Handshake),
    Http(Query),
    Udp(Words),
    Dns(Question),
    Script(Program),
    /// What it needs is not there: that is what every check finds.
    Broken(String),
}

/// What is sent, and what the answer must have in it.
pub(super) struct Words {
    pub(super) send: Option<String>,
    pub(super) expect: Option<Regex>,
}

/// What all checks share.
pub(super) struct Tools {
    pinger: OnceLock<Result<Pinger, String>>,
    scripts: Scripts,
    refusals: Refusals,
    /// How many sockets may be open at a time.
    sockets: Arc<Semaphore>,
}

impl Ready {
    pub(super) fn new(probe: &Probe) -> Ready {
        let ready = match probe {
            Probe::Ping => Ok(Ready::Ping),
            Probe::Tcp(exchange) => Words::prepare(exchange).map(Ready::Tcp),
            Probe::Tls(settings) => Handshake::prepare(settings, None, b"").map(Ready::Tls),
            Probe::Http(settings) => Query::prepare(settings).map(Ready::Http),
            Probe::Udp(exchange) => Words::prepare(exchange).map(Ready::Udp),
            Probe::Dns(settings) => Question::prepare(settings).map(Ready::Dns),
            Probe::Script(settings) => Program::prepare(settings).map(Ready::Script),
        };
        ready.unwrap_or_else(Ready::Broken)
    }

    /// Looks at a member once. Never longer than `timeout`, give or take a moment of the control thread's.
    pub(super) async fn check(
        &self,
        tools: &Tools,
        address: Ipv4Addr,
        port: Option<u16>,
        timeout: Duration,
    ) -> Outcome {
        let deadline = Deadline::after(timeout);
        if let Ready::Script(program) = self {
            return tools.scripts.check(program, address, port, &deadline).await;
        }
        // Where there is none none is asked for: the model has seen to that.
        let target = SocketAddrV4::new(address, port.unwrap_or(0));
        let _socket = tools.socket(&deadline).await?;
        match self {
            Ready::Ping => tools.ping(address, &deadline).await,
            Ready::Tcp(words) => tcp::check(words, target, &deadline).await,
            Ready::Tls(handshake) => tls::check(handshake, target, &deadline).await,
            Ready::Http(query) => query.check(target, &deadline).await,
            Ready::Udp(words) => udp::check(words, &tools.refusals, target, &deadline).await,
            Ready::Dns(question) => question.check(target, &deadline).await,
            Ready::Broken(why) => Bad::failed(why.as_str()),
            Ready::Script(_) => unreachable!("it was dealt with above"),
        }
    }
}

impl Words {
    fn prepare(exchange: &Exchange) -> Result<Words, String> {
        let expect = exchange.expect.as_deref().map(compiled).transpose()?;
        Ok(Words { send: exchange.send.clone(), expect })
    }
}

/// The model has seen that it compiles.
pub(super) fn compiled(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| error.to_string())
}

impl Tools {
    pub(super) fn new() -> Tools {
        Tools {
            pinger: OnceLock::new(),
            scripts: Scripts::new(),
            refusals: Refusals::default(),
            sockets: Arc::new(Semaphore::new(sockets_allowed() as usize)),
        }
    }

    pub(super) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// A socket's worth of descriptors.
    async fn socket(&self, deadline: &Deadline) -> Result<tokio::sync::SemaphorePermit<'_>, Bad> {
        let none = || Bad::Skipped("too many checks at once for RLIMIT_NOFILE".to_owned());
        deadline.keep("", self.sockets.acquire()).await.map_err(|_| none())?.map_err(|_| none())
    }

    async fn ping(&self, address: Ipv4Addr, deadline: &Deadline) -> Outcome {
        let open = || Pinger::open().map_err(|error| format!("no ICMP socket: {error}"));
        match self.pinger.get_or_init(open) {
            Ok(pinger) => pinger.check(address, deadline).await,
            Err(why) => Err(Bad::Skipped(why.clone())),
        }
    }
}

/// Raises the limit on descriptors as far as it goes, and leaves the rest of the process some.
fn sockets_allowed() -> u64 {
    const FEWEST: u64 = 64;
    /// As many echoes and local ports as there can be.
    const MOST: u64 = 1 << 16;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FEWEST };
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    limit.saturating_sub(DESCRIPTORS_RESERVED).clamp(FEWEST, MOST)
}

/// Says if not all of `checks` could be under way at once.
pub(super) fn warn_if_few_descriptors(checks: usize) {
    let allowed = sockets_allowed();
    if checks as u64 > allowed {
        warn!(
            "{checks} checks, and RLIMIT_NOFILE lets {allowed} be under way at a time: if more members than that do not \
             answer, checks are skipped (systemd: LimitNOFILE=)"
        );
    }
}
