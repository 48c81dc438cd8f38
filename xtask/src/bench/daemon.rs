//! What the daemon costs, and what it saves.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kugetsu_testing::{DaemonConnection, FakeScript, Opencode, Reply, Step, Version, World, files_below};
use serde_json::{Value, json};

use super::{
    Bare, Row, TURNS, fill, kugetsu, median, milliseconds, opencode_run, quiet, session_of, with_base,
};
use super::{LIMIT, as_users_have_it, bare};
use crate::step::Failure;

/// How often the daemon is started.
const STARTS: usize = 10;
/// How many sessions are on disk when the daemon's memory is read.
const SESSIONS: u64 = 1000;
/// How long tasks are submitted at a steady rate, and how many a second.
const STEADY: Duration = Duration::from_secs(10);
const RATE: u32 = 100;
/// How many tasks are submitted as fast as possible, by how many clients.
const BURST: usize = 20_000;
const CLIENTS: usize = 32;

/// How many readers follow one turn, and how many events they get.
const READERS: usize = 100;
const EVENTS: usize = 200;
/// The pause between two events.
const BETWEEN: Duration = Duration::from_millis(20);
/// How long readers may take to begin.
const SETTLE: Duration = Duration::from_secs(2);

/// A daemon of this program, which ends with this value.
struct Daemon<'a> {
    world: &'a World,
    program: &'a Path,
}

impl<'a> Daemon<'a> {
    fn start(world: &'a World, program: &'a Path, flags: &[&str]) -> Result<Self, Failure> {
        let words = [&["daemon", "start", "--detach"][..], flags].concat();
        quiet(&mut kugetsu(world, program, &words))?;
        Ok(Self { world, program })
    }

    fn connect(&self) -> Result<DaemonConnection, Failure> {
        self.world
            .connect_daemon()
            .map_err(Failure::because("the daemon's socket"))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = quiet(&mut kugetsu(self.world, self.program, &["daemon", "stop"]));
    }
}

/// Submits a task that does not begin. Returns how long that took.
fn submit(connection: &mut DaemonConnection, number: usize) -> Result<Duration, Failure> {
    let body = json!({
        "prompt": "trivial", "ref": format!("github.com/shoko/kugetsu#{}", number % 500 + 1),
        "not_before": "2100-01-01T00:00:00Z",
    });
    let begun = Instant::now();
    match connection.ask("POST", "/v1/tasks", "", &body.to_string()) {
        Ok((202, _)) => Ok(begun.elapsed()),
        Ok((status, body)) => Err(Failure::new(format!("a task was not accepted: {status}: {body}"))),
        Err(error) => Err(Failure::new(format!("a task was not accepted: {error}"))),
    }
}

/// The start, the memory and the queue, which need no real opencode.
pub(super) fn alone(program: &Path, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let world = with_base(program, &FakeScript::default())?;
    quiet(&mut kugetsu(
        &world,
        program,
        &["start", "--transport", "run", "1", "first"],
    ))?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let daemon = Daemon::start(&world, program, &[])?;
        let ready = daemon.connect()?.ask("GET", "/readyz", "", "");
        if !matches!(ready, Ok((200, _))) {
            return Err(Failure::new(format!("the daemon is not ready: {ready:?}")));
        }
        starts.push(begun.elapsed());
    }
    rows.push(Row {
        what: "`daemon start --detach` to a green `/readyz`, whole processes".to_owned(),
        goal: "20 ms",
        measured: milliseconds(median(starts)),
    });
    fill(&world, program, SESSIONS)?;
    let daemon = Daemon::start(&world, program, &[])?;
    let mut connection = daemon.connect()?;
    let status = connection
        .json("/v1/status")
        .map_err(Failure::because("the status"))?;
    let resident = resident(&status);
    rows.push(Row {
        what: format!("memory of an idle daemon, {SESSIONS} sessions on disk"),
        goal: "20 MB",
        measured: format!("{:.1} MB", resident as f64 / 1e6),
    });
    steady(&mut connection, rows)?;
    burst(&daemon, rows)?;
    drop(daemon);
    stream(program, rows)
}

fn resident(status: &Value) -> u64 {
    let path = format!("/proc/{}/statm", status["pid"]);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let pages: u64 = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4096
}

/// Submits tasks at a steady rate.
fn steady(connection: &mut DaemonConnection, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let count = STEADY.as_secs() as u32 * RATE;
    let begun = Instant::now();
    let mut times = Vec::new();
    for number in 0..count {
        let due = begun + STEADY * number / count;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        times.push(submit(connection, number as usize)?);
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    rows.push(Row {
        what: format!("`POST /v1/tasks` to 202, durable, p99 at {RATE} a second"),
        goal: "15 ms",
        measured: format!("{} (median {})", milliseconds(at(0.99)), milliseconds(at(0.5))),
    });
    Ok(())
}

/// Submits tasks as fast as many clients can.
fn burst(daemon: &Daemon<'_>, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let submitted = daemon.connect().and_then(|mut connection| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= BURST {
                            return Ok(());
                        }
                        submit(&mut connection, number)?;
                    }
                });
                if let Err(error) = submitted {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let rate = BURST as f64 / begun.elapsed().as_secs_f64();
    rows.push(Row {
        what: format!("durable submits a second, {CLIENTS} clients"),
        goal: "2,000",
        measured: format!("{rate:.0}"),
    });
    Ok(())
}

/// Writes events into the log of a turn that runs, as its supervisor does, and waits until all readers have them.
fn stream(program: &Path, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let world = with_base(program, &FakeScript::steps([Step::Hang]))?;
    let settings = world.kugetsu_home().join("config.toml");
    std::fs::write(settings, "transport = \"run\"\n").map_err(Failure::because("the settings"))?;
    let daemon = Daemon::start(&world, program, &[])?;
    let failed = || Failure::because("the stream of a task");
    let body = json!({"prompt": "trivial", "ref": "github.com/shoko/kugetsu#1"}).to_string();
    let mut connection = daemon.connect()?;
    let (_, task) = connection.ask("POST", "/v1/tasks", "", &body).map_err(failed())?;
    let task: Value = serde_json::from_str(&task).map_err(|error| Failure::new(error.to_string()))?;
    let path = format!(
        "/v1/tasks/{}/events",
        task["task_id"].as_str().unwrap_or_default()
    );
    let log = log_of_turn(&world)?;
    let begun = Instant::now();
    let arrived: Vec<Vec<Duration>> = std::thread::scope(|scope| {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let mut reader = daemon.connect()?;
            let headers = "accept: text/event-stream\r\n";
            reader.send("GET", &path, headers, "").map_err(failed())?;
            readers.push(scope.spawn(move || {
                let lines = reader.into_stream().lines().map_while(Result::ok);
                let events = lines.filter(|line| line.contains("\"measured\""));
                events.take(EVENTS).map(|_| begun.elapsed()).collect::<Vec<_>>()
            }));
        }
        std::thread::sleep(SETTLE);
        let mut file = std::fs::File::options()
            .append(true)
            .open(&log)
            .map_err(Failure::because(log.display()))?;
        let mut written = Vec::new();
        for _ in 0..EVENTS {
            std::thread::sleep(BETWEEN);
            written.push(begun.elapsed());
            file.write_all(b"{\"type\":\"measured\"}\n").map_err(failed())?;
        }
        let mut all = vec![written];
        for reader in readers {
            all.push(reader.join().map_err(|_| Failure::new("a reader has panicked"))?);
        }
        Ok::<_, Failure>(all)
    })?;
    let (written, readers) = arrived
        .split_first()
        .ok_or_else(|| Failure::new("nothing was written"))?;
    let mut times: Vec<Duration> = (0..EVENTS)
        .map(|event| {
            let last = readers.iter().filter_map(|times| times.get(event)).max();
            last.copied().unwrap_or(LIMIT).saturating_sub(written[event])
        })
        .collect();
    times.sort_unstable();
    rows.push(Row {
        what: format!("an event in the log of a turn to the last of {READERS} readers, p99"),
        goal: "20 ms",
        measured: format!(
            "{} (median {})",
            milliseconds(times[(EVENTS - 1) * 99 / 100]),
            milliseconds(times[EVENTS / 2])
        ),
    });
    Ok(())
}

/// The log of the only turn of a world, as soon as it is there.
fn log_of_turn(world: &World) -> Result<PathBuf, Failure> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let files = files_below(&world.kugetsu_home().join("sessions"));
        let log = files
            .into_iter()
            .find(|path| path.to_string_lossy().ends_with(".events.jsonl"));
        if let Some(log) = log {
            return Ok(log);
        }
        std::thread::sleep(BETWEEN);
    }
    Err(Failure::new("the turn does not begin"))
}

/// Turns on the real opencode.
pub(super) fn turns(program: &Path, version: Version, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let world = World::new(Opencode::Real(version));
    world.model.otherwise(Reply::text("done"));
    quiet(&mut kugetsu(&world, program, &["init"]))?;
    let daemon = Daemon::start(&world, program, &[])?;
    let issue = |number: usize| format!("github.com/shoko/kugetsu#{number}");
    let go_on = |number: usize| {
        quiet(&mut kugetsu(
            &world,
            program,
            &["continue", &issue(number), "trivial"],
        ))
    };
    let start = |number: usize, more: &[&str]| {
        let issue = issue(number);
        let words = [&["start", issue.as_str(), "trivial"], more].concat();
        quiet(&mut kugetsu(&world, program, &words))
    };
    start(1, &[])?;
    let session = session_of(&world, 1)?;
    let run = |words: &[&str]| {
        let mut command = world.opencode_command([&["run", "--format", "json"], words].concat());
        opencode_run(as_users_have_it(&mut command))
    };
    let mut times: [Vec<Duration>; 5] = Default::default();
    bare(&world, |server: &Bare| {
        let own = server.fork(&session)?;
        for round in 0..=TURNS * 2 {
            let measured = [
                go_on(1)?,
                server.prompt(&own)?,
                run(&["--session", &session])?,
                start(round + 2, &["--worktree"])?,
                run(&[])?,
            ];
            // The first round warms everything.
            if round > 0 {
                for (list, time) in times.iter_mut().zip(measured) {
                    list.push(time);
                }
            }
        }
        Ok(())
    })?;
    drop(daemon);
    let [warm, by_hand, run, first, cold] = times.map(median);
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    rows.push(Row {
        what: format!("{version}: `opencode run --session` against `continue` through a warm daemon"),
        goal: "12 times",
        measured: format!(
            "{:.1} times ({} against {})",
            ratio(run, warm),
            milliseconds(run),
            milliseconds(warm)
        ),
    });
    rows.push(Row {
        what: format!("{version}: `continue` through a warm daemon against the bare call to a warm server"),
        goal: "1.15 times",
        measured: format!(
            "{:.2} times ({} against {})",
            ratio(warm, by_hand),
            milliseconds(warm),
            milliseconds(by_hand)
        ),
    });
    rows.push(Row {
        what: format!(
            "{version}: a cold `opencode run` against the first turn of a new worktree through a warm daemon"
        ),
        goal: "2 times",
        measured: format!(
            "{:.1} times ({} against {})",
            ratio(cold, first),
            milliseconds(cold),
            milliseconds(first)
        ),
    });
    Ok(())
}
