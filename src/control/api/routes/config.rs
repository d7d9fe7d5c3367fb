//! The configuration that rules. It may name what only those are to know whom the socket lets in: a hash seed, credentials
//! in monitors' headers.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;

use super::super::desk::Desk;
use super::super::problem::Problem;
use super::{Held, long_json};
use crate::control::daemon::Daemon;

pub(super) fn routes() -> Router<Desk> {
    Router::new().route("/v1/config", get(config))
}

async fn config(State(desk): State<Desk>, held: Held) -> Result<Response, Problem> {
    let config = desk.ask(Daemon::configuration).await?;
    let revision = config.revision;
    long_json(config, revision, held).await
}
