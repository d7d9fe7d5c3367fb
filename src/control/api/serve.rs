//! Connections: so many, so large, so long, and no more.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tower_service::Service as _;
use tracing::warn;

use super::activity::{Activity, Busy, Patient};
use super::desk::{Clerk, desk};
use super::door::Doors;
use super::routes;

/// Connections at a time, of each listener. With one more, the oldest that waits for its client, or for others', is closed.
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
    let of_unix = move |context: &mut Context<'_>| unix.poll_accept(context).map_ok(|(stream, _)| stream);
    let mut tasks = vec![tokio::spawn(accept(of_unix, routes::all(desk.clone()))).abort_handle()];
    if let Some(tcp) = &doors.tcp {
        let tcp = tcp.try_clone()?;
        tcp.set_nonblocking(true)?;
        let tcp = TcpListener::from_std(tcp)?;
        let of_tcp = move |context: &mut Context<'_>| tcp.poll_accept(context).map_ok(|(stream, _)| stream);
        tasks.push(tokio::spawn(accept(of_tcp, routes::reading(desk.apart()))).abort_handle());
    }
    Ok((Server { tasks, _doors: doors }, clerk))
}

async fn accept<S>(mut next: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connections = Connections::default();
    loop {
        match poll_fn(&mut next).await {
            Ok(stream) => connections.take(stream, &router).await,
            Err(error) => {
                // Out of descriptors.
                warn!("api: accepting a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The open ones, the oldest first.
#[derive(Debug, Default)]
struct Connections(VecDeque<Connection>);

#[derive(Debug)]
struct Connection {
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl Connections {
    async fn take(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: &Router) {
        let open = &mut self.0;
        open.retain(|one| !one.task.is_finished());
        if open.len() >= CONNECTIONS {
            // Its client waits for nothing, has not said for what, does not read the answer, or waits for others.
            let idle = open.iter().position(|one| one.activity.is_waiting());
            // Else the new one is closed.
            let Some(idle) = idle else { return };
            if let Some(closed) = open.remove(idle) {
                closed.task.abort();
                // Its file is closed when it has had its turn, and not many are to wait for that.
                tokio::task::yield_now().await;
            }
        }
        let activity = Arc::<Activity>::default();
        let task = tokio::spawn(connection(stream, router.clone(), Arc::clone(&activity))).abort_handle();
        open.push_back(Connection { activity, task });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    activity: Arc<Activity>,
) {
    let stream = Patient::new(stream, Arc::clone(&activity));
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut router, activity) = (router.clone(), Arc::clone(&activity));
        async move {
            let (mut head, body) = request.into_parts();
            // Else its client is waited for; who reads the body says when there is work.
            let busy = body.is_end_stream().then(|| Activity::begin(&activity));
            head.extensions.insert(Arc::clone(&activity));
            let response = router.call(Request::from_parts(head, Body::new(body))).await;
            let busy = busy.unwrap_or_else(|| Activity::begin(&activity));
            response.map(|response: Response<Body>| response.map(|body| Answer { body, _busy: busy }))
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    // A client that breaks off has its reasons.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// A response's body; its connection is busy until it has ended.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
