//! The members' server: HTTP on the kernel's TCP stack, and UDP.
//!
//! Every answer says who gave it and whom it saw: headers `member`, `client` and `server` (address and port of both
//! ends of the connection).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State, connect_info::Connected};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use http_body_util::BodyExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::allow_open_files;
use super::pattern::{Digest, Pattern};

/// Connections that may wait to be accepted: a thousand clients may call at once.
const BACKLOG: u32 = 4096;
/// What one request may carry, or ask for: the lab's bound on memory and time, not the method's.
const BODY_MAX: u64 = 64 << 20;
/// Files that a server may need: several thousand open connections.
const OPEN_FILES: u64 = 65_536;

/// Serves until killed.
pub(super) fn serve(name: &str, listen: &[SocketAddr], udp: &[SocketAddr]) -> anyhow::Result<()> {
    allow_open_files(OPEN_FILES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let name: Arc<str> = name.into();
        let mut servers = JoinSet::new();
        for &address in listen {
            let listener = listen_on(address).with_context(|| format!("listening on TCP {address}"))?;
            let app = app(Arc::clone(&name)).into_make_service_with_connect_info::<Ends>();
            servers.spawn(async move { axum::serve(listener, app).await });
        }
        for &address in udp {
            let socket = UdpSocket::bind(address).await.with_context(|| format!("listening on UDP {address}"))?;
            servers.spawn(answer_datagrams(socket, Arc::clone(&name)));
        }
        println!("ready");
        while let Some(ended) = servers.join_next().await {
            ended??;
        }
        Ok(())
    })
}

/// Accepts connections that send at once: the tail of a body must not wait for an acknowledgement of what went before.
struct WithoutDelay(TcpListener);

impl Listener for WithoutDelay {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        // axum's own: it waits when no files are left.
        let (stream, client) = Listener::accept(&mut self.0).await;
        // It can only fail on a connection that is gone already.
        let _ = stream.set_nodelay(true);
        (stream, client)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn listen_on(address: SocketAddr) -> io::Result<WithoutDelay> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(WithoutDelay(socket.listen(BACKLOG)?))
}

/// Both ends of a connection, as this host sees them.
#[derive(Clone, Debug)]
struct Ends {
    client: SocketAddr,
    server: Option<SocketAddr>,
}

impl Connected<IncomingStream<'_, WithoutDelay>> for Ends {
    fn connect_info(stream: IncomingStream<'_, WithoutDelay>) -> Self {
        Self { client: *stream.remote_addr(), server: stream.io().local_addr().ok() }
    }
}

/// Who answers whom.
struct Answer {
    member: Arc<str>,
    ends: Ends,
}

fn app(name: Arc<str>) -> Router {
    Router::new()
        .route("/", get(identity))
        .route("/bytes/{length}", get(bytes))
        .route("/bytes/{length}/{seed}", get(bytes_of_seed))
        .route("/echo-hash", post(echo_hash))
        .with_state(name)
}

type Name = State<Arc<str>>;

async fn identity(State(member): Name, ConnectInfo(ends): ConnectInfo<Ends>) -> Response {
    Answer { member, ends }.json(StatusCode::OK, serde_json::json!({}))
}

async fn bytes(name: Name, ends: ConnectInfo<Ends>, Path(length): Path<u64>) -> Response {
    bytes_of_seed(name, ends, Path((length, length))).await
}

async fn bytes_of_seed(
    State(member): Name,
    ConnectInfo(ends): ConnectInfo<Ends>,
    Path((length, seed)): Path<(u64, u64)>,
) -> Response {
    let answer = Answer { member, ends };
    if length > BODY_MAX {
        return answer.too_large();
    }
    answer.response(StatusCode::OK, "application/octet-stream", Body::new(Pattern::new(seed, length)))
}

async fn echo_hash(State(member): Name, ConnectInfo(ends): ConnectInfo<Ends>, mut body: Body) -> Response {
    let answer = Answer { member, ends };
    let mut digest = Digest::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return answer.json(StatusCode::BAD_REQUEST, serde_json::json!({ "error": "the body ended early" }));
        };
        digest.add(frame.data_ref().map_or(&[], |data| data));
        if digest.length() > BODY_MAX {
            return answer.too_large();
        }
    }
    answer.json(StatusCode::OK, serde_json::json!({ "length": digest.length(), "hash": digest.finish() }))
}

impl Answer {
    fn json(&self, status: StatusCode, mut value: serde_json::Value) -> Response {
        value["member"] = (*self.member).into();
        value["client"] = self.ends.client.to_string().into();
        value["server"] = self.server().into();
        self.response(status, "application/json", Body::from(value.to_string() + "\n"))
    }

    fn too_large(&self) -> Response {
        self.json(StatusCode::PAYLOAD_TOO_LARGE, serde_json::json!({ "error": format!("more than {BODY_MAX} bytes") }))
    }

    fn response(&self, status: StatusCode, content_type: &'static str, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, text) in
            [("member", self.member.to_string()), ("client", self.ends.client.to_string()), ("server", self.server())]
        {
            // A name that no header can carry is left out: the client then says that it is missing.
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn server(&self) -> String {
        self.ends.server.map_or_else(String::new, |server| server.to_string())
    }
}

/// Answers each datagram with `MEMBER CLIENT PAYLOAD`.
async fn answer_datagrams(socket: UdpSocket, name: Arc<str>) -> io::Result<()> {
    let mut datagram = vec![0; 65_536];
    loop {
        let (length, client) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer: the client's port is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let mut answer = format!("{name} {client} ").into_bytes();
        answer.extend_from_slice(&datagram[..length]);
        // As with any datagram: one that cannot be sent is lost, and the client will say so.
        let _ = socket.send_to(&answer, client).await;
    }
}
