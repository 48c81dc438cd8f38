//! The life of a sandboxed session on both real versions.

use crate::support::kit::{SOON, run};
use kugetsu_testing::{Reply, on_both_versions};

on_both_versions! {
    fn a_sandboxed_session_lives_like_any_other(world: &World) {
        run(world, ["init", "--sandbox"]).expect_status(0);
        world.model.on("remember the word", vec![Reply::text("the word is heron")]);
        world.model.on("which word", vec![Reply::text("heron")]);

        run(world, ["start", "#1", "--worktree", "--detach", "remember the word"]).expect_status(0);
        run(world, ["wait", "#1"]).expect_status(0);
        let sandboxes = || std::fs::read_dir(world.kugetsu_home().join("sandboxes")).unwrap().count();
        assert_eq!(sandboxes(), 1);
        // Only its own database has the session.
        let session = run(world, ["show", "#1", "--json"]).json()["session"].clone();
        assert!(world.sessions().iter().all(|row| row.id != session), "{session}");
        run(world, ["doctor"]).expect_status(0);
        let pruned = run(world, ["prune", "--dry-run"]);
        assert!(!pruned.stdout().contains("#1"), "{pruned}");
        run(world, ["permit", "#1", "webfetch=deny"]).expect_status(0);
        run(world, ["attach", "#1"]).expect_status(64);

        run(world, ["destroy", "#1", "-y"]).expect_status(0);
        assert_eq!(sandboxes(), 0);
        run(world, ["restore", "#1"]).expect_status(0);
        let output = run(world, ["continue", "#1", "which word was it?"]);
        output.expect_status(0);
        let request = world.model.turn_requests_with("which word").pop().unwrap();
        assert_eq!(request.assistant_texts(), ["the word is heron"], "{output}");
        world.wait_nothing_left(SOON);
    }
}
