//! Tests of lines and their events, with real output of both versions.

use crate::opencode::{
    ErrorKind, ErrorPayload, Finish, LineSplitter, MAX_LINE, MAX_PREFIX, PartState, Refusal, Role,
    RunEventKind, RunLine, ServerEvent, ServerEventKind, SplitLine, Subagent, ToolStatus, parse_line,
    refusal, rejected_permission,
};
use kugetsu_api::{SessionId, TokenCount};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{VERSIONS, fixture};

fn split(data: &[u8], sizes: &[usize]) -> Vec<(Vec<u8>, u64)> {
    let mut lines = Vec::new();
    let mut take = |line: SplitLine<'_>| {
        lines.push(match line {
            SplitLine::Whole(bytes) => (bytes.to_vec(), bytes.len() as u64),
            SplitLine::TooLong { prefix, length } => (prefix.to_vec(), length),
        });
    };
    let mut splitter = LineSplitter::default();
    let (mut rest, mut at) = (data, 0);
    while !rest.is_empty() {
        let size = sizes.get(at).copied().unwrap_or(usize::MAX).clamp(1, rest.len());
        splitter.push(&rest[..size], &mut take);
        rest = &rest[size..];
        at += 1;
    }
    splitter.finish(&mut take);
    lines
}

#[test]
fn overlong_lines_keep_their_beginning_and_length() {
    for over in [MAX_LINE + 1, MAX_LINE + (6 << 20)] {
        let mut data = b"short\n".to_vec();
        data.extend((0..over).map(|at| b'a' + (at % 26) as u8));
        data.extend_from_slice(b"\nnext\n");
        for chunk in [1 << 16, 7919, data.len()] {
            let lines = split(&data, &vec![chunk; data.len() / chunk + 1]);
            assert_eq!(lines.len(), 3, "{over} {chunk}");
            assert_eq!(lines[0].0, b"short");
            assert_eq!(
                (lines[1].0.as_slice(), lines[1].1),
                (&data[6..6 + MAX_PREFIX], over as u64)
            );
            assert_eq!(lines[2].0, b"next");
        }
    }
    // A line of exactly the longest length, and an overlong line without an end.
    let longest = vec![b'x'; MAX_LINE];
    assert_eq!(
        split(&longest, &[1000, 1 << 20]),
        [(longest.clone(), MAX_LINE as u64)]
    );
    let open = vec![b'x'; MAX_LINE + 5];
    let lines = split(&open, &[MAX_LINE, 3]);
    assert_eq!(
        (lines.len(), lines[0].0.len(), lines[0].1),
        (1, MAX_PREFIX, MAX_LINE as u64 + 5)
    );
}

#[test]
fn real_output_is_parsed() {
    for version in VERSIONS {
        let mut events = Vec::new();
        for line in fixture(&format!("run-events/{version}.jsonl")).split(|&byte| byte == b'\n') {
            match parse_line(line) {
                RunLine::Event(event) => {
                    assert!(event.timestamp_ms > 1_700_000_000_000, "{event:?}");
                    assert!(
                        event
                            .session
                            .as_ref()
                            .is_some_and(|id| id.as_str().starts_with("ses_")),
                        "{event:?}"
                    );
                    let is_error = matches!(event.kind, RunEventKind::Error(_));
                    assert_eq!(event.message.is_some_and(|id| id.starts_with("msg_")), !is_error);
                    events.push(event.kind);
                }
                RunLine::Notice(text) if text.is_empty() => {}
                RunLine::Notice(text) => {
                    let rejected = rejected_permission(&text).expect(&text);
                    assert_eq!(
                        text,
                        "! permission requested: external_directory (/nonexistent/*); auto-rejecting"
                    );
                    assert_eq!(rejected.permission, "external_directory");
                    assert_eq!(rejected.patterns, "/nonexistent/*");
                }
                unknown @ RunLine::Unknown { .. } => panic!("{version}: {unknown:?}"),
            }
        }
        let tokens = TokenCount {
            input: 60,
            output: 7,
            reasoning: 0,
            cache_read: 40,
            cache_write: 0,
        };
        let finish = |reason: &str| RunEventKind::StepFinish {
            reason: reason.into(),
            cost_usd: 0.000_078,
            tokens,
        };
        assert_eq!(events.len(), 12, "{version}");
        assert_eq!(events[0], RunEventKind::StepStart);
        assert!(
            matches!(&events[1], RunEventKind::Text { text, part } if text == "hello world" && part.starts_with("prt_"))
        );
        assert_eq!(events[2], finish("stop"));
        match &events[4] {
            RunEventKind::Tool(call) => {
                assert_eq!(
                    (call.call.as_str(), call.tool.as_str(), call.status),
                    ("call_4_1", "read", ToolStatus::Failed)
                );
                assert_eq!((call.title.as_str(), &call.output), ("", &None));
                assert_eq!(call.input["filePath"], "/nonexistent/x");
                let error = call.error.as_deref().unwrap();
                assert!(error.contains("rejected permission"));
                assert_eq!(refusal(error), Some(Refusal::Permission));
            }
            other => panic!("{other:?}"),
        }
        match &events[5] {
            RunEventKind::Tool(call) => {
                assert_eq!((call.tool.as_str(), call.status), ("bash", ToolStatus::Completed));
                assert!(!call.title.is_empty());
                assert_eq!((call.output.as_deref(), &call.error), (Some("hi\nerr\n"), &None));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(events[6], finish("tool-calls"));
        match &events[7] {
            RunEventKind::Error(error) => {
                assert_eq!(
                    (error.name.as_str(), error.message.as_str()),
                    ("APIError", "bad things")
                );
                assert_eq!(error.kind, ErrorKind::Other);
                assert_eq!(error.payload["data"]["statusCode"], 400);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(&events[9], RunEventKind::Reasoning { text, .. } if text == "hmm, let me think"));
    }
}

#[test]
fn lines_that_are_not_events_are_recognised() {
    assert_eq!(parse_line(b""), RunLine::Notice(String::new()));
    assert_eq!(
        parse_line(b"\x1b[91m\x1b[1mError: \x1b[0mSession not found\r"),
        RunLine::Notice("Error: Session not found".into())
    );
    assert_eq!(
        parse_line(b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link"),
        RunLine::Notice("textlink".into())
    );
    assert_eq!(parse_line(b"a\0b\x1b"), RunLine::Notice("ab".into()));
    assert_eq!(parse_line(b"42"), RunLine::Notice("42".into()));
    assert_eq!(parse_line(b"[1]"), RunLine::Notice("[1]".into()));
    let unknown = |line: &str, expected: &str, session: Option<&str>| {
        let session = session.map(|text| SessionId::new(text).unwrap());
        assert_eq!(
            parse_line(line.as_bytes()),
            RunLine::Unknown {
                kind: expected.to_owned(),
                session
            }
        );
    };
    unknown("{}", "", None);
    unknown(r#"{"type":7}"#, "", None);
    unknown(
        r#"{"type":"brand_new","sessionID":"ses_1","part":{}}"#,
        "brand_new",
        Some("ses_1"),
    );
    unknown(
        r#"{"type":"text","sessionID":"../../x","part":{"text":7}}"#,
        "text",
        None,
    );
    unknown(r#"{"type":"tool_use","part":{"tool":"bash"}}"#, "tool_use", None);
    unknown(r#"{"type":"step_finish"}"#, "step_finish", None);
    unknown(r#"{"type":"error"}"#, "error", None);
    assert_eq!(rejected_permission("something else"), None);
}

#[test]
fn odd_numbers_and_bytes_do_no_harm() {
    let line =
        br#"{"type":"step_finish","timestamp":1e300,"sessionID":"ses_1","part":{"reason":"stop","cost":-1,
        "tokens":{"input":1e300,"output":-5,"reasoning":"x","cache":{"read":1.9}}}}"#;
    let RunLine::Event(event) = parse_line(line) else {
        panic!()
    };
    assert_eq!(event.timestamp_ms, i64::MAX);
    let tokens = TokenCount {
        input: u64::MAX,
        output: 0,
        reasoning: 0,
        cache_read: 1,
        cache_write: 0,
    };
    assert_eq!(
        event.kind,
        RunEventKind::StepFinish {
            reason: "stop".into(),
            cost_usd: 0.0,
            tokens
        }
    );

    // An event with invalid UTF-8 is still an event.
    let RunLine::Event(event) =
        parse_line(b"{\"type\":\"text\",\"part\":{\"id\":\"p\",\"text\":\"a\xffb\"}}")
    else {
        panic!()
    };
    assert_eq!(
        event.kind,
        RunEventKind::Text {
            part: "p".into(),
            text: "a\u{fffd}b".into()
        }
    );
    assert_eq!(event.session, None);

    let deep = format!("{{\"type\":\"text\",\"part\":{}", "[".repeat(100_000));
    assert!(matches!(parse_line(deep.as_bytes()), RunLine::Notice(text) if text.len() <= 8192));
    // An error that is plain text.
    let RunLine::Event(event) = parse_line(br#"{"type":"error","error":"plain"}"#) else {
        panic!()
    };
    assert!(
        matches!(event.kind, RunEventKind::Error(error) if error.name == "Error" && error.message == "plain")
    );
}

fn server_event(event: &Value) -> ServerEvent {
    ServerEvent::parse(event.to_string().as_bytes()).expect("an event")
}

fn part_state(part: &Value) -> PartState {
    let event = server_event(&json!({"type": "message.part.updated", "properties": {"part": part}}));
    match event.kind {
        ServerEventKind::Part { state, .. } => state,
        other => panic!("{other:?}"),
    }
}

/// Events as 1.18.33 sends them; 1.3.2 leaves out `properties.sessionID` if a message or a part contains the session.
#[test]
fn events_of_the_server_are_parsed() {
    let updated = json!({"type": "message.updated", "properties": {"info": {
        "id": "msg_1", "sessionID": "ses_1", "role": "user", "time": {"created": 1}}}});
    let event = server_event(&updated);
    assert_eq!((event.session.as_str(), event.subagent), ("ses_1", None));
    let kind = ServerEventKind::Message {
        message: "msg_1".into(),
        role: Role::User,
    };
    assert_eq!(event.kind, kind);

    let created = json!({"type": "session.created", "properties": {"sessionID": "ses_2",
        "info": {"id": "ses_2", "parentID": "ses_1", "title": "x"}}});
    let subagent = Subagent {
        session: "ses_2".into(),
        parent: "ses_1".into(),
    };
    assert_eq!(server_event(&created).subagent, Some(subagent.clone()));
    // Only the tool that waits for a continued subagent reports that subagent.
    let mut waits = json!({"type": "message.part.updated", "properties": {"part": {"id": "prt_1", "sessionID": "ses_1",
        "messageID": "msg_2", "type": "tool", "tool": "task", "callID": "call_1",
        "state": {"status": "running", "input": {"a": [1]}, "metadata": {"sessionId": "ses_2"}}}}});
    let event = server_event(&waits);
    assert_eq!(event.subagent, Some(subagent));
    match event.kind {
        ServerEventKind::Part {
            message,
            state: PartState::Tool(call),
        } => {
            assert_eq!(message.as_deref(), Some("msg_2"));
            assert_eq!(call.status, ToolStatus::Running);
            assert_eq!(call.input, json!({"a": [1]}));
            assert!(call.is_subagent());
        }
        other => panic!("{other:?}"),
    }
    waits["properties"]["part"]["tool"] = json!("bash");
    assert_eq!(server_event(&waits).subagent, None);

    let delta = |field: &str| {
        let event = json!({"type": "message.part.delta", "properties": {"sessionID": "ses_1", "messageID": "msg_2",
            "partID": "prt_2", "field": field, "delta": "hel"}});
        match server_event(&event).kind {
            ServerEventKind::Delta { part, text, .. } => (part, text),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delta("text"), (Some("prt_2".into()), Some("hel".into())));
    assert_eq!(delta("input"), (Some("prt_2".into()), None));

    let text = |time: Value| {
        let part = json!({"type": "reasoning", "id": "prt_2", "text": "hm", "time": time});
        match part_state(&part) {
            PartState::Text {
                part,
                reasoning,
                text,
                ended,
            } => {
                assert_eq!(
                    (part.as_deref(), reasoning, text.as_str()),
                    (Some("prt_2"), true, "hm")
                );
                ended
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(text(json!({"start": 1, "end": 2})));
    assert!(!text(json!({"start": 1})) && !text(json!({"end": null})) && !text(Value::Null));
    let step = part_state(&json!({"type": "step-finish", "cost": 0.5, "tokens": {"input": 3}}));
    let tokens = TokenCount {
        input: 3,
        ..TokenCount::default()
    };
    let finished = PartState::StepFinished {
        reason: Finish::Unknown,
        cost_usd: 0.5,
        tokens,
    };
    assert_eq!(step, finished);

    let status = |status: Value| {
        server_event(
            &json!({"type": "session.status", "properties": {"sessionID": "ses_1", "status": status}}),
        )
        .kind
    };
    match status(json!({"type": "retry", "attempt": 3, "message": "later", "next": 1000.0})) {
        ServerEventKind::Retrying(retry) => {
            assert_eq!((retry.attempt, retry.message.as_str()), (3, "later"));
            assert_eq!(retry.next.map(jiff::Timestamp::as_second), Some(1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(status(json!({"type": "busy"})), ServerEventKind::Other);

    let asked = json!({"type": "question.asked", "properties": {"id": "que_1", "sessionID": "ses_1", "questions": [
        {"header": "h", "question": "q", "options": [{"label": "a", "description": "d"}, {"label": "b"}], "multiple": true},
        "odd"]}});
    match server_event(&asked).kind {
        ServerEventKind::QuestionsAsked(asked) => {
            assert_eq!((asked.id.as_str(), asked.questions.len()), ("que_1", 2));
            let labels: Vec<_> = asked.questions[0]
                .options
                .iter()
                .map(|o| o.label.as_str())
                .collect();
            assert_eq!((labels, asked.questions[0].multiple), (vec!["a", "b"], true));
        }
        other => panic!("{other:?}"),
    }
    let asked = json!({"type": "permission.asked", "properties": {"id": "per_1", "sessionID": "ses_1",
        "permission": "bash", "patterns": ["rm *"], "metadata": {}, "always": []}});
    match server_event(&asked).kind {
        ServerEventKind::PermissionAsked(asked) => {
            assert_eq!((asked.id.as_str(), asked.permission.as_str()), ("per_1", "bash"));
            assert_eq!(asked.patterns, ["rm *"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn odd_events_of_the_server_do_no_harm() {
    for odd in [
        json!([]),
        json!({}),
        json!({"type": 7, "properties": []}),
        json!({"type": "brand.new", "properties": {"sessionID": {"x": 1}, "info": "text", "part": [[]]}}),
        json!({"type": "permission.replied", "properties": {"requestID": null}}),
    ] {
        let event = server_event(&odd);
        assert_eq!(
            (event.session.as_str(), event.kind),
            ("", ServerEventKind::Other),
            "{odd}"
        );
    }
    assert_eq!(ServerEvent::parse(b"{\"type\":"), None);
    let event = json!({"type": "message.part.updated", "properties": {"part": {"type": "brand-new", "sessionID": "ses_1",
        "text": 7, "state": "x", "cost": -3, "tokens": "many", "time": 1}}});
    let event = server_event(&event);
    assert_eq!(event.session, "ses_1");
    assert!(matches!(
        event.kind,
        ServerEventKind::Part {
            state: PartState::Other,
            ..
        }
    ));
    assert_eq!(
        part_state(&json!({"type": "tool", "state": {"status": "paused"}})),
        part_state(&json!({"type": "tool", "state": {"status": "pending"}}))
    );
}

#[test]
fn errors_have_kinds() {
    let kind = |error: Value| ErrorPayload::read(error).kind;
    let api = |status: Value, retryable: bool| {
        json!({"name": "APIError", "data": {"message": "no", "statusCode": status, "isRetryable": retryable,
            "responseHeaders": {"retry-after": " 9 "}}})
    };
    let unavailable = ErrorKind::ProviderUnavailable {
        retry_after: Some(std::time::Duration::from_secs(9)),
    };
    for status in [429, 500, 529] {
        assert_eq!(kind(api(json!(status), true)), unavailable);
        assert_eq!(kind(api(json!(status), false)), ErrorKind::Other);
    }
    assert_eq!(kind(api(json!(401), true)), ErrorKind::Other);
    assert_eq!(kind(api(json!("429"), true)), ErrorKind::Other);
    let unknown = json!({"name": "UnknownError", "data": {"message": "Unexpected server error. Check server logs for details."}});
    assert_eq!(kind(unknown), ErrorKind::CauseInLog);
    for odd in [
        Value::Null,
        json!([1]),
        json!(7),
        json!({"name": "", "data": "x"}),
    ] {
        let error = ErrorPayload::read(odd.clone());
        assert_eq!((error.kind, error.name.as_str()), (ErrorKind::Other, "Error"));
        assert_eq!((error.message.as_str(), error.payload), ("Error", odd));
    }
    assert_eq!(
        refusal("The user dismissed this question"),
        Some(Refusal::Question)
    );
    assert_eq!(refusal("file not found"), None);
}

#[test]
fn a_finish_keeps_its_name() {
    for word in [
        "stop",
        "tool-calls",
        "length",
        "content-filter",
        "unknown",
        "end_turn",
        "",
    ] {
        assert_eq!(Finish::from(word).as_str(), word);
    }
    assert!(Finish::from("end_turn").is_over() && !Finish::from("end_turn").is_idle());
    assert!(Finish::from("unknown").is_idle() && Finish::from("").is_idle());
    assert!(!Finish::ToolCalls.is_idle() && !Finish::ToolCalls.is_over());
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<Vec<u8>> = VERSIONS
        .iter()
        .flat_map(|version| {
            fixture(&format!("run-events/{version}.jsonl"))
                .split(|&byte| byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        })
        .filter(|line| !line.is_empty())
        .collect();
    (
        prop::sample::select(samples),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<Vec<u8>>(),
    )
        .prop_map(|(mut line, from, to, with)| {
            let (from, to) = (from.index(line.len()), to.index(line.len()));
            line.splice(from.min(to)..from.max(to), with);
            line
        })
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_chunks(
        data in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300),
        sizes in prop::collection::vec(1usize..40, 0..60),
    ) {
        let mut expected: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
        if expected.last().is_some_and(|last| last.is_empty()) {
            expected.pop();
        }
        let lines: Vec<Vec<u8>> = split(&data, &sizes).into_iter().map(|(line, _)| line).collect();
        prop_assert_eq!(lines, expected);
    }

    #[test]
    fn no_line_makes_the_parser_panic(line in prop_oneof![any::<Vec<u8>>(), mutated()]) {
        if let RunLine::Notice(text) = parse_line(&line) {
            prop_assert!(!text.chars().any(char::is_control));
            rejected_permission(&text);
        }
    }
}
