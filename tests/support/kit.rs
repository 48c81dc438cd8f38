//! What the tests of the whole command have in common.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kugetsu_testing::{Opencode, Output, Running, Stdin, World};
use serde_json::Value;

/// Far more than anything takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(3);
/// The world's repository.
pub(crate) const REPO: &str = "github.com/shoko/kugetsu";

/// Runs to the end, with an empty stdin and a generous deadline.
#[track_caller]
pub(crate) fn run<'a>(world: &World, arguments: impl IntoIterator<Item = &'a str>) -> Output {
    world.spawn(arguments).wait(SOON)
}

/// [`run`] with settings in the environment.
#[track_caller]
pub(crate) fn run_in(world: &World, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    start_in(world, environment, arguments).wait(SOON)
}

/// Starts it with settings in the environment.
pub(crate) fn start_in(world: &World, environment: &[(&str, &str)], arguments: &[&str]) -> Running {
    let mut command: Command = world.kugetsu(arguments);
    command.envs(environment.iter().copied());
    world.start(command, Stdin::Null)
}

/// A world with a base: made by `init`, or, since the fake does not serve, adopted. Gives the base's session.
#[track_caller]
pub(crate) fn with_base(world: &World) -> String {
    if world.opencode() == Opencode::Fake {
        let session = fake_session(world);
        run(world, ["init", "--adopt", &session]).expect_status(0);
        session
    } else {
        let made = run(world, ["init", "--json"]);
        made.expect_status(0);
        text(&made.json()["session"])
    }
}

/// A world with the fake opencode and an adopted base.
#[track_caller]
pub(crate) fn fake_world() -> World {
    let world = World::new(Opencode::Fake);
    with_base(&world);
    world
}

/// A session that the fake makes, as its user would.
#[track_caller]
pub(crate) fn fake_session(world: &World) -> String {
    let command = world.opencode_command(["run", "--format", "json"]);
    let made = world.finish(command, Stdin::text("the base"));
    made.expect_status(0);
    text(&made.json_lines()[0]["sessionID"])
}

/// A JSON string; panics where it is none.
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

/// An issue's record; nothing where there is none.
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

/// The state that `show` tells.
#[track_caller]
pub(crate) fn state_of(world: &World, issue: &str) -> String {
    let shown = run(world, ["show", issue, "--json"]);
    shown.expect_status(0);
    text(&shown.json()["state"])
}

/// Every file below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Every file of the store but locks, leases and the cache of what opencode is, with what it holds.
pub(crate) fn snapshot(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let run = world.kugetsu_home().join("run");
    files_below(&world.kugetsu_home())
        .into_iter()
        .filter(|path| !path.starts_with(&run) && path.extension().is_none_or(|ending| ending != "lock"))
        .map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default()))
        .collect()
}

/// Panics when a file that is to be whole is not.
#[track_caller]
pub(crate) fn no_half_file(world: &World) {
    for path in files_below(&world.kugetsu_home()) {
        if path.extension().is_some_and(|ending| ending == "json") {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let parsed = serde_json::from_slice::<Value>(&bytes);
            assert!(parsed.is_ok(), "{} is no whole JSON", path.display());
        }
    }
}

/// The sessions that records, live or in the trash, name.
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

/// Starts an issue through `opencode run`; it completes.
#[track_caller]
pub(crate) fn start(world: &World, issue: &str, message: &str) -> Output {
    let output = run(world, ["start", issue, message, "--transport", "run"]);
    output.expect_status(0);
    output
}

/// It fails so, changes nothing in the store, and says this; with `--json` as well, and then on stdout too.
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
            assert!(value["error"]["message"].is_string(), "{output}");
        } else {
            assert_eq!(output.stdout(), "", "{output}");
        }
    }
    assert_eq!(snapshot(world), before, "{arguments:?} changed the store");
}
