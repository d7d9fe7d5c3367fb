//! What there is, and how it does.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::super::desk::{Desk, Part};
use super::super::problem::Problem;
use super::super::shape;
use super::{Held, Json, Named, long_json, no_such};
use crate::control::daemon::Daemon;

/// The API in the words of `OpenAPI` 3.1; a test holds the daemon's answers against it.
const DESCRIPTION: &str = include_str!("../openapi.json");

type Answer<T> = Result<Json<T>, Problem>;

pub(super) fn routes() -> Router<Desk> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/workers", get(workers))
        .route("/v1/vips", get(vips))
        .route("/v1/vips/{name}", get(vip))
        .route("/v1/pools", get(pools))
        .route("/v1/pools/{name}", get(pool))
        .route("/v1/members", get(members))
        .route("/v1/members/{pool}/{name}", get(member))
        .route("/v1/monitors", get(monitors))
        .route("/v1/openapi.json", get(description))
}

async fn say<T: Send + 'static>(desk: &Desk, what: impl FnOnce(&Daemon) -> T + Send + 'static) -> Answer<T> {
    let (answer, revision) = desk.ask(|daemon| (what(daemon), daemon.revision())).await?;
    Ok(Json(answer, revision))
}

/// All of them.
async fn list<T: Serialize + Send + 'static>(
    desk: &Desk,
    held: Held,
    part: impl Fn(&Daemon, usize) -> Part<T> + Copy + Send + 'static,
) -> Result<Response, Problem> {
    let (all, revision) = desk.list(part).await?;
    long_json(all, revision, held).await
}

/// The one of that name, or the names among which it may be meant.
async fn find<T: Send + 'static>(
    desk: &Desk,
    kind: &str,
    name: String,
    find: impl FnOnce(&Daemon, &str) -> Result<T, Vec<String>> + Send + 'static,
) -> Answer<T> {
    let wanted = name.clone();
    let Json(found, revision) = say(desk, move |daemon| find(daemon, &wanted)).await?;
    found.map(|one| Json(one, revision)).map_err(|names| no_such(kind, &name, &names))
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

async fn status(State(desk): State<Desk>) -> Answer<shape::Status> {
    let _turn = desk.turn().await?;
    say(&desk, Daemon::status).await
}

async fn workers(State(desk): State<Desk>) -> Answer<Vec<shape::Worker>> {
    say(&desk, Daemon::workers).await
}

async fn vips(State(desk): State<Desk>, held: Held) -> Result<Response, Problem> {
    list(&desk, held, Daemon::vips).await
}

async fn vip(State(desk): State<Desk>, Named(name): Named<String>) -> Answer<shape::Vip> {
    find(&desk, "VIP", name, Daemon::vip_named).await
}

async fn pools(State(desk): State<Desk>, held: Held) -> Result<Response, Problem> {
    list(&desk, held, Daemon::pools).await
}

/// It may have thousands of members.
async fn pool(State(desk): State<Desk>, held: Held, Named(name): Named<String>) -> Result<Response, Problem> {
    let Json(pool, revision) = find(&desk, "pool", name, Daemon::pool_named).await?;
    long_json(pool, revision, held).await
}

async fn members(State(desk): State<Desk>, held: Held) -> Result<Response, Problem> {
    list(&desk, held, Daemon::members).await
}

async fn member(State(desk): State<Desk>, Named((pool, name)): Named<(String, String)>) -> Answer<shape::Member> {
    find(&desk, "member", format!("{pool}/{name}"), move |daemon, _| daemon.member_named(&pool, &name)).await
}

async fn monitors(State(desk): State<Desk>, held: Held) -> Result<Response, Problem> {
    list(&desk, held, Daemon::monitors).await
}
