//! Tests of the test support, without the real opencode.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::support::http::{Answer, ask, send, turn};
use crate::support::proc::{SIGTERM, has_signal};
use kugetsu_testing::{
    FakeAttempt, FakeScript, Gate, ModelServer, Opencode, Output, Reply, ServeMode, Signal, Stdin, Step,
    ToolCall, World, usage,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn panic_text(action: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(action)).expect_err("it should panic");
    panic
        .downcast_ref::<String>()
        .cloned()
        .expect("a panic with a formatted text")
}

fn fake(script: &FakeScript) -> World {
    let world = World::new(Opencode::Fake);
    world.fake(script);
    world
}

fn fake_run(world: &World, arguments: &[&str], prompt: &str) -> Output {
    let arguments = ["run", "--format", "json"].iter().chain(arguments);
    world.finish(world.opencode_command(arguments), Stdin::text(prompt))
}

/// SIGTERM is signal 15, so bit 14 of the mask of ignored signals.
// The model.

#[test]
fn a_stream_has_text_finish_and_usage() {
    let model = ModelServer::start();
    model.otherwise(Reply::chunks(["one ", "two ", "three"], Duration::from_millis(1)));
    let answer = ask(&model, &turn(&["hello"]));
    assert!(answer.is_complete());
    assert!(answer.raw.contains("data: [DONE]\n"));
    assert_eq!(answer.text(), "one two three");
    assert_eq!(answer.finishes(), ["stop"]);
    let last = answer.events().pop().unwrap();
    assert_eq!(last["usage"]["prompt_tokens"], usage::INPUT);
    assert_eq!(last["usage"]["completion_tokens"], usage::OUTPUT);
    assert_eq!(
        last["usage"]["prompt_tokens_details"]["cached_tokens"],
        usage::CACHED
    );
}

#[test]
fn replies_follow_the_last_user_message_in_order_and_the_last_one_repeats() {
    let model = ModelServer::start();
    model.on("issue 14", vec![Reply::text("a"), Reply::text("b")]);
    model.on("issue 15", vec![Reply::text("c")]);
    let text = |messages: &[&str]| ask(&model, &turn(messages)).text();
    assert_eq!(text(&["issue 14"]), "a");
    assert_eq!(text(&["issue 14", "now issue 15"]), "c");
    assert_eq!(text(&["issue 14"]), "b");
    assert_eq!(text(&["issue 14"]), "b");
    assert_eq!(text(&["another"]), "done");
    model.on("issue 14", vec![Reply::text("given later")]);
    assert_eq!(text(&["issue 14"]), "given later");
    assert_eq!(model.turn_requests_with("issue 14").len(), 4);
}

#[test]
fn requests_are_recorded_and_title_requests_take_no_reply() {
    let model = ModelServer::start();
    model.on("fix", vec![Reply::text("first"), Reply::text("second")]);
    let mut title = turn(&["fix it"]);
    title.as_object_mut().unwrap().remove("tools");
    assert_eq!(ask(&model, &title).text(), "a title");
    assert_eq!(ask(&model, &turn(&["fix it"])).text(), "first");
    let mut after_tool = turn(&[]);
    after_tool["messages"] = json!([
        { "role": "user", "content": [{ "type": "text", "text": "fix " }, { "type": "text", "text": "this" }] },
        { "role": "tool", "tool_call_id": "1", "content": "its result" },
    ]);
    assert_eq!(ask(&model, &after_tool).text(), "second");
    let requests = model.requests();
    assert_eq!(
        requests
            .iter()
            .map(kugetsu_testing::Request::is_title_request)
            .collect::<Vec<_>>(),
        [true, false, false]
    );
    assert_eq!(requests[2].last_user_text(), "fix this");
    assert_eq!(requests[2].last_user_parts(), ["fix ", "this"]);
    assert_eq!(requests[2].tool_results(), ["its result"]);
    assert_eq!(requests[2].tool_names(), ["bash"]);
    assert_eq!(model.wait_for(2, SOON).len(), 2);
}

#[test]
fn a_wait_that_is_in_vain_tells_what_came() {
    let model = ModelServer::start();
    ask(&model, &turn(&["only this one"]));
    let text = panic_text(|| drop(model.wait_for(2, Duration::from_millis(30))));
    assert!(text.contains("1 of 2 turn requests"), "{text}");
    assert!(text.contains("only this one"), "{text}");
}

#[test]
fn tools_are_called_in_the_protocols_form() {
    let model = ModelServer::start();
    let call = |name: &str| ToolCall {
        name: name.to_owned(),
        arguments: json!({ "of": name }),
    };
    model.otherwise(Reply::Tools(vec![call("read"), call("bash")]));
    let answer = ask(&model, &turn(&["x"]));
    assert_eq!(answer.finishes(), ["tool_calls"]);
    let calls = answer.events()[1]["choices"][0]["delta"]["tool_calls"].clone();
    assert_eq!(
        calls[0]["function"],
        json!({ "name": "read", "arguments": r#"{"of":"read"}"# })
    );
    assert_eq!(calls[1]["index"], 1);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[test]
fn an_answer_can_come_whole() {
    let model = ModelServer::start();
    let mut request = turn(&["x"]);
    request["stream"] = Value::Bool(false);
    let answer = ask(&model, &request).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "done");
    assert_eq!(
        answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        usage::CACHED
    );
    model.otherwise(Reply::bash("ls"));
    let answer = ask(&model, &request).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_status_comes_with_its_headers_and_body() {
    let model = ModelServer::start();
    model.otherwise(Reply::Status {
        code: 429,
        body: "{}".to_owned(),
        headers: vec![("retry-after".to_owned(), "7".to_owned())],
    });
    let answer = ask(&model, &turn(&["x"]));
    assert!(answer.raw.starts_with("HTTP/1.1 429 "), "{}", answer.raw);
    assert!(answer.raw.contains("\r\nretry-after: 7\r\n"), "{}", answer.raw);
    assert_eq!(answer.json(), json!({}));
}

#[test]
fn a_stream_cut_short_ends_cleanly_and_a_dropped_one_does_not() {
    let model = ModelServer::start();
    model.on(
        "short",
        vec![Reply::CutShort {
            text: "half".to_owned(),
        }],
    );
    model.on("drop", vec![Reply::Drop]);
    let short = ask(&model, &turn(&["short"]));
    assert!(short.is_complete() && short.finishes().is_empty() && !short.raw.contains("usage"));
    assert_eq!(short.text(), "half");
    let dropped = ask(&model, &turn(&["drop"]));
    assert!(!dropped.is_complete(), "{}", dropped.raw);
    assert!(!dropped.text().is_empty());
}

#[test]
fn a_gate_holds_the_reply_until_it_is_opened() {
    let model = ModelServer::start();
    let gate = Gate::new();
    model.on("held", vec![Reply::text("through").behind(&gate)]);
    let mut held = send(&model, &turn(&["held"]));
    gate.wait_arrived(SOON);
    // Another session is served meanwhile, and this one has received nothing.
    assert_eq!(ask(&model, &turn(&["free"])).text(), "done");
    held.set_nonblocking(true).unwrap();
    assert_eq!(
        held.read(&mut [0]).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    held.set_nonblocking(false).unwrap();
    gate.open();
    assert_eq!(Answer::read(held).text(), "through");
    assert_eq!(ask(&model, &turn(&["held"])).text(), "through");
    assert_eq!(gate.arrived(), 2);
}

#[test]
fn dropping_the_server_ends_what_hangs_waits_and_sleeps() {
    let model = ModelServer::start();
    let gate = Gate::new();
    let hour = Duration::from_hours(1);
    model.on("hang", vec![Reply::Hang]);
    model.on("gate", vec![Reply::text("never").behind(&gate)]);
    model.on(
        "slow",
        vec![Reply::SlowStart(hour, Box::new(Reply::text("never")))],
    );
    model.on("pieces", vec![Reply::chunks(["a", "b"], hour)]);
    let open: Vec<_> = ["hang", "gate", "slow", "pieces"]
        .map(|text| send(&model, &turn(&[text])))
        .into();
    model.wait_for(4, SOON);
    drop(model);
    let answers: Vec<Answer> = open.into_iter().map(Answer::read).collect();
    assert!(answers.iter().all(|answer| !answer.is_complete()));
    assert!(answers[1].raw.is_empty() && answers[2].raw.is_empty());
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let model = ModelServer::start();
    let stream = send(&model, &turn(&["first"]));
    let again = stream.try_clone().unwrap();
    assert_eq!(Answer::read(stream).text(), "done");
    let body = turn(&["second"]).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    std::io::Write::write_all(&mut &again, request.as_bytes()).unwrap();
    assert_eq!(Answer::read(again).text(), "done");
    assert_eq!(model.requests()[1].last_user_text(), "second");
}

// The world.

#[test]
fn a_world_has_a_clean_repository_whose_origin_is_not_where_it_pushes() {
    let world = World::new(Opencode::Fake);
    assert_eq!(world.git(&world.repo(), ["status", "--porcelain"]).stdout(), "");
    assert_eq!(
        world
            .git(&world.repo(), ["remote", "get-url", "origin"])
            .stdout()
            .trim(),
        "https://github.com/shoko/kugetsu.git"
    );
    let bare = world.bare_remote();
    world.git(&world.repo(), ["push", "--quiet", "origin", "main"]);
    let head = world.git(&world.repo(), ["rev-parse", "HEAD"]).stdout();
    assert_eq!(world.git(&bare, ["rev-parse", "main"]).stdout(), head);
    let origin = world.git(&world.repo(), ["remote", "get-url", "origin"]).stdout();
    assert_eq!(origin.trim(), "https://github.com/shoko/kugetsu.git");
    let other = world.clone_repo("other", "https://codeberg.org/a/b.git");
    assert_ne!(world.git(&other, ["rev-parse", "HEAD"]).stdout(), head);
}

#[test]
fn nothing_of_the_callers_environment_but_path_reaches_a_command() {
    let world = World::new(Opencode::Fake);
    let output = world.finish(world.command("env"), Stdin::Null);
    let known = [
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "LC_ALL",
        "TERM",
        "SHELL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "NPM_CONFIG_FETCH_RETRIES",
    ];
    for line in output.expect_status(0).stdout().lines() {
        let (name, value) = line.split_once('=').unwrap();
        let ours = ["KUGETSU_", "OPENCODE_", "FAKE_OPENCODE", "GIT_"]
            .iter()
            .any(|start| name.starts_with(start));
        assert!(ours || known.contains(&name), "{line}");
        if matches!(name, "HOME" | "TMPDIR" | "KUGETSU_HOME") {
            assert!(std::path::Path::new(value).starts_with(world.root()), "{line}");
        }
    }
}

#[test]
fn a_command_that_does_not_end_is_killed_and_its_output_reported() {
    let world = World::new(Opencode::Fake);
    let mut command = world.command("sh");
    command.args(["-c", "echo to stdout; echo to stderr >&2; exec sleep 600"]);
    let mut running = world.start(command, Stdin::Null);
    running.wait_for_stdout("to stdout", SOON);
    world.wait_until("stderr came", SOON, || {
        running.stderr_so_far().contains("to stderr")
    });
    let text = panic_text(|| drop(running.wait(Duration::from_millis(20))));
    for part in ["not at its end after 20ms", "$ sh -c", "to stdout", "to stderr"] {
        assert!(text.contains(part), "{text}");
    }
    world.wait_nothing_left(SOON);
}

#[test]
fn a_status_that_was_not_expected_tells_everything() {
    let world = World::new(Opencode::Fake);
    let mut command = world.command("sh");
    command.args(["-c", "echo out; echo err >&2; exit 3"]);
    let output = world.finish(command, Stdin::Null);
    let text = panic_text(|| drop(output.expect_status(0).clone()));
    for part in ["exit status 3 instead of 0", "out\n", "err\n"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn signals_and_silent_stdin_reach_the_command() {
    let world = World::new(Opencode::Fake);
    let mut running = world.start(world.command("cat"), Stdin::OpenSilent);
    running.write_stdin(b"hello\n");
    running.wait_for_stdout("hello", SOON);
    running.signal(Signal::Terminate);
    assert_eq!(running.wait(SOON).signal(), Some(15));
    let mut running = world.start(world.command("cat"), Stdin::OpenSilent);
    assert!(running.is_alive());
    running.close_stdin();
    running.wait(SOON).expect_status(0);
    let running = world.start(world.command("cat"), Stdin::OpenSilent);
    running.kill9();
    assert_eq!(world.processes(), []);
}

// The fake opencode.

#[test]
fn the_fake_answers_and_stores_its_prompt() {
    let world = World::new(Opencode::Fake);
    let output = fake_run(&world, &["--title", "base"], "say \"hi\"\n");
    let events = output.expect_status(0).json_lines();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["step_start", "text", "step_finish"]);
    assert_eq!(events[1]["part"]["text"], "done");
    assert_eq!(events[2]["part"]["reason"], "stop");
    assert_eq!(events[2]["part"]["tokens"]["cache"]["read"], usage::CACHED);
    let [base] = &world.sessions()[..] else {
        panic!("one session")
    };
    assert_eq!(events[0]["sessionID"], base.id.as_str());
    assert!(
        base.permission
            .as_ref()
            .unwrap()
            .contains(r#""permission":"question""#)
    );
    assert_eq!(base.directory, world.repo().to_str().unwrap());

    fake_run(&world, &["--fork", "--session", &base.id], "go on").expect_status(0);
    let sessions = world.sessions();
    assert_eq!(
        (sessions[1].title.as_str(), &sessions[1].permission),
        ("base (fork #1)", &None)
    );
    let texts = world.sql(
        "SELECT session_id, data ->> 'text' FROM part WHERE data ->> 'type' = 'text' ORDER BY session_id DESC, id",
    );
    let texts = |id: &str| -> Vec<String> {
        let rows = texts.iter().filter(|row| row[0] == id);
        rows.map(|row| row[1].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts(&base.id), ["say \"hi\"\n", "done"]);
    assert_eq!(texts(&sessions[1].id), ["say \"hi\"\n", "done", "go on", "done"]);

    let unknown = fake_run(&world, &["--fork", "--session", "ses_unknown"], "x");
    assert!(unknown.expect_status(1).stderr().contains("Session not found"));
    let calls = world.fake_calls();
    assert_eq!(calls[0].prompt.as_deref(), Some("say \"hi\"\n"));
    assert_eq!(calls[1].arguments.last(), Some(&base.id));
    assert_eq!(calls.len(), 3);
}

#[test]
fn the_fake_exports_deletes_and_imports() {
    let world = World::new(Opencode::Fake);
    fake_run(&world, &[], "remember me").expect_status(0);
    let before = world.sessions();
    let id = before[0].id.as_str();
    let ask = |arguments: &[&str]| world.finish(world.opencode_command(arguments), Stdin::Null);
    let export = ask(&["export", id]);
    assert_eq!(export.json()["messages"].as_array().unwrap().len(), 2);
    let file = world.root().join("export.json");
    std::fs::write(&file, export.stdout()).unwrap();
    ask(&["session", "delete", id]).expect_status(0);
    assert_eq!(world.sessions(), []);
    assert_eq!(world.sql("SELECT * FROM part"), Vec::<Vec<Value>>::new());
    ask(&["session", "delete", id]).expect_status(1);
    ask(&["import", file.to_str().unwrap()]).expect_status(0);
    assert_eq!(world.sessions(), before);
    assert_eq!(ask(&["export", id]).json()["messages"], export.json()["messages"]);
    assert_eq!(ask(&["session", "list", "--format", "json"]).json()[0]["id"], id);
    assert_eq!(
        ask(&["db", "path"]).stdout().trim(),
        world.opencode_db().to_str().unwrap()
    );
    assert_eq!(ask(&["--version"]).stdout(), "1.18.33\n");
}

#[test]
fn the_fake_floods_and_sends_what_is_no_event() {
    let world = fake(
        &FakeScript::default()
            .on(
                "flood",
                [Step::Flood {
                    lines: 20_000,
                    bytes: 100,
                }],
            )
            .on("big", [Step::BigLine(3_000_000)])
            .on(
                "odd",
                [
                    Step::Raw("{\"type\":\"te".into()),
                    Step::Bytes(vec![b'\n', 0xff, 0xfe]),
                    Step::Stderr("e".into()),
                ],
            )
            .on(
                "error",
                [
                    Step::Error {
                        name: "APIError".into(),
                        message: "no".into(),
                    },
                    Step::Exit(7),
                ],
            ),
    );
    let flood = fake_run(&world, &[], "flood").json_lines();
    assert_eq!(flood.len(), 20_000);
    assert_eq!(flood[19_999]["part"]["text"].as_str().unwrap().len(), 100);
    assert_eq!(
        fake_run(&world, &[], "big").json()["part"]["text"]
            .as_str()
            .unwrap()
            .len(),
        3_000_000
    );
    let odd = fake_run(&world, &[], "odd");
    assert_eq!(
        (odd.stdout_bytes(), odd.stderr().as_str()),
        (&b"{\"type\":\"te\n\xff\xfe"[..], "e")
    );
    let error = fake_run(&world, &[], "error");
    assert_eq!(error.expect_status(7).json()["error"]["data"]["message"], "no");
}

#[test]
fn the_fakes_partial_line_comes_before_its_rest() {
    let world = fake(&FakeScript::steps([
        Step::Raw("{\"a\":".into()),
        Step::Hang,
        Step::Raw("1}\n".into()),
    ]));
    let mut running = world.start(world.opencode_command(["run"]), Stdin::text("x"));
    running.wait_for_stdout("{\"a\":", SOON);
    assert_eq!(running.stdout_so_far(), "{\"a\":");
    running.signal(Signal::Terminate);
    assert_eq!(running.wait(SOON).code(), 143);
}

#[test]
fn the_fake_can_do_nothing_and_then_something() {
    let nothing = FakeAttempt {
        stores_prompt: false,
        steps: vec![Step::Exit(0)],
    };
    let answer = FakeAttempt {
        stores_prompt: true,
        steps: vec![Step::Answer("at last".into())],
    };
    let world = fake(&FakeScript::default().on_attempts("x", [nothing, answer]));
    assert_eq!(fake_run(&world, &[], "x").expect_status(0).stdout(), "");
    assert_eq!(world.sql("SELECT id FROM message"), Vec::<Vec<Value>>::new());
    assert!(fake_run(&world, &[], "other").stdout().contains("done"));
    for _ in 0..2 {
        assert!(fake_run(&world, &[], "x").stdout().contains("at last"));
    }
}

#[test]
fn the_fake_waits_for_the_end_of_stdin() {
    let world = World::new(Opencode::Fake);
    let mut running = world.start(world.opencode_command(["run"]), Stdin::OpenSilent);
    running.write_stdin(b"half a prompt");
    assert!(running.is_alive());
    assert_eq!(world.fake_calls(), []);
    running.write_stdin(b", whole");
    running.close_stdin();
    running.wait(SOON).expect_status(0);
    assert_eq!(
        world.fake_calls()[0].prompt.as_deref(),
        Some("half a prompt, whole")
    );
}

#[test]
fn the_fake_can_ignore_sigterm() {
    let script = FakeScript::steps([Step::Raw("ready\n".into()), Step::Hang]);
    let world = fake(&FakeScript {
        ignore_term: true,
        ..script
    });
    let mut running = world.start(world.opencode_command(["run"]), Stdin::text("x"));
    running.wait_for_stdout("ready", SOON);
    assert!(has_signal(running.pid(), "SigIgn", SIGTERM));
    assert_eq!(world.fake_calls()[0].prompt.as_deref(), Some("x"));
    running.signal_group(Signal::Terminate);
    running.signal(Signal::Kill);
    assert_eq!(running.wait(SOON).signal(), Some(9));
}

#[test]
fn the_fakes_orphans_outlive_it_but_not_the_world() {
    let world = fake(&FakeScript::steps([
        Step::Orphan {
            ignore_term: true,
            holds_stdout: true,
        },
        Step::Orphan {
            ignore_term: false,
            holds_stdout: false,
        },
        Step::Raw("ready\n".into()),
        Step::Hang,
    ]));
    let mut running = world.start(world.opencode_command(["run"]), Stdin::text("x"));
    running.wait_for_stdout("ready", SOON);
    let pid = running.pid();
    world.wait_until("both orphans sleep", SOON, || {
        let alive = world.processes();
        let sleepers: Vec<_> = alive
            .iter()
            .filter(|process| process.command.ends_with("sleeper"))
            .collect();
        sleepers.len() == 2 && sleepers.iter().all(|process| process.parent != pid)
    });
    // The signal reaches the whole group, which the orphans have left.
    running.signal_group(Signal::Terminate);
    let output = running.wait(SOON);
    assert_eq!(output.signal(), Some(15));
    assert!(!output.pipes_closed, "an orphan holds stdout");
    let left = world.processes();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(
        left.iter()
            .filter(|process| has_signal(process.pid, "SigIgn", SIGTERM))
            .count(),
        1
    );
    drop(world);
    let alive = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    let end = Instant::now() + SOON;
    while left.iter().any(|process| alive(process.pid)) {
        assert!(Instant::now() < end, "the world left {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_fakes_database_can_be_locked_and_lack_columns() {
    let world = fake(&FakeScript::steps([
        Step::Raw("go\n".into()),
        Step::LockDatabase(600_000),
    ]));
    let mut running = world.start(world.opencode_command(["run"]), Stdin::text("x"));
    running.wait_for_stdout("go", SOON);
    let database = rusqlite::Connection::open(world.opencode_db()).unwrap();
    database.busy_timeout(Duration::ZERO).unwrap();
    world.wait_until("the database is locked", SOON, || {
        let locked = database.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err();
        locked && !world.sessions().is_empty()
    });
    running.kill9();
    drop(world.lock_database());

    let mut script = FakeScript {
        missing_columns: vec!["permission".into()],
        ..FakeScript::default()
    };
    script.version = "9.9.9".into();
    let world = fake(&script);
    fake_run(&world, &[], "x").expect_status(0);
    let columns = world
        .sql("SELECT name FROM pragma_table_info('session')")
        .concat();
    assert!(
        columns.contains(&json!("directory")) && !columns.contains(&json!("permission")),
        "{columns:?}"
    );
}

#[test]
fn the_fake_serves_only_as_scripted() {
    let world = World::new(Opencode::Fake);
    let serve = || world.opencode_command(["serve", "--port", "0"]);
    assert!(
        world
            .finish(serve(), Stdin::Null)
            .expect_status(1)
            .stderr()
            .contains("does not serve")
    );
    world.fake(&FakeScript {
        serve: ServeMode::Silent,
        ..FakeScript::default()
    });
    let mut running = world.start(serve(), Stdin::Null);
    world.wait_until("it was called", SOON, || world.fake_calls().len() == 2);
    assert!(running.is_alive());
    assert_eq!(running.stdout_so_far(), "");
}
