//! What is broken around kugetsu: a full or read-only disk, a damaged store, an opencode that is missing or odd, a

//! database that nobody can read. Each has its words and its exit status, and nothing is lost.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::kit;
use crate::support::kit::{
    REPO, SOON, fake_world, record, record_path, run, run_in, session_of, snapshot, start_in, state_of,
};
use kugetsu_api::{IssueRef, RefContext};
use kugetsu_engine::store::{RecordKey, Store};
use kugetsu_testing::{FakeScript, Opencode, Output, Signal, Stdin, World, kugetsu_binary};

/// A world with a base and one session.
fn world() -> World {
    let world = fake_world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    world
}

#[track_caller]
fn says(output: &Output, status: i32, words: &[&str]) {
    output.expect_status(status);
    for word in words {
        assert!(output.stderr().contains(word), "{word:?} is missing\n{output}");
    }
    let lines = output
        .stderr()
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    assert!(lines <= 3, "at most three lines\n{output}");
    assert!(!output.stderr().contains("panicked"), "{output}");
}

/// The store is what is wrong, and `doctor` says so in the store's own line.
#[track_caller]
fn doctor_says(output: &Output, words: &[&str]) {
    output.expect_status(1);
    let said = output.stdout();
    let bad: Vec<_> = said.lines().filter(|line| line.starts_with("bad")).collect();
    assert!(
        bad.len() == 1 && bad[0].contains("store: cannot write"),
        "{output}"
    );
    assert!(words.iter().all(|word| bad[0].contains(word)), "{output}");
    assert!(!said.contains("ok       store"), "{output}");
}

/// Runs shell lines where mounts are their own: they vanish with the shell, also when the test fails.
#[track_caller]
fn with_mounts(world: &World, script: &str) -> Output {
    let mut command = world.command("unshare");
    if rustix::process::getuid().is_root() {
        command.args(["--mount"]);
    } else {
        command.args(["--user", "--map-root-user", "--mount"]);
    }
    let script = format!(
        "mount --make-rprivate / || {{ echo 'this test needs the right to mount (root, or user namespaces)' >&2; exit 99; }}\n{script}"
    );
    command.args(["sh", "-c", &script]).arg(kugetsu_binary());
    let output = world.start(command, Stdin::Null).wait(SOON);
    assert!(
        output.code() != 99 && !output.stderr().contains("unshare:"),
        "mounts are not permitted here\n{output}"
    );
    output
}

/// The store on a file system of its own, filled to its last byte; what is on it afterwards is copied to `after`.
#[track_caller]
fn on_a_full_disk(world: &World, command: &str) -> Output {
    let _ = std::fs::remove_dir_all(world.root().join("after"));
    with_mounts(
        world,
        &format!(
            "cp -a \"$KUGETSU_HOME\" \"$TMPDIR/seed\" && mount -t tmpfs -o size=1m tmpfs \"$KUGETSU_HOME\" \
             && cp -a \"$TMPDIR/seed/.\" \"$KUGETSU_HOME\" && rm -rf \"$TMPDIR/seed\" || exit 99\n\
             cat /dev/zero > \"$KUGETSU_HOME/filler\" 2>/dev/null\n\
             {command}; status=$?\n\
             rm \"$KUGETSU_HOME/filler\"; cp -a \"$KUGETSU_HOME\" \"$HOME/../after\"; exit $status"
        ),
    )
}

/// The records in a copy of the store.
fn records_in(folder: &Path) -> Vec<(std::path::PathBuf, String)> {
    kit::files_below(&folder.join("sessions"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| {
            (
                path.strip_prefix(folder).expect("it is below").to_owned(),
                std::fs::read_to_string(&path).expect("a record is text"),
            )
        })
        .collect()
}

#[test]
fn a_full_disk_loses_nothing() {
    let world = world();
    let before = records_in(&world.kugetsu_home());
    for command in [
        "start 2 hi --transport run",
        "continue 1 hi --transport run",
        "permit 1 bash:rm=deny",
        "destroy 1 -y",
    ] {
        let output = on_a_full_disk(&world, &format!("\"$0\" {command}"));
        says(&output, 73, &["disk is full"]);
        assert_eq!(records_in(&world.root().join("after")), before, "{command}");
        assert_eq!(
            world.sessions().len(),
            2,
            "{command}: nothing was asked of opencode"
        );
    }
    for command in ["list", "show 1", "config", "logs 1"] {
        let output = on_a_full_disk(&world, &format!("\"$0\" {command}"));
        output.expect_status(0);
    }
    doctor_says(&on_a_full_disk(&world, "\"$0\" doctor"), &["disk is full"]);
    run(&world, ["continue", "1", "room again", "--transport", "run"]).expect_status(0);
}

#[test]
fn an_answer_that_cannot_be_written_to_stdout_is_no_success() {
    let world = world();
    let full = |arguments: &[&str], words: &str| {
        let mut command = world.command("sh");
        let line = format!("exec {} \"$@\" >/dev/full", kugetsu_binary().display());
        command.args(["-c", &line, "sh"]).args(arguments);
        let output = world.start(command, Stdin::Null).wait(SOON);
        says(&output, 73, &["stdout", "No space left", words]);
    };
    full(&["list"], "");
    full(&["list", "--json"], "");
    full(&["logs", "1"], "");
    full(&["--json", "show", "1"], "");
    full(&["continue", "1", "again", "--transport", "run"], "completed");
    assert_eq!(
        record(&world, "1").unwrap()["totals"]["turns"],
        2,
        "the turn is on record"
    );
    // A reader that has gone away is no fault.
    let mut command = world.command("bash");
    let line = format!(
        "set -o pipefail; {} logs 1 --json | true",
        kugetsu_binary().display()
    );
    command.args(["-c", &line]);
    world.start(command, Stdin::Null).wait(SOON).expect_status(0);
}

#[test]
fn a_disk_that_fills_up_in_a_turn_ends_it_with_73() {
    let world = world();
    world.fake(&FakeScript::default().on(
        "fill",
        [
            kugetsu_testing::Step::Flood {
                lines: 3000,
                bytes: 1000,
            },
            kugetsu_testing::Step::Answer("done".into()),
        ],
    ));
    let output = with_mounts(
        &world,
        "cp -a \"$KUGETSU_HOME\" \"$TMPDIR/seed\" && mount -t tmpfs -o size=1m tmpfs \"$KUGETSU_HOME\" \
         && cp -a \"$TMPDIR/seed/.\" \"$KUGETSU_HOME\" || exit 99\n\
         \"$0\" continue 1 'fill it' --transport run > /dev/null; status=$?\n\
         cp -a \"$KUGETSU_HOME\" \"$HOME/../after\"; exit $status",
    );
    output.expect_status(73);
    assert!(output.stderr().contains("disk is full"), "{output}");
    // The record is whole, and tells of the turn at least as lost.
    for (path, bytes) in records_in(&world.root().join("after")) {
        assert!(
            serde_json::from_str::<serde_json::Value>(&bytes).is_ok(),
            "{}",
            path.display()
        );
    }
    world.wait_nothing_left(SOON);
}

#[test]
fn a_disk_that_is_full_for_a_part_of_a_turn_is_told_with_73() {
    let world = world();
    world.fake(&FakeScript::default().on(
        "fill",
        [
            kugetsu_testing::Step::Flood {
                lines: 1500,
                bytes: 1000,
            },
            // Meanwhile somebody makes room.
            kugetsu_testing::Step::Meet(world.root().join("full"), world.root().join("room")),
            kugetsu_testing::Step::Answer("done".into()),
        ],
    ));
    let output = with_mounts(
        &world,
        "cp -a \"$KUGETSU_HOME\" \"$TMPDIR/seed\" && mount -t tmpfs -o size=3m tmpfs \"$KUGETSU_HOME\" \
         && cp -a \"$TMPDIR/seed/.\" \"$KUGETSU_HOME\" && head -c 2m /dev/zero > \"$KUGETSU_HOME/filler\" || exit 99\n\
         \"$0\" continue 1 'fill it' --transport run & turn=$!\n\
         until [ -e \"$HOME/../full\" ]; do kill -0 $turn || break; sleep 0.02; done\n\
         rm \"$KUGETSU_HOME/filler\"; : > \"$HOME/../room\"; wait $turn; status=$?\n\
         cp -a \"$KUGETSU_HOME\" \"$HOME/../after\"; \"$0\" wait 1 > /dev/null; echo \"waited $?\"; \"$0\" logs 1 > /dev/null; exit $status",
    );
    output.expect_status(73);
    let told = output.stderr();
    assert!(
        told.contains("completed") && told.contains("may have a gap: No space left"),
        "{told}"
    );
    assert!(output.stdout().ends_with("waited 73\n"), "{told}");
    // Of the turn itself, of `wait`, and of `logs`.
    assert_eq!(told.matches("may have a gap: No space left").count(), 3, "{told}");
    assert_eq!(
        told.matches("kugetsu attach github.com/shoko/kugetsu#1").count(),
        3,
        "{told}"
    );
    let files = kit::files_below(&world.root().join("after"));
    let mut logs: Vec<_> = files
        .iter()
        .filter(|path| path.to_string_lossy().ends_with(".events.jsonl"))
        .collect();
    logs.sort();
    assert_eq!(logs.len(), 2, "{logs:?}");
    let text = std::fs::read_to_string(logs[1]).unwrap();
    assert!(text.ends_with('\n'));
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [.., notice, end] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        kit::text(&notice["message"]).contains("events are missing here: No space left"),
        "{notice}"
    );
    assert_eq!(
        (&end["type"], &end["verdict"], &end["exit_status"]),
        (&"agent_end".into(), &"completed".into(), &73.into())
    );
}

#[test]
fn a_read_only_home_is_read() {
    let world = world();
    let read_only = |command: &str| {
        with_mounts(
            &world,
            &format!(
                "mount --bind \"$KUGETSU_HOME\" \"$KUGETSU_HOME\" && mount -o remount,ro,bind \"$KUGETSU_HOME\" || exit 99\n\
                 exec \"$0\" {command}"
            ),
        )
    };
    for command in ["list", "show 1 --turns", "logs 1", "config"] {
        read_only(command).expect_status(0);
    }
    doctor_says(&read_only("doctor"), &["read-only", "KUGETSU_HOME"]);
    let one_folder = with_mounts(
        &world,
        "mount --bind \"$KUGETSU_HOME/run\" \"$KUGETSU_HOME/run\" && mount -o remount,ro,bind \"$KUGETSU_HOME/run\" || exit 99\n\
         exec \"$0\" doctor",
    );
    doctor_says(&one_folder, &["run: the file system is read-only"]);
    for command in [
        "start 2 hi",
        "continue 1 hi",
        "init --force",
        "permit 1 bash:rm=deny",
        "destroy 1 -y",
        "restore 1",
    ] {
        says(&read_only(command), 73, &["read-only", "KUGETSU_HOME"]);
    }
    assert_eq!(world.sessions().len(), 2);
}

#[test]
fn a_record_of_a_newer_schema_is_left_alone() {
    let world = world();
    let path = record_path(&world, "1");
    let newer = std::fs::read_to_string(&path)
        .unwrap()
        .replacen("\"schema\": 1", "\"schema\": 99", 1);
    std::fs::write(&path, &newer).unwrap();
    for command in [
        &["continue", "1", "hi", "--transport", "run"][..],
        &["permit", "1", "bash:rm=deny"],
    ] {
        says(
            &run(&world, command.iter().copied()),
            73,
            &["schema 99", "1.json"],
        );
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    run(&world, ["show", "1"]).expect_status(0);
    let found = run(&world, ["doctor", "--fix"]);
    found.expect_status(1);
    assert!(found.stdout().contains("schema 99"), "{found}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    // Only its schema can be understood.
    std::fs::write(&path, "{\"schema\": 99, \"all\": \"new\"}").unwrap();
    says(&run(&world, ["show", "1"]), 73, &["schema 99"]);
    says(
        &run(&world, ["start", "1", "hi", "--transport", "run"]),
        73,
        &["schema 99"],
    );
}

#[test]
fn a_truncated_record_is_moved_aside_and_never_overwritten() {
    let world = world();
    let path = record_path(&world, "1");
    let whole = std::fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    std::fs::write(&path, half).unwrap();
    for command in [
        &["continue", "1", "hi", "--transport", "run"][..],
        &["start", "1", "hi", "--transport", "run"],
        &["show", "1"],
        &["destroy", "1", "-y"],
    ] {
        says(
            &run(&world, command.iter().copied()),
            73,
            &["1.json", "doctor --fix"],
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), half);
    assert!(run(&world, ["list"]).stderr().contains("1.json"));
    let fixed = run(&world, ["doctor", "--fix"]);
    assert!(fixed.stdout().contains(".broken-"), "{fixed}");
    let aside = kit::files_below(&world.kugetsu_home());
    let aside = aside
        .iter()
        .find(|path| path.to_string_lossy().contains(".broken-"))
        .expect("it is kept");
    assert_eq!(std::fs::read(aside).unwrap(), half);
    run(&world, ["doctor"]).expect_status(0);
    run(&world, ["start", "1", "hi", "--transport", "run"]).expect_status(0);
}

#[test]
fn an_index_that_lies_does_no_harm() {
    let world = world();
    let index = world.kugetsu_home().join("index.json");
    let right = std::fs::read(&index).unwrap();
    let lie = r#"{"schema":1,"base":"a/b/c/base.json","bases":{},"issues":{"github.com/a/b#9":"github.com/a/b/9.json"}}"#;
    for content in [lie, "", "{", "[]", "\u{0}\u{0}"] {
        std::fs::write(&index, content).unwrap();
        run(&world, ["show", "1"]).expect_status(0);
        assert!(run(&world, ["list"]).stdout().contains("#1"), "{content}");
        run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
        std::fs::write(&index, content).unwrap();
        let found = run(&world, ["doctor"]);
        found.expect_status(1);
        assert!(found.stdout().contains("index"), "{found}");
        run(&world, ["doctor", "--fix"]).expect_status(0);
        run(&world, ["doctor"]).expect_status(0);
        let rebuilt: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        let before: serde_json::Value = serde_json::from_slice(&right).unwrap();
        assert_eq!(
            (&rebuilt["issues"], &rebuilt["bases"]),
            (&before["issues"], &before["bases"]),
            "{content}"
        );
    }
    std::fs::remove_file(&index).unwrap();
    run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
}

#[test]
fn stale_locks_and_leases_hold_nobody_up() {
    let world = world();
    let holder = r#"{"pid":1,"host":"elsewhere","since":"2020-01-01T00:00:00Z","what":"start"}"#;
    let files = kit::files_below(&world.kugetsu_home());
    let locks: Vec<_> = files
        .iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "lock" || ending == "lease")
        })
        .collect();
    assert!(locks.len() >= 3, "{files:?}");
    for content in [holder, "", "garbage \u{0}"] {
        for lock in &locks {
            std::fs::write(lock, content).unwrap();
        }
        run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
    }
}

#[test]
fn a_symlink_in_the_store_is_refused() {
    let world = world();
    let elsewhere = world.root().join("elsewhere");
    let path = record_path(&world, "1");
    std::fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    let content = std::fs::read(&elsewhere).unwrap();
    for command in [
        &["show", "1"][..],
        &["continue", "1", "hi"],
        &["start", "1", "hi"],
        &["destroy", "1", "-y"],
    ] {
        says(
            &run(&world, command.iter().copied()),
            73,
            &["symbolic link", "1.json"],
        );
    }
    assert_eq!(std::fs::read(&elsewhere).unwrap(), content);
    let found = run(&world, ["doctor", "--fix"]);
    found.expect_status(1);
    assert!(found.stdout().contains("symbolic link"), "{found}");
    assert!(path.is_symlink());
    // A folder on the way.
    let folder = path.parent().unwrap().parent().unwrap().join("other");
    symlink(world.root(), &folder).unwrap();
    says(
        &run(&world, ["start", "github.com/shoko/other#1", "hi"]),
        73,
        &["symbolic link"],
    );
}

#[test]
fn a_locked_database_is_waited_for() {
    let world = world();
    run(&world, ["start", "2", "hello", "--transport", "run"]).expect_status(0);
    run(&world, ["destroy", "2", "-y"]).expect_status(0);
    let lock = world.lock_database();
    let locked = Instant::now();
    let waiting = world.spawn(["continue", "1", "patience", "--transport", "run"]);
    world.wait_until("the turn has waited for 3 s", SOON, || {
        let live = record(&world, "1").is_some_and(|record| record["live"].is_object());
        live && locked.elapsed() >= Duration::from_secs(3)
    });
    drop(lock);
    waiting.wait(SOON).expect_status(0);
    assert!(locked.elapsed() >= Duration::from_secs(3));

    let lock = world.lock_database();
    for command in [
        &["continue", "1", "too long", "--transport", "run"][..],
        &["permit", "1", "bash:rm=deny"],
    ] {
        let refused = run_in(&world, &[("KUGETSU_DATABASE_TIMEOUT", "200ms")], command);
        says(&refused, 75, &["locked", "200 ms"]);
    }
    let before = snapshot(&world);
    for command in [
        &["init", "--force"][..],
        &["destroy", "1", "-y"],
        &["restore", "2"],
        &["permit", "1", "--explain"],
    ] {
        let refused = run_in(&world, &[("KUGETSU_DATABASE_TIMEOUT", "200ms")], command);
        says(&refused, 75, &["locked", "200 ms"]);
        assert_eq!(snapshot(&world), before, "{command:?}");
    }
    drop(lock);
    assert_eq!(state_of(&world, "1"), "completed");
    assert!(record(&world, "1").unwrap().get("live").is_none());
    run(&world, ["continue", "1", "again", "--transport", "run"]).expect_status(0);
    let prompts = kit::prompts_of(&world, &session_of(&world, "1"));
    assert_eq!(prompts, ["the base", "hello", "patience", "again"]);
    let rules = world
        .session(&session_of(&world, "1"))
        .permission
        .unwrap_or_default();
    assert!(
        rules.contains("\"rm\""),
        "what was permitted is applied by the next turn: {rules}"
    );
}

#[test]
fn who_waits_for_a_locked_database_may_stop() {
    let world = world();
    let lock = world.lock_database();
    let store = Store::open(world.kugetsu_home());
    for (verb, issue) in [("continue", "1"), ("start", "2")] {
        let patience = [("KUGETSU_DATABASE_TIMEOUT", "1h")];
        let waiting = start_in(
            &world,
            &patience,
            &[verb, issue, "patience", "--transport", "run"],
        );
        let issue = IssueRef::parse(&format!("{REPO}#{issue}"), &RefContext::default()).unwrap();
        world.wait_until("it has the lease", SOON, || {
            store.lease_holder(&RecordKey::from(&issue)).flatten().is_some()
        });
        waiting.signal(Signal::Interrupt);
        waiting.wait(SOON).expect_status(130);
    }
    drop(lock);
    assert_eq!(state_of(&world, "1"), "completed");
    run(&world, ["show", "2"]).expect_status(66);
    for (verb, issue) in [("continue", "1"), ("start", "2")] {
        run(&world, [verb, issue, "again", "--transport", "run"]).expect_status(0);
    }
}

#[test]
fn a_database_that_stays_locked_is_given_up() {
    let world = world();
    run(&world, ["start", "2", "hello", "--transport", "run"]).expect_status(0);
    let sessions = ["1", "2"].map(|issue| session_of(&world, issue));
    let prompts = || {
        sessions
            .each_ref()
            .map(|session| kit::prompts_of(&world, session))
    };
    let before = prompts();
    let lock = world.lock_database();
    // Side by side, since each waits for as long as it does where nobody says otherwise.
    let turn = world.spawn(["continue", "1", "too long", "--transport", "run"]);
    let permit = world.spawn(["permit", "2", "bash:rm=deny"]);
    for waiting in [turn, permit] {
        says(&waiting.wait(SOON), 75, &["locked", "10000 ms"]);
    }
    drop(lock);
    assert_eq!(prompts(), before, "the prompt was not sent");
    for issue in ["1", "2"] {
        assert_eq!(state_of(&world, issue), "completed", "{issue}");
        run(&world, ["continue", issue, "again", "--transport", "run"]).expect_status(0);
    }
    let after = prompts();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.len(), before.len() + 1);
        assert!(
            after.starts_with(before) && after.ends_with(&["again".to_owned()]),
            "{after:?}"
        );
    }
    let rules = world.session(&sessions[1]).permission.unwrap_or_default();
    assert!(
        rules.contains("\"rm\""),
        "what was permitted is applied by the next turn: {rules}"
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn an_opencode_that_cannot_be_used_is_named() {
    let world = world();
    let before = snapshot(&world);
    let file = world.root().join("odd-opencode");
    let write = |content: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let with = |program: &Path, arguments: &[&str]| {
        run_in(
            &world,
            &[("KUGETSU_OPENCODE", program.to_str().unwrap())],
            arguments,
        )
    };
    let nowhere = Path::new("/nowhere/opencode");
    for command in [
        &["start", "2", "hi"][..],
        &["continue", "1", "hi"],
        &["prune"],
        &["destroy", "1", "-y"],
        &["permit", "1", "--explain"],
    ] {
        says(&with(nowhere, command), 69, &["/nowhere/opencode"]);
    }
    with(nowhere, &["doctor"]).expect_status(69);
    for (content, mode, words) in [
        ("#!/bin/sh\necho hello\n", 0o755, "is this opencode?"),
        ("#!/bin/sh\nexit 3\n", 0o755, "is this opencode?"),
        (
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 0.9.1 || echo /tmp/x\n",
            0o755,
            "too old",
        ),
        (
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 2.0.0 || echo /tmp/x\n",
            0o755,
            "too new",
        ),
        ("nothing", 0o644, "odd-opencode"),
        ("\u{7f}ELF nonsense", 0o755, "odd-opencode"),
    ] {
        write(content, mode);
        says(
            &with(&file, &["continue", "1", "hi"]),
            69,
            &[words, "odd-opencode"],
        );
    }
    let mut command = world.kugetsu(["continue", "github.com/shoko/kugetsu#1", "hi"]);
    command.env_remove("KUGETSU_OPENCODE").env("PATH", world.root());
    let missing = world.finish(command, Stdin::Null);
    says(&missing, 69, &["npm install -g opencode-ai", "KUGETSU_OPENCODE"]);
    for command in [&["list"][..], &["show", "1"], &["logs", "1"], &["config"]] {
        with(nowhere, command).expect_status(0);
    }
    assert_eq!(snapshot(&world), before);
}

#[test]
fn a_database_that_cannot_be_read_says_nothing_of_its_sessions() {
    let world = world();
    let database = world.opencode_db();
    let folder = database.parent().unwrap().to_owned();
    let saved = world.root().join("saved");
    let before = snapshot(&world);
    let good = |name: &str| folder.join(name);
    world.sql_write("PRAGMA wal_checkpoint(TRUNCATE)");
    for fault in ["missing", "folder", "garbage", "cut", "empty", "column", "table"] {
        for name in ["opencode.db-wal", "opencode.db-shm"] {
            let _ = std::fs::remove_file(good(name));
        }
        std::fs::copy(&database, &saved).unwrap();
        match fault {
            "missing" => std::fs::remove_file(&database).unwrap(),
            "folder" => {
                std::fs::remove_file(&database).unwrap();
                std::fs::create_dir(&database).unwrap();
            }
            "garbage" => std::fs::write(&database, "no database at all, but text ".repeat(500)).unwrap(),
            "cut" => std::fs::write(&database, &std::fs::read(&saved).unwrap()[..5000]).unwrap(),
            "empty" => std::fs::write(&database, "").unwrap(),
            "column" => world.sql_write("ALTER TABLE session RENAME COLUMN permission TO permissions"),
            _ => world.sql_write("PRAGMA foreign_keys = OFF; ALTER TABLE session RENAME TO sessions"),
        }
        for command in [
            &["prune"][..],
            &["prune", "--force"],
            &["continue", "1", "hi", "--transport", "run"],
            &["start", "2", "hi", "--transport", "run"],
            &["destroy", "1", "-y"],
        ] {
            let output = run(&world, command.iter().copied());
            says(&output, 69, &["opencode.db"]);
        }
        for command in [&["doctor"][..], &["doctor", "--fix"]] {
            let output = run(&world, command.iter().copied());
            output.expect_status(69);
            assert!(output.stdout().contains("opencode.db"), "{fault}\n{output}");
            assert!(!output.stdout().contains("no longer has"), "{fault}\n{output}");
        }
        assert_eq!(snapshot(&world), before, "{fault}");
        let _ = std::fs::remove_dir(&database);
        for name in ["opencode.db", "opencode.db-wal", "opencode.db-shm"] {
            let _ = std::fs::remove_file(good(name));
        }
        std::fs::copy(&saved, &database).unwrap();
        assert!(
            run(&world, ["prune"]).stdout().contains("nothing to prune"),
            "{fault}"
        );
    }
    run(&world, ["continue", "1", "all is well", "--transport", "run"]).expect_status(0);
}

#[test]
fn a_database_that_somebody_keeps_to_himself_is_not_an_empty_one() {
    let world = world();
    let before = snapshot(&world);
    // Not even a reader gets in.
    let alone = rusqlite::Connection::open(world.opencode_db()).unwrap();
    alone
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .unwrap();
    for (command, status) in [
        (&["prune"][..], 69),
        (&["prune", "--force"], 69),
        (&["destroy", "1", "-y"], 75),
    ] {
        says(&run(&world, command.iter().copied()), status, &["locked"]);
    }
    let found = start_in(&world, &[], &["doctor", "--fix"]).wait(SOON);
    found.expect_status(69);
    assert!(found.stdout().contains("locked"), "{found}");
    assert_eq!(snapshot(&world), before);
    drop(alone);
    run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
}

#[test]
fn an_opencode_without_the_needed_columns_is_refused() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        missing_columns: vec!["permission".into()],
        ..FakeScript::default()
    });
    let session = kit::fake_session(&world);
    says(
        &run(&world, ["init", "--adopt", &session]),
        69,
        &["session.permission", "too old or too new"],
    );
    run(&world, ["doctor"]).expect_status(69);
}
