//! How a program under its guard ends, and what happens to the processes that it started.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use crate::process::{Exit, Guarded, ProcessError};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn an_exit_status_comes_through_and_so_does_the_output() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("echo out; exit 7")).await.unwrap();
    let mut out = String::new();
    guarded
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    assert_eq!(out, "out\n");
    assert_eq!(wait(&mut guarded).await, Exit::Code(7));
    assert_eq!(wait(&mut guarded).await, Exit::Code(7), "asked again");
    assert!(guarded.left().is_empty());
}

#[tokio::test]
async fn a_signal_is_distinguished_from_an_exit_status_of_the_same_number() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("kill -USR1 $$")).await.unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Signal(10));
    let mut guarded = Guarded::spawn(world.spec("exit 138")).await.unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Code(138));
}

#[tokio::test]
async fn what_the_program_leaves_behind_dies_when_it_exits() {
    let world = World::new();
    let mut spec = world.spec(&wild("echo ready; read go; exit 3"));
    spec.stdin = b"go\n".to_vec().into();
    // The program exits as soon as all its processes run.
    spec.args[1] = world
        .script(&wild("while ! test -e \"$GO\"; do :; done; exit 3"))
        .into();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    spec.set_env.push(("GO".into(), go.clone().into()));
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    world.until_found(WILD_COUNT + 1);
    std::fs::write(go, "").unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Code(3));
    world.nothing_left();
}

#[tokio::test]
async fn a_request_to_end_is_obeyed_within_the_grace_period() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("trap 'exit 5' TERM; SLEEP & echo ready; wait; wait"))
        .await
        .unwrap();
    ready(&mut guarded).await;
    guarded.terminate().await;
    assert_eq!(wait(&mut guarded).await, Exit::Code(5));
    world.nothing_left();
}

#[tokio::test]
async fn a_program_deaf_to_sigterm_is_killed_after_the_grace_period() {
    let world = World::new();
    let mut spec = world.spec(&wild("trap '' TERM; echo ready; SLEEP; SLEEP; SLEEP"));
    spec.containment.grace = Duration::from_millis(100);
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    ready(&mut guarded).await;
    world.until_found(WILD_COUNT + 2);
    guarded.terminate().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn a_kill_takes_the_whole_tree() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec(&wild("SLEEP"))).await.unwrap();
    world.until_found(WILD_COUNT + 1);
    guarded.kill().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn a_kill_overtakes_a_long_grace_period() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("trap '' TERM; echo ready; SLEEP; SLEEP; SLEEP"))
        .await
        .unwrap();
    ready(&mut guarded).await;
    guarded.terminate().await;
    guarded.kill().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn dropping_it_ends_the_tree() {
    let world = World::new();
    let guarded = Guarded::spawn(world.spec(&wild("trap '' TERM; SLEEP; SLEEP")))
        .await
        .unwrap();
    world.until_found(WILD_COUNT + 1);
    drop(guarded);
    world.until_nothing_left();
}

#[tokio::test]
async fn a_stopped_program_is_ended_by_a_request_and_by_a_kill() {
    for kill in [false, true] {
        let world = World::new();
        let mut guarded = Guarded::spawn(world.spec("SLEEP & echo ready; kill -STOP $$; wait"))
            .await
            .unwrap();
        ready(&mut guarded).await;
        until("it is stopped", || stat(guarded.pid())[0] == "T");
        if kill {
            guarded.kill().await;
            assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
        } else {
            guarded.terminate().await;
            assert_eq!(wait(&mut guarded).await, Exit::Signal(15));
        }
        world.nothing_left();
    }
}

#[tokio::test]
async fn a_stopped_guard_still_takes_a_kill() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("SLEEP")).await.unwrap();
    world.until_found(1);
    send(guarded.guard_pid(), Signal::STOP);
    until("the guard is stopped", || stat(guarded.guard_pid())[0] == "T");
    guarded.kill().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn a_killed_guard_is_noticed_and_its_tree_is_swept() {
    for signal in [Signal::KILL, Signal::TERM] {
        let world = World::new();
        // This tree has no process without both an environment and a parent, because the sweep cannot identify one.
        let script = "setsid SLEEP & (setsid sh -c 'trap \"\" TERM; SLEEP; SLEEP' &) ; echo ready; SLEEP";
        let mut guarded = Guarded::spawn(world.spec(script)).await.unwrap();
        ready(&mut guarded).await;
        world.until_found(5);
        send(guarded.guard_pid(), signal);
        assert_eq!(wait(&mut guarded).await, Exit::GuardLost);
        world.nothing_left();
    }
}

#[tokio::test]
async fn a_program_that_signals_its_own_group_does_not_hit_the_guard() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("(setsid SLEEP &); kill -KILL 0"))
        .await
        .unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn the_program_has_neither_our_session_nor_the_guards_group() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("SLEEP")).await.unwrap();
    let (ours, guard, program) = (
        stat(std::process::id()),
        stat(guarded.guard_pid()),
        stat(guarded.pid()),
    );
    assert_eq!(
        guard[3],
        guarded.guard_pid().to_string(),
        "the guard leads a session of its own"
    );
    assert_ne!(program[3], ours[3], "session");
    assert_ne!(program[2], guard[2], "group");
    assert_eq!(program[4], "0", "no terminal");
    guarded.kill().await;
    wait(&mut guarded).await;
}

#[tokio::test]
async fn a_prompt_that_is_never_read_keeps_nobody_waiting() {
    for kill in [false, true] {
        let world = World::new();
        let mut spec = world.spec("echo ready; SLEEP");
        spec.stdin = vec![b'x'; 10 << 20].into();
        let mut guarded = Guarded::spawn(spec).await.unwrap();
        ready(&mut guarded).await;
        world.until_found(2);
        if kill {
            guarded.kill().await;
        } else {
            guarded.terminate().await;
        }
        let exit = wait(&mut guarded).await;
        assert_eq!(exit, Exit::Signal(if kill { 9 } else { 15 }));
        world.nothing_left();
    }
}

#[tokio::test]
async fn a_prompt_arrives_byte_for_byte_and_ends() {
    let world = World::new();
    let prompt: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut spec = world.spec("");
    (spec.program, spec.args) = ("cat".into(), Vec::new());
    spec.stdin = prompt.clone().into();
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    let mut out = Vec::new();
    guarded
        .stdout
        .as_mut()
        .unwrap()
        .read_to_end(&mut out)
        .await
        .unwrap();
    assert!(out == prompt, "{} bytes came back of {}", out.len(), prompt.len());
    assert_eq!(wait(&mut guarded).await, Exit::Code(0));
}

#[tokio::test]
async fn what_forks_in_a_loop_is_caught() {
    let sweepers = [
        // One parent that creates orphans without end.
        "echo ready; while :; do (setsid sleep 1000 &); done",
        // No process lives long: each starts the next and exits; one chain stays in one group, the other starts a
        // session each time.
        r#"export B='exec sh -c "$C"' C='sh -c "$B" &'; sh -c "$B" & echo ready; SLEEP"#,
        r#"export C='setsid sh -c "$C" &'; sh -c "$C" & echo ready; SLEEP"#,
        r#"export C='setsid sh -c "$C" &'; for n in 1 2 3 4 5 6 7 8; do sh -c "$C" & done; echo ready; SLEEP"#,
    ];
    for script in sweepers {
        let world = World::new();
        let mut guarded = Guarded::spawn(world.spec(script)).await.unwrap();
        ready(&mut guarded).await;
        world.until_found(2);
        guarded.kill().await;
        assert_eq!(wait(&mut guarded).await, Exit::Signal(9), "{script}");
        assert_eq!(guarded.left(), [] as [u32; 0], "{script}");
        world.nothing_left();
    }
}

#[tokio::test]
async fn waiting_can_be_given_up_and_taken_up_again() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("echo ready; SLEEP")).await.unwrap();
    for _ in 0..20 {
        let given_up = tokio::time::timeout(Duration::from_millis(1), guarded.wait()).await;
        assert!(given_up.is_err());
    }
    guarded.terminate().await;
    let exit = loop {
        if let Ok(exit) = tokio::time::timeout(Duration::from_micros(100), guarded.wait()).await {
            break exit;
        }
    };
    assert_eq!(exit, Exit::Signal(15));
    world.nothing_left();
}

#[tokio::test]
async fn the_environment_is_as_requested_and_secrets_are_in_no_argument_list() {
    let world = World::new();
    let secret = Uuid::new_v4().to_string();
    let odd = OsString::from_vec(b"a\xff\nb".to_vec());
    let mut spec = world.spec(
        "printf '%s,%s,%s,%s,' \"$SECRET\" \"${GONE-unset}\" \"$KUGETSU_TURN\" \"$ODD\"; echo ready; SLEEP",
    );
    spec.set_env.push(("SECRET".into(), secret.clone().into()));
    spec.set_env.push(("GONE".into(), "here".into()));
    spec.set_env.push(("ODD".into(), odd));
    spec.remove_env.push("GONE".into());
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    let expected = [
        secret.as_bytes(),
        b",unset,",
        world.turn.to_string().as_bytes(),
        b",a\xff\nb,",
    ]
    .concat();
    let mut out = vec![0; expected.len()];
    guarded
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut out)
        .await
        .unwrap();
    assert_eq!(out, expected);
    for pid in [guarded.pid(), guarded.guard_pid()] {
        assert!(!cmdline(pid).contains(&secret));
    }
    let guard_environment = std::fs::read(format!("/proc/{}/environ", guarded.guard_pid())).unwrap();
    assert!(!String::from_utf8_lossy(&guard_environment).contains(&secret));
    guarded.kill().await;
    wait(&mut guarded).await;
}

#[tokio::test]
async fn a_guard_does_not_show_under_the_names_that_people_kill() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("SLEEP")).await.unwrap();
    let name = std::fs::read_to_string(format!("/proc/{}/comm", guarded.guard_pid())).unwrap();
    for shown in [name, cmdline(guarded.guard_pid())] {
        assert!(
            !shown.contains("kugetsu") && !shown.contains("opencode"),
            "{shown}"
        );
    }
    guarded.kill().await;
    wait(&mut guarded).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error_with_the_reason() {
    let world = World::new();
    let mut spec = world.spec("");
    spec.program = "/nowhere/opencode".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(
        matches!(error, ProcessError::Start { not_found: true, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("/nowhere/opencode"), "{error}");

    let mut spec = world.spec("");
    spec.cwd = "/nowhere".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(
        matches!(error, ProcessError::Start { not_found: true, .. }),
        "{error}"
    );

    let mut spec = world.spec("");
    spec.program = std::env::temp_dir();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(
        matches!(error, ProcessError::Start { not_found: false, .. }),
        "{error}"
    );

    let mut spec = world.spec("");
    spec.containment.guard_program = "/nowhere/kugetsu".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(matches!(error, ProcessError::Guard { .. }), "{error}");

    let mut spec = world.spec("");
    spec.containment.guard_program = "/bin/true".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(matches!(error, ProcessError::GuardEnded { .. }), "{error}");
}

#[tokio::test]
async fn everything_below_a_program_that_runs_on_is_ended() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let mut spec = world.spec(&wild("echo ready; while ! test -e \"$GO\"; do :; done; exit 3"));
    spec.set_env.push(("GO".into(), go.clone().into()));
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    ready(&mut guarded).await;
    world.until_found(WILD_COUNT + 1);
    let tree = guarded.tree().unwrap();
    assert_eq!(tree.program(), guarded.pid());
    assert!(tree.count_others() >= WILD_COUNT);
    tokio::task::spawn_blocking(move || tree.end_others())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(tree.count_others(), 0);
    // The program itself lives, and ends as it likes.
    std::fs::write(go, "").unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Code(3));
    world.nothing_left();
}
