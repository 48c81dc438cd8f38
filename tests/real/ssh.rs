//! Commands on another host with the real opencode, through a real sshd on loopback.

use crate::support::kit::{SOON, colour_question, files_with};
use crate::support::sshd::{HOST, Sshd, other_home};
use kugetsu_testing::{Gate, Opencode, Reply, Signal, Stdin, Version, World, on_both_versions};
use serde_json::{Value, json};

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

/// A world, and another host with a base.
fn with_base() -> (World, Sshd) {
    let world = World::new(Opencode::Real(Version::V1_18_33));
    let sshd = Sshd::start(&world);
    sshd.configure(&world, &sshd.kugetsu());
    let repo = world.repo();
    let init = [
        "init",
        "--repo",
        "github.com/shoko/kugetsu",
        "--dir",
        repo.to_str().unwrap(),
    ];
    world
        .spawn(["--host", HOST].iter().chain(&init))
        .wait(SOON)
        .expect_status(0);
    (world, sshd)
}

mod who_asks_there_is_answered_from_here {
    use super::*;

    #[test]
    fn by_a_file_that_is_on_no_disk_there() {
        const SECRET: &str = "k9-very-secret-value";
        let (world, _sshd) = with_base();
        let folder = world.root().join("here");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("answers.json");
        let answers = json!({"questions": {"Colour": "green"}, "secrets": {"TOKEN": SECRET}});
        std::fs::write(&file, answers.to_string()).unwrap();
        let words = |verb, prompt| {
            [
                "--host",
                HOST,
                verb,
                "14",
                prompt,
                "--transport=serve",
                "--answers",
                file.to_str().unwrap(),
            ]
            .map(str::to_owned)
        };
        for (verb, prompt, more) in [
            ("start", "ask the file", ""),
            ("continue", "ask it detached", "--detach"),
        ] {
            let gate = Gate::new();
            let length = Reply::bash("echo \"it has ${#TOKEN} bytes\"");
            world.model.on(
                prompt,
                vec![colour_question(), length, Reply::text("answered").behind(&gate)],
            );
            let more = Some(more.to_owned()).filter(|word| !word.is_empty());
            let running = world.spawn(words(verb, prompt).into_iter().chain(more));
            gate.wait_arrived(SOON);
            assert_eq!(
                files_with(world.root(), &[SECRET]),
                std::slice::from_ref(&file),
                "while the turn runs"
            );
            assert!(
                world
                    .processes()
                    .iter()
                    .all(|process| !process.command.contains(SECRET))
            );
            gate.open();
            running.wait(SOON).expect_status(0);
            let end = world.spawn(["--host", HOST, "wait", "14"]).wait(SOON);
            assert_eq!(end.expect_status(0).stdout(), "answered\n");
            let requests = world.model.turn_requests_with(prompt);
            let results = requests.last().unwrap().tool_results();
            assert!(
                results.iter().any(|result| result.contains("green")),
                "{results:?}"
            );
            let length = format!("it has {} bytes", SECRET.len());
            assert!(
                results.iter().any(|result| result.contains(&length)),
                "{results:?}"
            );
            assert_eq!(
                files_with(world.root(), &[SECRET]),
                std::slice::from_ref(&file),
                "when it is over"
            );
        }
        // An error in the file is reported with the file's local name.
        std::fs::write(&file, "{\"secrets\": 1}").unwrap();
        let wrong = world.run(words("continue", "never"));
        assert!(
            wrong.expect_status(64).stderr().contains(file.to_str().unwrap()),
            "{wrong}"
        );
        world.wait_nothing_left(SOON);
    }

    #[test]
    fn by_a_supervisor_on_stdin() {
        let (world, _sshd) = with_base();
        world.model.on(
            "ask the supervisor",
            vec![colour_question(), Reply::text("thanks")],
        );
        let words = [
            "--host",
            HOST,
            "start",
            "14",
            "--transport=serve",
            "--supervised",
            "ask the supervisor",
        ];
        let mut running = world.spawn_with(words, Stdin::OpenSilent);
        running.wait_for_stdout("\"type\":\"request\"", SOON);
        let lines = running.stdout_so_far();
        let mut lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let request = lines.find(|line| line["type"] == "request").unwrap();
        let reply = json!({"request": request["request"], "answer": ["green"]});
        running.write_stdin(format!("{reply}\n").as_bytes());
        let lines = running.wait(SOON).expect_status(0).json_lines();
        let response = lines.iter().find(|line| line["type"] == "response").unwrap();
        assert_eq!(response["by"], "supervisor", "{response}");
        assert_eq!(lines.last().unwrap()["verdict"], "completed");
        let requests = world.model.turn_requests_with("ask the supervisor");
        assert!(requests.last().unwrap().tool_results()[0].contains("green"));
        world.wait_nothing_left(SOON);
    }
}

mod the_same_turn_after_a_lost_connection_is_reported_and_not_run_again {
    use super::*;

    #[test]
    fn v1_18_33() {
        let (world, sshd) = with_base();
        let gate = Gate::new();
        world
            .model
            .on("wait for me", vec![Reply::text("never").behind(&gate)]);
        let turn = "01900000-0000-7000-8000-000000000051";
        let words = [
            "--host",
            HOST,
            "start",
            "14",
            "wait for me",
            "--turn-id",
            turn,
            "--output=json",
        ];
        let cut = world.spawn(words);
        gate.wait_arrived(SOON);
        assert!(sshd.drop_connections() > 0);
        cut.wait(SOON).expect_status(75);
        let again = world.spawn(words).wait(SOON);
        let reported = again.expect_status(143).json();
        assert_eq!(
            (&reported["turn"], &reported["verdict"]),
            (&json!(turn), &json!("aborted")),
            "{again}"
        );
        gate.open();
        let next = world
            .spawn(["--host", HOST, "continue", "14", "go on"])
            .wait(SOON);
        next.expect_status(0);
        let requests = world.model.turn_requests_with("go on");
        let users = requests[0].user_texts();
        assert_eq!(
            users.iter().filter(|text| text.contains("wait for me")).count(),
            1,
            "{users:?}"
        );
        world.wait_nothing_left(SOON);
    }
}
