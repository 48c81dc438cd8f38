//! `attach`: opencode's own terminal interface on an issue's session, in a terminal of tmux.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write what they need and may panic"
)]

#[path = "support/sshd.rs"]
#[allow(dead_code, reason = "another file of tests uses the rest")]
mod sshd;

use std::time::Duration;

use kugetsu_testing::{Opencode, Reply, Stdin, Version, World, on_both_versions};
use sshd::{HOST, Sshd};

const SOON: Duration = Duration::from_mins(2);
const ISSUE: &str = "github.com/shoko/kugetsu#14";

/// A tmux server of the test's own, ended with it.
struct Terminal<'a> {
    world: &'a World,
}

impl<'a> Terminal<'a> {
    /// A terminal that runs this and stays when it has ended.
    fn start(world: &'a World, shell: &str) -> Self {
        let terminal = Self { world };
        let config = world.root().join("tmux.conf");
        std::fs::write(&config, "set -g remain-on-exit on\n").unwrap();
        let start = [
            "-f",
            config.to_str().unwrap(),
            "new-session",
            "-d",
            "-x",
            "120",
            "-y",
            "40",
            shell,
        ];
        terminal.tmux(&start);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = self.world.command("tmux");
        command
            .args(["-L", "kugetsu-test"])
            .args(words)
            .env("TMUX_TMPDIR", self.world.tmp())
            .env("TERM", "xterm-256color");
        self.world.finish(command, Stdin::Null).expect_status(0).stdout()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn wait_for(&self, text: &str) {
        self.world
            .wait_until(&format!("{text:?} on the screen"), SOON, || {
                self.screen().contains(text)
                    || self
                        .ended()
                        .is_some_and(|_| panic!("it ended:\n{}", self.screen()))
            });
    }

    /// The exit status, once it has ended.
    fn ended(&self) -> Option<String> {
        let state = self.tmux(&["display-message", "-p", "#{pane_dead} #{pane_dead_status}"]);
        state.trim().strip_prefix("1 ").map(str::to_owned)
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut command = self.world.command("tmux");
        command
            .args(["-L", "kugetsu-test", "kill-server"])
            .env("TMUX_TMPDIR", self.world.tmp());
        let _ = command.output();
    }
}

on_both_versions! {
    fn the_session_is_shown_and_held_until_the_person_leaves(world: &World) {
        world.spawn(["init"]).wait(SOON).expect_status(0);
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

        let refused = world.run(["continue", ISSUE, "meanwhile"]);
        assert!(refused.expect_status(75).stderr().contains("(attach)"), "{refused}");
        assert!(world.run(["show", ISSUE]).stdout().contains("in use      by process"));

        // The prompt is empty, so this leaves.
        terminal.tmux(&["send-keys", "C-c"]);
        world.wait_until("the interface has ended", SOON, || terminal.ended().is_some());
        assert_eq!(terminal.ended().as_deref(), Some("0"), "{}", terminal.screen());
        drop(terminal);
        world.wait_nothing_left(SOON);
        assert!(!world.run(["show", ISSUE]).stdout().contains("in use"));
        world.spawn(["continue", ISSUE, "afterwards"]).wait(SOON).expect_status(0);
        world.wait_nothing_left(SOON);
    }
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
        terminal.tmux(&["send-keys", "C-c"]);
        world.wait_until("the interface has ended", SOON, || terminal.ended().is_some());
        assert_eq!(terminal.ended().as_deref(), Some("0"), "{}", terminal.screen());
        drop(terminal);
        world.wait_nothing_left(SOON);

        // A connection that is lost takes the interface along, and the lease is free.
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
