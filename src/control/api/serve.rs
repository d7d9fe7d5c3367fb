//! Connections: so many, so large, so long, and no more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tower_service::Service as _;
use tracing::warn;

use super::desk::{Clerk, Desk, desk};
use super::door::Doors;
use super::routes;

/// Connections at a time, of each listener. With one more, the oldest that is not being answered is closed.
const CONNECTIONS: usize = 256;

/// A client that has not sent its request's head by then is not waited for any more.
const HEAD: Duration = Duration::from_secs(10);

/// Heads are a few hundred bytes; hyper's least is 8 KiB.
const HEAD_BYTES: usize = 16 << 10;

/// Between two attempts to accept while the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What serves the API: dropped, it closes every connection.
#[derive(Debug)]
pub(in crate::control) struct Server {
    tasks: Vec<AbortHandle>,
    /// Removes the socket, last.
    _doors: Doors,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Serves from now on; to be called inside the runtime.
pub(in crate::control) fn serve(doors: Doors) -> io::Result<(Server, Clerk)> {
    let (desk, clerk) = desk();
    let unix = doors.unix.try_clone()?;
    unix.set_nonblocking(true)?;
    let unix = UnixListener::from_std(unix)?;
    let mut tasks = vec![tokio::spawn(accept_unix(unix, routes::all(desk.clone()))).abort_handle()];
    if let Some(tcp) = &doors.tcp {
        let tcp = tcp.try_clone()?;
        tcp.set_nonblocking(true)?;
        tasks.push(tokio::spawn(accept_tcp(TcpListener::from_std(tcp)?, read_only(desk.apart()))).abort_handle());
    }
    Ok((Server { tasks, _doors: doors }, clerk))
}

fn read_only(desk: Desk) -> Router {
    routes::reading(desk)
}

async fn accept_unix(listener: UnixListener, router: Router) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.take(stream, &router).await,
            Err(error) => out_of_descriptors(&error).await,
        }
    }
}

async fn accept_tcp(listener: TcpListener, router: Router) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.take(stream, &router).await,
            Err(error) => out_of_descriptors(&error).await,
        }
    }
}

async fn out_of_descriptors(error: &io::Error) {
    warn!("api: accepting a connection: {error}");
    tokio::time::sleep(PAUSE).await;
}

/// The open ones, the oldest first.
#[derive(Debug, Default)]
struct Connections(VecDeque<Connection>);

#[derive(Debug)]
struct Connection {
    /// Answers being made; one that has none is only waiting for its client.
    working: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Connections {
    async fn take(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: &Router) {
        let open = &mut self.0;
        open.retain(|one| !one.task.is_finished());
        if open.len() >= CONNECTIONS {
            // Its client waits for nothing, or has not said for what.
            let idle = open.iter().position(|one| one.working.load(Ordering::Relaxed) == 0);
            // Else the new one is closed.
            let Some(idle) = idle else { return };
            if let Some(closed) = open.remove(idle) {
                closed.task.abort();
                // Its file is closed when it has had its turn, and not many are to wait for that.
                tokio::task::yield_now().await;
            }
        }
        let working = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(connection(stream, router.clone(), Arc::clone(&working))).abort_handle();
        open.push_back(Connection { working, task });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    working: Arc<AtomicUsize>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let working = Working(Arc::clone(&working));
        async move {
            let (mut head, body) = request.into_parts();
            head.extensions.insert(working);
            router.call(Request::from_parts(head, Body::new(body))).await.map_err(|never: Infallible| never)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    // A client that breaks off has its reasons.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// A connection's count of answers being made.
#[derive(Debug, Clone)]
pub(super) struct Working(Arc<AtomicUsize>);

/// While it lives, its connection is not closed for a new one.
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicUsize>);

impl Working {
    /// From now on.
    pub(super) fn begin(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.0))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
