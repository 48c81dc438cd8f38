//! Who answers when opencode asks, on both real versions: a file, a supervisor, the default, or a person later.
//! And what a secret must never reach.

#[path = "support/schema.rs"]
mod schema;

use std::path::Path;
use std::time::Duration;

use kugetsu_testing::{Reply, Stdin, ToolCall, World, on_both_versions};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(2);
const SECRET: &str = "k9!\"very-secret\\value\n2";

fn question() -> Reply {
    Reply::tool(
        "question",
        json!({"questions": [{
            "header": "Colour",
            "question": "Which colour?",
            "options": [{"label": "red", "description": "r"}, {"label": "green", "description": "g"}],
        }]}),
    )
}

fn init(world: &World) {
    world.run(["init"]).expect_status(0);
}

fn answers(world: &World, content: &Value) -> String {
    let file = world.tmp().join("answers.json");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&file, content.to_string()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    file.display().to_string()
}

/// Every file below a folder that holds one of these, in any form that JSON gives them.
fn files_with(folder: &Path, words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(files_with(&path, words));
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            if words.iter().any(|word| text.contains(word)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

on_both_versions! {
    fn a_file_answers_questions_and_permissions_and_its_secrets_stay_secret(world: &World) {
        init(world);
        let world_name = world.root().file_name().unwrap().to_string_lossy().into_owned();
        let outside = format!("/var/tmp/{world_name}");
        let file = format!("{outside}/note.txt");
        std::fs::create_dir_all(&outside).unwrap();
        world.model.on("ask the file", vec![
            question(),
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
        schema::assert_lines(&lines);
        assert_eq!(lines[0]["type"], "agent_start");
        let end = lines.last().unwrap();
        assert_eq!((&end["type"], &end["verdict"]), (&json!("agent_end"), &json!("completed")));
        let by: Vec<_> = lines.iter().filter(|line| line["type"] == "extension_ui_response").map(|line| line["by"].clone()).collect();
        assert_eq!(by, ["answers", "answers"], "{output}");
        assert!(output.stderr().contains("2 answers from the file"), "{output}");
        world.wait_nothing_left(SOON);
    }

    fn a_supervisor_answers_and_the_default_stands_in_for_a_silent_one(world: &World) {
        init(world);
        world.model.on("ask the supervisor", vec![question(), Reply::text("thanks")]);
        let mut running = world.start(
            world.kugetsu(["start", "#1", "--transport", "serve", "--supervised", "ask the supervisor"]),
            Stdin::OpenSilent,
        );
        running.wait_for_stdout("extension_ui_request", SOON);
        let line = running.stdout_so_far();
        let request: Value = line
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["type"] == "extension_ui_request")
            .unwrap();
        assert_eq!(request["detail"][0]["options"], json!(["red", "green"]), "{request}");
        // Nonsense first: it must neither answer nor harm.
        running.write_stdin(b"no json\n{\"request\": \"que_other\", \"answer\": \"red\"}\n");
        let reply = json!({"request": request["request"], "answer": ["green"]});
        running.write_stdin(format!("{reply}\n").as_bytes());
        running.wait(SOON).expect_status(0);
        let requests = world.model.turn_requests_with("ask the supervisor");
        assert!(requests.last().unwrap().tool_results()[0].contains("green"));

        world.model.on("ask nobody", vec![question(), Reply::text("thanks")]);
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
        world.wait_nothing_left(SOON);
    }

    fn a_blocked_turn_waits_for_a_person_and_the_next_turn_delivers_the_answer(world: &World) {
        init(world);
        world.model.on("ask a person", vec![question(), Reply::text("never")]);
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
