//! `/livez`, `/readyz`, `/metrics`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use runtime::{Runtime, mesh::Sender};

use super::Stage;
use crate::{
    metrics::{Reading, exposition},
    shard::mesh::{Message, call},
};

/// How long a shard may take to say what it counted.
const ANSWER_MAX: Duration = Duration::from_secs(2);

struct Node<R: Runtime> {
    stage: Stage,
    shards: Vec<Sender<Message<R>>>,
}

/// Everything there is to ask for.
pub(super) fn routes<R>(stage: Stage, shards: Vec<Sender<Message<R>>>) -> Router
where
    R: Runtime,
    Message<R>: Send,
{
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz::<R>))
        .route("/metrics", get(metrics::<R>))
        .with_state(Arc::new(Node { stage, shards }))
}

/// Whether to send clients here.
async fn readyz<R: Runtime>(State(node): State<Arc<Node<R>>>) -> impl IntoResponse
where
    Message<R>: Send,
{
    match node.stage.describe() {
        (true, _) => (StatusCode::OK, "ok\n".to_owned()),
        (false, stage) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stage}\n")),
    }
}

/// All counters of all shards.
async fn metrics<R: Runtime>(State(node): State<Arc<Node<R>>>) -> impl IntoResponse
where
    Message<R>: Send,
{
    let mut readings: Vec<Reading> = Vec::new();
    for shard in &node.shards {
        let (reply, answer) = call();
        let asked = shard.try_send(Message::Stats { reply }).is_ok();
        let answered = async { if asked { answer.receive().await } else { None } };
        match tokio::time::timeout(ANSWER_MAX, answered).await {
            Ok(Some(reading)) => readings.push(reading),
            Ok(None) | Err(_) => {
                return (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [(header::CONTENT_TYPE, "text/plain")],
                    "a shard is busy\n".to_owned(),
                );
            }
        }
    }
    let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (StatusCode::OK, [(header::CONTENT_TYPE, text)], exposition(readings))
}
