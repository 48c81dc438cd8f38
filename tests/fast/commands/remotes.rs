//! The repository that a number alone belongs to: which of the clone's remotes names it.

use std::os::unix::fs::PermissionsExt;

use crate::support::kit::{fake_session, refused, run, run_in};
use kugetsu_testing::{Opencode, World};

/// A world whose clone has these remotes and these settings of git.
fn clone(remotes: &[(&str, &str)], settings: &[(&str, &str)]) -> World {
    let world = World::new(Opencode::Fake);
    world.git(&world.repo(), ["remote", "remove", "origin"]);
    for (name, url) in remotes {
        world.git(&world.repo(), ["remote", "add", name, url]);
    }
    for (key, value) in settings {
        world.git(&world.repo(), ["config", key, value]);
    }
    world
}

/// The address that `1` stands for.
#[track_caller]
fn address_of_1(world: &World) -> String {
    let shown = run(world, ["show", "1", "--json"]);
    let error = shown.expect_status(66).json()["error"].clone();
    error["ref"].as_str().expect("a reference").to_owned()
}

const FORK: (&str, &str) = ("origin", "https://github.com/ada/kugetsu.git");
const UPSTREAM: (&str, &str) = ("upstream", "https://github.com/shoko/kugetsu.git");

#[test]
fn upstream_comes_before_origin_and_the_choice_of_gh_before_both() {
    let base = ("remote.origin.gh-resolved", "base");
    let other = ("remote.origin.gh-resolved", "third/kugetsu");
    for (remotes, settings, expected) in [
        (&[FORK][..], &[][..], "github.com/ada/kugetsu#1"),
        (&[FORK, UPSTREAM], &[], "github.com/shoko/kugetsu#1"),
        (&[FORK, UPSTREAM], &[base], "github.com/ada/kugetsu#1"),
        (&[FORK, UPSTREAM], &[other], "github.com/third/kugetsu#1"),
        (&[("work", FORK.1)], &[], "github.com/ada/kugetsu#1"),
        (
            &[("origin", "gh:ada/kugetsu")],
            &[("url.https://github.com/.insteadOf", "gh:")],
            "github.com/ada/kugetsu#1",
        ),
    ] {
        assert_eq!(
            address_of_1(&clone(remotes, settings)),
            expected,
            "{remotes:?} {settings:?}"
        );
    }
    let unclear = clone(&[("a", FORK.1), ("b", UPSTREAM.1)], &[]);
    refused(&unclear, &["show", "1"], 64, &["the remotes a, b", "gh-resolved"]);
}

#[test]
fn start_says_which_remote_it_used_unless_that_is_origin() {
    for (remotes, says) in [
        (&[FORK, UPSTREAM][..], true),
        (&[UPSTREAM], true),
        (&[FORK], false),
    ] {
        let world = clone(remotes, &[]);
        let session = fake_session(&world);
        run(&world, ["init", "--adopt", &session]).expect_status(0);
        let started = run(&world, ["start", "1", "hello", "--transport", "run"]);
        let said = started
            .expect_status(0)
            .stderr()
            .contains("the remote `upstream` names the repository");
        assert_eq!(said, says, "{started}");
    }
}

#[test]
fn a_session_from_before_upstream_is_named() {
    let world = clone(&[FORK], &[]);
    let session = fake_session(&world);
    run(&world, ["init", "--adopt", &session]).expect_status(0);
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    world.git(&world.repo(), ["remote", "add", UPSTREAM.0, UPSTREAM.1]);
    let hint = "github.com/ada/kugetsu#1 has one, from when `origin` named the repository and not `upstream`";
    for words in [&["show", "1"][..], &["continue", "1", "hi"], &["logs", "1"]] {
        refused(
            &world,
            words,
            66,
            &["github.com/shoko/kugetsu#1 has no session yet", hint],
        );
    }
    let other = run(&world, ["show", "2"]).expect_status(66).stderr();
    assert!(!other.contains("github.com/ada"), "{other}");
    run(&world, ["show", "ada/kugetsu#1"]).expect_status(0);
    run(&world, ["init", "--adopt", &session]).expect_status(0);
    let started = run(&world, ["start", "1", "hello", "--transport", "run"]);
    let note = "the remote `upstream` names the repository; github.com/ada/kugetsu#1 has a session as well";
    assert!(started.expect_status(0).stderr().contains(note), "{started}");
}

#[test]
fn a_host_of_the_ssh_configuration_is_looked_up() {
    let world = clone(&[("origin", "git@github-work:ada/kugetsu.git")], &[]);
    // OpenSSH takes the home folder from the password file, so a world cannot have a configuration of its own.
    let programs = world.root().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let ssh = programs.join("ssh");
    std::fs::write(
        &ssh,
        "#!/bin/sh\n[ \"$1 $2 $3\" = '-G -- github-work' ] && echo user git && echo hostname github.com\n",
    )
    .unwrap();
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let shown = run_in(&world, &[("PATH", &path)], &["show", "1", "--json"]);
    assert_eq!(
        shown.expect_status(66).json()["error"]["ref"],
        "github.com/ada/kugetsu#1",
        "{shown}"
    );
}

#[test]
fn a_missing_git_and_a_bare_repository_are_told() {
    let world = World::new(Opencode::Fake);
    for words in [&["show", "1", "--json"][..], &["init", "--json"]] {
        let output = run_in(&world, &[("PATH", "/nonexistent")], words);
        assert_eq!(
            output.expect_status(69).json()["error"]["code"],
            "git-missing",
            "{output}"
        );
    }
    let bare = world.bare_remote();
    refused(
        &world,
        &["init", "--dir", bare.to_str().unwrap()],
        64,
        &["bare repository"],
    );
}
