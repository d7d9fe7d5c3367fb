//! The paths, by subject.

mod changes;
mod config;
mod lists;
mod metrics;
mod streams;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

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

/// What is asked for is not there.
pub(in crate::control) fn no_such(kind: &str, name: &str, names: &[String]) -> Problem {
    let meant = nearest(name, names.iter().map(String::as_str));
    let hint = meant.map_or_else(String::new, |meant| format!(" (did you mean {meant:?}?)"));
    Problem::new(404, format!("there is no {kind} {name:?}{hint}")).about("name")
}

/// The parameters of a query; each of `allowed`, and at most once.
pub(super) fn query<'u, const N: usize>(uri: &'u Uri, allowed: [&str; N]) -> Result<[Option<&'u str>; N], Problem> {
    let mut found = [None; N];
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(index) = allowed.iter().position(|one| *one == name) else {
            let words = format!("{name:?} is no parameter here (allowed: {})", allowed.join(", "));
            return Err(Problem::new(400, words).about(name));
        };
        if found[index].replace(value).is_some() {
            return Err(Problem::new(400, format!("{name} is there twice")).about(name));
        }
    }
    Ok(found)
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
        let body = match serde_json::to_vec(&self.0) {
            Ok(body) => body,
            Err(error) => return Problem::new(500, error.to_string()).into_response(),
        };
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", self.1)) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}
