//! The proof that a turn has left nothing in a server.

use std::time::Duration;

use super::{Warm, points};
use crate::aside::aside;
use crate::opencode::{Api, ApiError};

/// How long the session of a turn may stay busy after the turn.
const IDLE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);
/// How long opencode may take to answer a question about its state.
const CALL: Duration = Duration::from_secs(2);
/// How long opencode may take to end what belongs to a directory.
const DISPOSE: Duration = Duration::from_secs(5);
/// The pause before processes are looked for again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
const ENDED: &str = "it has ended";

/// Ends what the turn has left. The error says what is left; then the server must not be lent again.
pub(super) async fn clean(warm: &Warm, api: &Api) -> Result<(), String> {
    wait_until_idle(api).await?;
    if processes_left(warm).await? > 0 {
        let tree = warm.server.tree().ok_or(ENDED)?;
        // Language servers, MCP servers and what the turn's tools have left. opencode ends its own in order.
        limited(DISPOSE, api.dispose()).await?;
        aside(move || tree.end_others())
            .await
            .map_err(|error| error.to_string())?;
    }
    let folder = warm.folder.clone();
    aside(move || {
        if !folder.is_untouched() {
            return Err("something else has written into its folder".to_owned());
        }
        points::SERVER_PROVEN.pass();
        folder.give_back().map_err(|error| error.to_string())
    })
    .await
}

/// Waits until no process is left below a server that runs. Even without tools there are some: language servers, MCP
/// servers, and for a moment git, which tells opencode what a step has changed.
pub(super) async fn until_nothing_is_left(warm: &Warm) {
    // One look may fall between two programs that opencode starts one after the other.
    let mut looks = 0;
    loop {
        looks = match processes_left(warm).await {
            Ok(0) => looks + 1,
            _ => 0,
        };
        if looks == 2 {
            return;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// How many processes run below the server. The error says that the server has ended.
async fn processes_left(warm: &Warm) -> Result<usize, &'static str> {
    let tree = warm.server.tree().ok_or(ENDED)?;
    Ok(aside(move || tree.count_others()).await)
}

/// opencode reports the end of a turn a moment before it is idle. A session with an open request is busy, so a request
/// that is open when no session is busy is open for good.
async fn wait_until_idle(api: &Api) -> Result<(), String> {
    let until = tokio::time::Instant::now() + IDLE;
    let mut was_open = false;
    loop {
        // opencode answers them one after the other, but without waiting for the next question in between.
        let (busy, permissions, questions) = tokio::join!(
            limited(CALL, api.status()),
            limited(CALL, api.permissions()),
            limited(CALL, api.questions()),
        );
        let (busy, open) = (busy?.len(), permissions?.len() + questions?.len());
        if busy == 0 && open == 0 {
            return Ok(());
        }
        // The answers come in any order, so a request may have been removed meanwhile.
        if busy == 0 && std::mem::replace(&mut was_open, true) {
            return Err(format!("{open} requests are open"));
        }
        if tokio::time::Instant::now() >= until {
            return Err(format!("{busy} sessions are busy"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it does not answer within {} s", limit.as_secs())),
    }
}
