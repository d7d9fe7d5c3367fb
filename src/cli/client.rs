//! What all commands share that ask a running daemon: how it is found, what is said when it is not, what it answers.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{EXIT_CANNOT_RUN, EXIT_NO_DAEMON, EXIT_NOT_SO, output};
use crate::control::api::problem::Problem;
use crate::control::model::DEFAULT_SOCKET;

/// How long an answer is waited for that is not a stream: an apply waits a second for new members.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Options of every command that asks a daemon.
#[derive(clap::Args, Clone)]
pub struct ClientArguments {
    /// The daemon's socket
    #[arg(long, value_name = "PATH", env = "POINTSMAN_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON with stable keys instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Why there is no answer, or not the one hoped for.
#[derive(Debug)]
pub(super) enum ClientError {
    /// Nobody answers.
    NoDaemon(String),
    /// Somebody took an order, and has not said what became of it.
    Lost(String),
    /// Somebody may, but not to us.
    NotPermitted(String),
    /// The daemon says why not.
    Problem(Box<Problem>),
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon(words) | Self::Lost(words) | Self::NotPermitted(words) => formatter.write_str(words),
            Self::Problem(problem) => {
                for error in &problem.errors {
                    let place = error.line.zip(error.column).map(|(line, column)| format!("{line}:{column}: "));
                    writeln!(formatter, "{}{}: {}", place.unwrap_or_default(), error.field, error.detail)?;
                }
                formatter.write_str(&problem.detail)
            }
        }
    }
}

impl ClientError {
    /// Says it; the exit code for it.
    pub(super) fn say(&self) -> ExitCode {
        // Nothing is left to be done when nobody reads it: the exit code still says it.
        let _ = writeln!(io::stderr(), "pointsman: {self}");
        ExitCode::from(match self {
            Self::NoDaemon(_) => EXIT_NO_DAEMON,
            Self::NotPermitted(_) => EXIT_CANNOT_RUN,
            Self::Lost(_) | Self::Problem(_) => EXIT_NOT_SO,
        })
    }

    fn unreachable(socket: &Path, error: &io::Error) -> Self {
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(format!(
                "{socket}: permission denied (run it as root, or as a member of the socket's group: ls -l {socket})"
            )),
            io::ErrorKind::NotFound => Self::NoDaemon(format!(
                "no daemon answers: {socket} does not exist (is pointsman running? another socket: --socket PATH, or \
                 $POINTSMAN_SOCKET)"
            )),
            io::ErrorKind::ConnectionRefused => Self::NoDaemon(format!(
                "no daemon answers: nobody listens at {socket} (it has ended; see: systemctl status pointsman)"
            )),
            _ => Self::NoDaemon(format!("no daemon answers: {socket}: {error}")),
        }
    }
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    /// `If-Match`.
    pub(super) revision: Option<u64>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, content_type: "", body: Vec::new(), revision: None }
    }
}

impl ClientArguments {
    /// The daemon's answer.
    pub(super) fn ask(&self, ask: Ask<'_>) -> Result<Value, ClientError> {
        self.run(async {
            let is_order = ask.method != Method::GET;
            let whole = async { self.body_of(self.send(ask).await?, is_order).await };
            let late = |_| self.unanswered(is_order, &format!("nothing within {PATIENCE:?}"));
            let bytes = tokio::time::timeout(PATIENCE, whole).await.map_err(late)??;
            serde_json::from_slice(&bytes).map_err(|error| self.not_ours(&error))
        })
    }

    /// What is at this path, as it came and read.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(Value, T), ClientError> {
        let value = self.ask(Ask::get(path))?;
        let read = T::deserialize(&value).map_err(|error| self.not_ours(&error))?;
        Ok((value, read))
    }

    /// Calls `each` with every line that comes, until it says that it has seen enough.
    pub(super) fn stream(&self, path: &str, mut each: impl FnMut(&str) -> bool) -> Result<(), ClientError> {
        self.run(async {
            let mut body = self.send(Ask::get(path)).await?.into_body();
            let mut waiting: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.unanswered(false, &error))?;
                let Some(data) = frame.data_ref() else { continue };
                waiting.extend_from_slice(data);
                while let Some(end) = waiting.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = waiting.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    // An empty one says that the daemon lives.
                    let line = line.trim_end();
                    if !line.is_empty() && !each(line) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| ClientError::unreachable(&self.socket, &error))?.block_on(work)
    }

    /// A response that is no problem.
    async fn send(&self, ask: Ask<'_>) -> Result<Response<Incoming>, ClientError> {
        let is_order = ask.method != Method::GET;
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| ClientError::unreachable(&self.socket, &error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unanswered(false, &error))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(ask.method).uri(ask.path).header(header::HOST, "pointsman");
        if !ask.content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.content_type);
        }
        if let Some(revision) = ask.revision {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        let request = request.body(Full::new(Bytes::from(ask.body))).map_err(|error| self.unanswered(false, &error))?;
        let response = sender.send_request(request).await.map_err(|error| self.unanswered(is_order, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.body_of(response, is_order).await?;
        let problem = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Problem::new(status.as_u16(), format!("the daemon answers {status}")));
        Err(ClientError::Problem(Box::new(problem)))
    }

    /// Of an order nobody knows whether it has been carried out.
    fn unanswered(&self, is_order: bool, error: &dyn fmt::Display) -> ClientError {
        let socket = self.socket.display();
        if is_order {
            let words = format!("{socket}: no answer came ({error}); it may have been done: see pointsman status");
            return ClientError::Lost(words);
        }
        ClientError::NoDaemon(format!("no daemon answers: {socket}: {error}"))
    }

    async fn body_of(&self, response: Response<Incoming>, is_order: bool) -> Result<Bytes, ClientError> {
        let collected = response.into_body().collect().await.map_err(|error| self.unanswered(is_order, &error))?;
        Ok(collected.to_bytes())
    }

    fn not_ours(&self, error: &impl fmt::Display) -> ClientError {
        let socket = self.socket.display();
        ClientError::NoDaemon(format!("{socket} answers, but not as a pointsman of this version does: {error}"))
    }
}

/// Prints what was found, or says why not.
pub(super) fn finish(result: Result<String, ClientError>) -> ExitCode {
    match result {
        Ok(text) => output::print(&text),
        Err(error) => error.say(),
    }
}

/// JSON for people who read it, too.
pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
