//! Plays the steps of a script on stdout.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use kugetsu_testing::fake::Step;
use kugetsu_testing::usage;
use serde_json::{Value, json};

use crate::store::{Store, now};
use crate::{Failure, LIFE};

fn send(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn line(kind: &str, session: &str, payload: (&str, &Value)) -> String {
    let (key, value) = payload;
    // The field order of the real opencode, in which readers find the type at the start of a line.
    let (kind, session, time) = (json!(kind), json!(session), now());
    format!("{{\"type\":{kind},\"timestamp\":{time},\"sessionID\":{session},\"{key}\":{value}}}\n")
}

fn text_line(session: &str, text: &str) -> String {
    line(
        "text",
        session,
        (
            "part",
            &json!({ "type": "text", "sessionID": session, "text": text }),
        ),
    )
}

/// Plays the steps and returns the exit status.
pub(crate) fn play(store: &Store, session: &str, steps: &[Step]) -> Result<i32, Failure> {
    for step in steps {
        match step {
            Step::Answer(text) => send(answer(store, session, text)?.as_bytes())?,
            Step::TornAnswer(text, bytes) => send(&answer(store, session, text)?.as_bytes()[..*bytes])?,
            Step::Event { kind, part } => send(line(kind, session, ("part", part)).as_bytes())?,
            Step::Error { name, message } => {
                let error = json!({ "name": name, "data": { "message": message } });
                send(line("error", session, ("error", &error)).as_bytes())?;
            }
            Step::Raw(text) => send(text.as_bytes())?,
            Step::Bytes(bytes) => send(bytes)?,
            Step::Stderr(text) => {
                let mut err = io::stderr().lock();
                err.write_all(text.as_bytes())?;
                err.flush()?;
            }
            Step::Pause(milliseconds) => std::thread::sleep(Duration::from_millis(*milliseconds)),
            Step::Meet(arrived, go_on) => {
                std::fs::write(arrived, "")?;
                let until = std::time::Instant::now() + LIFE;
                while !go_on.exists() && std::time::Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Step::BigLine(bytes) => send(text_line(session, &"x".repeat(*bytes)).as_bytes())?,
            Step::Flood { lines, bytes } => flood(session, *lines, *bytes)?,
            Step::Orphan {
                ignore_term,
                holds_stdout,
            } => {
                let mut middle = Command::new(std::env::current_exe()?);
                middle.args(["orphan", if *ignore_term { "true" } else { "false" }]);
                middle.stdin(Stdio::null()).stderr(Stdio::null());
                if !holds_stdout {
                    middle.stdout(Stdio::null());
                }
                middle.status()?;
            }
            Step::Hang => std::thread::sleep(LIFE),
            Step::LockDatabase(milliseconds) => store.lock_for(Duration::from_millis(*milliseconds))?,
            Step::Shell(command) => {
                Command::new("sh").args(["-c", command]).status()?;
            }
            Step::Exit(status) => return Ok(*status),
        }
    }
    Ok(0)
}

fn flood(session: &str, lines: usize, bytes: usize) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let line = text_line(session, &"x".repeat(bytes));
    for _ in 0..lines {
        out.write_all(line.as_bytes())?;
    }
    out.flush()
}

/// Stores an answer. Returns the lines that report it.
fn answer(store: &Store, session: &str, text: &str) -> Result<String, Failure> {
    let tokens = json!({
        "total": usage::INPUT + usage::OUTPUT,
        "input": usage::INPUT - usage::CACHED,
        "output": usage::OUTPUT,
        "reasoning": 0,
        "cache": { "write": 0, "read": usage::CACHED },
    });
    let finish = json!({ "type": "step-finish", "reason": "stop", "tokens": tokens, "cost": usage::COST });
    let parts = [
        ("step_start", json!({ "type": "step-start" })),
        (
            "text",
            json!({ "type": "text", "text": text, "time": { "start": now(), "end": now() } }),
        ),
        ("step_finish", finish),
    ];
    let message = store.add_assistant(session, &tokens)?;
    let mut lines = String::new();
    for (kind, mut part) in parts {
        let id = store.add_part(session, &message, &part)?;
        part["id"] = id.into();
        part["messageID"] = message.as_str().into();
        part["sessionID"] = session.into();
        lines.push_str(&line(kind, session, ("part", &part)));
    }
    Ok(lines)
}
