//! The life of a session on the real opencode: continuing the right session, removing and restoring it, explaining its
//! permissions, following its turns.

use crate::support::kit::{SOON, known_sessions, opencode_sessions, record, run, session_of, snapshot, text};
use kugetsu_testing::{Gate, Reply, Request, Stdin, on_both_versions, without_mark};
use serde_json::{Value, json};

fn users(request: &Request) -> Vec<String> {
    request
        .user_texts()
        .iter()
        .map(|text| without_mark(text).trim().to_owned())
        .collect()
}

on_both_versions! {
    fn doctor_asks_the_model_and_leaves_no_session(world: &World) {
        world.make_base();
        let before = opencode_sessions(world);
        let check = |more: &[&str], status: i32| -> Vec<Value> {
            let output = run(world, ["doctor", "--model-check", "--json"].into_iter().chain(more.iter().copied()));
            let checks = output.expect_status(status).json()["checks"].clone();
            let checks = checks.as_array().expect("a list").clone();
            checks.into_iter().filter(|check| check["what"].as_str().unwrap().starts_with("model")).collect()
        };
        let good = check(&[], 0);
        assert_eq!((&good[0]["health"], &good[1]["detail"]), (&json!("ok"), &json!("yes")), "{good:?}");
        let bad = check(&["--model", "foo/bar"], 69);
        assert_eq!((&bad[0]["health"], &bad[1]["health"]), (&json!("bad"), &json!("bad")), "{bad:?}");
        assert_eq!(opencode_sessions(world), before);
        world.wait_nothing_left(SOON);
    }

    fn the_stored_session_is_continued_and_comes_back(world: &World) {
        // A stdin that stays open and silent, and no terminal.
        let mut init = world.spawn_with(["init", "--json"], Stdin::OpenSilent);
        world.wait_until("init has ended", SOON, || !init.is_alive());
        let made = init.wait(SOON);
        made.expect_status(0);
        let base = text(&made.json()["session"]);
        assert!(world.model.requests().is_empty(), "init asks no model");
        run(world, ["init"]).expect_status(64);
        assert_eq!(opencode_sessions(world), [base.clone()].into());

        run(world, ["start", "1", "one begins", "--transport", "run"]).expect_status(0);
        run(world, ["start", "2", "two begins", "--transport", "run"]).expect_status(0);
        // The newest session is #2's, which 1.3.2 would continue with --continue.
        run(world, ["continue", "1", "one goes on", "--transport", "run"]).expect_status(0);
        let (one, two) = (session_of(world, "1"), session_of(world, "2"));
        assert_eq!(opencode_sessions(world), [base.clone(), one.clone(), two.clone()].into());
        let asked = world.model.turn_requests_with("one goes on");
        assert_eq!(users(&asked[0]), ["one begins", "one goes on"]);
        assert_eq!(crate::support::kit::prompts_of(world, &two), ["two begins"]);
        assert_eq!(crate::support::kit::prompts_of(world, &base), [""; 0]);

        let destroyed = run(world, ["destroy", "1", "-y", "--json"]);
        destroyed.expect_status(0);
        assert_eq!(destroyed.json()["messages_exported"], 4, "{destroyed}");
        assert_eq!(opencode_sessions(world), [base.clone(), two.clone()].into());
        run(world, ["restore", "1"]).expect_status(0);
        assert_eq!(session_of(world, "1"), one);
        let row = world.session(&one);
        assert!(row.permission.is_some_and(|rules| rules.contains("question")), "the policy is back");
        run(world, ["continue", "1", "one is back"]).expect_status(0);
        let asked = world.model.turn_requests_with("one is back");
        assert_eq!(users(&asked[0]), ["one begins", "one goes on", "one is back"]);
        assert_eq!(opencode_sessions(world), [base, one, two].into());
        world.wait_nothing_left(SOON);
    }

    fn a_base_has_a_prompt_and_its_turns_are_watched(world: &World) {
        let gate = Gate::new();
        world.model.on("read the rules", vec![Reply::text("read").behind(&gate)]);
        let init = world.spawn(["init", "--prompt", "read the rules", "--json"]);
        gate.wait_arrived(SOON);
        let status = || {
            let file = world.kugetsu_home().join("run").join(crate::support::kit::REPO).join("base.status.json");
            serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap()
        };
        assert_eq!((&status()["state"], &status()["pid"]), (&json!("running"), &json!(init.pid())));
        gate.open();
        let made = init.wait(SOON);
        made.expect_status(0);
        assert_eq!((&status()["state"], &status()["verdict"]), (&json!("stopped"), &json!("completed")));
        let cost = &made.json()["prompted"];
        assert_eq!(cost["turns"], 1, "{made}");
        assert!(cost["tokens"]["output"].as_u64() > Some(0), "{made}");
        assert_eq!(run(world, ["list", "--json"]).json()["bases"][0]["prompted"], *cost);

        let gate = Gate::new();
        world.model.on("be stopped", vec![Reply::text("never").behind(&gate)]);
        let init = world.spawn(["init", "--force", "--prompt", "be stopped"]);
        gate.wait_arrived(SOON);
        let signal = world.kugetsu_home().join("run").join(crate::support::kit::REPO).join("base.signal.json");
        std::fs::write(signal.with_extension("new"), r#"{"signal": "stop"}"#).unwrap();
        std::fs::rename(signal.with_extension("new"), &signal).unwrap();
        let stopped = init.wait(SOON);
        stopped.expect_status(143);
        assert!(stopped.stderr().contains("kugetsu init --adopt ses_"), "{stopped}");
        assert_eq!((&status()["ref"], &status()["verdict"]), (&json!("github.com/shoko/kugetsu"), &json!("aborted")));
        let first = text(&made.json()["session"]);
        let file = world.root().join("prompt.md");
        std::fs::write(&file, "read them again\n").unwrap();
        let file = file.to_str().unwrap();
        let forced = run(world, ["init", "--force", "--prompt-file", file, "--debug", "--json"]);
        forced.expect_status(0);
        assert_ne!(text(&forced.json()["session"]), first);
        let log = world.kugetsu_home().join("sessions").join(crate::support::kit::REPO).join("base/debug.log");
        let log = std::fs::read_to_string(log).unwrap();
        // The log holds the turn, both from opencode and from kugetsu.
        assert!(log.contains("DEBUG") && log.contains("providerID=scripted"), "{log}");
        assert_eq!(run(world, ["list", "--json"]).json()["bases"].as_array().map(Vec::len), Some(1));

        let rules = run(world, ["permit", "--base", "bash:git push *=deny", "--explain", "--json"]);
        rules.expect_status(0);
        let rows = rules.json()["permissions"].as_array().expect("a list").clone();
        for class in ["question", "bash", "external_directory", "doom_loop"] {
            assert!(rows.iter().any(|row| row["permission"] == class), "{class}\n{rules}");
        }

        let gate = Gate::new();
        world.model.on("work", vec![Reply::bash("echo at it"), Reply::text("it is done").behind(&gate)]);
        let turn = world.spawn(["start", "1", "work"]);
        gate.wait_arrived(SOON);
        let mut following = world.spawn(["logs", "1", "-f", "--json"]);
        following.wait_for_stdout("echo at it", SOON);
        assert!(following.is_alive(), "it goes on while the turn does");
        gate.open();
        let turn = turn.wait(SOON);
        turn.expect_status(0);
        assert!(turn.stdout().contains("it is done"), "{turn}");
        let followed = following.wait(SOON);
        followed.expect_status(0);
        assert!(followed.stdout().contains("it is done"), "{followed}");
        let asked = world.model.turn_requests_with("work");
        assert_eq!(users(&asked[0]), ["read them again", "work"], "a fork begins with its base's prompt");
        let rules = world.session(&session_of(world, "1")).permission.unwrap_or_default();
        assert!(rules.contains("git push *"), "{rules}");
        run(world, ["permit", "1", "--remove", "bash:git push *"]).expect_status(0);
        let explained = run(world, ["permit", "1", "--explain"]);
        explained.expect_status(0);
        assert!(explained.stdout().contains("question"), "{explained}");
        let shown = run(world, ["show", "1", "--turns", "--json"]).json();
        assert_eq!(shown["turn_list"][0]["verdict"], "completed", "{shown}");
        assert_eq!(shown["totals"]["turns"], 1, "{shown}");
        world.wait_nothing_left(SOON);
    }

    fn a_session_of_a_person_is_adopted_and_one_that_is_gone_is_pruned(world: &World) {
        let theirs = world.start(world.opencode_command(["run", "--format", "json"]), Stdin::text("the rules are these"));
        let theirs = theirs.wait(SOON);
        theirs.expect_status(0);
        let base = text(&theirs.json_lines()[0]["sessionID"]);
        let row = world.session(&base);
        let adopted = run(world, ["init", "--adopt", &base, "--json"]);
        adopted.expect_status(0);
        assert_eq!((&adopted.json()["session"], &adopted.json()["adopted"]), (&base.as_str().into(), &true.into()));
        for (issue, transport) in [("1", "run"), ("2", "serve")] {
            let prompt = format!("begin {issue}");
            run(world, ["start", issue, &prompt, "--transport", transport]).expect_status(0);
            let asked = world.model.turn_requests_with(&prompt);
            assert_eq!(users(&asked[0]), ["the rules are these", &prompt], "a fork knows what the base was told");
        }
        let (one, two) = (session_of(world, "1"), session_of(world, "2"));
        assert_eq!(opencode_sessions(world), [base.clone(), one.clone(), two.clone()].into());
        assert_eq!(crate::support::kit::prompts_of(world, &base), ["the rules are these"]);
        assert_eq!(world.session(&base), row, "theirs is left as it was");

        let delete = world.opencode_command(["session", "delete", &one]);
        world.start(delete, Stdin::Null).wait(SOON).expect_status(0);
        let before = snapshot(world);
        let preview = run(world, ["prune"]);
        preview.expect_status(0);
        assert!(preview.stdout().contains(&one) && !preview.stdout().contains(&two), "{preview}");
        assert!(preview.stderr().contains("nothing was changed"), "{preview}");
        assert!(snapshot(world) == before, "without a terminal and --force nothing changes");
        let pruned = run(world, ["prune", "--force", "--json"]);
        pruned.expect_status(0);
        assert_eq!(pruned.json()["pruned"], pruned.json()["orphans"], "{pruned}");
        assert_eq!(pruned.json()["pruned"][0]["session"], one.as_str(), "{pruned}");
        assert!(record(world, "1").is_none() && known_sessions(world).contains(&one), "it is in the trash");
        run(world, ["continue", "2", "go on"]).expect_status(0);

        run(world, ["destroy", "--base", "-y"]).expect_status(0);
        assert_eq!(world.session(&base), row, "theirs stays in opencode");
        world.wait_nothing_left(SOON);
    }
}
