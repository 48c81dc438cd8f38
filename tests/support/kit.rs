//! Helpers shared by the tests of the whole command.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kugetsu_engine::log_file::LogReader;
use kugetsu_testing::fake::{HOME_VARIABLE, SCRIPT_VARIABLE};
pub(crate) use kugetsu_testing::files_below;
use kugetsu_testing::{FakeScript, Opencode, Output, Reply, Running, Stdin, World};
use serde_json::{Value, json};

/// A deadline far beyond what anything takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(3);
/// The world's repository.
pub(crate) const REPO: &str = "github.com/shoko/kugetsu";
/// The issue `14` of the world's repository, in full.
pub(crate) const ISSUE: &str = "github.com/shoko/kugetsu#14";

/// Runs to the end with an empty stdin and a generous deadline.
#[track_caller]
pub(crate) fn run<'a>(world: &World, arguments: impl IntoIterator<Item = &'a str>) -> Output {
    world.spawn(arguments).wait(SOON)
}

/// [`run`] with settings in the environment.
#[track_caller]
pub(crate) fn run_in(world: &World, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    start_in(world, environment, arguments).wait(SOON)
}

/// Starts the command with settings in the environment.
pub(crate) fn start_in(world: &World, environment: &[(&str, &str)], arguments: &[&str]) -> Running {
    let mut command: Command = world.kugetsu(arguments);
    command.envs(environment.iter().copied());
    world.start(command, Stdin::Null)
}

/// Checks that something stays true for so long.
#[track_caller]
pub(crate) fn stays(time: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        assert!(holds(), "it has changed");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`start_sandboxed`], to the end.
#[track_caller]
pub(crate) fn run_sandboxed(world: &World, arguments: &[&str]) -> Output {
    start_sandboxed(world, arguments).wait(SOON)
}

/// Starts a turn over `opencode run`, with a sandbox that has what the fake opencode needs.
pub(crate) fn start_sandboxed(world: &World, arguments: &[&str]) -> Running {
    let environment = sandbox_of_fake(world);
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    start_in(
        world,
        &environment,
        &[arguments, &["--transport", "run"]].concat(),
    )
}

/// The settings of a sandbox that has what the fake opencode needs.
pub(crate) fn sandbox_of_fake(world: &World) -> [(&'static str, String); 4] {
    let text = |path: PathBuf| path.display().to_string();
    [
        (HOME_VARIABLE, text(world.home())),
        (
            "KUGETSU_SANDBOX_ENV",
            format!("{SCRIPT_VARIABLE}\n{HOME_VARIABLE}"),
        ),
        (
            "KUGETSU_SANDBOX_READ",
            text(world.root().join("fake-opencode.json")),
        ),
        (
            "KUGETSU_SANDBOX_WRITE",
            text(world.home().join(".local/share/opencode")),
        ),
    ]
}

/// `PATH` with the tested kugetsu first, for shells and hooks that call it by its name.
pub(crate) fn path_with_kugetsu() -> String {
    let folder = kugetsu_testing::kugetsu_binary();
    let folder = folder.parent().expect("a program is in a folder").display();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}

/// Gives the world a base; the fake, which does not serve, has it adopted. Returns the base's session.
#[track_caller]
pub(crate) fn with_base(world: &World) -> String {
    if world.opencode() == Opencode::Fake {
        let session = fake_session(world);
        run(world, ["init", "--adopt", &session]).expect_status(0);
        session
    } else {
        world.make_base();
        session_of(world, "base")
    }
}

/// Makes the world's base the default base as well.
#[track_caller]
pub(crate) fn make_default(world: &World) {
    let session = session_of(world, "base");
    run(world, ["init", "--force", "--adopt", &session, "--default"]).expect_status(0);
}

thread_local! {
    /// Whether [`fake_world`] has a daemon.
    static WITH_DAEMON: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test whose [`fake_world`] has a daemon, which its commands use.
#[track_caller]
pub(crate) fn beside_a_daemon(test: fn()) {
    WITH_DAEMON.set(true);
    test();
}

/// Makes `name::alone` and `name::beside_a_daemon` of functions that make their world by [`fake_world`].
#[macro_export]
macro_rules! in_both_modes {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn alone() {
                super::$name();
            }

            #[test]
            fn beside_a_daemon() {
                $crate::support::kit::beside_a_daemon(super::$name);
            }
        }
    )*};
}

/// A world with the fake opencode and an adopted base.
#[track_caller]
pub(crate) fn fake_world() -> World {
    let world = World::new(Opencode::Fake);
    with_base(&world);
    if WITH_DAEMON.get() {
        world.start_daemon();
    }
    world
}

/// [`fake_world`] with a script for the calls after the base exists.
#[track_caller]
pub(crate) fn scripted_world(script: &FakeScript) -> World {
    let world = fake_world();
    world.fake(script);
    world
}

/// A world whose opencode creates sessions through its server, without a base.
pub(crate) fn serving_world() -> World {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript::serving());
    world
}

/// The prompts that the fake received, in order.
pub(crate) fn fake_prompts(world: &World) -> Vec<String> {
    world
        .fake_calls()
        .into_iter()
        .filter_map(|call| call.prompt)
        .collect()
}

/// A session that the fake created without kugetsu.
#[track_caller]
pub(crate) fn fake_session(world: &World) -> String {
    let command = world.opencode_command(["run", "--format", "json"]);
    let made = world.finish(command, Stdin::text("the base"));
    made.expect_status(0);
    text(&made.json_lines()[0]["sessionID"])
}

/// A JSON string; panics if the value is not a string.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no string: {value}"))
        .to_owned()
}

/// The file of an issue's record.
pub(crate) fn record_path(world: &World, issue: &str) -> PathBuf {
    world
        .kugetsu_home()
        .join("sessions")
        .join(REPO)
        .join(format!("{issue}.json"))
}

/// A file of an issue's turn below `run`.
pub(crate) fn run_file(world: &World, issue: &str, ending: &str) -> PathBuf {
    world
        .kugetsu_home()
        .join("run")
        .join(REPO)
        .join(format!("{issue}{ending}"))
}

/// The status file of an issue's turn.
pub(crate) fn status(world: &World, issue: &str) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(run_file(world, issue, ".status.json")).ok()?).ok()
}

/// Holds an issue's lease as another process would, with `what` as the purpose.
pub(crate) fn hold_lease(world: &World, issue: &str, what: &str) -> File {
    let mut file = File::create(run_file(world, issue, ".lease")).expect("a file of the store");
    file.try_lock().expect("nobody holds the lease");
    let holder = json!({
        "pid": std::process::id(), "host": "elsewhere", "since": "2026-01-01T00:00:00Z", "what": what,
    });
    writeln!(file, "{holder}").expect("a file of the store");
    file
}

/// Whether a process holds an issue's lease.
pub(crate) fn has_lease(world: &World, issue: &str) -> bool {
    let Ok(file) = File::open(run_file(world, issue, ".lease")) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// The folder of an issue's worktree.
pub(crate) fn worktree_of(world: &World, issue: &str) -> PathBuf {
    world.repo().join(".worktrees").join(REPO).join(issue)
}

/// An issue's record; `None` if there is none.
#[track_caller]
pub(crate) fn record(world: &World, issue: &str) -> Option<Value> {
    let path = record_path(world, issue);
    let bytes = std::fs::read(&path).ok()?;
    Some(
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| panic!("half a file: {}: {error}", path.display())),
    )
}

/// The session that an issue's record names.
#[track_caller]
pub(crate) fn session_of(world: &World, issue: &str) -> String {
    text(&record(world, issue).expect("a record")["session"])
}

/// The state that `show` prints.
#[track_caller]
pub(crate) fn state_of(world: &World, issue: &str) -> String {
    let shown = run(world, ["show", issue, "--json"]);
    shown.expect_status(0);
    text(&shown.json()["state"])
}

/// Every file below a folder that contains one of these words, as it is or in compressed form.
pub(crate) fn files_with(folder: &Path, words: &[impl AsRef<str>]) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let mut bytes = std::fs::read(path).unwrap_or_default();
        if path.extension().is_some_and(|ending| ending == "zst") {
            bytes.clear();
            let mut log = LogReader::open(&path.with_extension("")).expect("a log");
            log.read_to_end(&mut bytes).expect("a compressed log");
        }
        let text = String::from_utf8_lossy(&bytes);
        words.iter().any(|word| text.contains(word.as_ref()))
    };
    files_below(folder)
        .into_iter()
        .filter(|path| path.is_file())
        .filter(holds)
        .collect()
}

/// Every file of the store with its content, except locks, leases and the cache of opencode's properties.
pub(crate) fn snapshot(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let run = world.kugetsu_home().join("run");
    files_below(&world.kugetsu_home())
        .into_iter()
        .filter(|path| !path.starts_with(&run) && path.extension().is_none_or(|ending| ending != "lock"))
        .map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default()))
        .collect()
}

/// Panics if a file that must be complete is not.
#[track_caller]
pub(crate) fn no_partial_file(world: &World) {
    for path in files_below(&world.kugetsu_home()) {
        if path.extension().is_some_and(|ending| ending == "json") {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let parsed = serde_json::from_slice::<Value>(&bytes);
            assert!(parsed.is_ok(), "{} is not complete JSON", path.display());
        }
    }
}

/// The sessions that records name, live or in the trash.
pub(crate) fn known_sessions(world: &World) -> BTreeSet<String> {
    files_below(&world.kugetsu_home())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .filter(|path| path.file_name().is_some_and(|name| name != "export.json"))
        .filter_map(|path| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok())
        .filter_map(|value| Some(value["session"].as_str()?.to_owned()))
        .collect()
}

/// The sessions that opencode has.
pub(crate) fn opencode_sessions(world: &World) -> BTreeSet<String> {
    world.sessions().into_iter().map(|session| session.id).collect()
}

/// The user's messages in a session, as opencode stored them.
pub(crate) fn prompts_of(world: &World, session: &str) -> Vec<String> {
    world.prompts(session)
}

/// Starts an issue through `opencode run`, to its completion.
#[track_caller]
pub(crate) fn start(world: &World, issue: &str, message: &str) -> Output {
    let output = run(world, ["start", issue, message, "--transport", "run"]);
    output.expect_status(0);
    output
}

/// Checks that a command fails with this status and these words and changes nothing in the store; with `--json` too,
/// and then on stdout as well.
#[track_caller]
pub(crate) fn refused(world: &World, arguments: &[&str], status: i32, says: &[&str]) {
    let before = snapshot(world);
    for json in [false, true] {
        let mut arguments = arguments.to_vec();
        if json {
            arguments.insert(0, "--json");
        }
        let output = run(world, arguments);
        output.expect_status(status);
        for word in says {
            assert!(output.stderr().contains(word), "{word:?} is missing\n{output}");
        }
        assert!(!output.stderr().contains("panicked"), "{output}");
        if json {
            let value = output.json();
            assert_eq!(value["schema"], 1, "{output}");
            assert_eq!(value["exit_status"], status, "{output}");
            assert_eq!(value["error"]["exit_status"], status, "{output}");
        } else {
            assert_eq!(output.stdout(), "", "{output}");
        }
    }
    assert_eq!(snapshot(world), before, "{arguments:?} changed the store");
}

/// The model asks which colour: `red` or `green`.
pub(crate) fn colour_question() -> Reply {
    Reply::tool(
        "question",
        json!({"questions": [{
            "header": "Colour",
            "question": "Which colour?",
            "options": [{"label": "red", "description": "r"}, {"label": "green", "description": "g"}],
        }]}),
    )
}
