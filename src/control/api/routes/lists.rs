//! What there is, and how it does.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::super::desk::Desk;
use super::super::problem::Problem;
use super::super::shape;
use super::{Json, no_such};
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

/// The one of that name, or which names come near it.
async fn find<T: Send + 'static>(
    desk: &Desk,
    kind: &str,
    name: String,
    all: impl FnOnce(&Daemon) -> Vec<T> + Send + 'static,
    name_of: fn(&T) -> String,
) -> Answer<T> {
    let wanted = name.clone();
    let find = move |daemon: &Daemon| {
        let mut all = all(daemon);
        match all.iter().position(|one| name_of(one) == wanted) {
            Some(index) => Ok(all.swap_remove(index)),
            None => Err(all.iter().map(name_of).collect::<Vec<_>>()),
        }
    };
    let Json(found, revision) = say(desk, find).await?;
    found.map(|one| Json(one, revision)).map_err(|names| no_such(kind, &name, &names))
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

async fn status(State(desk): State<Desk>) -> Answer<shape::Status> {
    say(&desk, Daemon::status).await
}

async fn workers(State(desk): State<Desk>) -> Answer<Vec<shape::Worker>> {
    say(&desk, Daemon::workers).await
}

async fn vips(State(desk): State<Desk>) -> Answer<Vec<shape::Vip>> {
    say(&desk, Daemon::vips).await
}

async fn vip(State(desk): State<Desk>, Path(name): Path<String>) -> Answer<shape::Vip> {
    find(&desk, "VIP", name, Daemon::vips, |vip| vip.name.clone()).await
}

async fn pools(State(desk): State<Desk>) -> Answer<Vec<shape::Pool>> {
    say(&desk, Daemon::pools).await
}

async fn pool(State(desk): State<Desk>, Path(name): Path<String>) -> Answer<shape::Pool> {
    find(&desk, "pool", name, Daemon::pools, |pool| pool.name.clone()).await
}

async fn members(State(desk): State<Desk>) -> Answer<Vec<shape::Member>> {
    say(&desk, Daemon::members).await
}

async fn member(State(desk): State<Desk>, Path((pool, name)): Path<(String, String)>) -> Answer<shape::Member> {
    let name = format!("{pool}/{name}");
    find(&desk, "member", name, Daemon::members, |member| format!("{}/{}", member.pool, member.name)).await
}

async fn monitors(State(desk): State<Desk>) -> Answer<Vec<shape::Monitor>> {
    say(&desk, Daemon::monitors).await
}
