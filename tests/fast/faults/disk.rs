//! Full and read-only disks.

use std::path::Path;

use crate::support::kit::{self, SOON, record, run};
use kugetsu_testing::{FakeScript, Output, Stdin, World, kugetsu_binary};

use super::*;

/// Runs a shell script in a mount namespace of its own: its mounts vanish with the shell, even if the test fails.
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

/// Runs a command with the store on a separate file system without free space, and copies the store to `after`.
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
        expect_error(&output, 73, &["disk is full"]);
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
    doctor_reports(&on_a_full_disk(&world, "\"$0\" doctor"), &["disk is full"]);
    run(&world, ["continue", "1", "room again", "--transport", "run"]).expect_status(0);
}

#[test]
fn a_backup_and_a_restore_on_a_full_disk_leave_nothing_behind() {
    let world = world();
    let archive = world.root().join("kugetsu.backup");
    run(&world, ["backup", archive.to_str().unwrap()]).expect_status(0);
    let home = world.root().join("small/home");
    for (command, words) in [
        ("\"$0\" backup \"$small/archive\"".to_owned(), "small/archive"),
        (
            format!(
                "KUGETSU_HOME='{}' \"$0\" restore-backup '{}' --without-opencode",
                home.display(),
                archive.display()
            ),
            "disk is full",
        ),
    ] {
        let script = format!(
            "small=\"$HOME/../small\"; mkdir -p \"$small\" && mount -t tmpfs -o size=1m tmpfs \"$small\" || exit 99\n\
             cat /dev/zero > \"$small/filler\" 2>/dev/null\n\
             {command}; status=$?\n\
             ls -A \"$small\"; rm \"$small/filler\"\n\
             {command} >&2 || exit 98; exit $status"
        );
        let output = with_mounts(&world, &script);
        output.expect_status(73);
        for word in ["disk is full", words] {
            assert!(output.stderr().contains(word), "{word}\n{output}");
        }
        assert_eq!(output.stdout(), "filler\n", "{output}");
    }
}

#[test]
fn gc_on_a_full_disk_keeps_what_it_cannot_compress_and_still_makes_room() {
    let world = world();
    let turn = kit::text(&record(&world, "1").unwrap()["last"]["turn"]);
    run(&world, ["continue", "1", "again", "--transport", "run"]).expect_status(0);
    let log = kit::record_path(&world, "1").with_file_name(format!("1/{turn}.raw.log"));
    std::fs::remove_file(log.with_extension("log.zst")).unwrap();
    // Too long for a rest of the disk, also when compressed.
    let lines: Vec<String> = (0..8000_u64)
        .map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    std::fs::write(&log, lines.concat()).unwrap();
    let after = |log: &Path| {
        let below = log.strip_prefix(world.kugetsu_home()).unwrap();
        world.root().join("after").join(below)
    };
    let output = on_a_full_disk(&world, "\"$0\" gc");
    output.expect_status(73);
    assert!(output.stderr().contains("raw.log: "), "{output}");
    assert_eq!(std::fs::read_to_string(after(&log)).unwrap(), lines.concat());
    let left = kit::files_below(&world.root().join("after"));
    assert!(
        !left.iter().any(|path| path.to_string_lossy().contains(".tmp-")),
        "{left:?}"
    );

    let output = on_a_full_disk(&world, "KUGETSU_LOG_MAX_BYTES=1 \"$0\" gc");
    output.expect_status(0);
    assert!(!after(&log).exists());
    run(&world, ["gc"]).expect_status(0);
    assert!(!log.exists() && log.with_extension("log.zst").exists());
    assert_eq!(
        run(&world, ["logs", "1", "--turn", &turn, "--raw"]).stdout(),
        lines.concat()
    );
}

#[test]
fn an_answer_that_cannot_be_written_to_stdout_is_no_success() {
    let world = world();
    let full = |arguments: &[&str], words: &str| {
        let mut command = world.command("sh");
        let line = format!("exec {} \"$@\" >/dev/full", kugetsu_binary().display());
        command.args(["-c", &line, "sh"]).args(arguments);
        let output = world.start(command, Stdin::Null).wait(SOON);
        expect_error(&output, 73, &["stdout", "No space left", words]);
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
    // A reader that stops reading is not an error.
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
    // The record is complete and lists the turn, at least as lost.
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
fn a_daemon_goes_on_when_its_disk_has_room_again() {
    let world = world();
    let (full, room) = (world.root().join("full"), world.root().join("room"));
    let ended = format!(": > '{}'", world.root().join("ended").display());
    world.fake(&FakeScript::default().on(
        "meet",
        [
            kugetsu_testing::Step::Meet(full, room),
            kugetsu_testing::Step::Answer("done".into()),
            kugetsu_testing::Step::Shell(ended),
        ],
    ));
    // The log of the daemon is on the full disk, too.
    let output = with_mounts(
        &world,
        "cp -a \"$KUGETSU_HOME\" \"$TMPDIR/seed\" && mount -t tmpfs -o size=1m tmpfs \"$KUGETSU_HOME\" \
         && cp -a \"$TMPDIR/seed/.\" \"$KUGETSU_HOME\" || exit 99\n\
         export KUGETSU_TRANSPORT=run KUGETSU_WARM_SERVERS=0\n\
         \"$0\" daemon start --detach >/dev/null || exit 98\n\
         first=$(\"$0\" submit 1 'meet') || exit 97\n\
         until [ -e \"$HOME/../full\" ]; do sleep 0.02; done\n\
         cat /dev/zero > \"$KUGETSU_HOME/filler\" 2>/dev/null\n\
         \"$0\" submit 2 'while it is full'; echo \"submitted $?\"\n\
         : > \"$HOME/../room\"\n\
         \"$0\" daemon status >/dev/null; echo \"status $?\"\n\
         until [ -e \"$HOME/../ended\" ]; do sleep 0.02; done\n\
         \"$0\" submit 2 'still full'; echo \"submitted $?\"\n\
         rm \"$KUGETSU_HOME/filler\"\n\
         \"$0\" tail -f \"$first\" >/dev/null; echo \"first $?\"\n\
         second=$(\"$0\" submit 2 'afterwards') && \"$0\" tail -f \"$second\" >/dev/null; echo \"second $?\"\n\
         \"$0\" daemon stop; echo \"stopped $?\"",
    );
    let said = output.stdout();
    for line in ["submitted 73", "status 0", "first 0", "second 0", "stopped 0"] {
        assert!(said.lines().any(|said| said == line), "{line}\n{output}");
    }
    // There was room for the line of the turn, behind that of the turn before, and not for the record: the turn has come to
    // its end, and does not run again.
    let met = |prompt: &String| prompt.contains("meet") || prompt.contains("ended unexpectedly");
    let prompts = kit::fake_prompts(&world);
    assert_eq!(
        prompts.iter().filter(|prompt| met(prompt)).count(),
        1,
        "{prompts:?}"
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn a_disk_that_is_full_for_a_part_of_a_turn_exits_with_73() {
    let world = world();
    world.fake(&FakeScript::default().on(
        "fill",
        [
            kugetsu_testing::Step::Flood {
                lines: 1500,
                bytes: 1000,
            },
            // Meanwhile, space is freed.
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
    let reported = output.stderr();
    assert!(
        reported.contains("completed") && reported.contains("may be incomplete: No space left"),
        "{reported}"
    );
    assert!(output.stdout().ends_with("waited 73\n"), "{reported}");
    // From the turn itself, from `wait`, and from `logs`.
    assert_eq!(
        reported.matches("may be incomplete: No space left").count(),
        3,
        "{reported}"
    );
    assert_eq!(
        reported
            .matches("kugetsu attach github.com/shoko/kugetsu#1")
            .count(),
        3,
        "{reported}"
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
    doctor_reports(&read_only("doctor"), &["read-only", "KUGETSU_HOME"]);
    let one_folder = with_mounts(
        &world,
        "mount --bind \"$KUGETSU_HOME/run\" \"$KUGETSU_HOME/run\" && mount -o remount,ro,bind \"$KUGETSU_HOME/run\" || exit 99\n\
         exec \"$0\" doctor",
    );
    doctor_reports(&one_folder, &["run: the file system is read-only"]);
    for command in [
        "start 2 hi",
        "continue 1 hi",
        "init --force",
        "permit 1 bash:rm=deny",
        "destroy 1 -y",
        "restore 1",
    ] {
        expect_error(&read_only(command), 73, &["read-only", "KUGETSU_HOME"]);
    }
    assert_eq!(world.sessions().len(), 2);
}
