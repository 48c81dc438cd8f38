//! Lines and the events in them, with real output of both versions.

use crate::opencode::{
    KEPT_PREFIX, LineSplitter, MAX_LINE, RunEventKind, RunLine, SplitLine, parse_line, rejected_permission,
};
use kugetsu_api::{SessionId, TokenCount};
use proptest::prelude::*;

use super::{VERSIONS, fixture};

fn split(data: &[u8], sizes: &[usize]) -> Vec<(Vec<u8>, u64)> {
    let mut lines = Vec::new();
    let mut take = |line: SplitLine<'_>| {
        lines.push(match line {
            SplitLine::Whole(bytes) => (bytes.to_vec(), bytes.len() as u64),
            SplitLine::TooLong { prefix, length } => (prefix.to_vec(), length),
        });
    };
    let mut splitter = LineSplitter::new();
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
    for over in [MAX_LINE + 1, 10 * 1024 * 1024] {
        let mut data = b"short\n".to_vec();
        data.extend((0..over).map(|at| b'a' + (at % 26) as u8));
        data.extend_from_slice(b"\nnext\n");
        for chunk in [1 << 16, 7919, data.len()] {
            let lines = split(&data, &vec![chunk; data.len() / chunk + 1]);
            assert_eq!(lines.len(), 3, "{over} {chunk}");
            assert_eq!(lines[0].0, b"short");
            assert_eq!(
                (lines[1].0.as_slice(), lines[1].1),
                (&data[6..6 + KEPT_PREFIX], over as u64)
            );
            assert_eq!(lines[2].0, b"next");
        }
    }
    // Exactly as long as allowed, and an overlong one without an end.
    let longest = vec![b'x'; MAX_LINE];
    assert_eq!(
        split(&longest, &[1000, 1 << 20]),
        [(longest.clone(), MAX_LINE as u64)]
    );
    let open = vec![b'x'; MAX_LINE + 5];
    let lines = split(&open, &[MAX_LINE, 3]);
    assert_eq!(
        (lines.len(), lines[0].0.len(), lines[0].1),
        (1, KEPT_PREFIX, MAX_LINE as u64 + 5)
    );
}

#[test]
fn real_output_is_understood() {
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
                    let is_error = matches!(event.kind, RunEventKind::Error { .. });
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
            reason: reason.to_owned(),
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
            RunEventKind::ToolUse {
                call,
                tool,
                status,
                title,
                input,
                output,
                error,
            } => {
                assert_eq!(
                    (call.as_str(), tool.as_str(), status.as_str()),
                    ("call_4_1", "read", "error")
                );
                assert_eq!((title, output), (&None, &None));
                assert_eq!(input["filePath"], "/nonexistent/x");
                assert!(error.as_ref().unwrap().contains("rejected permission"));
            }
            other => panic!("{other:?}"),
        }
        match &events[5] {
            RunEventKind::ToolUse {
                tool,
                status,
                title,
                output,
                error,
                ..
            } => {
                assert_eq!((tool.as_str(), status.as_str()), ("bash", "completed"));
                assert!(title.is_some());
                assert_eq!((output.as_deref(), error), (Some("hi\nerr\n"), &None));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(events[6], finish("tool-calls"));
        match &events[7] {
            RunEventKind::Error {
                name,
                message,
                payload,
            } => {
                assert_eq!((name.as_str(), message.as_str()), ("APIError", "bad things"));
                assert_eq!(payload["data"]["statusCode"], 400);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(&events[9], RunEventKind::Reasoning { text, .. } if text == "hmm, let me think"));
    }
}

#[test]
fn what_is_no_event_is_told_apart() {
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

    // Invalid UTF-8 inside an event keeps the event.
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
    // An error in words.
    let RunLine::Event(event) = parse_line(br#"{"type":"error","error":"plain"}"#) else {
        panic!()
    };
    assert!(
        matches!(event.kind, RunEventKind::Error { name, message, .. } if name == "Error" && message == "plain")
    );
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
    fn lines_are_the_same_however_they_come(
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
