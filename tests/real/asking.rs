//! Answers to opencode's requests on both real versions: from a file, a supervisor, the default, or a person later.
//! Secrets must not leak.

use std::path::{Path, PathBuf};

use crate::support::kit::{SOON, colour_question, files_with};
use kugetsu_testing::{Gate, Output, Reply, Stdin, ToolCall, World, on_both_versions};
use serde_json::{Value, json};

const SECRET: &str = "k9!\"very-secret\\value\n2";

/// A question of two parts; the first takes several labels.
fn two_questions() -> Reply {
    let option = |label: &str| json!({"label": label, "description": label});
    Reply::tool(
        "question",
        json!({"questions": [
            {"header": "Colours", "question": "Which colours?", "multiple": true,
             "options": [option("red"), option("green"), option("blue")]},
            {"header": "Size", "question": "Which size?", "options": [option("small"), option("large")]},
        ]}),
    )
}

/// A folder outside the project, which the policy therefore asks about; removed at the end.
struct Outside(PathBuf);

impl Outside {
    fn of(world: &World) -> Self {
        let name = world.root().file_name().expect("a world has a name");
        let folder = Path::new("/var/tmp").join(name);
        std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self(folder)
    }

    fn write(&self, name: &str) -> Reply {
        let file = self.0.join(name);
        Reply::tool("write", json!({"filePath": file, "content": "hello"}))
    }

    fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tool results that the model received after this prompt.
fn tool_results(world: &World, prompt: &str) -> String {
    let requests = world.model.turn_requests_with(prompt);
    requests
        .last()
        .map(|request| request.tool_results().concat())
        .unwrap_or_default()
}

/// Runs a turn of issue 1 to its end, with its stdin closed.
fn turn(world: &World, verb: &str, more: &[&str], prompt: &str) -> Output {
    let words = [
        &[verb, "#1", "--transport", "serve", "--output", "json"],
        more,
        &[prompt],
    ]
    .concat();
    world.spawn(words).wait(SOON)
}

fn answers(world: &World, content: &Value) -> String {
    let file = world.tmp().join("answers.json");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&file, content.to_string()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    file.display().to_string()
}

on_both_versions! {
    fn a_file_answers_questions_and_permissions_and_its_secrets_stay_secret(world: &World) {
        world.make_base();
        let world_name = world.root().file_name().unwrap().to_string_lossy().into_owned();
        let outside = format!("/var/tmp/{world_name}");
        let file = format!("{outside}/note.txt");
        std::fs::create_dir_all(&outside).unwrap();
        world.model.on("ask the file", vec![
            colour_question(),
            Reply::Tools(vec![ToolCall {
                name: "write".to_owned(),
                arguments: json!({"filePath": file, "content": "hello"}),
            }]),
            Reply::bash("printf '%s|' \"$TOKEN\"; printf '%s\\n' \"$TOKEN\" >&2"),
            Reply::text("all answered"),
        ]);
        let path = answers(world, &json!({
            "questions": {"Colour": "green"},
            "permissions": [{"permission": "external_directory", "action": "allow"}],
            "secrets": {"TOKEN": SECRET},
        }));
        let output = world
            .spawn(["start", "#1", "--transport", "serve", "--debug", "--json", "--answers", &path, "ask the file"])
            .wait(SOON);
        let written = std::fs::read_to_string(&file);
        std::fs::remove_dir_all(&outside).unwrap();
        output.expect_status(0);
        assert_eq!(written.unwrap(), "hello", "{output}");
        let requests = world.model.turn_requests_with("ask the file");
        let last = requests.last().unwrap();
        let results = last.tool_results();
        assert!(results[0].contains("green"), "{results:?}");
        assert!(results.iter().any(|result| result.contains(SECRET)), "the tool did not get the secret: {results:?}");

        let inner = |text: &str| {
            let quoted = Value::from(text).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        };
        let forms = [SECRET.to_owned(), inner(SECRET), inner(&inner(SECRET))];
        assert_eq!(files_with(&world.kugetsu_home(), &forms), Vec::<String>::new());
        for text in [output.stdout(), output.stderr()] {
            assert!(forms.iter().all(|form| !text.contains(form.as_str())), "{text}");
        }
        let lines = output.json_lines();
        crate::support::schema::assert_lines(&lines);
        assert_eq!(lines[0]["type"], "agent_start");
        let end = lines.last().unwrap();
        assert_eq!((&end["type"], &end["verdict"]), (&json!("agent_end"), &json!("completed")));
        let by: Vec<_> = lines.iter().filter(|line| line["type"] == "response").map(|line| line["by"].clone()).collect();
        assert_eq!(by, ["answers", "answers"], "{output}");
        assert!(output.stderr().contains("2 answers from the file"), "{output}");
        world.wait_nothing_left(SOON);
    }

    fn a_supervisor_answers_and_the_default_stands_in_for_a_silent_one(world: &World) {
        world.make_base();
        world.model.on("ask the supervisor", vec![colour_question(), Reply::text("thanks")]);
        let mut running = world.start(
            world.kugetsu(["start", "#1", "--transport", "serve", "--supervised", "ask the supervisor"]),
            Stdin::OpenSilent,
        );
        running.wait_for_stdout("\"type\":\"request\"", SOON);
        let line = running.stdout_so_far();
        let request: Value = line
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["type"] == "request")
            .unwrap();
        assert_eq!(request["detail"][0]["options"], json!(["red", "green"]), "{request}");
        // Invalid replies first: they must have no effect.
        running.write_stdin(b"no json\n{\"request\": \"que_other\", \"answer\": \"red\"}\n");
        let reply = json!({"request": request["request"], "answer": ["green"]});
        running.write_stdin(format!("{reply}\n").as_bytes());
        running.wait(SOON).expect_status(0);
        let requests = world.model.turn_requests_with("ask the supervisor");
        assert!(requests.last().unwrap().tool_results()[0].contains("green"));

        world.model.on("ask nobody", vec![colour_question(), Reply::text("thanks")]);
        let running = world.start(
            world.kugetsu([
                "continue", "#1", "--transport", "serve", "--supervised", "--response-timeout", "1s", "ask nobody",
            ]),
            Stdin::OpenSilent,
        );
        let output = running.wait(SOON);
        output.expect_status(0);
        let requests = world.model.turn_requests_with("ask nobody");
        assert!(requests.last().unwrap().tool_results().iter().any(|result| result.contains("red")), "{output}");
        // With a closed stdin nobody can reply, so the default does not wait ten minutes for it.
        world.model.on("ask the void", vec![colour_question(), Reply::text("thanks")]);
        let words = ["continue", "#1", "--transport", "serve", "--supervised", "--response-timeout", "10m", "ask the void"];
        let output = world.start(world.kugetsu(words), Stdin::Null).wait(SOON);
        output.expect_status(0);
        world.wait_nothing_left(SOON);
    }

    fn a_blocked_turn_waits_for_a_person_and_the_next_turn_delivers_the_answer(world: &World) {
        world.make_base();
        world.model.on("ask a person", vec![colour_question(), Reply::text("never")]);
        let output = world
            .spawn(["start", "#1", "--transport", "serve", "--on-ask", "block", "--output", "json", "ask a person"])
            .wait(SOON);
        output.expect_status(2);
        assert_eq!(output.json()["verdict"], "blocked", "{output}");
        world.wait_nothing_left(SOON);

        let pending = world.run(["pending", "--json"]).json();
        assert_eq!(pending["pending"][0]["ref"], "github.com/shoko/kugetsu#1");
        assert_eq!(pending["pending"][0]["requests"][0]["kind"], "question");
        world.run(["answer", "#1", "red", "blue", "green"]).expect_status(64);
        world.run(["answer", "#2", "red"]).expect_status(66);
        world.run(["answer", "#1", "green"]).expect_status(0);

        world.model.on("The answer: green", vec![Reply::text("then green")]);
        let output = world.spawn(["continue", "#1", "--transport", "serve"]).wait(SOON);
        output.expect_status(0);
        assert_eq!(output.stdout(), "then green\n");
        assert_eq!(world.run(["pending", "--json"]).json()["pending"], json!([]));

        world.run(["start", "#3", "--transport", "run", "--on-ask", "block", "x"]).expect_status(64);
    }
}

on_both_versions! {
    fn a_file_has_lists_refusals_and_a_default_and_the_setting_has_one_too(world: &World) {
        world.make_base();
        let outside = Outside::of(world);
        world.model.on("ask in parts", vec![two_questions(), Reply::text("thanks")]);
        let path = answers(world, &json!({"questions": {"Colours": ["red", "blue"], "Which size?": "large"}}));
        let listed = turn(world, "start", &["--answers", &path], "ask in parts");
        assert_eq!(listed.expect_status(0).json()["answered"]["file"], 1, "{listed}");
        let results = tool_results(world, "ask in parts");
        assert!(["red", "blue", "large"].iter().all(|label| results.contains(label)), "{results}");
        assert!(!results.contains("green"), "{results}");

        world.model.on("be refused", vec![outside.write("refused"), Reply::text("never")]);
        let path = answers(world, &json!({"permissions": [
            {"permission": "external_directory", "action": "allow"},
            {"permission": "external_directory", "pattern": "/var/tmp/*", "action": "deny"},
        ]}));
        let refused = turn(world, "continue", &["--answers", &path], "be refused");
        let reported = refused.expect_status(1).json();
        assert_eq!(reported["answered"]["file"], 1, "{refused}");
        assert!(reported["reason"].as_str().unwrap().contains("refused: external_directory"), "{refused}");
        assert!(!outside.has("refused"), "{refused}");

        let path = answers(world, &json!({"defaults": {"strategy": "first_option"}}));
        let file = ["--answers", path.as_str()];
        let nobody = ["--supervised", "--response-timeout", "1s"];
        for (prompt, flags, first) in [("first by file", &file[..], true), ("cancel by setting", &nobody, false)] {
            world.model.on(prompt, vec![colour_question(), Reply::text("thanks")]);
            let words = [&["continue", "#1", "--transport", "serve", "--output", "stream-json", prompt], flags].concat();
            let mut command = world.kugetsu(words);
            // The file takes precedence over the setting.
            command.env("KUGETSU_ON_QUESTION", "cancel");
            let output = world.start(command, Stdin::OpenSilent).wait(SOON);
            let lines = output.json_lines();
            let response = lines.iter().find(|line| line["type"] == "response").unwrap();
            assert_eq!(response["by"], "default", "{prompt}\n{output}");
            assert_eq!(response["answer"] == json!([["red"]]), first, "{prompt}\n{output}");
            let end = lines.iter().find(|line| line["type"] == "tool_execution_end").unwrap();
            let words = if first { &end["output"] } else { &end["error"] };
            assert!(words.as_str().unwrap().contains(if first { "red" } else { "dismissed" }), "{prompt}\n{output}");
        }

        // What the policy denies is refused in the same way whether a supervisor is silent or nobody is asked.
        for (name, flags) in [("silent", &nobody[..]), ("alone", &[])] {
            let prompt = format!("be denied {name}");
            world.model.on(&prompt, vec![outside.write(name), Reply::text("without it")]);
            let words = [&["continue", "#1", "--transport", "serve", "--json", &prompt], flags].concat();
            let denied = world.start(world.kugetsu(words), Stdin::OpenSilent).wait(SOON);
            denied.expect_status(0);
            let result = denied.json_lines().pop().unwrap();
            assert!(denied.stdout().contains("without it"), "{denied}");
            assert_eq!((&result["refused"]["count"], &result["refused"]["calls"][0]["tool"]), (&json!(1), &json!("write")), "{denied}");
            assert!(denied.stderr().contains("warning: 1 tool call was refused"), "{denied}");
            assert!(!outside.has(name), "{denied}");
        }
    }

    fn a_supervisor_allows_and_denies(world: &World) {
        world.make_base();
        let outside = Outside::of(world);
        for (verb, answer) in [("start", "allow"), ("continue", "deny")] {
            let prompt = format!("supervise {answer}");
            world.model.on(&prompt, vec![outside.write(answer), Reply::text("thanks")]);
            let words = [verb, "#1", "--transport", "serve", "--supervised", &prompt];
            let mut running = world.start(world.kugetsu(words), Stdin::OpenSilent);
            running.wait_for_stdout("\"type\":\"request\"", SOON);
            let line = running.stdout_so_far();
            let mut lines = line.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let request = lines.find(|line| line["type"] == "request").unwrap();
            assert_eq!((&request["kind"], &request["detail"]["permission"]), (&json!("permission"), &json!("external_directory")));
            let reply = json!({"request": request["request"], "answer": answer});
            running.write_stdin(format!("{reply}\n").as_bytes());
            let output = running.wait(SOON);
            output.expect_status(i32::from(answer == "deny"));
            assert!(output.stdout().contains("\"by\":\"supervisor\""), "{output}");
            assert_eq!(outside.has(answer), answer == "allow", "{output}");
        }
    }

    fn a_permission_that_a_person_gives_is_for_one_turn_and_outlives_a_crash(world: &World) {
        world.make_base();
        let outside = Outside::of(world);
        let action = || world.run(["query"]).expect_status(0).json()["actions"][0].clone();
        let waiting = || world.run(["query"]).expect_status(0).json()["pending"].clone();
        let carried = || {
            let record = world.run(["show", "1", "--json"]).json();
            world.session(record["session"].as_str().unwrap()).permission.unwrap()
        };
        let rule = |rules: &str| rules.contains(outside.0.to_str().unwrap());
        world.model.on("write outside", vec![outside.write("first"), Reply::text("never")]);
        let killed = |verb: &str, prompt: &str, point: &str| {
            let mut command = world.kugetsu([verb, "#1", "--transport", "serve", "--on-ask", "block", prompt]);
            command.env("KUGETSU_CRASH_AT", point);
            let killed = world.start(command, Stdin::Null).wait(SOON);
            assert_eq!(killed.signal(), Some(9), "{killed}");
            world.wait_nothing_left(SOON);
        };
        // The turn's line is written; its record is not.
        killed("start", "write outside", "turn_logged");
        world.run(["doctor", "--fix"]).expect_status(0);
        assert_eq!(waiting()[0]["kind"], "permission");
        let blocked = action();
        assert_eq!(blocked["state"], "blocked", "{blocked}");
        assert!(blocked["action"].as_str().unwrap().starts_with("kugetsu answer"), "{blocked}");
        world.run(["answer", "#1", "maybe"]).expect_status(64);
        world.run(["answer", "#1", "allow"]).expect_status(0);
        let answered = action();
        assert_eq!(answered["action"], "kugetsu continue github.com/shoko/kugetsu#1", "{answered}");
        assert_eq!(waiting(), json!([]));
        let listed = world.run(["pending"]);
        assert!(listed.stdout().contains("answered \"allow\"; the next continue delivers it"), "{listed}");

        let gate = Gate::new();
        world.model.on("You may use external_directory", vec![outside.write("second"), Reply::text("done").behind(&gate)]);
        let next = world.spawn(["continue", "#1", "--transport", "serve"]);
        gate.wait_arrived(SOON);
        assert!(rule(&carried()), "{}", carried());
        gate.open();
        let output = next.wait(SOON);
        assert_eq!(output.expect_status(0).stdout(), "done\n");
        assert!(outside.has("second") && !outside.has("first"), "{output}");
        assert!(!rule(&carried()), "{}", carried());
        assert_eq!(world.run(["query"]).json()["actions"], json!([]));

        world.model.on("once more", vec![outside.write("third"), Reply::text("never")]);
        // Killed before the line: the turn is lost, but its request is not.
        killed("continue", "once more", "request_recorded");
        world.run(["answer", "#1", "deny"]).expect_status(0);
        world.model.on("You may not use external_directory", vec![outside.write("fourth"), Reply::text("so be it")]);
        let next = turn(world, "continue", &[], "as I said");
        assert_eq!(next.expect_status(0).json()["answer"], "so be it", "{next}");
        assert!(!rule(&carried()) && !outside.has("fourth"), "{next}");
    }
}
