//! Tests of the guard that speak its protocol directly.

use std::io::Write;
use std::process::{Command, Stdio};

use kugetsu_testing::kugetsu_binary;

use super::*;

/// Writes the header that [`GuardSpec`] would, for a guard without our supervisor.
fn header(world: &World, script: &str, stdin_len: usize) -> String {
    let os = |text: &str| format!("{{\"Unix\":{:?}}}", text.as_bytes());
    let mark = os(&world.mark);
    let (sh, c, script, cwd, name) = (
        os("/bin/sh"),
        os("-c"),
        os(&world.script(script)),
        os("/"),
        os("TEST_MARK"),
    );
    format!(
        "{{\"program\":{sh},\"args\":[{c},{script}],\"cwd\":{cwd},\"set_env\":[[{name},{mark}]],\"remove_env\":[],\
         \"stdin_len\":{stdin_len},\"grace_ms\":3600000,\"turn\":\"{}\",\"cgroup\":true}}\n",
        world.turn
    )
}

fn bare_guard() -> std::process::Child {
    Command::new(kugetsu_binary())
        .arg("guard")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_guards_exit_code_alone_shows_how_the_program_ended() {
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137)] {
        let world = World::new();
        let mut guard = bare_guard();
        let mut control = guard.stdin.take().unwrap();
        control.write_all(header(&world, script, 0).as_bytes()).unwrap();
        assert_eq!(guard.wait().unwrap().code(), Some(code), "{script}");
    }
}

#[test]
fn the_end_of_a_plain_pipe_ends_the_tree_too() {
    let world = World::new();
    let mut guard = bare_guard();
    let mut control = guard.stdin.take().unwrap();
    control
        .write_all(header(&world, &wild("SLEEP"), 0).as_bytes())
        .unwrap();
    world.until_found(WILD_COUNT + 1);
    drop(control);
    assert_eq!(guard.wait().unwrap().code(), Some(128 + 15));
    world.nothing_left();
}

#[test]
fn a_guard_with_an_invalid_header_or_a_partial_prompt_starts_nothing() {
    let world = World::new();
    let half = header(&world, "SLEEP", 1000);
    for input in [
        &b""[..],
        b"\n",
        b"{}\n",
        b"\xff\xfe\x00",
        half.as_bytes(),
        &half.as_bytes()[..40],
    ] {
        let mut guard = bare_guard();
        guard.stdin.take().unwrap().write_all(input).unwrap();
        assert_eq!(
            guard.wait().unwrap().code(),
            Some(125),
            "{:?}",
            String::from_utf8_lossy(input)
        );
        world.nothing_left();
    }
}
