//! The API over HTTP: tasks, events, sessions, and errors.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kugetsu_testing::World;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Request, has_got, socket, status, submit, task, wait_for_state, world, world_with};
use crate::support::kit::{self, ISSUE, SOON, run, text};

#[test]
fn a_task_of_an_issues_url_runs_and_streams() {
    let world = world_with(&["--listen", "127.0.0.1:0"]);
    let body = json!({
        "prompt": "Triage this issue and label it.",
        "context": { "issue_url": "https://github.com/shoko/kugetsu/issues/14" },
        "stream": true,
    });
    let streamed = Request::over_http(&world, Method::POST, "/v1/tasks")
        .json(&body)
        .send();
    streamed.expect(200);
    assert_eq!(streamed.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> = streamed
        .body
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.first().unwrap()["type"], "agent_start", "{lines:#?}");
    assert_eq!(lines.last().unwrap()["type"], "agent_end", "{lines:#?}");
    assert_eq!(lines[0]["ref"], ISSUE);
    // Submit and poll.
    let mut body = body;
    body["stream"] = json!(false);
    let accepted = Request::over_http(&world, Method::POST, "/v1/tasks")
        .json(&body)
        .send();
    let id = text(&accepted.expect(202).json()["task_id"]);
    assert_eq!(accepted.headers["location"], format!("/v1/tasks/{id}"));
    wait_for_state(&world, &id, "ended");
}

#[test]
fn the_readmes_curl_runs_a_task() {
    let world = world_with(&["--listen", "127.0.0.1:0"]);
    let listen = text(&status(&world)["listen"]);
    let blocks = kugetsu_testing::blocks("README.md", "text");
    let block = blocks.iter().find(|block| block.text.contains("curl")).unwrap();
    let line = block.text.replace("http://127.0.0.1:7878", &listen);
    assert_ne!(line, block.text);
    let mut shell = world.command("sh");
    shell.args(["-euc", &line]);
    let printed = world.finish(shell, kugetsu_testing::Stdin::Null);
    printed.expect_status(0);
    let lines = printed.stdout();
    let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
    let ends = (lines.first().unwrap(), lines.last().unwrap());
    assert!(
        ends.0.contains("agent_start") && ends.1.contains("agent_end"),
        "{printed}"
    );
    assert!(ends.1.contains("\"completed\""), "{printed}");
}

#[test]
fn events_are_numbered_and_go_on_where_a_reader_stopped() {
    let world = world();
    let id = submit(&world, &["1", "hello"]);
    wait_for_state(&world, &id, "ended");
    let path = format!("/v1/tasks/{id}/events");
    let events = |last: Option<&str>| {
        let mut request =
            Request::over_socket(&world, Method::GET, &path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send();
        answer.expect(200);
        assert_eq!(answer.headers["content-type"], "text/event-stream");
        let events = answer.body.split("\n\n").filter(|event| event.contains("data: "));
        let fields = |event: &str| {
            let of = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {event:?}"))
                    .to_owned()
            };
            (of("id: "), serde_json::from_str::<Value>(&of("data: ")).unwrap())
        };
        events.map(fields).collect::<Vec<_>>()
    };
    let all = events(None);
    assert!(all.len() > 2, "{all:?}");
    for (at, (id, _)) in all.iter().enumerate() {
        assert_eq!(events(Some(id)), all[at + 1..], "after {id}");
    }
    assert_eq!(events(Some("nonsense")), all);
    assert_eq!(events(Some(&format!("{id}:99999999999"))), all, "another turn's");
}

#[test]
fn a_running_task_is_followed_by_several_readers() {
    let world = world();
    let id = submit(&world, &["1", "hang"]);
    world.wait_until("the task runs", SOON, || has_got(&world, "hang"));
    let tails: Vec<_> = (0..5)
        .map(|_| world.spawn(["tail", &id, "-f", "--json"]))
        .collect();
    run(&world, ["stop", "1"]).expect_status(0);
    for tail in tails {
        let tail = tail.wait(SOON);
        let last = tail.json_lines().pop().unwrap();
        assert_eq!(
            (&last["type"], &last["verdict"]),
            (&json!("agent_end"), &json!("aborted")),
            "{tail}"
        );
    }
}

#[test]
fn sessions_are_listed_shown_and_signalled() {
    let world = world();
    for issue in ["1", "2", "3"] {
        let id = submit(&world, &[issue, "hello"]);
        wait_for_state(&world, &id, "ended");
    }
    let get = |path: &str| {
        let answer = Request::over_socket(&world, Method::GET, path).send();
        answer.expect(200);
        answer.json()
    };
    let page = get("/v1/sessions?limit=2&state=completed&repo=shoko/kugetsu");
    let next = text(&page["next"]);
    assert_eq!(page["sessions"].as_array().unwrap().len(), 2, "{page:#}");
    let rest = get(&format!(
        "/v1/sessions?limit=2&after={}",
        next.replace('#', "%23")
    ));
    assert_eq!(rest["sessions"].as_array().unwrap().len(), 1, "{rest:#}");
    assert!(rest.get("next").is_none(), "{rest:#}");
    let one = "github.com%2Fshoko%2Fkugetsu%231";
    let shown = get(&format!("/v1/sessions/{one}"));
    assert_eq!(
        (&shown["ref"], &shown["state"]),
        (&json!("github.com/shoko/kugetsu#1"), &json!("completed"))
    );
    assert_eq!(
        get(&format!("/v1/sessions/{one}/turns"))["turns"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(get("/v1/query")["sessions"]["completed"], 3);
    let post = |path: &str, body: Value| {
        Request::over_socket(&world, Method::POST, path)
            .json(&body)
            .send()
    };
    post(&format!("/v1/sessions/{one}/signal"), json!({"signal": "stop"})).problem(404, "not-running");
    post(&format!("/v1/sessions/{one}/answer"), json!({"answer": "allow"})).problem(404, "nothing-pending");
    let id = submit(&world, &["1", "hang"]);
    world.wait_until("the task runs", SOON, || has_got(&world, "hang"));
    world.wait_until("it is on record", SOON, || {
        post(&format!("/v1/sessions/{one}/signal"), json!({"signal": "stop"})).status == 202
    });
    assert_eq!(wait_for_state(&world, &id, "ended")["verdict"], "aborted");
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    let world = world();
    let post = |body: &str| {
        Request::over_socket(&world, Method::POST, "/v1/tasks")
            .header("content-type", "application/json")
            .body(body)
            .send()
    };
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 422),
        ("null", 422),
        (r#"{"prompt": "x"}"#, 400),
        (r#"{"prompt": "", "ref": "1"}"#, 400),
        (r#"{"prompt": " ", "ref": "shoko/kugetsu#1"}"#, 400),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "repo": "shoko/kugetsu"}"#,
            400,
        ),
        (r#"{"prompt": "x", "ref": "shoko/kugetsu#0"}"#, 400),
        (r#"{"prompt": "x", "ref": "../../etc/passwd#1"}"#, 400),
        (r#"{"prompt": "x", "ref": "--host=x"}"#, 400),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "model": "nonsense"}"#,
            400,
        ),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "priority": 1000}"#,
            400,
        ),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "limits": {"max_cost_usd": -1}}"#,
            400,
        ),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "limits": {"timeout_seconds": 0}}"#,
            400,
        ),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "answers": {"secrets": {"KEY": "value"}}}"#,
            422,
        ),
        (
            r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "policy": [{"permission": "bash", "action": "allow"}]}"#,
            422,
        ),
        (r#"{"prompt": "x", "ref": "shoko/kugetsu#1", "unknown": 1}"#, 422),
    ] {
        let answer = post(body);
        assert_eq!(answer.status.as_u16(), status, "{body}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{body}: {problem:#}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{problem:#}"
        );
    }
    too_large(&world);
    let get = |path: &str| Request::over_socket(&world, Method::GET, path).send();
    get("/v1/tasks?state=nonsense").problem(400, "usage");
    get("/v1/tasks?limit=x").problem(400, "usage");
    get("/v1/tasks/zzz").problem(404, "no-task");
    get("/v1/sessions/nonsense").problem(400, "invalid-ref");
    get("/v1/sessions/shoko%2Fkugetsu%2377").problem(404, "no-session");
    get("/nothing").problem(404, "not-found");
    Request::over_socket(&world, Method::DELETE, "/v1/tasks")
        .send()
        .problem(405, "usage");
    let key = Request::over_socket(&world, Method::POST, "/v1/tasks")
        .header("idempotency-key", &"k".repeat(300))
        .json(&json!({"prompt": "x", "ref": "shoko/kugetsu#1"}));
    key.send().problem(400, "usage");
    assert_eq!(run(&world, ["task", "list", "--json"]).json()["tasks"], json!([]));
}

#[test]
fn a_policy_only_narrows() {
    let world = world();
    let body = json!({
        "prompt": "hello", "ref": "shoko/kugetsu#1",
        "policy": [{"permission": "bash", "pattern": "git push *"}],
    });
    let accepted = Request::over_socket(&world, Method::POST, "/v1/tasks")
        .json(&body)
        .send();
    let id = text(&accepted.expect(202).json()["task_id"]);
    wait_for_state(&world, &id, "ended");
    assert_eq!(task(&world, &id)["policy"][0]["pattern"], "git push *");
    let call = world
        .fake_calls()
        .into_iter()
        .find(|call| call.prompt.as_deref() == Some("hello"))
        .unwrap();
    let rules = call.permission.unwrap_or_default();
    assert!(rules.contains("git push *"), "{rules}");
    // The session's own policy is as it was.
    assert!(!run(&world, ["permit", "1"]).stdout().contains("git push *"));
}

/// A message that is too long is refused before it is read, so the daemon closes the connection while it is sent.
fn too_large(world: &World) {
    let body = json!({"prompt": "x".repeat(2 << 20), "ref": "shoko/kugetsu#1"}).to_string();
    let mut stream = UnixStream::connect(socket(world)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(body.as_bytes());
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}

#[test]
fn the_document_of_the_api_is_that_of_the_code() {
    let world = world();
    let printed = run(&world, ["daemon", "openapi"]);
    printed.expect_status(0);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        printed.stdout() == kept,
        "{} is not what the code makes; write it anew with: cargo xtask schema",
        path.display()
    );
    let served = Request::over_socket(&world, Method::GET, "/v1/openapi.json").send();
    assert_eq!(
        served.expect(200).json(),
        serde_json::from_str::<Value>(&kept).unwrap()
    );
}

#[test]
fn answers_are_what_the_document_says() {
    let world = world();
    wait_for_state(&world, &submit(&world, &["1", "hello"]), "ended");
    let document = Request::over_socket(&world, Method::GET, "/v1/openapi.json")
        .send()
        .json();
    let id = submit(&world, &["1", "again"]);
    wait_for_state(&world, &id, "ended");
    let paths = document["paths"].as_object().unwrap();
    let mut checked = 0;
    for (path, operations) in paths {
        let schema = &operations["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let concrete = path
            .replace("{task}", &id)
            .replace("{session}", "github.com%2Fshoko%2Fkugetsu%231");
        let answer = Request::over_socket(&world, Method::GET, &concrete).send();
        let mut whole = json!({"components": document["components"]});
        whole
            .as_object_mut()
            .unwrap()
            .extend(schema.as_object().unwrap().clone());
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let value = answer.expect(200).json();
        let problems: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(problems.is_empty(), "{path}: {problems:#?}\n{value:#}");
        checked += 1;
    }
    assert!(checked >= 7, "{checked} answers were checked");
}

/// The most memory that a process has had, in bytes.
fn peak_memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn a_compressed_log_of_any_size_is_read_piece_by_piece() {
    const LARGE: usize = 80 << 20;
    let world = world();
    for (verb, message) in [("start", "one"), ("continue", "two")] {
        run(&world, [verb, "1", message, "--transport", "run"]).expect_status(0);
    }
    let shown = run(&world, ["show", "1", "--turns", "--json"]).json();
    let turn = text(&shown["turn_list"][0]["turn"]);
    let log = kit::record_path(&world, "1").with_file_name(format!("1/{turn}.events.jsonl"));
    let mut content = std::fs::read(&log).unwrap();
    let line = format!("{{\"type\":\"text\",\"text\":\"{}\"}}\n", "word ".repeat(20_000));
    while content.len() < LARGE {
        content.extend_from_slice(line.as_bytes());
    }
    std::fs::write(&log, &content).unwrap();
    let file = std::fs::File::options().append(true).open(&log).unwrap();
    let days = Duration::from_hours(3 * 24);
    file.set_modified(std::time::SystemTime::now() - days).unwrap();
    run(&world, ["gc"]).expect_status(0);
    assert!(
        !log.exists() && log.with_extension("jsonl.zst").exists(),
        "it is compressed"
    );

    let before = peak_memory(world.daemon().unwrap());
    let path = format!(
        "/v1/sessions/{}%231/events?turn={turn}&follow=false",
        kit::REPO.replace('/', "%2F")
    );
    let whole = Request::over_socket(&world, Method::GET, &path).send();
    whole.expect(200);
    assert!(whole.body.as_bytes() == content, "{} bytes", whole.body.len());
    let more = peak_memory(world.daemon().unwrap()) - before;
    assert!(more < LARGE / 3, "{more} bytes more");

    // From the last line on.
    let at = content.len() - line.len();
    let rest = Request::over_socket(&world, Method::GET, &path)
        .header("accept", "text/event-stream")
        .header("last-event-id", &format!("{turn}:{at}"))
        .send();
    rest.expect(200);
    assert_eq!(rest.body, format!("id: {turn}:{}\ndata: {line}\n", content.len()));
}

#[test]
fn the_query_from_memory_is_that_of_the_files() {
    let world = world();
    let same = |what: &str| {
        let summary = |mut query: Value| {
            // The rest is of the command, and the time is another one.
            query
                .as_object_mut()
                .unwrap()
                .retain(|field, _| !["time", "schema", "exit_status"].contains(&field.as_str()));
            query
        };
        let answer = Request::over_socket(&world, Method::GET, "/v1/query").send();
        let in_memory = summary(answer.expect(200).json());
        let on_disk = run(&world, ["query"]);
        on_disk.expect_status(0);
        assert_eq!(in_memory, summary(on_disk.json()), "{what}");
        in_memory
    };
    same("before the first session");
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    assert_eq!(same("after a turn")["sessions"]["completed"], 1);
    run(&world, ["start", "1/review", "hello", "--transport", "run"]).expect_status(0);
    assert_eq!(same("after another one")["sessions"]["completed"], 2);
    run(&world, ["continue", "1", "more", "--transport", "run"]).expect_status(0);
    assert_eq!(same("after a second turn")["totals"]["turns"], 3);
    run(&world, ["destroy", "1/review", "--yes"]).expect_status(0);
    assert_eq!(same("after one was destroyed")["sessions"]["total"], 1);
    let path = kit::record_path(&world, "1");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(
        same("after a file was spoiled")["broken"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    std::fs::write(&path, &text).unwrap();
    assert_eq!(same("after it was mended")["totals"]["turns"], 2);
}
