//! Issues of forges: requests that GitHub's published description allows, and a turn on the real opencode.

use std::fs;

use kugetsu_testing::{
    ForgeReply, ForgeServer, Opencode, Prism, Reply, ScriptedIssue, World, on_both_versions,
};
use serde_json::Value;

use crate::support::kit::{ISSUE, record, run, run_in};

fn configure(world: &World, url: &str) {
    fs::create_dir_all(world.kugetsu_home()).unwrap();
    let text = format!("[forges.\"github.com\"]\napi_url = \"{url}\"\n");
    fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
}

/// Prism stands between kugetsu and a server that gives the examples of the same document.
#[test]
fn github_allows_each_request_and_its_examples_are_understood() {
    let text = fs::read(Prism::document()).expect("Prism is not installed: run `cargo xtask test forge::`");
    let document: Value = serde_json::from_slice(&text).unwrap();
    let example = |name: &str| document["components"]["examples"][name]["value"].clone();
    let (mut issue, comments) = (example("issue"), example("issue-comment-items"));
    // Several pages: each gives the same comments.
    issue["comments"] = 250.into();
    let forge = ForgeServer::start();
    forge.on("/repos/shoko/kugetsu/issues/14", ForgeReply::json(&issue));
    forge.on(
        "/repos/shoko/kugetsu/issues/14/comments",
        ForgeReply::json(&comments),
    );
    let prism = Prism::start(&forge.url());
    for wrong in [
        "/repos/shoko/kugetsu/issues/x",
        "/repos/shoko/kugetsu/issues/14/comments?per_page=x",
    ] {
        let (status, answer) = prism.get(wrong);
        assert!((400..=599).contains(&status), "{wrong}: {answer}");
    }
    assert!(
        forge
            .requests()
            .iter()
            .all(|request| request.path != "/repos/shoko/kugetsu/issues/14")
    );

    let world = World::new(Opencode::Fake);
    configure(&world, &prism.url());
    for token in ["", "s3cret"] {
        forge.forget();
        let read = run_in(&world, &[("GH_TOKEN", token)], &["issue", "14", "--json"]);
        read.expect_status(0);
        let read = read.json();
        assert_eq!(read["title"], issue["title"]);
        assert_eq!(read["body"], issue["body"]);
        assert_eq!(read["author"], issue["user"]["login"]);
        assert_eq!(read["comments"][0]["body"], comments[0]["body"]);
        let paths: Vec<_> = forge.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(paths.len(), 4, "{paths:?}");
    }
    // How an unknown host is asked what it is.
    let (status, answer) = prism.get("/meta");
    assert!(status == 404 && answer.contains("Not Found"), "{answer}");
}

on_both_versions! {
    fn a_turn_gets_the_text_of_its_issue(world: &World) {
        let forge = ForgeServer::start();
        forge.github("shoko/kugetsu", 14, &ScriptedIssue::new("It crashes", "At once.", &["Here too."]));
        world.make_base();
        configure(world, &forge.url());
        world.model.on("fix the crash", [Reply::text("fixed")]);
        let output = run(world, ["start", "#14", "fix the crash", "--with-issue"]);
        assert!(output.expect_status(0).stdout().contains("fixed"), "{output}");
        let requests = world.model.turn_requests_with("fix the crash");
        let prompt = requests[0].last_user_text();
        let begin = format!("fix the crash\n\nThe text of the issue {ISSUE} follows");
        assert!(prompt.trim_start().starts_with(&begin), "{prompt}");
        let (_, fenced) = prompt.split_once("--- text from outside begins: ").unwrap();
        let (mark, text) = fenced.split_once(" ---\n").unwrap();
        assert!(text.starts_with("Title: It crashes\n"), "{text}");
        assert!(text.contains("\nAt once.\n") && text.contains("\nHere too.\n"), "{text}");
        assert!(text.contains(&format!("\n--- text from outside ends: {mark} ---")), "{text}");
        assert_eq!(record(world, "14").unwrap()["issue_title"], "It crashes");
    }
}
