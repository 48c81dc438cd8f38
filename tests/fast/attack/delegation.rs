//! Turns that tools of other turns begin: what they outlive and what outlives them, whose budget they use, and that no
//! turn waits for itself.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::kit::{
    SOON, fake_world, has_lease, record, run, run_file, run_in, scripted_world, session_of, start_in,
    state_of, stays, text,
};
use kugetsu_testing::{FakeScript, Output, Running, Signal, Step, World, kugetsu_binary};
use serde_json::{Value, json};

/// A shell command that runs kugetsu in a tool, over `opencode run`.
fn tool(words: &str) -> Step {
    Step::Shell(kugetsu(words))
}

fn kugetsu(words: &str) -> String {
    format!("KUGETSU_TRANSPORT=run '{}' {words}", kugetsu_binary().display())
}

/// What a tool that runs kugetsu wrote: its output and its exit status.
fn noted(words: &str, file: &str) -> Step {
    let command = kugetsu(words);
    Step::Shell(format!(
        "{command} > \"$HOME/{file}\" 2>&1 < /dev/null; echo \"status $?\" >> \"$HOME/{file}\""
    ))
}

fn read(world: &World, file: &str) -> String {
    std::fs::read_to_string(world.home().join(file)).unwrap_or_default()
}

fn done() -> Step {
    Step::Answer("done".to_owned())
}

/// A turn that stops at a gate: the file that says that it has come there, and the file that lets it go on.
fn gate(world: &World, name: &str) -> (PathBuf, PathBuf) {
    (
        world.root().join(format!("{name}-there")),
        world.root().join(format!("{name}-on")),
    )
}

fn at_gate((there, on): &(PathBuf, PathBuf)) -> Step {
    Step::Meet(there.clone(), on.clone())
}

fn arrived(world: &World, (there, _): &(PathBuf, PathBuf)) {
    world.wait_until("the turn is at its gate", SOON, || there.exists());
}

fn open((_, on): &(PathBuf, PathBuf)) {
    std::fs::write(on, "").unwrap();
}

const RUN: [(&str, &str); 1] = [("KUGETSU_TRANSPORT", "run")];

#[track_caller]
fn turn(world: &World, words: &[&str]) -> Output {
    run_in(world, &RUN, words)
}

fn begin(world: &World, words: &[&str]) -> Running {
    start_in(world, &RUN, words)
}

#[track_caller]
fn last(world: &World, issue: &str) -> Value {
    record(world, issue).expect("a record")["last"].clone()
}

fn has_ended(world: &World, issue: &str) -> bool {
    record(world, issue).is_some_and(|record| record["last"].is_object()) && !has_lease(world, issue)
}

fn wait_for_end(world: &World, issue: &str) -> Value {
    world.wait_until("the turn has ended", SOON, || has_ended(world, issue));
    last(world, issue)
}

/// The process in the tool that follows the turn of an issue.
fn follower(world: &World, words: &str) -> u32 {
    let mut found = None;
    world.wait_until("the tool runs kugetsu", SOON, || {
        let processes = world.processes();
        let follows = |command: &str| command.ends_with(words) && !command.starts_with("sh ");
        found = processes
            .iter()
            .find(|process| follows(&process.command))
            .map(|process| process.pid);
        found.is_some()
    });
    found.expect("it was just there")
}

#[test]
fn a_detached_turn_of_a_tool_outlives_the_turn_and_nothing_else_does() {
    let world = fake_world();
    let child = gate(&world, "child");
    world.fake(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    noted("start 2 'the long work' --detach", "started"),
                    // What a hostile tool leaves behind looks like the supervisor of a detached turn.
                    Step::Shell(format!(
                        "setsid -f bash -c 'exec -a kugetsu sleep 600 & exec -a \"kugetsu supervise-detached\" sleep 600'; \
                         setsid -f sh -c 'sleep 600' kugetsu supervise-detached github.com/shoko/kugetsu#2; \
                         echo | setsid -f {}",
                        kugetsu("supervise-detached github.com/shoko/kugetsu#2 < /dev/zero > /dev/null")
                    )),
                    Step::Orphan { ignore_term: true, holds_stdout: false },
                    done(),
                ],
            )
            .on("long work", [at_gate(&child), Step::Answer("the child is done".to_owned())]),
    );
    turn(&world, &["start", "1", "delegate"]).expect_status(0);
    assert!(
        read(&world, "started").ends_with("status 0\n"),
        "{}",
        read(&world, "started")
    );
    arrived(&world, &child);
    let parent = last(&world, "1")["turn"].clone();
    let live = record(&world, "2").expect("a record")["live"].clone();
    let begun_by = json!({"turn": parent, "ref": "github.com/shoko/kugetsu#1", "depth": 1});
    assert_eq!(live["parent"], begun_by);
    let sleepers = || {
        world
            .processes()
            .iter()
            .filter(|process| process.command.contains("sleep"))
            .count()
    };
    world.wait_until("nothing else is left", SOON, || sleepers() == 0);
    let supervisors = world
        .processes()
        .into_iter()
        .filter(|process| process.command.contains("supervise-detached"));
    assert_eq!(supervisors.count(), 1, "{:?}", world.processes());
    // The next command about the parent ends nothing of the child either.
    turn(&world, &["continue", "1", "more"]).expect_status(0);
    assert_eq!(state_of(&world, "2"), "running");
    open(&child);
    let waited = run(&world, ["wait", "2"]);
    assert_eq!(waited.expect_status(0).stdout(), "the child is done\n");
    assert_eq!(last(&world, "2")["parent"], begun_by);
    let listed = run(&world, ["list", "--json"]).json();
    assert!(
        listed["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|session| session["last"]["parent"] == begun_by)
    );
    assert!(
        run(&world, ["show", "2"])
            .stdout()
            .contains("github.com/shoko/kugetsu#1"),
        "{}",
        run(&world, ["show", "2"])
    );
    world.wait_nothing_left(SOON);
    assert!(
        !world
            .kugetsu_home()
            .join("run/turns")
            .join(text(&parent))
            .exists(),
        "the register forgets the family"
    );
}

#[test]
fn a_turn_in_the_foreground_of_a_tool_is_followed_like_any_other() {
    let world = scripted_world(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    noted("start 2 'the work'", "text"),
                    Step::Shell(format!(
                        "printf 'from a pipe' | {} > \"$HOME/json\"",
                        kugetsu("continue 2 - --output json")
                    )),
                    noted("continue 2 'it fails'", "failed"),
                    noted("start 2 'again'", "again"),
                    done(),
                ],
            )
            .on(
                "fails",
                [Step::Error {
                    name: "APIError".into(),
                    message: "no credit".into(),
                }],
            ),
    );
    turn(&world, &["start", "1", "delegate"]).expect_status(0);
    assert!(
        read(&world, "text").contains("done\n"),
        "{}",
        read(&world, "text")
    );
    assert!(
        read(&world, "text").ends_with("status 0\n"),
        "{}",
        read(&world, "text")
    );
    let json: Value = serde_json::from_str(&read(&world, "json")).expect("one object");
    assert_eq!(
        (&json["verdict"], &json["answer"]),
        (&json!("completed"), &json!("done"))
    );
    assert!(
        read(&world, "failed").contains("no credit"),
        "{}",
        read(&world, "failed")
    );
    assert!(
        read(&world, "failed").ends_with("status 1\n"),
        "{}",
        read(&world, "failed")
    );
    assert!(
        read(&world, "again").ends_with("status 64\n"),
        "{}",
        read(&world, "again")
    );
    assert_eq!(record(&world, "2").expect("a record")["totals"]["turns"], 3);
}

#[test]
fn a_turn_in_the_foreground_of_a_tool_ends_in_order_with_the_tool() {
    let world = fake_world();
    let child = gate(&world, "child");
    let script = FakeScript::default()
        .on("delegate", [tool("start 2 'the work'"), done()])
        .on("again", [tool("continue 2 'the work'"), done()])
        .on("work", [at_gate(&child), done()]);
    world.fake(&script);
    // opencode kills a tool that takes too long.
    let parent = begin(&world, &["start", "1", "delegate"]);
    arrived(&world, &child);
    world.signal(follower(&world, "start 2 the work"), Signal::Kill);
    assert_eq!(parent.wait(SOON).code(), 0);
    let ended = wait_for_end(&world, "2");
    assert_eq!(
        (&ended["verdict"], &ended["reason"]),
        (&json!("aborted"), &json!("terminated"))
    );
    // The whole turn ends.
    std::fs::remove_file(&child.0).unwrap();
    let parent = begin(&world, &["continue", "1", "again"]);
    arrived(&world, &child);
    run(&world, ["stop", "1"]).expect_status(0);
    parent.wait(SOON).expect_status(143);
    world.wait_until("the child has ended", SOON, || {
        record(&world, "2").unwrap()["totals"]["turns"] == 2
    });
    let ended = last(&world, "2");
    assert_eq!(
        (&ended["verdict"], &ended["reason"]),
        (&json!("aborted"), &json!("terminated"))
    );
    world.wait_nothing_left(SOON);
}

/// Both opencode and the guard of the outer turn end a tool, and the second of them may come while the turn of the tool is
/// being recorded.
#[test]
fn a_tool_that_is_ended_twice_leaves_the_record_of_its_turn() {
    let world = fake_world();
    let child = gate(&world, "child");
    let script = FakeScript::default()
        .on("delegate", [tool("start 2 'the work'"), done()])
        .on("work", [at_gate(&child), done()]);
    world.fake(&script);
    let recording = world.root().join("recording");
    let stall = format!("stall:append_written:1:{}", recording.display());
    let environment = [RUN[0], ("KUGETSU_CRASH_AT", &stall)];
    let parent = start_in(&world, &environment, &["start", "1", "delegate"]);
    arrived(&world, &child);
    let follower = follower(&world, "start 2 the work");
    world.signal(follower, Signal::Terminate);
    world.wait_until("the turn is being recorded", SOON, || recording.exists());
    world.signal(follower, Signal::Terminate);
    // An end by force would come within a second.
    stays(Duration::from_millis(1500), || has_lease(&world, "2"));
    world.signal(follower, Signal::Kill);
    // The first turn stops at the same file.
    world.wait_until("both turns have ended", SOON, || {
        let _ = std::fs::remove_file(&recording);
        ["1", "2"].iter().all(|issue| has_ended(&world, issue))
    });
    let ended = last(&world, "2");
    assert_eq!(
        (&ended["verdict"], &ended["reason"]),
        (&json!("aborted"), &json!("terminated"))
    );
    parent.wait(SOON).expect_status(0);
    world.wait_nothing_left(SOON);
}

#[test]
fn the_death_of_a_supervisor_ends_no_opencode_of_another_session() {
    let world = fake_world();
    let (behind, beside) = (gate(&world, "behind"), gate(&world, "beside"));
    world.fake(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    tool("start 2 'behind it' --detach"),
                    tool("start 3 'beside it'"),
                    done(),
                ],
            )
            .on(
                "behind",
                [at_gate(&behind), Step::Answer("still here".to_owned())],
            )
            .on("beside", [at_gate(&beside), done()]),
    );
    let parent = begin(&world, &["start", "1", "delegate"]);
    arrived(&world, &behind);
    arrived(&world, &beside);
    parent.kill9();
    let ended = wait_for_end(&world, "3");
    assert_eq!(
        (&ended["verdict"], &ended["reason"]),
        (&json!("aborted"), &json!("terminated"))
    );
    // This sweeps what the first turn has left.
    turn(&world, &["continue", "1", "go on"]).expect_status(0);
    assert_eq!(state_of(&world, "2"), "running");
    open(&behind);
    assert_eq!(
        run(&world, ["wait", "2"]).expect_status(0).stdout(),
        "still here\n"
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn a_turn_that_is_ended_by_force_ends_the_detached_turns_below_it() {
    let world = fake_world();
    let (child, grandchild, own) = (
        gate(&world, "child"),
        gate(&world, "grandchild"),
        gate(&world, "own"),
    );
    world.fake(
        &FakeScript {
            ignore_term: true,
            ..FakeScript::default()
        }
        .on(
            "delegate",
            [
                tool("start 2 'the child' --detach --grace 1s"),
                at_gate(&own),
                done(),
            ],
        )
        .on(
            "child",
            [
                tool("start 3 'the deepest' --detach --grace 1s"),
                at_gate(&child),
                done(),
            ],
        )
        .on("deepest", [at_gate(&grandchild), done()]),
    );
    let parent = begin(&world, &["start", "1", "delegate", "--grace", "1h"]);
    for gate in [&own, &child, &grandchild] {
        arrived(&world, gate);
    }
    parent.signal(Signal::Interrupt);
    let first = Instant::now();
    world.wait_until("the first signal has come", SOON, || {
        crate::support::proc::field(parent.pid(), "ShdPnd")
            .is_some_and(|pending| pending.chars().all(|digit| digit == '0'))
    });
    assert_eq!(state_of(&world, "2"), "running");
    // A signal that comes within 100 ms of the one before counts as the same.
    world.wait_until("a second signal counts", SOON, || {
        first.elapsed() > Duration::from_millis(200)
    });
    parent.signal(Signal::Interrupt);
    parent.wait(SOON).expect_status(130);
    for issue in ["2", "3"] {
        let ended = wait_for_end(&world, issue);
        assert_eq!(
            (&ended["verdict"], &ended["reason"]),
            (&json!("aborted"), &json!("stopped")),
            "{issue}"
        );
    }
    world.wait_nothing_left(SOON);
}

#[test]
fn a_command_never_waits_for_the_turn_that_it_runs_in() {
    let world = fake_world();
    let commands = [
        "continue 1 more --wait",
        "continue 1 more --detach --wait",
        "start 1 more",
        "wait 1",
        "stop 1",
        "signal 1 stop",
        "signal 1 pause",
        "signal 1 rebase",
        "destroy 1 --force",
        "permit 1 bash=allow",
    ];
    let own = |file: &'static str| {
        commands
            .iter()
            .enumerate()
            .map(move |(place, words)| noted(words, &format!("{file}-{place}")))
    };
    // Without an environment, a tool is still in its turn.
    let bare = Step::Shell(format!(
        "env -i HOME=\"$HOME\" KUGETSU_HOME=\"$KUGETSU_HOME\" '{}' wait 1 > \"$HOME/bare\" 2>&1; echo \"status $?\" >> \"$HOME/bare\"",
        kugetsu_binary().display()
    ));
    let steps: Vec<Step> = own("self")
        .chain([bare, tool("start 2 'the child'"), done()])
        .collect();
    let child: Vec<Step> = own("child").chain([done()]).collect();
    world.fake(&FakeScript::default().on("delegate", steps).on("child", child));
    turn(&world, &["start", "1", "delegate"]).expect_status(0);
    for file in ["self", "child"] {
        for (place, words) in commands.iter().enumerate() {
            let said = read(&world, &format!("{file}-{place}"));
            assert!(
                said.contains("wait for itself") && said.ends_with("status 75\n"),
                "{file}: {words}: {said}"
            );
        }
    }
    let said = read(&world, "bare");
    assert!(
        said.contains("wait for itself") && said.ends_with("status 75\n"),
        "{said}"
    );
    assert_eq!(last(&world, "1")["verdict"], "completed");
}

#[test]
fn two_turns_never_wait_for_each_other() {
    let world = fake_world();
    let (first, second) = (gate(&world, "first"), gate(&world, "second"));
    world.fake(
        &FakeScript::default()
            .on(
                "one",
                [at_gate(&first), noted("continue 2 later --wait", "first"), done()],
            )
            .on("two", [at_gate(&second), noted("wait 3", "second"), done()])
            .on("three", [tool("start 4 four"), done()])
            .on(
                "four",
                [
                    Step::Meet(world.root().join("four-there"), world.root().join("four-on")),
                    noted("wait 1", "fourth"),
                    done(),
                ],
            ),
    );
    let turns = [
        ["start", "1", "one"],
        ["start", "2", "two"],
        ["start", "3", "three"],
    ]
    .map(|words| begin(&world, &words));
    for gate in [&first, &second, &gate(&world, "four")] {
        arrived(&world, gate);
    }
    let waits = || {
        let register = world.kugetsu_home().join("run/turns");
        kugetsu_testing::files_below(&register)
            .into_iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "wait"))
            .count()
    };
    // The third turn waits for the fourth; then the first for the second, and the second for the third.
    for (gate, count) in [(&first, 2), (&second, 3)] {
        open(gate);
        world.wait_until("one more waits", SOON, || waits() == count);
    }
    open(&gate(&world, "four"));
    for turn in turns {
        turn.wait(SOON).expect_status(0);
    }
    let said = read(&world, "fourth");
    assert!(
        said.contains("neither would end") && said.ends_with("status 75\n"),
        "{said}"
    );
    for file in ["first", "second"] {
        assert!(
            read(&world, file).ends_with("status 0\n"),
            "{}",
            read(&world, file)
        );
    }
}

#[test]
fn tools_begin_turns_only_to_a_certain_depth() {
    let world = fake_world();
    let mut script = FakeScript::default();
    for depth in 1..=4 {
        let next = depth + 1;
        script = script.on(
            format!("turn {depth}."),
            [
                noted(&format!("start {next} 'turn {next}.'"), &format!("turn-{next}")),
                done(),
            ],
        );
    }
    world.fake(&script);
    turn(&world, &["start", "1", "turn 1."]).expect_status(0);
    assert_eq!(last(&world, "4")["parent"]["depth"], 3);
    let said = read(&world, "turn-5");
    assert!(
        said.contains("max_depth is 3") && said.ends_with("status 64\n"),
        "{said}"
    );
    assert!(record(&world, "5").is_none());
    // The setting of the person who began the outermost turn counts, not that of a tool.
    world.fake(&FakeScript::default().on(
        "none",
        [
            Step::Shell(format!(
                "KUGETSU_MAX_DEPTH=9 {} > \"$HOME/none\" 2>&1; echo \"status $?\" >> \"$HOME/none\"",
                kugetsu("start 6 hello --json")
            )),
            done(),
        ],
    ));
    run_in(
        &world,
        &[RUN[0], ("KUGETSU_MAX_DEPTH", "0")],
        &["continue", "1", "none"],
    )
    .expect_status(0);
    let said = read(&world, "none");
    assert!(
        said.contains("\"too-deep\"") && said.ends_with("status 64\n"),
        "{said}"
    );
}

#[test]
fn tools_begin_only_so_many_turns_at_once() {
    let world = fake_world();
    let [first, second, child, grandchild] =
        ["first", "second", "child", "grandchild"].map(|name| gate(&world, name));
    world.fake(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    tool("start 2 'the child' --detach"),
                    at_gate(&first),
                    noted("start 4 'one more' --detach --json", "refused"),
                    at_gate(&second),
                    noted("start 5 'one more' --detach", "allowed"),
                    done(),
                ],
            )
            .on(
                "child",
                [
                    tool("start 3 'the deepest' --detach"),
                    noted("start 6 'one more'", "refused-below"),
                    at_gate(&child),
                    done(),
                ],
            )
            .on("deepest", [at_gate(&grandchild), done()]),
    );
    let limited = [RUN[0], ("KUGETSU_MAX_DELEGATES", "2")];
    let parent = start_in(&world, &limited, &["start", "1", "delegate"]);
    for gate in [&first, &child, &grandchild] {
        arrived(&world, gate);
    }
    open(&first);
    arrived(&world, &second);
    let said = read(&world, "refused");
    assert!(
        said.contains("\"too-many-delegates\"")
            && said.contains("max_delegates is 2")
            && said.ends_with("status 75\n"),
        "{said}"
    );
    let said = read(&world, "refused-below");
    assert!(
        said.contains("max_delegates is 2") && said.ends_with("status 75\n"),
        "{said}"
    );
    assert!(record(&world, "4").is_none() && record(&world, "6").is_none());
    open(&grandchild);
    wait_for_end(&world, "3");
    open(&second);
    parent.wait(SOON).expect_status(0);
    assert!(
        read(&world, "allowed").ends_with("status 0\n"),
        "{}",
        read(&world, "allowed")
    );
    open(&child);
    world.wait_nothing_left(SOON);
}

#[test]
fn turns_that_begin_in_one_moment_are_counted() {
    let world = fake_world();
    let child = gate(&world, "child");
    let start = kugetsu("start $number 'the child' --detach");
    let all = format!(
        "for number in 11 12 13 14 15 16; do {{ {start} > /dev/null 2>&1 < /dev/null; echo $? >> \"$HOME/statuses\"; }} & done; wait"
    );
    world.fake(
        &FakeScript::default()
            .on("delegate", [Step::Shell(all), done()])
            .on("child", [at_gate(&child), done()]),
    );
    let limited = [RUN[0], ("KUGETSU_MAX_DELEGATES", "3")];
    run_in(&world, &limited, &["start", "1", "delegate"]).expect_status(0);
    let statuses = read(&world, "statuses");
    let mut statuses: Vec<&str> = statuses.lines().collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["0", "0", "0", "75", "75", "75"]);
    open(&child);
    world.wait_nothing_left(SOON);
}

/// Connects to the supervisor of a running turn, as its tools do.
fn connect(world: &World, turn: &str) -> UnixStream {
    let folder = world.kugetsu_home().join("run/turns").join(turn);
    // The path of a socket has at most 108 bytes.
    let folder = std::fs::File::open(folder).unwrap();
    UnixStream::connect(format!("/proc/self/fd/{}/{turn}.sock", folder.as_raw_fd())).unwrap()
}

/// Passes streams on, as kugetsu in a tool does before its command line.
fn send_streams(connection: &UnixStream) {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let streams = [null.as_fd(); 3];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&streams));
    let byte = [std::io::IoSlice::new(b"s")];
    rustix::net::sendmsg(
        connection,
        &byte,
        &mut ancillary,
        rustix::net::SendFlags::NOSIGNAL,
    )
    .unwrap();
}

/// How many commands of a turn's tools are received or run at once where one turn below it may run.
const PLACES: usize = 33;

#[test]
fn a_tool_that_connects_and_stalls_holds_up_nothing() {
    let world = fake_world();
    let [first, second] = ["first", "second"].map(|name| gate(&world, name));
    world.fake(&FakeScript::default().on(
        "delegate",
        [
            at_gate(&first),
            noted("start 2 'hello'", "refused"),
            at_gate(&second),
            noted("start 3 'hello'", "allowed"),
            done(),
        ],
    ));
    let limited = [RUN[0], ("KUGETSU_MAX_DELEGATES", "1")];
    let parent = start_in(&world, &limited, &["start", "1", "delegate"]);
    arrived(&world, &first);
    let turn = text(&record(&world, "1").expect("a record")["live"]["turn"]);
    let dripping = connect(&world, &turn);
    send_streams(&dripping);
    let drip = std::thread::spawn(move || {
        // A byte now and then is not a command.
        while (&dripping).write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let receiving = || {
        let processes = world.processes().into_iter();
        let receiving = processes.filter(|process| process.command.starts_with("kugetsu delegate "));
        receiving.map(|process| process.pid).collect::<Vec<_>>()
    };
    // Each connection has its time, which on a slow machine is over before all places are taken. A process that is
    // held up keeps its place.
    let is_held =
        |pid: &u32| crate::support::proc::field(pid, "State").is_some_and(|state| state.starts_with('T'));
    let is_open = |mut connection: &UnixStream| {
        connection.set_nonblocking(true).unwrap();
        let read = connection.read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let mut silent: Vec<UnixStream> = Vec::new();
    world.wait_until("every place is taken", SOON, || {
        silent.retain(is_open);
        let held = receiving().iter().filter(|pid| is_held(pid)).count();
        for pid in receiving() {
            world.signal(pid, Signal::Stop);
        }
        // The dripping one may have had its time.
        while silent.len() < PLACES {
            silent.push(connect(&world, &turn));
        }
        held == PLACES
    });
    let mut answer = [0];
    connect(&world, &turn).read_exact(&mut answer).unwrap();
    assert_eq!(answer, [255], "one too many is told so at once");
    open(&first);
    arrived(&world, &second);
    let said = read(&world, "refused");
    assert!(
        said.contains("too many commands") && said.ends_with("status 75\n"),
        "{said}"
    );
    for pid in receiving() {
        world.signal(pid, Signal::Continue);
    }
    world.wait_until("no command is waited for any more", SOON, || {
        drip.is_finished() && receiving().is_empty()
    });
    drip.join().unwrap();
    drop(silent);
    open(&second);
    parent.wait(SOON).expect_status(0);
    let said = read(&world, "allowed");
    assert!(said.ends_with("status 0\n"), "{said}");
    world.wait_nothing_left(SOON);
}

/// The child and the grandchild of a turn run, and the turn itself has ended.
#[track_caller]
fn only_delegates_run(world: &World) {
    let gates = three_generations(world, &[]);
    let parent = begin(world, &["start", "1", "delegate"]);
    for gate in &gates {
        arrived(world, gate);
    }
    open(&gates[0]);
    parent.wait(SOON).expect_status(0);
}

/// A turn of issue 1 whose tool begins one of issue 2, whose tool begins one of issue 3, all of which go on.
fn three_generations(world: &World, delegates: &[Step]) -> [(PathBuf, PathBuf); 3] {
    let gates = ["own", "child", "grandchild"].map(|name| gate(world, name));
    let parent = [tool("start 2 'the child' --detach"), at_gate(&gates[0])];
    let parent: Vec<Step> = parent
        .into_iter()
        .chain(delegates.iter().cloned())
        .chain([done()])
        .collect();
    world.fake(
        &FakeScript::default()
            .on("delegate", parent)
            .on(
                "child",
                [tool("start 3 'the deepest' --detach"), at_gate(&gates[1]), done()],
            )
            .on("deepest", [at_gate(&gates[2]), done()]),
    );
    gates
}

#[test]
fn a_turn_is_stopped_together_with_the_turns_that_it_began() {
    let world = fake_world();
    let gates = three_generations(&world, &[]);
    let parent = begin(&world, &["start", "1", "delegate"]);
    for gate in &gates {
        arrived(&world, gate);
    }
    // A turn that none of them began is not concerned.
    let other = gate(&world, "other");
    world.fake(&FakeScript::default().on("other", [at_gate(&other), done()]));
    let unrelated = begin(&world, &["start", "4", "other"]);
    arrived(&world, &other);
    let stopped = run(&world, ["stop", "1", "2", "--with-delegates", "--json"]);
    let stopped = stopped.expect_status(0).json_lines();
    let refs: Vec<&str> = stopped.iter().map(|one| one["ref"].as_str().unwrap()).collect();
    assert_eq!(
        refs,
        [
            "github.com/shoko/kugetsu#1",
            "github.com/shoko/kugetsu#2",
            "github.com/shoko/kugetsu#3"
        ]
    );
    assert!(
        stopped.iter().all(|one| one["verdict"] == "aborted"),
        "{stopped:?}"
    );
    parent.wait(SOON).expect_status(143);
    for issue in ["1", "2", "3"] {
        let ended = wait_for_end(&world, issue);
        assert_eq!(
            (&ended["verdict"], &ended["reason"]),
            (&json!("aborted"), &json!("stopped")),
            "{issue}"
        );
    }
    assert_eq!(state_of(&world, "4"), "running");
    open(&other);
    unrelated.wait(SOON).expect_status(0);
    let nothing = run(&world, ["stop", "1", "--with-delegates"]);
    nothing.expect_status(66);
    world.wait_nothing_left(SOON);
}

#[test]
fn turns_are_stopped_after_the_turn_that_began_them() {
    let world = fake_world();
    let gates = three_generations(&world, &[noted("stop 2 --with-delegates", "by-tool")]);
    let parent = begin(&world, &["start", "1", "delegate"]);
    for gate in &gates {
        arrived(&world, gate);
    }
    // A tool may end what its turn began, with what that has begun.
    open(&gates[0]);
    parent.wait(SOON).expect_status(0);
    let said = read(&world, "by-tool");
    assert!(
        said.contains("#2: turn") && said.contains("#3: turn") && said.ends_with("status 0\n"),
        "{said}"
    );
    // Without the flag, the others go on.
    for (there, on) in &gates {
        let _ = (std::fs::remove_file(there), std::fs::remove_file(on));
    }
    world.fake(
        &FakeScript::default()
            .on("repeat", [tool("continue 2 'anew' --detach"), done()])
            .on(
                "anew",
                [
                    noted("stop 1 --with-delegates", "upwards"),
                    at_gate(&gates[1]),
                    done(),
                ],
            ),
    );
    turn(&world, &["continue", "1", "repeat"]).expect_status(0);
    arrived(&world, &gates[1]);
    let said = read(&world, "upwards");
    assert!(
        said.contains("wait for itself") && said.ends_with("status 75\n"),
        "{said}"
    );
    run(&world, ["stop", "1"]).expect_status(66);
    let stopped = run(&world, ["stop", "1", "--with-delegates"]);
    let said = stopped.expect_status(0).stdout();
    assert!(said.starts_with("github.com/shoko/kugetsu#2: turn"), "{said}");
    assert_eq!(wait_for_end(&world, "2")["reason"], "stopped");
    world.wait_nothing_left(SOON);
}

#[test]
fn turns_are_stopped_after_the_session_that_began_them_is_gone() {
    let world = fake_world();
    only_delegates_run(&world);
    run(&world, ["destroy", "1", "--force", "-y"]).expect_status(0);
    let stopped = run(&world, ["stop", "1", "--with-delegates"]);
    let said = stopped.expect_status(0).stdout();
    assert!(said.contains("#2: turn") && said.contains("#3: turn"), "{said}");
    for issue in ["2", "3"] {
        assert_eq!(wait_for_end(&world, issue)["reason"], "stopped", "{issue}");
    }
    run(&world, ["stop", "1", "--with-delegates"]).expect_status(66);
    world.wait_nothing_left(SOON);
}

#[test]
fn a_turn_that_cannot_be_told_to_stop_keeps_no_other_one_running() {
    let world = fake_world();
    only_delegates_run(&world);
    let supervisor = &record(&world, "2").expect("a record")["live"]["supervisor"]["pid"];
    let supervisor = u32::try_from(supervisor.as_u64().expect("a process")).unwrap();
    // The supervisor would clear this away.
    world.signal(supervisor, Signal::Stop);
    let in_the_way = run_file(&world, "2", ".signal.json");
    std::fs::create_dir_all(in_the_way.join("full")).unwrap();
    let stopped = run(&world, ["stop", "1", "--with-delegates", "--json"]);
    let said = stopped.expect_status(73).json_lines();
    let about = |one: &Value| {
        (
            one["ref"].clone(),
            one["error"]["ref"].clone(),
            one["verdict"].clone(),
        )
    };
    let said: Vec<_> = said.iter().map(about).collect();
    let (second, third) = (
        json!("github.com/shoko/kugetsu#2"),
        json!("github.com/shoko/kugetsu#3"),
    );
    assert_eq!(
        said,
        [
            (Value::Null, second, Value::Null),
            (third, Value::Null, json!("aborted"))
        ]
    );
    std::fs::remove_dir_all(&in_the_way).unwrap();
    world.signal(supervisor, Signal::Continue);
    run(&world, ["stop", "1", "--with-delegates"]).expect_status(0);
    assert_eq!(wait_for_end(&world, "2")["reason"], "stopped");
    world.wait_nothing_left(SOON);
}

fn costing(usd: f64) -> [Step; 2] {
    [Step::step_start(), Step::step_finish("tool-calls", usd)]
}

#[test]
fn turns_of_tools_count_against_the_budget_of_the_turn() {
    let world = fake_world();
    let after = gate(&world, "after");
    let [begun, spent] = costing(0.02);
    let [child_begun, child_spent] = costing(0.05);
    world.fake(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    begun.clone(),
                    spent.clone(),
                    // The supervisor has counted this step when it has started a turn; this one costs next to nothing.
                    tool("start 3 'cheap'"),
                    noted("start 2 'the expensive one' --max-cost 5", "expensive"),
                    noted("start 4 'one more'", "more"),
                    at_gate(&after),
                    done(),
                ],
            )
            .on(
                "expensive",
                [
                    child_begun.clone(),
                    child_spent.clone(),
                    child_begun,
                    child_spent,
                    done(),
                ],
            )
            .on("cheap", [Step::step_start(), Step::step_finish("stop", 0.0)]),
    );
    let parent = turn(&world, &["start", "1", "delegate", "--max-cost", "0.06"]);
    parent.expect_status(1);
    let child = last(&world, "2");
    assert_eq!(child["verdict"], "failed");
    assert_eq!(child["reason"], "budget: 0.0500 USD of at most 0.04 USD");
    let ended = last(&world, "1");
    assert_eq!(
        ended["reason"],
        "budget: 0.0700 USD of at most 0.06 USD, 0.0500 USD of it by turns that it began"
    );
    assert!(record(&world, "4").is_none(), "nothing is left for it");
    world.wait_nothing_left(SOON);
}

#[test]
fn detached_turns_share_what_a_turn_has_left_after_its_end() {
    let world = fake_world();
    let gates = [gate(&world, "b"), gate(&world, "c")];
    let costly = |gate: &(PathBuf, PathBuf)| {
        let [begun, spent] = costing(0.04);
        [at_gate(gate), begun, spent, Step::Hang]
    };
    world.fake(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    tool("start 2 'the second' --detach"),
                    tool("start 3 'the third' --detach"),
                    done(),
                ],
            )
            .on("second", costly(&gates[0]))
            .on("third", costly(&gates[1])),
    );
    turn(&world, &["start", "1", "delegate", "--max-cost", "0.06"]).expect_status(0);
    gates.iter().for_each(open);
    for issue in ["2", "3"] {
        let ended = wait_for_end(&world, issue);
        assert_eq!(ended["verdict"], "failed", "{ended}");
        let reason = text(&ended["reason"]);
        assert!(
            reason.starts_with("budget of github.com/shoko/kugetsu#1"),
            "{reason}"
        );
    }
}

#[test]
fn a_turn_of_a_tool_has_nothing_of_the_environment_of_the_tool() {
    let world = fake_world();
    let evil = world.root().join("evil");
    std::fs::write(
        &evil,
        format!(
            "#!/bin/sh\ntouch '{}'\nexec sleep 600\n",
            world.root().join("ran").display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&evil, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hostile = format!(
        "export DEPLOY_KEY=a-secret-of-the-first KUGETSU_OPENCODE='{0}' KUGETSU_HOOK_BEFORE_TURN='{0}' KUGETSU_HOOK_AFTER_TURN='{0}' KUGETSU_NOTIFY='{0}' PATH='{1}':$PATH \
         HOME_WAS=1 EDITOR='{0}' VISUAL='{0}' GIT_SSH_COMMAND='{0}'; ",
        evil.display(),
        world.root().display()
    );
    std::os::unix::fs::symlink(&evil, world.root().join("git")).unwrap();
    world.fake(
        &FakeScript::default()
            .on(
                "delegate",
                [
                    Step::Shell(format!("{hostile} {}", kugetsu("start 2 'the child' --detach"))),
                    Step::Shell(format!(
                        "{hostile} script -qec \"{}\" /dev/null > \"$HOME/edit\" 2>&1 < /dev/null",
                        kugetsu("continue 2 --edit").replace('"', "\\\"")
                    )),
                    done(),
                ],
            )
            .on(
                "child",
                [Step::Shell("env > \"$HOME/environment\"".to_owned()), done()],
            ),
    );
    turn(&world, &["start", "1", "delegate"]).expect_status(0);
    assert_eq!(wait_for_end(&world, "2")["verdict"], "completed");
    let environment = read(&world, "environment");
    assert!(
        environment.contains("KUGETSU_REF=github.com/shoko/kugetsu#2\n"),
        "{environment}"
    );
    for leaked in [
        "a-secret",
        "DEPLOY_KEY",
        "HOME_WAS",
        "kugetsu#1\n",
        &evil.display().to_string(),
    ] {
        assert!(!environment.contains(leaked), "{leaked}: {environment}");
    }
    assert!(
        !world.root().join("ran").exists(),
        "a program of the tool ran outside of its turn"
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn a_tool_gives_no_base_a_prompt() {
    let world = fake_world();
    let base = session_of(&world, "base");
    let adopt = format!("init --force --adopt {base}");
    let steps = [
        noted(&format!("{adopt} --prompt 'learn it'"), "prompted"),
        noted(&adopt, "without"),
        done(),
    ];
    world.fake(&FakeScript::default().on("delegate", steps));
    turn(&world, &["start", "1", "delegate"]).expect_status(0);
    let said = read(&world, "prompted");
    assert!(
        said.contains("the turn would not be counted") && said.ends_with("status 64\n"),
        "{said}"
    );
    let said = read(&world, "without");
    assert!(said.ends_with("status 0\n"), "{said}");
}

/// The warnings of a turn whose tool does something.
#[track_caller]
fn warnings_after(world: &World, steps: &[String]) -> Vec<String> {
    let steps: Vec<Step> = steps.iter().cloned().map(Step::Shell).chain([done()]).collect();
    world.fake(&FakeScript::default().on("tamper", steps));
    let output = turn(
        world,
        &["continue", "1", "tamper", "--or-start", "--output", "json"],
    );
    let warnings = last(world, "1")["warnings"].clone();
    let warnings: Vec<String> = serde_json::from_value(warnings).unwrap_or_default();
    let result = output.expect_status(0).json();
    let (notes, stderr) = (result["notes"].to_string(), output.stderr());
    for warning in &warnings {
        assert!(
            notes.contains(warning) && stderr.contains(warning),
            "{warning}\n{output}"
        );
        let events = run(world, ["logs", "1", "--json"]).stdout();
        assert!(events.contains(warning), "{warning}: {events}");
        let doctor = run(world, ["doctor", "--json"]);
        assert!(
            doctor.expect_status(0).stdout().contains(warning),
            "{warning}\n{doctor}"
        );
        assert!(run(world, ["show", "1"]).stdout().contains(warning));
    }
    warnings
}

#[test]
fn what_decides_about_later_turns_is_watched_while_a_turn_runs() {
    let world = fake_world();
    let hook = world.root().join("hook.sh");
    std::fs::write(&hook, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = world.kugetsu_home().join("config.toml");
    std::fs::write(&config, format!("hook_after_turn = \"{} now\"\n", hook.display())).unwrap();
    assert_eq!(warnings_after(&world, &["true".to_owned()]), Vec::<String>::new());
    let sessions = world.kugetsu_home().join("sessions/github.com/shoko/kugetsu");
    let replace = |file: &std::path::Path, from: &str, to: &str| {
        format!("sed -i 's|{from}|{to}|' '{}'", file.display())
    };
    let (own, base) = (sessions.join("1.json"), sessions.join("base.json"));
    for (command, word) in [
        (
            format!("echo 'preset = \"full\"' >> '{}'", config.display()),
            "config.toml",
        ),
        (kugetsu("config set max_depth 9"), "config.toml"),
        (replace(&own, "\"headless\"", "\"full\""), "the session's record"),
        (
            replace(&base, "\"headless\"", "\"full\""),
            "the record of the base of github.com/shoko/kugetsu",
        ),
        (
            format!("echo true >> '{}'", hook.display()),
            "the program of hook_after_turn",
        ),
    ] {
        let warnings = warnings_after(&world, std::slice::from_ref(&command));
        assert!(
            matches!(warnings.as_slice(), [one] if one.contains(word)),
            "{command}: {warnings:?}"
        );
    }
    assert_eq!(
        record(&world, "1").unwrap()["policy"]["preset"],
        "headless",
        "the record is what it was"
    );
    // Other commands about other sessions are none of its business.
    let steps = [
        kugetsu("start 2 hello"),
        kugetsu("permit 2 bash=deny"),
        kugetsu("list"),
        kugetsu("gc"),
    ];
    assert_eq!(warnings_after(&world, &steps), Vec::<String>::new());
}

#[test]
fn the_policy_of_the_next_turn_is_the_recorded_one_whatever_a_tool_wrote() {
    let world = fake_world();
    let database = world.opencode_db();
    turn(&world, &["start", "1", "hello"]).expect_status(0);
    let all = r#"[{"permission":"*","pattern":"*","action":"allow"}]"#;
    let steps = format!(
        "sqlite3 '{}' \"UPDATE session SET permission = '{}'\"",
        database.display(),
        all.replace('"', "\\\"")
    );
    warnings_after(&world, &[steps]);
    let session = text(&record(&world, "1").unwrap()["session"]);
    let policy = || world.session(&session).permission;
    assert_eq!(policy().as_deref(), Some(all), "the tool could write it");
    world.fake(&FakeScript::default().on("look", [Step::Shell("true".to_owned()), done()]));
    turn(&world, &["continue", "1", "look"]).expect_status(0);
    let applied = policy().expect("a policy");
    assert!(applied != all && applied.contains("question"), "{applied}");
}
