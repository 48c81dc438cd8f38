//! A user who may start no more processes and threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kugetsu_testing::{Output, Stdin, World, kugetsu_binary};

use super::*;

/// Runs the command as a user who may have this many processes and threads, this one included. The kernel sets no limit
/// to root, so root becomes another user, a new one each time, who gets the world.
#[track_caller]
fn limited(world: &World, most: usize, arguments: &[&str]) -> Output {
    static USERS: AtomicU32 = AtomicU32::new(0);
    let limit = format!("--nproc={most}");
    let mut command = if rustix::process::getuid().is_root() {
        let user = 1_000_000 + std::process::id() * 1000 + USERS.fetch_add(1, Ordering::Relaxed);
        let mut chown = world.command("chown");
        chown.args(["-R", &user.to_string()]).arg(world.root());
        world.finish(chown, Stdin::Null).expect_status(0);
        let mut command = world.command("setpriv");
        command.args([&format!("--reuid={user}"), "--clear-groups", "prlimit", &limit]);
        command
    } else {
        let mut command = world.command("prlimit");
        command.arg(limit);
        command
    };
    command.arg(kugetsu_binary()).args(arguments);
    world.start(command, Stdin::Null).wait(Duration::from_mins(2))
}

#[test]
fn a_user_who_may_start_nothing_more_is_told() {
    let world = world();
    let root = rustix::process::getuid().is_root();
    // Another user than root has processes already, so any other limit is of no use here.
    let limits = if root { 1..=18 } else { 1..=1 };
    for most in limits {
        for words in [
            &["continue", "1", "hello", "--transport", "run"][..],
            &["continue", "1", "hello", "--transport", "serve"],
            &["continue", "1", "hello", "--detach"],
            &["show", "1"],
            &["--host", "other", "list"],
        ] {
            let output = limited(&world, most, words);
            let runs_a_turn = words[0] == "continue" && words.len() == 5;
            assert!(output.code() != 0 || !runs_a_turn, "{most} {words:?}: {output}");
            assert!(
                !output.stderr().contains("panicked"),
                "{most} {words:?}: {output}"
            );
            // The turn of another process says it in its record. There is no host of that name.
            if output.code() != 0 && words[0] != "--host" {
                assert!(
                    output.stderr().contains("ulimit -u"),
                    "{most} {words:?}: {output}"
                );
                assert!([1, 69].contains(&output.code()), "{most} {words:?}: {output}");
                assert!(output.stderr().lines().count() <= 3, "{most} {words:?}: {output}");
            }
        }
    }
    if root {
        let output = limited(&world, 100, &["continue", "1", "hello", "--transport", "run"]);
        output.expect_status(0);
    }
}
