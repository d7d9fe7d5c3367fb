//! The paths, by subject.

mod changes;
mod config;
mod lists;
mod metrics;
mod streams;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::activity::Activity;
use super::desk::Desk;
use super::problem::{PROBLEM_JSON, Problem};
use crate::control::reader::nearest;

/// What is read and what is changed.
pub(super) fn all(desk: Desk) -> Router {
    finish(reads().merge(config::routes()).merge(changes::routes()), desk, "")
}

/// What is read.
pub(super) fn reading(desk: Desk) -> Router {
    finish(reads(), desk, "; the address at api.listen can only be read, changes go by the socket")
}

fn reads() -> Router<Desk> {
    lists::routes().merge(metrics::routes()).merge(streams::routes())
}

fn finish(router: Router<Desk>, desk: Desk, hint: &'static str) -> Router {
    let refused = move |method: Method, uri: Uri| async move {
        Problem::new(405, format!("{} takes no {method}{hint}", uri.path()))
    };
    router.method_not_allowed_fallback(refused).fallback(missing).with_state(desk)
}

async fn missing(uri: Uri) -> Problem {
    Problem::new(404, format!("there is no {} here; what there is: /v1/openapi.json", uri.path()))
}

/// Among more names none is looked for that comes near: that takes control's time.
const MOST_NAMES: usize = 256;

/// What is asked for is not there.
pub(in crate::control) fn no_such(kind: &str, name: &str, names: &[String]) -> Problem {
    let names = if names.len() > MOST_NAMES { &[] } else { names };
    let meant = nearest(name, names.iter().map(String::as_str));
    let hint = meant.map_or_else(String::new, |meant| format!(" (did you mean {meant:?}?)"));
    Problem::new(404, format!("there is no {kind} {name:?}{hint}")).about("name")
}

/// Names of which one may be meant: none if they are too many.
pub(in crate::control) fn few<N: ToString>(names: impl Iterator<Item = N>) -> Vec<String> {
    let few: Vec<String> = names.take(MOST_NAMES + 1).map(|name| name.to_string()).collect();
    if few.len() > MOST_NAMES { Vec::new() } else { few }
}

/// What a path names.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state).await.map_err(|wrong: PathRejection| {
            Problem::new(400, format!("the path {} names nothing: {}", parts.uri.path(), wrong.body_text()))
        })?;
        Ok(Self(name))
    }
}

/// The parameters of a query; each of `allowed`, and at most once.
pub(super) fn query<const N: usize>(uri: &Uri, allowed: [&str; N]) -> Result<[Option<String>; N], Problem> {
    let mut found = [const { None }; N];
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        let Some(index) = allowed.iter().position(|one| *one == name) else {
            let words = format!("{name:?} is no parameter here (allowed: {})", allowed.join(", "));
            return Err(Problem::new(400, words).about(name));
        };
        if found[index].replace(decoded(value)?).is_some() {
            return Err(Problem::new(400, format!("{name} is there twice")).about(name));
        }
    }
    Ok(found)
}

/// Without percent-encoding (RFC 3986 §2.1).
fn decoded(text: &str) -> Result<String, Problem> {
    let wrong = || Problem::new(400, format!("{text:?} in the query is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = axum::http::StatusCode::from_u16(self.status).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

/// An answer under a revision.
pub(super) struct Json<T>(pub(super) T, pub(super) u64);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => json(body, self.1, None),
            Err(error) => Problem::new(500, error.to_string()).into_response(),
        }
    }
}

/// What a long answer holds while it is made: others wait for it.
struct Held {
    /// Until it has been written.
    place: OwnedSemaphorePermit,
    /// Until it has been made.
    turn: OwnedSemaphorePermit,
}

impl FromRequestParts<Desk> for Held {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, desk: &Desk) -> Result<Self, Problem> {
        let activity = parts.extensions.get::<Arc<Activity>>();
        // Nothing is lost with a request that waits for other clients: its connection may be closed for a new one.
        activity.inspect(|activity| activity.wait(true));
        let held = Self { place: desk.place().await?, turn: desk.turn().await? };
        activity.inspect(|activity| activity.wait(false));
        Ok(held)
    }
}

/// Makes a long answer on another thread, which has its turn even if nobody waits for it any more.
async fn write_down<E: ToString + Send + 'static>(
    Held { place, turn }: Held,
    write: impl FnOnce() -> Result<Vec<u8>, E> + Send + 'static,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Problem> {
    let written = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        write().map(|bytes| (bytes, place)).map_err(|error| error.to_string())
    });
    let written = written.await.map_err(|error| error.to_string()).and_then(|written| written);
    written.map_err(|error| Problem::new(500, error))
}

async fn long_json<T: Serialize + Send + 'static>(answer: T, revision: u64, held: Held) -> Result<Response, Problem> {
    let (body, place) = write_down(held, move || serde_json::to_vec(&answer)).await?;
    Ok(json(body, revision, Some(place)))
}

fn json(body: Vec<u8>, revision: u64, place: Option<OwnedSemaphorePermit>) -> Response {
    let mut response = Response::new(slices(body, place));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// So much of an answer goes to its connection at a time: the last of it is taken when nearly all has been written.
const SLICE: usize = 64 << 10;

/// A whole answer; its place is taken for as long as its memory is, which may be written from until then.
fn slices(bytes: Vec<u8>, place: Option<OwnedSemaphorePermit>) -> Body {
    if bytes.len() <= SLICE {
        return Body::from(bytes);
    }
    Body::new(Slices(Bytes::from_owner(Placed { bytes, _place: place })))
}

struct Placed {
    bytes: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Slices(Bytes);

impl hyper::body::Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.0.len().min(SLICE);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_once_and_strictly() {
        let read = |text: &str| query(&text.parse().expect("a URI"), ["vip", "client"]);
        let found = read("/x?vip=ht%74p%2f%C3%A4+%2525&&cl%69ent=").expect("good");
        assert_eq!(found.map(Option::unwrap_or_default), ["http/ä+%25".to_owned(), String::new()]);
        for (text, words) in [
            ("/x?vip=%", "not percent-encoded UTF-8"),
            ("/x?vip=%4", "not percent-encoded UTF-8"),
            ("/x?vip=%+f", "not percent-encoded UTF-8"),
            ("/x?vip=%zz", "not percent-encoded UTF-8"),
            ("/x?vip=%ff", "not percent-encoded UTF-8"),
            ("/x?%ff=1", "not percent-encoded UTF-8"),
            ("/x?vip=1&v%69p=2", "vip is there twice"),
            ("/x?%76=1", "\"v\" is no parameter here (allowed: vip, client)"),
        ] {
            let problem = read(text).expect_err(text);
            assert_eq!(problem.status, 400);
            assert!(problem.detail.contains(words), "{text}: {}", problem.detail);
        }
    }
}
