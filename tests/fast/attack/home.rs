//! Another local user: what the home of kugetsu gives away, and what may be planted in it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::kit::{fake_world, files_below, record_path, run};
use kugetsu_testing::{Stdin, World};

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs kugetsu with this umask.
fn with_umask(world: &World, umask: &str, arguments: &[&str]) {
    let mut command = world.command("sh");
    command
        .args(["-c", "umask $0; exec \"$@\"", umask])
        .arg(kugetsu_testing::kugetsu_binary())
        .args(arguments);
    world.finish(command, Stdin::Null).expect_status(0);
}

#[test]
fn everything_is_for_the_owner_alone_whatever_the_umask() {
    let world = fake_world();
    // The world made the home itself, as a user would with `mkdir`.
    let before = files_below(&world.kugetsu_home());
    for arguments in [
        &["config", "set", "timeout", "5m"][..],
        &["start", "14", "hello", "--debug", "--transport", "run"],
        &["continue", "14", "again", "--transport", "run"],
        &["permit", "14", "webfetch=deny"],
        &["start", "15", "hello", "--transport", "run", "--detach"],
        &["wait", "15"],
        &["gc"],
        &["destroy", "14", "--yes"],
    ] {
        with_umask(&world, "000", arguments);
    }
    let mut looked_at = 0;
    for path in files_below(&world.kugetsu_home()) {
        if before.contains(&path) {
            continue;
        }
        looked_at += 1;
        let allowed = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), allowed, "{:o} {}", mode(&path), path.display());
    }
    assert!(looked_at > 10, "{looked_at}");
    for name in ["sessions", "trash"] {
        assert_eq!(mode(&world.kugetsu_home().join(name)), 0o700, "{name}");
    }
}

#[test]
fn a_home_that_others_may_write_is_refused() {
    let world = fake_world();
    run(&world, ["start", "14", "hello", "--transport", "run"]).expect_status(0);
    run(&world, ["config", "set", "timeout", "5m"]).expect_status(0);
    let home = world.kugetsu_home();
    for path in [
        home.clone(),
        home.join("sessions"),
        home.join("run"),
        home.join("config.toml"),
    ] {
        let right = mode(&path);
        for wrong in [right | 0o020, right | 0o002] {
            chmod(&path, wrong);
            for verb in [&["list"][..], &["continue", "14", "x"], &["doctor"]] {
                let output = run(&world, verb.iter().copied());
                output.expect_status(73);
                let text = output.stderr();
                assert!(
                    text.contains("other users may write") && text.contains("chmod go-w"),
                    "{output}"
                );
            }
        }
        chmod(&path, right);
    }
    run(&world, ["list"]).expect_status(0);
}

#[test]
fn links_inside_the_store_are_not_followed() {
    let world = fake_world();
    run(&world, ["start", "14", "hello", "--transport", "run"]).expect_status(0);
    let record = record_path(&world, "14");
    let elsewhere = world.root().join("elsewhere.json");
    std::fs::rename(&record, &elsewhere).unwrap();
    symlink(&elsewhere, &record).unwrap();
    let before = std::fs::read(&elsewhere).unwrap();
    for verb in [
        &["show", "14"][..],
        &["continue", "14", "x", "--transport", "run"],
        &["permit", "14", "bash=deny"],
    ] {
        let output = run(&world, verb.iter().copied());
        assert_ne!(output.code(), 0, "{output}");
        assert!(output.stderr().contains("symbolic link"), "{output}");
    }
    assert_eq!(std::fs::read(&elsewhere).unwrap(), before);
    // A folder in which logs would be written.
    std::fs::remove_file(&record).unwrap();
    std::fs::rename(&elsewhere, &record).unwrap();
    let folder = record.with_extension("");
    let outside = world.root().join("outside");
    std::fs::rename(&folder, &outside).unwrap();
    symlink(&outside, &folder).unwrap();
    let count = files_below(&outside).len();
    let output = run(&world, ["continue", "14", "x", "--transport", "run"]);
    assert_ne!(output.code(), 0, "{output}");
    assert_eq!(files_below(&outside).len(), count, "{output}");
}
