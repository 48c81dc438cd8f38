//! Sessions other than an issue's own, on the real opencode.

use crate::support::kit::{SOON, opencode_sessions, run, text};
use kugetsu_testing::{Request, on_both_versions};

fn users(request: &Request) -> Vec<String> {
    let texts = request.user_texts();
    texts.iter().map(|text| text.trim().to_owned()).collect()
}

on_both_versions! {
    fn an_issue_its_role_and_a_named_session_keep_apart(world: &World) {
        run(world, ["init"]).expect_status(0);
        let all = ["14", "14/review", "~nightly"];
        let sessions = all.map(|address| {
            let prompt = format!("{address} begins");
            let started = run(world, ["start", address, &prompt, "--output", "json"]);
            started.expect_status(0);
            text(&started.json()["session"])
        });
        let [issue, role, named] = &sessions;
        assert!(issue != role && role != named && issue != named);
        for address in all {
            let prompt = format!("{address} goes on");
            run(world, ["continue", address, &prompt]).expect_status(0);
            let asked = world.model.turn_requests_with(&prompt);
            assert_eq!(users(&asked[0]), [format!("{address} begins"), prompt]);
        }
        // The issue is destroyed and restored; its role stays.
        run(world, ["destroy", "14", "-y"]).expect_status(0);
        assert!(!opencode_sessions(world).contains(issue));
        run(world, ["destroy", "~nightly", "-y"]).expect_status(0);
        run(world, ["continue", "14/review", "14/review is still here"]).expect_status(0);
        for address in ["14", "~nightly"] {
            run(world, ["restore", address]).expect_status(0);
            let prompt = format!("{address} is back");
            run(world, ["continue", address, &prompt]).expect_status(0);
            let asked = world.model.turn_requests_with(&prompt);
            assert_eq!(users(&asked[0]).len(), 3);
        }
        for session in sessions {
            assert!(opencode_sessions(world).contains(&session));
        }
        world.wait_nothing_left(SOON);
    }
}
