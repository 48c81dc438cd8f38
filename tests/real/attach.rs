//! `attach`: opencode's own terminal interface on a session, in a tmux terminal.

use crate::support::kit::{ISSUE, SOON};
use crate::support::proc::field;
use crate::support::sshd::{HOST, Sshd};
use crate::support::terminal::Terminal;
use kugetsu_testing::{Opencode, Reply, Version, World, on_both_versions};

on_both_versions! {
    fn the_session_is_shown_and_held_until_the_person_leaves(world: &World) {
        world.make_base();
        world.model.on("say the word", vec![Reply::text("the word is mellon")]);
        world.spawn(["start", ISSUE, "say the word"]).wait(SOON).expect_status(0);

        let here = world.run(["attach", ISSUE]);
        assert!(here.expect_status(64).stderr().contains("--print"), "{here}");
        let printed = world.run(["attach", ISSUE, "--print"]);
        let session = world.run(["show", ISSUE, "--json"]).json()["session"].as_str().unwrap().to_owned();
        let command = printed.expect_status(0).stdout();
        assert!(command.starts_with(&format!("cd {} && ", world.repo().display())), "{command}");
        assert!(command.trim_end().ends_with(&format!(" --session {session}")), "{command}");

        let kugetsu = kugetsu_testing::kugetsu_binary();
        let terminal = Terminal::start(world, &format!("'{}' attach '{ISSUE}'", kugetsu.display()));
        terminal.wait_for("the word is mellon");

        let holder = || world.run(["show", ISSUE, "--json"]).json()["in_use"]["pid"].as_u64();
        let refused = || {
            let refused = world.run(["continue", ISSUE, "meanwhile"]);
            assert!(refused.expect_status(75).stderr().contains("(attach)"), "{refused}");
            assert!(world.run(["show", ISSUE]).stdout().contains("in use      by process"));
        };
        refused();

        // With an empty prompt, Ctrl-C leaves the interface.
        terminal.press(&["C-c"]);
        world.wait_until("the interface has ended", SOON, || terminal.ended().is_some());
        assert_eq!(terminal.ended().as_deref(), Some("0"), "{}", terminal.screen());
        drop(terminal);
        world.wait_nothing_left(SOON);
        assert!(!world.run(["show", ISSUE]).stdout().contains("in use"));

        world.spawn(["continue", ISSUE, "afterwards"]).wait(SOON).expect_status(0);
        world.wait_nothing_left(SOON);

        // After kugetsu is killed, opencode's interface still runs.
        let over = world.root().join("over");
        let wait = format!("while [ ! -e '{}' ]; do sleep 0.1; done", over.display());
        let terminal = Terminal::start(world, &format!("'{}' attach '{ISSUE}'; {wait}", kugetsu.display()));
        terminal.wait_for("the word is mellon");
        let opencode = holder().unwrap();
        let guard = field(opencode, "PPid").unwrap().parse().unwrap();
        kill("-KILL", guard);
        refused();
        assert_eq!(holder(), Some(opencode));
        kill("-KILL", opencode);
        world.wait_until("the lease is free", SOON, || holder().is_none());
        std::fs::write(over, "").unwrap();
        world.wait_until("the terminal is done", SOON, || terminal.ended().is_some());
        drop(terminal);
        world.spawn(["continue", ISSUE, "and then"]).wait(SOON).expect_status(0);
        world.wait_nothing_left(SOON);
    }
}

fn kill(signal: &str, pid: u64) {
    let killed = std::process::Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(killed.unwrap().success(), "{signal} {pid}");
}

mod the_session_of_another_host_is_shown_here_and_held_there {
    use super::*;

    #[test]
    fn v1_18_33() {
        let world = World::new(Opencode::Real(Version::V1_18_33));
        let sshd = Sshd::start(&world);
        sshd.configure(&world, &sshd.kugetsu());
        let over = |words: &[&str]| world.spawn(["--host", HOST].iter().chain(words)).wait(SOON);
        let repo = world.repo();
        over(&[
            "init",
            "--repo",
            "github.com/shoko/kugetsu",
            "--dir",
            repo.to_str().unwrap(),
        ])
        .expect_status(0);
        world
            .model
            .on("say the word", vec![Reply::text("the word is mellon")]);
        over(&["start", "#14", "say the word"]).expect_status(0);

        let kugetsu = kugetsu_testing::kugetsu_binary();
        let attach = format!("'{}' --host {HOST} attach 14", kugetsu.display());
        let terminal = Terminal::start(&world, &attach);
        terminal.wait_for("the word is mellon");
        let refused = over(&["continue", "#14", "meanwhile"]);
        assert!(
            refused.expect_status(75).stderr().contains("(attach)"),
            "{refused}"
        );
        terminal.press(&["C-c"]);
        world.wait_until("the interface has ended", SOON, || terminal.ended().is_some());
        assert_eq!(terminal.ended().as_deref(), Some("0"), "{}", terminal.screen());
        drop(terminal);
        world.wait_nothing_left(SOON);

        // A lost connection ends the interface and releases the lease.
        let terminal = Terminal::start(&world, &attach);
        terminal.wait_for("the word is mellon");
        assert!(sshd.drop_connections() > 0);
        world.wait_until("ssh has ended", SOON, || terminal.ended().is_some());
        assert_eq!(terminal.ended().as_deref(), Some("75"), "{}", terminal.screen());
        drop(terminal);
        world.wait_nothing_left(SOON);
        assert!(
            !over(&["show", "#14"])
                .expect_status(0)
                .stdout()
                .contains("in use")
        );
    }
}
