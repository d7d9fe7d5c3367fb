//! What is changed: another configuration, or something about one member or VIP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::super::activity::Activity;
use super::super::desk::{Desk, Wish};
use super::super::problem::Problem;
use super::super::shape::{Applied, MemberPatch, VipPatch};
use super::{Json, Named, query};
use crate::control::change::Change;
use crate::control::model::Model;

/// More is no request: a configuration of ten thousand VIPs with ten members each has about half of it.
const BODY: usize = 16 << 20;

/// So much of a body that is too large is read all the same: a client that is still writing would not see the answer.
const DISCARDED: usize = 20 << 20;

/// Of bodies larger than this, few are read at a time: clients together cannot use up the memory.
const LARGE: usize = 1 << 20;

/// A client that has not sent its body by then is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// So long a large body waits for a place among the few that are read at a time: longer than one that stalls keeps its.
const PLACE: Duration = Duration::from_secs(3);

/// A large body keeps its place only while so much of it comes in that time, or its end.
const PACE: (usize, Duration) = (LARGE, Duration::from_secs(2));

pub(super) fn routes() -> Router<Desk> {
    Router::new()
        .route("/v1/apply", post(apply))
        .route("/v1/members/{pool}/{name}", patch(edit))
        .route("/v1/vips/{name}", patch(edit_vip))
}

/// The whole body, if it is text and comes soon; and its place among the large ones, if it has one.
async fn read(desk: &Desk, headers: &HeaderMap, body: Body) -> Result<(String, Option<OwnedSemaphorePermit>), Problem> {
    let too_large = || Problem::new(413, format!("the body has more than {} MiB", BODY >> 20));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > DISCARDED as u64) {
        return Err(too_large());
    }
    let (bytes, place) = collect(desk, body).await?;
    let bytes = bytes.ok_or_else(too_large)?;
    let text = String::from_utf8(bytes).map_err(|_| Problem::new(400, "the body is no UTF-8 text"))?;
    Ok((text, place))
}

/// No bytes: they are too many.
async fn collect(desk: &Desk, mut body: Body) -> Result<(Option<Vec<u8>>, Option<OwnedSemaphorePermit>), Problem> {
    let (mut bytes, mut seen, mut place) = (Vec::new(), 0, None);
    let mut until = Instant::now() + PATIENCE;
    // Of one that has a place: by when it is to have come so far.
    let mut due: Option<(usize, Instant)> = None;
    loop {
        let deadline = due.map_or(until, |(_, soon)| until.min(soon));
        let frame = tokio::time::timeout_at(deadline.into(), body.frame()).await.map_err(|_| late(deadline < until))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Problem::new(400, format!("the body ends early: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        seen += data.len();
        if seen > DISCARDED {
            break;
        }
        if seen > LARGE && place.is_none() {
            let asked = Instant::now();
            place = Some(large_place(desk).await?);
            // Not its client's time.
            until += asked.elapsed();
        }
        if place.is_some() && due.is_none_or(|(enough, _)| seen >= enough) {
            due = Some((seen + PACE.0, Instant::now() + PACE.1));
        }
        if seen <= BODY {
            bytes.extend_from_slice(data);
        } else {
            bytes = Vec::new();
        }
    }
    Ok(((seen <= BODY).then_some(bytes), place))
}

async fn large_place(desk: &Desk) -> Result<OwnedSemaphorePermit, Problem> {
    let place = tokio::time::timeout(PLACE, desk.large_bodies().acquire_owned()).await;
    let taken = || Problem::new(503, "too many large bodies are being read; try again later");
    place.ok().and_then(Result::ok).ok_or_else(taken)
}

fn late(is_large: bool) -> Problem {
    let words = if is_large {
        let (least, time) = PACE;
        format!("the body comes too slowly: one of more than {} MiB is to bring {least} bytes in {time:?}", LARGE >> 20)
    } else {
        format!("the body has not come within {PATIENCE:?}")
    };
    Problem::new(408, words)
}

/// The revision that must rule.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    let wrong =
        || Problem::new(400, format!("{text:?} is no ETag of ours (such as \"7\", as GET answers)")).about("If-Match");
    number.ok_or_else(wrong).map(Some)
}

async fn apply(
    State(desk): State<Desk>,
    Extension(activity): Extension<Arc<Activity>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let [dry_run] = query(&uri, ["dry_run"])?;
    let dry_run = match dry_run.as_deref() {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(other) => {
            return Err(Problem::new(400, format!("dry_run is {other:?} (allowed: true, false)")).about("dry_run"));
        }
    };
    let revision = if_match(&headers)?;
    let (text, _place) = read(&desk, &headers, body).await?;
    let text: Arc<str> = text.into();
    let _busy = Activity::begin(&activity);
    // A large one takes its time, and nothing else may wait for it.
    let read = Arc::clone(&text);
    let parsed = tokio::task::spawn_blocking(move || Model::parse("config", &read)).await;
    let model = parsed.map_err(|error| Problem::new(500, error.to_string()))?;
    let model = model.map_err(|errors| Problem::of_config(&errors))?;
    if !dry_run {
        let (change, revision) = desk.order(Wish::Apply { model: Box::new(model), text }, revision).await?;
        return Ok(Json(Applied { revision, summary: change.summary(), plan: change.to_string(), change }, revision)
            .into_response());
    }
    let (drafted, edits, now) =
        desk.ask(move |daemon| (daemon.draft(&model), daemon.edits_that_end(), daemon.revision())).await?;
    if let Some(wanted) = revision.filter(|wanted| *wanted != now) {
        return Err(Problem::new(412, format!("revision {now} rules, not {wanted}")).about("If-Match"));
    }
    let draft = drafted.map_err(|refused| Problem::new(422, refused.to_string()))?;
    // It takes seconds of a core: one after the other.
    let _turn = desk.plans().acquire_owned().await;
    let change = tokio::task::spawn_blocking(move || draft.change()).await;
    let mut change = change.map_err(|error| Problem::new(500, error.to_string()))?;
    change.edits_ended = edits;
    Ok(answer(change, now))
}

fn answer(change: Change, revision: u64) -> Response {
    Json(Applied { revision, summary: change.summary(), plan: change.to_string(), change }, revision).into_response()
}

async fn edit(
    State(desk): State<Desk>,
    Extension(activity): Extension<Arc<Activity>>,
    Named((pool, member)): Named<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let revision = if_match(&headers)?;
    let (text, _) = read(&desk, &headers, body).await?;
    let _busy = Activity::begin(&activity);
    let patch: MemberPatch = object(&text, &["weight", "enabled", "drain"])?;
    let (change, revision) = desk.order(Wish::Edit { pool, member, patch }, revision).await?;
    Ok(answer(change, revision))
}

async fn edit_vip(
    State(desk): State<Desk>,
    Extension(activity): Extension<Arc<Activity>>,
    Named(vip): Named<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let revision = if_match(&headers)?;
    let (text, _) = read(&desk, &headers, body).await?;
    let _busy = Activity::begin(&activity);
    let patch: VipPatch = object(&text, &["enabled"])?;
    let (change, revision) = desk.order(Wish::EditVip { vip, patch }, revision).await?;
    Ok(answer(change, revision))
}

/// An object of these fields, and nothing else that serde would make one of (it takes arrays, too).
fn object<T: DeserializeOwned>(text: &str, fields: &[&str]) -> Result<T, Problem> {
    let error = match serde_json::from_str(text) {
        Ok(patch) if text.trim_start().starts_with('{') => return Ok(patch),
        Ok(_) => "invalid type: expected an object".to_owned(),
        Err(error) => error.to_string(),
    };
    let problem = Problem::new(422, format!("{error} (allowed: {})", fields.join(", ")));
    Err(match fields.iter().find(|field| is_wrong::<T>(text, field)) {
        Some(field) => problem.about(*field),
        None => problem,
    })
}

/// Whether this field alone is wrong already.
fn is_wrong<T: DeserializeOwned>(text: &str, field: &str) -> bool {
    let value = serde_json::from_str::<serde_json::Value>(text).ok().and_then(|all| all.get(field).cloned());
    value.is_some_and(|value| serde_json::from_value::<T>(serde_json::json!({ field: value })).is_err())
}
