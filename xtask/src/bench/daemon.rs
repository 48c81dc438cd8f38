//! What the daemon costs, and what it saves.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kugetsu_testing::{FakeScript, Opencode, Reply, Version, World};
use serde_json::{Value, json};

use super::{
    Bare, Row, TURNS, fill, kugetsu, median, milliseconds, opencode_run, quiet, session_of, with_base,
};
use super::{as_users_have_it, bare};
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

    fn connect(&self) -> Result<Connection, Failure> {
        let socket = self.world.kugetsu_home().join("run/daemon.sock");
        let stream = UnixStream::connect(socket).map_err(Failure::because("the daemon's socket"))?;
        let writer = stream
            .try_clone()
            .map_err(Failure::because("the daemon's socket"))?;
        Ok(Connection {
            reader: BufReader::new(stream),
            writer,
        })
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = quiet(&mut kugetsu(self.world, self.program, &["daemon", "stop"]));
    }
}

/// A connection to the daemon that is kept.
struct Connection {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Connection {
    /// Sends a request and reads its answer. Returns the status and the body.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: kugetsu\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.writer.write_all(request.as_bytes())?;
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let mut length = 0;
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Submits a task. Returns how long that took.
    fn submit(&mut self, number: usize) -> Result<Duration, Failure> {
        let body = json!({
            "prompt": "trivial", "ref": format!("github.com/shoko/kugetsu#{}", number % 500 + 1),
            "not_before": "2100-01-01T00:00:00Z",
        });
        let begun = Instant::now();
        match self.ask("POST", "/v1/tasks", &body.to_string()) {
            Ok((202, _)) => Ok(begun.elapsed()),
            Ok((status, body)) => Err(Failure::new(format!("a task was not accepted: {status}: {body}"))),
            Err(error) => Err(Failure::new(format!("a task was not accepted: {error}"))),
        }
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
        let ready = daemon.connect()?.ask("GET", "/readyz", "");
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
    let (_, status) = connection
        .ask("GET", "/v1/status", "")
        .map_err(Failure::because("the status"))?;
    let status: Value = serde_json::from_str(&status).map_err(|error| Failure::new(error.to_string()))?;
    let resident = resident(&status);
    rows.push(Row {
        what: format!("memory of an idle daemon, {SESSIONS} sessions on disk"),
        goal: "20 MB",
        measured: format!("{:.1} MB", resident as f64 / 1e6),
    });
    steady(&mut connection, rows)?;
    burst(&daemon, rows)
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
fn steady(connection: &mut Connection, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let count = STEADY.as_secs() as u32 * RATE;
    let begun = Instant::now();
    let mut times = Vec::new();
    for number in 0..count {
        let due = begun + STEADY * number / count;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        times.push(connection.submit(number as usize)?);
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
                        connection.submit(number)?;
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
