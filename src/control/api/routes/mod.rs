//! The paths, by subject.

mod lists;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::desk::Desk;
use super::problem::{PROBLEM_JSON, Problem};

/// What is read and what is changed.
pub(super) fn all(desk: Desk) -> Router {
    finish(reads(), desk, "")
}

/// What is read.
pub(super) fn reading(desk: Desk) -> Router {
    finish(reads(), desk, "; the address at api.listen can only be read, changes go by the socket")
}

fn reads() -> Router<Desk> {
    lists::routes()
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
