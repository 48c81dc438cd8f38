//! The clients of a load.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Shared, prompt};
use crate::DaemonConnection;

/// How long a client repeats one submission.
const LIMIT: Duration = Duration::from_mins(3);
/// How long it waits before it repeats one.
const AGAIN: Duration = Duration::from_millis(50);
/// Every so many submissions are repeated although they were confirmed.
const TWICE: usize = 10;

/// Submits the tasks of one client, one after the other.
pub(super) fn client(shared: &Shared<'_>, client: usize) {
    let mut connection = None;
    for number in shared.tasks_of(client) {
        std::thread::sleep(shared.plan.pause);
        let Some(task) = confirmed(shared, &mut connection, number) else {
            shared.problem(format!("task {number} is not accepted within {LIMIT:?}"));
            return;
        };
        shared.confirmed.fetch_add(1, Ordering::SeqCst);
        if number % TWICE == 0 {
            let again = confirmed(shared, &mut connection, number);
            if again.as_ref() != Some(&task) {
                shared.problem(format!(
                    "task {number} is {task}, and submitted again it is {again:?}"
                ));
            }
        }
    }
}

/// Submits a task until the daemon confirms it. Returns its id.
fn confirmed(shared: &Shared<'_>, connection: &mut Option<DaemonConnection>, number: usize) -> Option<Value> {
    let end = Instant::now() + LIMIT;
    loop {
        if connection.is_none() {
            *connection = shared.world.connect_daemon().ok();
        }
        let answer = connection.as_mut().map(|connection| {
            let (headers, body) = submission(shared, number);
            connection.ask("POST", "/v1/tasks", &headers, &body)
        });
        if let Some(Ok((202, body))) = &answer {
            let body: Value = serde_json::from_str(body).ok()?;
            return Some(body["task_id"].clone());
        }
        if Instant::now() > end {
            shared.problem(format!("the last answer was {answer:?}"));
            return None;
        }
        if !matches!(answer, Some(Ok(_))) {
            *connection = None;
        }
        shared.tally().resent += 1;
        std::thread::sleep(AGAIN);
    }
}

/// The headers and the body of a task's submission.
pub(super) fn submission(shared: &Shared<'_>, number: usize) -> (String, String) {
    let body = json!({
        "prompt": prompt(number),
        "ref": format!("github.com/shoko/kugetsu#{}", shared.issue(number)),
    });
    (format!("idempotency-key: load-{number}\r\n"), body.to_string())
}
