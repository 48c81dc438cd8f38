//! `cargo xtask bench`: a table of what kugetsu costs, measured in one run on this machine.
//!
//! Where two things are compared they take turns, and their ratio is what counts: absolute times belong to the
//! machine.

mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use kugetsu_testing::{
    FakeScript, MODELS, Opencode, Reply, SHORT_LIVED, Step, Version, World, workspace_root,
};
use serde_json::{Value, json};

use crate::opencode;
use crate::packages;
use crate::step::{Failure, cargo, program};

/// How many turns each side of a comparison gets.
const TURNS: usize = 5;
/// How often a short command is run.
const CALLS: usize = 40;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

struct Row {
    what: String,
    goal: &'static str,
    measured: String,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this
    #[arg(value_name = "PART")]
    parts: Vec<Part>,

    /// Another kugetsu binary to compare the parts `reading` and `overhead` with; the two alternate
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// The disk operations of a turn, and `query` (criterion)
    Bookkeeping,
    /// Whole processes that read records
    Reading,
    /// Memory and events a second
    Memory,
    /// Turns through a fake opencode that answers at once, with --against
    Overhead,
    /// Turns on the real opencode
    Turns,
    /// Sandboxed turns on the real opencode against turns without a sandbox
    Sandbox,
    /// The daemon: its start, its memory, its queue, and turns through it on the real opencode
    Daemon,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    program(
        "build (release)",
        &mut cargo(&["build", "--release", "--package", "kugetsu", "--bin", "kugetsu"]),
    )?;
    program("build", &mut cargo(&["build", "--workspace"]))?;
    let binary = workspace_root().join("target/release/kugetsu");
    let compared = match &options.against {
        Some(other) => Some(Compared::copy(&binary, other)?),
        None => None,
    };
    let mut rows = Vec::new();
    if wanted(Part::Bookkeeping) {
        program(
            "criterion",
            &mut cargo(&[
                "bench",
                "--bench",
                "bookkeeping",
                "--bench",
                "query",
                "--",
                "--noplot",
            ]),
        )?;
        criterion(&mut rows)?;
    }
    if wanted(Part::Reading) {
        reading(&binary, compared.as_ref(), &mut rows)?;
    }
    if wanted(Part::Memory) {
        memory(&binary, &mut rows)?;
    }
    if let Some(compared) = compared.as_ref().filter(|_| wanted(Part::Overhead)) {
        overhead(compared, &mut rows)?;
    }
    if wanted(Part::Turns) {
        opencode::install_all()?;
        for version in Version::ALL {
            turns(&binary, version, &mut rows)?;
            detach(&binary, version, &mut rows)?;
        }
    }
    if wanted(Part::Sandbox) {
        opencode::install_all()?;
        packages::install_missing(&packages::FOR_TESTS)?;
        for version in Version::ALL {
            sandboxed(&binary, version, &mut rows)?;
        }
    }
    if wanted(Part::Daemon) {
        daemon::alone(&binary, &mut rows)?;
        opencode::install_all()?;
        for version in Version::ALL {
            daemon::turns(&binary, version, &mut rows)?;
        }
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("\nMeasured on {cores} cores; medians.\n");
    println!("| what | goal | measured |\n|---|---|---|");
    for row in rows {
        println!("| {} | {} | {} |", row.what, row.goal, row.measured);
    }
    Ok(())
}

/// The medians that criterion left on the disk.
fn criterion(rows: &mut Vec<Row>) -> Result<(), Failure> {
    let folder = workspace_root().join("target/criterion");
    for (what, goal, path) in [
        (
            "bookkeeping of `start`, 10 sessions",
            "5 ms",
            "start_bookkeeping/10",
        ),
        (
            "bookkeeping of `start`, 10,000 sessions",
            "10 ms",
            "start_bookkeeping/10000",
        ),
        (
            "permission write and read-back",
            "5 ms",
            "permission_write_and_read_back",
        ),
        (
            "an event through supervisor and stream",
            "20 µs",
            "event_through_machine_and_stream",
        ),
        (
            "`query`, 10,000 sessions, 100 live turns",
            "50 ms",
            "query_10000_sessions_100_live",
        ),
        (
            "the same in the daemon, from memory, with a record that has changed",
            "5 ms",
            "query_10000_sessions_100_live_from_memory",
        ),
    ] {
        let file = folder.join(path).join("new/estimates.json");
        let text = std::fs::read_to_string(&file).map_err(Failure::because(file.display()))?;
        let estimates: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        let nanoseconds = estimates["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN);
        rows.push(Row {
            what: what.to_owned(),
            goal,
            measured: if nanoseconds < 100_000.0 {
                format!("{:.1} µs", nanoseconds / 1e3)
            } else {
                format!("{:.1} ms", nanoseconds / 1e6)
            },
        });
    }
    Ok(())
}

/// Two programs to compare, as copies in one folder: a file that the linker has just written starts up to 1.3 times as
/// slowly as a copy of it, because it is in smaller pieces in the disk cache.
struct Compared {
    _folder: tempfile::TempDir,
    own: PathBuf,
    other: PathBuf,
}

impl Compared {
    fn copy(own: &Path, other: &Path) -> Result<Self, Failure> {
        let folder = tempfile::tempdir().map_err(Failure::because("a temporary folder"))?;
        let copy = |from: &Path, name: &str| {
            let to = folder.path().join(name);
            std::fs::copy(from, &to).map_err(Failure::because(from.display()))?;
            Ok::<_, Failure>(to)
        };
        Ok(Self {
            own: copy(own, "kugetsu-own")?,
            other: copy(other, "kugetsu-other")?,
            _folder: folder,
        })
    }
}

fn kugetsu(world: &World, binary: &Path, arguments: &[&str]) -> Command {
    let mut command = world.command(binary);
    command.args(arguments).stdin(Stdio::null());
    as_users_have_it(&mut command);
    command
}

/// With the catalogue of models that is built into opencode, and its own settings of the JavaScript engine.
fn as_users_have_it(command: &mut Command) -> &mut Command {
    with_own_engine(command).env_remove(MODELS)
}

/// With opencode's JavaScript engine as it is for users.
fn with_own_engine(command: &mut Command) -> &mut Command {
    for (name, _) in SHORT_LIVED {
        command.env_remove(name);
    }
    command
}

fn quiet(command: &mut Command) -> Result<Duration, Failure> {
    let start = Instant::now();
    let output = command.output().map_err(Failure::because("a measured command"))?;
    let took = start.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    Err(Failure::new(format!(
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", grouped(&format!("{:.1}", time.as_secs_f64() * 1e3)))
}

/// Separates the thousands of a decimal number by commas.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

/// Calls two programs in turn, each as often before the other as after it.
fn in_turn(
    mut call: impl FnMut(&Path) -> Result<Duration, Failure>,
    programs: [&Path; 2],
) -> Result<[Duration; 2], Failure> {
    let mut times: [Vec<Duration>; 2] = Default::default();
    for round in 0..CALLS {
        for place in [round % 2, (round + 1) % 2] {
            times[place].push(call(programs[place])?);
        }
    }
    Ok(times.map(median))
}

/// Whole processes that read records, with 10 and with 10,000 of them.
fn reading(binary: &Path, compared: Option<&Compared>, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let answer = FakeScript::steps([Step::Answer("done".to_owned())]);
    let world = with_base(binary, &answer)?;
    quiet(&mut kugetsu(
        &world,
        binary,
        &["start", "--transport", "run", "#1", "one"],
    ))?;
    for (sessions, goals) in [(10_u64, ["5 ms", "5 ms", "-"]), (10_000, ["5 ms", "50 ms", "-"])] {
        fill(&world, binary, sessions)?;
        let commands = [&["show", "#1"][..], &["list", "--json"], &["query"]];
        for (arguments, goal) in commands.into_iter().zip(goals) {
            // In the clone `#1` would ask git for the origin; a whole reference does not.
            let arguments: Vec<&str> = arguments
                .iter()
                .map(|word| {
                    if *word == "#1" {
                        "github.com/shoko/kugetsu#1"
                    } else {
                        *word
                    }
                })
                .collect();
            // For large output, the destination affects the time.
            let ways = if arguments[0] == "list" {
                &[(Way::File, "-"), (Way::Pipe, goal)][..]
            } else {
                &[(Way::File, goal)][..]
            };
            for (way, goal) in ways {
                let call = |program: &Path| way.measure(&world, &mut kugetsu(&world, program, &arguments));
                let measured = match compared {
                    None => {
                        let times = (0..CALLS).map(|_| call(binary)).collect::<Result<_, _>>()?;
                        milliseconds(median(times))
                    }
                    Some(Compared { own, other, .. }) => {
                        let [own, others] = in_turn(call, [own, other])?;
                        let ratio = own.as_secs_f64() / others.as_secs_f64();
                        format!(
                            "{ratio:.2} times ({} against {})",
                            milliseconds(own),
                            milliseconds(others)
                        )
                    }
                };
                rows.push(Row {
                    what: format!(
                        "`kugetsu {}`, {} sessions, whole process, {}",
                        arguments.join(" "),
                        grouped(&sessions.to_string()),
                        way.describe()
                    ),
                    goal,
                    measured,
                });
            }
        }
    }
    Ok(())
}

/// How long one entry into a cgroup makes the next one faster, with a margin.
const CGROUPS_SETTLE: Duration = Duration::from_millis(100);

/// What a turn costs apart from opencode: whole turns through the fake opencode, which answers at once. Each program has
/// a home and a clone of its own.
fn overhead(compared: &Compared, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let Compared { own, other, .. } = compared;
    let answer = FakeScript::steps([Step::Answer("done".to_owned())]);
    let worlds = [with_base(own, &answer)?, with_base(other, &answer)?];
    let turn = |program: &Path, verb: &str, issue: usize| {
        let world = &worlds[usize::from(program != own)];
        let address = format!("github.com/shoko/kugetsu#{issue}");
        let words = [verb, "--transport", "run", &address, "trivial"];
        // Soon after one process has entered a cgroup, the kernel lets another one in 10 ms faster. Without a pause, a
        // program would be measured by what the one before it has done.
        std::thread::sleep(CGROUPS_SETTLE);
        quiet(&mut kugetsu(world, program, &words))
    };
    let mut issue = 1;
    for program in [own, other] {
        turn(program, "start", issue)?;
    }
    let go_on = in_turn(|program| turn(program, "continue", 1), [own, other])?;
    let start = in_turn(
        |program| {
            issue += 1;
            turn(program, "start", issue)
        },
        [own, other],
    )?;
    for (verb, [own, other]) in [("start", start), ("continue", go_on)] {
        rows.push(Row {
            what: format!("a whole `{verb}` through the fake opencode"),
            goal: "10 ms more",
            measured: format!(
                "{:+.1} ms ({} against {})",
                (own.as_secs_f64() - other.as_secs_f64()) * 1e3,
                milliseconds(own),
                milliseconds(other)
            ),
        });
    }
    Ok(())
}

/// Where a measured command prints to.
#[derive(Clone, Copy)]
enum Way {
    File,
    Pipe,
}

impl Way {
    fn describe(self) -> &'static str {
        match self {
            Self::File => "into a file",
            Self::Pipe => "read through a pipe",
        }
    }

    fn measure(self, world: &World, command: &mut Command) -> Result<Duration, Failure> {
        if let Self::File = self {
            let path = world.root().join("printed");
            let file = std::fs::File::create(&path).map_err(Failure::because(path.display()))?;
            command.stdout(file);
        }
        quiet(command)
    }
}

/// A home and a clone with a base, and the fake opencode with this script.
fn with_base(program: &Path, script: &FakeScript) -> Result<World, Failure> {
    let world = World::new(Opencode::Fake);
    world.fake(script);
    quiet(&mut kugetsu(
        &world,
        program,
        &["init", "--adopt", &base_of(&world)],
    ))?;
    Ok(world)
}

/// A session of the fake opencode to adopt as the base: the fake has no server to make one.
fn base_of(world: &World) -> String {
    let _ = quiet(world.opencode_command(["db", "path"]).stdin(Stdio::null()));
    let id = "ses_base0000000000000000000000";
    world.sql_write(&format!(
        "INSERT OR IGNORE INTO project (id, worktree, vcs, time_created, time_updated, sandboxes)
             VALUES ('global', '/', NULL, 1, 1, '[]');
         INSERT INTO session (id, project_id, slug, directory, title, version, time_created, time_updated)
             VALUES ('{id}', 'global', 'base', '{}', 'base', '1', 1, 1);",
        world.repo().display()
    ));
    id.to_owned()
}

/// Copies the one real record until there are so many, and lets kugetsu make the index.
fn fill(world: &World, binary: &Path, sessions: u64) -> Result<(), Failure> {
    let folder = world.kugetsu_home().join("sessions/github.com/shoko/kugetsu");
    let text =
        std::fs::read_to_string(folder.join("1.json")).map_err(Failure::because("the first record"))?;
    let record: Value = serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
    let session = record["session"].as_str().unwrap_or_default();
    for number in 2..=sessions {
        let text = text
            .replace("kugetsu#1\"", &format!("kugetsu#{number}\""))
            .replace(session, &format!("ses_{number:026}"));
        std::fs::write(folder.join(format!("{number}.json")), text).map_err(Failure::because("a record"))?;
    }
    // It finds sessions that opencode does not have, and says so by its status.
    let _ = kugetsu(world, binary, &["doctor", "--fix"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Ok(())
}

/// The highest memory of kugetsu while opencode prints 100 MB.
fn memory(binary: &Path, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let flood = FakeScript::steps([
        Step::Flood {
            lines: 100_000,
            bytes: 1000,
        },
        Step::Answer("done".to_owned()),
    ]);
    let world = with_base(binary, &flood)?;
    let start = Instant::now();
    let mut child = kugetsu(
        &world,
        binary,
        &[
            "start",
            "--transport",
            "run",
            "--output",
            "stream-json",
            "#1",
            "flood",
        ],
    )
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .map_err(Failure::because("kugetsu"))?;
    let mut highest = 0;
    loop {
        highest = highest.max(high_water_mark(child.id()));
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if start.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(20)),
            other => {
                let _ = child.kill();
                return Err(Failure::new(format!("the flood did not end well: {other:?}")));
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    rows.push(Row {
        what: "memory of kugetsu during a turn with 100 MB of events".to_owned(),
        goal: "30 MB",
        measured: format!("{:.1} MB", highest as f64 / 1024.0),
    });
    rows.push(Row {
        what: "events through `--output stream-json`".to_owned(),
        goal: "10,000 a second",
        measured: format!("{} a second", grouped(&format!("{:.0}", 100_000.0 / seconds))),
    });
    Ok(())
}

/// VmHWM in KiB; 0 when the process is gone.
fn high_water_mark(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Turns with and without a sandbox, one after the other.
fn sandboxed(binary: &Path, version: Version, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let world = World::new(Opencode::Real(version));
    world.model.otherwise(Reply::text("done"));
    quiet(&mut kugetsu(&world, binary, &["init"]))?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for turn in 0..=TURNS {
        let time = |verb: &str, issue: usize, more: &[&str]| {
            let issue = format!("github.com/shoko/kugetsu#{issue}");
            quiet(&mut kugetsu(
                &world,
                binary,
                &[&[verb, &issue, "trivial"], more].concat(),
            ))
        };
        let (open, closed) = (2 * turn + 1, 2 * turn + 2);
        let round = [
            time("start", open, &["--worktree"])?,
            time("start", closed, &["--worktree", "--sandbox"])?,
            time("continue", open, &[])?,
            time("continue", closed, &[])?,
        ];
        if turn > 0 {
            for (list, time) in times.iter_mut().zip(round) {
                list.push(time);
            }
        }
    }
    let [start, start_sandboxed, go_on, go_on_sandboxed] = times.map(median);
    for (verb, open, closed) in [
        ("start", start, start_sandboxed),
        ("continue", go_on, go_on_sandboxed),
    ] {
        rows.push(Row {
            what: format!("{version}: a sandboxed `{verb}` against one without a sandbox"),
            goal: "1.1 times",
            measured: format!(
                "{:.2} times ({} against {})",
                closed.as_secs_f64() / open.as_secs_f64(),
                milliseconds(closed),
                milliseconds(open)
            ),
        });
    }
    Ok(())
}

/// A trivial turn: through kugetsu, by a bare client on an equally fresh server, and by `opencode run`.
fn turns(binary: &Path, version: Version, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let world = World::new(Opencode::Real(version));
    world.model.otherwise(Reply::text("done"));
    quiet(&mut kugetsu(&world, binary, &["init"]))?;
    let record = world
        .kugetsu_home()
        .join("sessions/github.com/shoko/kugetsu/base.json");
    let text = std::fs::read_to_string(&record).map_err(Failure::because(record.display()))?;
    let base: Value = serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
    let base = base["session"].as_str().unwrap_or_default().to_owned();
    let mut times: [Vec<Duration>; 7] = Default::default();
    for turn in 0..=TURNS {
        let issue = format!("github.com/shoko/kugetsu#{}", turn + 1);
        let start = ["start", "--transport", "serve", &issue, "trivial"];
        let go_on = ["continue", "--transport", "serve", &issue, "trivial"];
        let session = || session_of(&world, turn + 1);
        let opencode =
            |words: &[&str]| world.opencode_command([&["run", "--format", "json"], words].concat());
        let round = [
            quiet(&mut kugetsu(&world, binary, &start))?,
            bare(&world, |server| server.fork_and_prompt(&base))?,
            quiet(&mut kugetsu(&world, binary, &go_on))?,
            opencode_run(as_users_have_it(&mut opencode(&["--session", &session()?])))?,
            opencode_run(as_users_have_it(&mut opencode(&["--fork", "--session", &base])))?,
            opencode_run(with_own_engine(&mut opencode(&["--session", &session()?])))?,
            quiet(with_own_engine(&mut world.opencode_command(["--version"])))?,
        ];
        // The first round warms the disk's cache.
        if turn > 0 {
            for (list, time) in times.iter_mut().zip(round) {
                list.push(time);
            }
        }
    }
    let [
        start,
        bare,
        go_on,
        run,
        run_fork,
        run_without_catalogue,
        version_alone,
    ] = times.map(median);
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    rows.push(Row {
        what: format!("{version}: `start` through serve against a bare client on an equally fresh server"),
        goal: "1.15 times",
        measured: format!(
            "{:.2} times ({} against {})",
            ratio(start, bare),
            milliseconds(start),
            milliseconds(bare)
        ),
    });
    rows.push(Row {
        what: format!("{version}: `start` through serve against `opencode run --fork`"),
        goal: "-",
        measured: format!("{:.2} times ({})", ratio(start, run_fork), milliseconds(run_fork)),
    });
    rows.push(Row {
        what: format!("{version}: `continue` through serve against `opencode run --session`"),
        goal: "1.2 times",
        measured: format!(
            "{:.2} times ({} against {})",
            ratio(go_on, run),
            milliseconds(go_on),
            milliseconds(run)
        ),
    });
    for (what, time) in [
        (
            "run --session` with an empty catalogue of models",
            run_without_catalogue,
        ),
        ("--version` alone", version_alone),
    ] {
        rows.push(Row {
            what: format!("{version}: `opencode {what} against `opencode run --session`"),
            goal: "-",
            measured: format!("{:.2} times ({})", ratio(time, run), milliseconds(time)),
        });
    }
    Ok(())
}

/// How long `--detach` takes to return once the turn is on disk.
fn detach(binary: &Path, version: Version, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let world = World::new(Opencode::Real(version));
    world.model.otherwise(Reply::text("done"));
    quiet(&mut kugetsu(&world, binary, &["init"]))?;
    let mut times = Vec::new();
    for turn in 1..=TURNS {
        let issue = format!("github.com/shoko/kugetsu#{turn}");
        let record = world
            .kugetsu_home()
            .join(format!("sessions/github.com/shoko/kugetsu/{turn}.json"));
        let mut child = kugetsu(&world, binary, &["start", "--detach", &issue, "trivial"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Failure::because("kugetsu"))?;
        let begun = Instant::now();
        while !std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"live\"")) {
            if begun.elapsed() > LIMIT {
                return Err(Failure::new(format!("{issue} is never on disk")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let safe = Instant::now();
        wait(&mut child, "kugetsu start --detach")?;
        times.push(safe.elapsed());
        quiet(&mut kugetsu(&world, binary, &["wait", &issue]))?;
    }
    rows.push(Row {
        what: format!("{version}: `--detach` returns after the turn is on disk"),
        goal: "300 ms",
        measured: milliseconds(median(times)),
    });
    Ok(())
}

fn session_of(world: &World, number: usize) -> Result<String, Failure> {
    let file = world
        .kugetsu_home()
        .join(format!("sessions/github.com/shoko/kugetsu/{number}.json"));
    let text = std::fs::read_to_string(&file).map_err(Failure::because(file.display()))?;
    let record: Value = serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
    Ok(record["session"].as_str().unwrap_or_default().to_owned())
}

fn opencode_run(command: &mut Command) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Failure::because("opencode run"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(b"trivial");
    }
    wait(&mut child, "opencode run")?;
    Ok(start.elapsed())
}

fn wait(child: &mut Child, name: &str) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return Ok(()),
            Ok(None) if start.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(2)),
            other => {
                let _ = child.kill();
                return Err(Failure::new(format!("{name} did not end: {other:?}")));
            }
        }
    }
}

/// A server and a client of a few lines.
struct Bare {
    address: String,
    directory: String,
}

fn bare(world: &World, calls: impl FnOnce(&Bare) -> Result<(), Failure>) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut server = world.opencode_command(["serve", "--hostname", "127.0.0.1", "--port", "0"]);
    let mut child = as_users_have_it(&mut server)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Failure::because("opencode serve"))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(|| Failure::new("no stdout"))?).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("listening on http://")?.1.trim().to_owned()))
        .ok_or_else(|| Failure::new("opencode serve did not say where it listens"))?;
    let server = Bare {
        address,
        directory: world.repo().display().to_string(),
    };
    let done = calls(&server);
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    wait(&mut child, "opencode serve")?;
    done?;
    Ok(start.elapsed())
}

impl Bare {
    fn fork(&self, session: &str) -> Result<String, Failure> {
        let fork = self.post(&format!("/session/{session}/fork"), &json!({}))?;
        Ok(fork["id"].as_str().unwrap_or_default().to_owned())
    }

    fn prompt(&self, session: &str) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let prompt = json!({"parts": [{"type": "text", "text": "trivial"}]});
        self.post(&format!("/session/{session}/message"), &prompt)?;
        Ok(begun.elapsed())
    }

    fn fork_and_prompt(&self, base: &str) -> Result<(), Failure> {
        let id = self.fork(base)?;
        self.prompt(&id).map(drop)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let failed = Failure::because(format!("POST {path}"));
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).map_err(&failed)?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {}\r\nx-opencode-directory: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            self.directory,
            body.len()
        )
        .map_err(&failed)?;
        let answer = read_answer(&mut stream).map_err(&failed)?;
        let answer = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let from = answer.find('{').unwrap_or(answer.len());
        let to = answer.rfind('}').map_or(from, |at| at + 1);
        serde_json::from_str(&answer[from..to]).map_err(|error| {
            Failure::new(format!(
                "POST {path}: {error}: {}",
                answer.chars().take(300).collect::<String>()
            ))
        })
    }
}

/// An HTTP answer, to the end of its body: opencode keeps the connection open whatever it is asked.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut chunk)?;
        answer.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer);
        let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let head = head.to_ascii_lowercase();
            match head.split("content-length:").nth(1) {
                Some(rest) => {
                    let length = rest
                        .lines()
                        .next()
                        .and_then(|line| line.trim().parse::<usize>().ok());
                    length.is_some_and(|length| body.len() >= length)
                }
                None => body.ends_with("0\r\n\r\n"),
            }
        });
        if read == 0 || complete {
            return Ok(text.into_owned());
        }
    }
}
