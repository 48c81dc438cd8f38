//! What became of the tasks of a load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::fault::Fault;
use super::{Shared, number_in};
use crate::DaemonConnection;

/// How many tasks a page of the list has.
const PAGE: usize = 1000;

/// Checks the tasks in the queue, and their turns and prompts.
pub(super) fn tasks(shared: &Shared<'_>) {
    let read = shared.world.connect_daemon().and_then(|mut connection| {
        let tasks = all_tasks(&mut connection)?;
        let sessions = sessions(&tasks);
        let mut turns = Vec::new();
        for address in sessions.keys() {
            turns.extend(turns_of(&mut connection, address)?);
        }
        Ok((tasks, sessions, turns))
    });
    match read {
        Ok((tasks, sessions, turns)) => {
            queue(shared, &tasks);
            concurrency(shared, &turns);
            prompts(shared, &tasks, &sessions);
        }
        Err(error) => shared.problem(format!(
            "the daemon cannot tell what became of the tasks: {error}"
        )),
    }
}

/// All tasks, oldest first.
fn all_tasks(connection: &mut DaemonConnection) -> std::io::Result<Vec<Value>> {
    let mut tasks: Vec<Value> = Vec::new();
    let mut before = String::new();
    loop {
        let page = connection.json(&format!("/v1/tasks?limit={PAGE}{before}"))?;
        tasks.extend(page["tasks"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    tasks.reverse();
    Ok(tasks)
}

/// The tasks of each session, by its address.
fn sessions(tasks: &[Value]) -> BTreeMap<String, Vec<Value>> {
    let mut sessions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for task in tasks {
        let address = task["ref"].as_str().unwrap_or_default().to_owned();
        sessions.entry(address).or_default().push(task.clone());
    }
    sessions
}

/// The path of a session in the API.
fn path_of(address: &str) -> String {
    let escaped = address.replace('/', "%2F").replace('#', "%23");
    format!("/v1/sessions/{escaped}")
}

fn turns_of(connection: &mut DaemonConnection, address: &str) -> std::io::Result<Vec<Value>> {
    let turns = connection.json(&format!("{}/turns", path_of(address)))?;
    Ok(turns["turns"].as_array().cloned().unwrap_or_default())
}

/// Each task is there once, and has ended.
fn queue(shared: &Shared<'_>, tasks: &[Value]) {
    let mut numbers = BTreeSet::new();
    for task in tasks {
        let number = task["prompt"].as_str().and_then(number_in);
        if !number.is_some_and(|number| numbers.insert(number)) {
            shared.problem(format!("this task was submitted once, or not at all: {task:#}"));
        }
        let end = task["verdict"]
            .as_str()
            .or(task["state"].as_str())
            .unwrap_or_default();
        let mut tally = shared.tally();
        *tally.by_end.entry(end.to_owned()).or_default() += 1;
        tally.repeated += usize::from(task["attempts"].as_u64() > Some(1));
        drop(tally);
        let may_fail = shared.plan.fault.is_some_and(Fault::may_end_tasks);
        let is_over = matches!(task["state"].as_str(), Some("ended" | "parked"));
        if !is_over || end != "completed" && !may_fail {
            shared.problem(format!("this task did not come to its end: {task:#}"));
        }
    }
    for number in (0..shared.plan.tasks).filter(|number| !numbers.contains(number)) {
        shared.problem(format!("task {number} is lost"));
    }
}

/// No more turns ran at once than may, as their records tell. Turns that died with their daemon have no true end.
fn concurrency(shared: &Shared<'_>, turns: &[Value]) {
    if shared.plan.fault.is_some_and(Fault::moves_the_clock) {
        return;
    }
    let time = |turn: &Value, name: &str| {
        turn[name]
            .as_str()
            .and_then(|time| time.parse::<Timestamp>().ok())
    };
    let mut changes = Vec::new();
    for turn in turns.iter().filter(|turn| turn["verdict"] != "lost") {
        if let (Some(started), Some(ended)) = (time(turn, "started"), time(turn, "ended")) {
            changes.push((started, 1_i32));
            changes.push((ended, -1));
        }
    }
    // At one moment, ends come first: they are negative.
    changes.sort_unstable();
    let mut now = 0;
    let most = changes.iter().map(|(_, change)| {
        now += change;
        now
    });
    let most = usize::try_from(most.max().unwrap_or_default()).unwrap_or_default();
    shared.tally().most_at_once = Some(most);
    if most > shared.plan.max_concurrent as usize {
        shared.problem(format!("{most} turns ran at once"));
    }
}

/// The prompt of each completed task is in its own session, once, and those of a session are in their order.
fn prompts(shared: &Shared<'_>, tasks: &[Value], sessions: &BTreeMap<String, Vec<Value>>) {
    let mut connection = match shared.world.connect_daemon() {
        Ok(connection) => connection,
        Err(error) => return shared.problem(format!("the daemon is gone: {error}")),
    };
    let mut found: BTreeMap<usize, usize> = BTreeMap::new();
    for address in sessions.keys() {
        let session = connection.json(&path_of(address));
        let Some(id) = session
            .as_ref()
            .ok()
            .and_then(|session| session["session"].as_str())
        else {
            shared.problem(format!("{address} has no session: {session:?}"));
            continue;
        };
        let numbers: Vec<usize> = shared
            .world
            .prompts_as_stored(id)
            .iter()
            .filter_map(|prompt| number_in(prompt))
            .collect();
        if !numbers.is_sorted() {
            shared.problem(format!("{address} got its tasks in the order {numbers:?}"));
        }
        for number in numbers {
            if shared.issue(number) != issue_in(address) {
                shared.problem(format!("the prompt of task {number} is in {address}"));
            }
            *found.entry(number).or_default() += 1;
        }
    }
    for (number, times) in found.iter().filter(|(_, times)| **times > 1) {
        shared.problem(format!("the prompt of task {number} was sent {times} times"));
    }
    let completed = tasks.iter().filter(|task| task["verdict"] == "completed");
    for number in completed.filter_map(|task| task["prompt"].as_str().and_then(number_in)) {
        if !found.contains_key(&number) {
            shared.problem(format!(
                "task {number} completed, and its prompt is in no session"
            ));
        }
    }
}

fn issue_in(address: &str) -> usize {
    let issue = address.rsplit_once('#').and_then(|(_, issue)| issue.parse().ok());
    issue.unwrap_or_default()
}

/// No process is left.
pub(super) fn processes(shared: &Shared<'_>, deadline: Duration) {
    let end = Instant::now() + deadline;
    while !shared.world.processes().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = shared.world.processes();
    if !left.is_empty() {
        shared.problem(format!("still alive: {left:#?}"));
    }
}
