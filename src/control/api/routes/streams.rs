//! What comes line by line (NDJSON): flows, and events.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::super::desk::{Desk, Names};
use super::super::problem::Problem;
use super::super::shape::{Event, Flow};
use super::{few, no_such, query};
use crate::control::daemon::Daemon;
use crate::dataplane::flow::{FlowState, FlowTable, Key as _};

/// An empty line on a stream without events after that: whoever has vanished is noticed, and readers see that we live.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Lines of the table that one step looks at: a tenth of a millisecond of control's time.
const STEP: u32 = 2048;

/// How much goes to the client at once, about.
const CHUNK: usize = 16 << 10;

pub(super) fn routes() -> Router<Desk> {
    Router::new().route("/v1/flows", get(flows)).route("/v1/events", get(events))
}

/// To be held while a stream goes on: there are not too many of them.
fn hold(desk: &Desk) -> Result<OwnedSemaphorePermit, Problem> {
    let permit = desk.streams().try_acquire_owned();
    permit.map_err(|_| Problem::new(503, "too many streams at a time; try again later"))
}

fn lines(stream: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn add_line(to: &mut Vec<u8>, value: &impl Serialize) {
    // Neither can fail: strings and numbers, into memory.
    let _ = serde_json::to_writer(&mut *to, value);
    to.push(b'\n');
}

/// Which flows are wanted.
struct Filter {
    client: Option<(u32, u32)>,
    vip: Option<String>,
    member: Option<String>,
    state: Option<FlowState>,
    left: u64,
}

impl Filter {
    fn read(uri: &Uri) -> Result<Self, Problem> {
        let [client, vip, member, state, limit] = query(uri, ["client", "vip", "member", "state", "limit"])?;
        let state = state.map(|state| {
            let names = FlowState::ALL.map(FlowState::name).join(", ");
            let wrong = || Problem::new(400, format!("state is {state:?} (allowed: {names})")).about("state");
            FlowState::ALL.into_iter().find(|one| one.name() == state).ok_or_else(wrong)
        });
        let limit = limit.map(|limit| {
            let wrong = |_| Problem::new(400, format!("limit is {limit:?} (allowed: a number)")).about("limit");
            limit.parse::<u64>().map_err(wrong)
        });
        let client = client.map(|client| {
            let wrong = || {
                let words =
                    format!("client is {client:?} (allowed: an IPv4 address, or a prefix such as 192.0.2.0/24)");
                Problem::new(400, words).about("client")
            };
            prefix(&client).ok_or_else(wrong)
        });
        Ok(Self {
            client: client.transpose()?,
            vip,
            member,
            state: state.transpose()?,
            left: limit.transpose()?.unwrap_or(u64::MAX),
        })
    }
}

/// Address and mask.
fn prefix(text: &str) -> Option<(u32, u32)> {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let (address, length) = (address.parse::<Ipv4Addr>().ok()?, length.parse::<u32>().ok().filter(|one| *one <= 32)?);
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some((address.to_bits() & mask, mask))
}

/// A walk through the table.
struct Walk {
    flows: Arc<FlowTable>,
    names: Arc<Names>,
    filter: Filter,
    vip: Option<usize>,
    member: Option<usize>,
    next: u32,
    _held: OwnedSemaphorePermit,
}

async fn flows(State(desk): State<Desk>, uri: Uri) -> Result<Response, Problem> {
    let filter = Filter::read(&uri)?;
    let held = hold(&desk)?;
    let flows = desk.ask(Daemon::flows).await?;
    let turn = desk.turn().await?;
    let names = desk.names().await?;
    drop(turn);
    let vips = || names.vips.iter().map(|vip| vip.as_ref().map(|(name, _)| name));
    let vip = filter.vip.as_ref().map(|wanted| index_of("VIP", wanted, vips)).transpose()?;
    let members = || names.members.iter().map(Option::as_ref);
    let member = filter.member.as_ref().map(|wanted| index_of("member", wanted, members)).transpose()?;
    let walk = Walk { flows, names, filter, vip, member, next: 0, _held: held };
    Ok(lines(stream::unfold(walk, |mut walk| async {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK && walk.step(&mut chunk) {
            // Everybody else has their turn.
            tokio::task::yield_now().await;
        }
        (!chunk.is_empty()).then(|| (Ok(Bytes::from(chunk)), walk))
    })))
}

fn index_of<'n, N: Iterator<Item = Option<&'n String>>>(
    kind: &str,
    wanted: &str,
    names: impl Fn() -> N,
) -> Result<usize, Problem> {
    let found = names().position(|name| name.is_some_and(|name| name == wanted));
    found.ok_or_else(|| no_such(kind, wanted, &few(names().flatten())).about(kind.to_lowercase()))
}

impl Walk {
    /// Looks at some more lines; whether there are more.
    fn step(&mut self, chunk: &mut Vec<u8>) -> bool {
        let (end, now) = (self.flows.v4.lines() as u32, self.flows.now());
        if self.filter.left == 0 {
            return false;
        }
        let until = self.next.saturating_add(STEP).min(end);
        while self.next < until && chunk.len() < CHUNK {
            for flow in self.flows.v4.line(self.next, now) {
                let (vip, member) = (usize::from(flow.key.vip().0), flow.member.0 as usize);
                let client = flow.key.client();
                let is_wanted = self.vip.is_none_or(|one| one == vip)
                    && self.member.is_none_or(|one| one == member)
                    && self.filter.state.is_none_or(|one| one == flow.state)
                    && self.filter.client.is_none_or(|(address, mask)| client.to_bits() & mask == address);
                if !is_wanted {
                    continue;
                }
                let Some(left) = self.filter.left.checked_sub(1) else { return false };
                self.filter.left = left;
                let (vip, port) = self.names.vips.get(vip).cloned().flatten().unwrap_or_default();
                let of_any = Some(flow.key.destination_port()).filter(|port| *port != 0);
                add_line(
                    chunk,
                    &Flow {
                        client: client.to_string(),
                        client_port: flow.key.client_port(),
                        vip,
                        port: port.or(of_any),
                        member: self.names.members.get(member).cloned().flatten().unwrap_or_default(),
                        state: flow.state.name().to_owned(),
                        idle_seconds: flow.idle as f64 / 1e9,
                    },
                );
            }
            self.next += 1;
        }
        self.next < end
    }
}

async fn events(State(desk): State<Desk>, uri: Uri) -> Result<Response, Problem> {
    let [after, follow] = query(&uri, ["after", "follow"])?;
    let after = after.map_or(Ok(0), |after| {
        let wrong = |_| Problem::new(400, format!("after is {after:?} (allowed: an event's id)")).about("after");
        after.parse::<u64>().map_err(wrong)
    })?;
    let follow = match follow.as_deref() {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(other) => {
            return Err(Problem::new(400, format!("follow is {other:?} (allowed: true, false)")).about("follow"));
        }
    };
    let held = hold(&desk)?;
    let (newest, found, coming) = desk.ask(move |daemon| daemon.events_after(after)).await?;
    if after > newest {
        let words =
            format!("after is {after}, and the newest event is {newest}: it is none of this node's; begin with 0");
        return Err(Problem::new(410, words).about("after"));
    }
    let mut chunk = Vec::new();
    for event in &found {
        add_line(&mut chunk, &**event);
    }
    Ok(lines(stream::unfold((chunk, coming, held), move |(chunk, mut coming, held)| async move {
        if !chunk.is_empty() {
            return Some((Ok(Bytes::from(chunk)), (Vec::new(), coming, held)));
        }
        if !follow {
            return None;
        }
        let mut chunk = Vec::new();
        match tokio::time::timeout(HEARTBEAT, coming.recv()).await {
            Ok(Ok(event)) => add_line(&mut chunk, &*event),
            Ok(Err(broadcast::error::RecvError::Lagged(lost))) => add_line(&mut chunk, &Event::lost(lost)),
            Ok(Err(broadcast::error::RecvError::Closed)) => return None,
            Err(_) => chunk.push(b'\n'),
        }
        Some((Ok(Bytes::from(chunk)), (Vec::new(), coming, held)))
    })))
}
