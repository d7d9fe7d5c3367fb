//! An HTTP/1.1 request, over TLS or not, and the response that is good.

use std::net::SocketAddrV4;
use std::pin::pin;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::outcome::{Bad, Deadline, Good, Outcome};
use super::probe::compiled;
use super::tcp::{self, ANSWER, unexpected};
use super::tls::Handshake;
use super::tls_words::words_of;
use crate::control::model::StatusRange;
use crate::control::model::monitor::Http;

/// A request made ready.
pub(super) struct Query {
    settings: Http,
    body: Option<Regex>,
    handshake: Option<Handshake>,
}

impl Query {
    /// Fails if authorities cannot be read.
    pub(super) fn prepare(settings: &Http) -> Result<Query, String> {
        // A port in it is no part of the name.
        let host = settings.host.as_deref().map(|host| host.split_once(':').map_or(host, |(name, _)| name));
        let handshake = settings.tls.as_ref().map(|tls| Handshake::prepare(tls, host, b"http/1.1")).transpose()?;
        let body = settings.expect_body.as_deref().map(compiled).transpose()?;
        Ok(Query { settings: settings.clone(), body, handshake })
    }

    pub(super) async fn check(&self, target: SocketAddrV4, deadline: &Deadline) -> Outcome {
        let stream = tcp::connect(target, deadline).await?;
        match &self.handshake {
            Some(handshake) => self.ask(handshake.over(stream, target, deadline).await?, target, deadline).await,
            None => self.ask(stream, target, deadline).await,
        }
    }

    async fn ask<S>(&self, stream: S, target: SocketAddrV4, deadline: &Deadline) -> Outcome
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let request = self.request(target)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(ANSWER)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let exchange = async {
            let response = deadline.keep("waiting for the response", sender.send_request(request)).await?;
            self.judge(response.map_err(|error| failed(&error))?, deadline).await
        };
        let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
        tokio::select! {
            outcome = &mut exchange => outcome,
            // It may end as soon as the response is there: what has become of that, the exchange knows.
            _ = &mut connection => exchange.await,
        }
    }

    fn request(&self, target: SocketAddrV4) -> Result<Request<Empty<Bytes>>, Bad> {
        let usual = if self.handshake.is_some() { 443 } else { 80 };
        let own = || if target.port() == usual { target.ip().to_string() } else { target.to_string() };
        let host = self.settings.host.clone().unwrap_or_else(own);
        let mut request = Request::builder().method(self.settings.method.as_str()).uri(self.settings.path.as_str());
        let is_given = |name: &str| self.settings.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        for (name, value) in [(HOST, host.as_str()), (USER_AGENT, "pointsman"), (CONNECTION, "close")] {
            if !is_given(name.as_str()) {
                request = request.header(name, value);
            }
        }
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        request.body(Empty::new()).map_err(|error| Bad::Failed(format!("the request: {error}")))
    }

    async fn judge(&self, response: Response<Incoming>, deadline: &Deadline) -> Outcome {
        let code = response.status().as_u16();
        let expected = &self.settings.expect_status;
        if !expected.iter().any(|range| range.contains(code)) {
            let expected: Vec<String> = expected.iter().map(StatusRange::to_string).collect();
            return Bad::failed(format!("{code}, expected {}", expected.join(", ")));
        }
        if let Some(pattern) = &self.body {
            deadline.keep("reading the body", matches(response, pattern)).await??;
        }
        Ok(Good::default())
    }
}

/// Reads the body until the pattern is there, or cannot come any more.
async fn matches(response: Response<Incoming>, pattern: &Regex) -> Result<(), Bad> {
    let code = response.status().as_u16();
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.len() < ANSWER {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(|error| failed(&error))?.into_data() else { continue };
        read.extend_from_slice(&data[..data.len().min(ANSWER - read.len())]);
        if pattern.is_match(&read) {
            return Ok(());
        }
    }
    Bad::failed(unexpected(&format!("{code} with the body"), &read, pattern))
}

/// What hyper says, and what it says was the cause.
fn failed(error: &hyper::Error) -> Bad {
    if error.is_incomplete_message() {
        return Bad::Failed("the connection was closed before the response".to_owned());
    }
    let source = std::error::Error::source(error);
    let cause = source.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if let Some(why) = cause.and_then(words_of) {
        return Bad::Failed(format!("TLS: {why}"));
    }
    match cause.and_then(std::io::Error::raw_os_error) {
        Some(number) => std::io::Error::from_raw_os_error(number).into(),
        None => Bad::Failed(source.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))),
    }
}
