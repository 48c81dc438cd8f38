//! Sessions other than an issue's own, on the real opencode.

use crate::support::kit::{SOON, opencode_sessions, run, text};
use kugetsu_testing::{Request, on_both_versions};

fn users(request: &Request) -> Vec<String> {
    let texts = request.user_texts();
    texts.iter().map(|text| text.trim().to_owned()).collect()
}

on_both_versions! {
    fn an_issue_its_role_and_a_named_session_keep_apart(world: &World) {
        world.make_base();
        let all = ["14", "14/review", "~nightly"];
        let sessions = all.map(|address| {
            let prompt = format!("{address} begins");
            let started = run(world, ["start", address, &prompt, "--output", "json"]);
            started.expect_status(0);
            text(&started.json()["session"])
        });
        let [issue, role, named] = &sessions;
        assert!(issue != role && role != named && issue != named);
        // The issue's own session is destroyed; its role and the named session stay.
        run(world, ["destroy", "14", "-y"]).expect_status(0);
        assert!(!opencode_sessions(world).contains(issue));
        for address in ["14/review", "~nightly"] {
            let prompt = format!("{address} goes on");
            run(world, ["continue", address, &prompt]).expect_status(0);
            let asked = world.model.turn_requests_with(&prompt);
            assert_eq!(users(&asked[0]), [format!("{address} begins"), prompt]);
        }
        assert!([role, named].iter().all(|session| opencode_sessions(world).contains(*session)));
        world.wait_nothing_left(SOON);
    }
}
