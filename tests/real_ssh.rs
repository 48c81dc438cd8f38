//! Commands on another host with the real opencode there, through a real sshd on loopback.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write what they need and may panic"
)]

#[path = "support/sshd.rs"]
#[allow(dead_code, reason = "another file of tests uses the rest")]
mod sshd;

use std::time::Duration;

use kugetsu_testing::{Gate, Reply, Signal, Stdin, on_both_versions};
use sshd::{HOST, Sshd, other_home};

const SOON: Duration = Duration::from_mins(2);
const PROMPT: &str = "fix it: 'single' \"double\" $(x) `y` \\ \u{1f980}\n\n end";

on_both_versions! {
    fn an_issue_lives_on_the_other_host(world: &World) {
        let sshd = Sshd::start(world);
        sshd.configure(world, &sshd.kugetsu());
        let repo = world.repo();
        let learn = world.root().join("learn this");
        std::fs::write(&learn, "learn: it's ours").unwrap();
        let over = |words: &[&str], stdin: Stdin| {
            world.spawn_with(["--host", HOST].iter().chain(words), stdin)
        };
        over(
            &[
                "init",
                "--dir",
                repo.to_str().unwrap(),
                "--repo",
                "github.com/shoko/kugetsu",
                "--prompt-file",
                learn.to_str().unwrap(),
            ],
            Stdin::Null,
        )
        .wait(SOON)
        .expect_status(0);
        assert_eq!(world.model.turn_requests()[0].last_user_text(), "learn: it's ours");

        world.model.on("fix it", vec![Reply::text("fixed")]);
        let started = over(&["start", "#14", "--output=json"], Stdin::text(PROMPT)).wait(SOON);
        assert_eq!(started.expect_status(0).json()["answer"], "fixed");
        let requests = world.model.turn_requests_with("fix it");
        assert_eq!(requests[0].last_user_text().trim_start_matches('\n'), PROMPT);

        let gate = Gate::new();
        world.model.on("wait", vec![Reply::text("never").behind(&gate), Reply::text("went on")]);
        let running = over(&["continue", "#14", "wait for me"], Stdin::Null);
        gate.wait_arrived(SOON);
        running.signal_group(Signal::Interrupt);
        running.wait(SOON).expect_status(130);
        world.wait_nothing_left(SOON);

        let went_on = over(&["continue", "#14", "wait no more"], Stdin::Null).wait(SOON);
        assert_eq!(went_on.expect_status(0).stdout().trim(), "went on");
        let mut show = world.kugetsu(["show", "#14", "--json"]);
        show.env("KUGETSU_HOME", other_home(world));
        assert_eq!(world.finish(show, Stdin::Null).json()["totals"]["turns"], 3);
        assert!(!world.kugetsu_home().join("sessions").exists());
        world.wait_nothing_left(SOON);
    }
}
