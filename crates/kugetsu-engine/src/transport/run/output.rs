//! Turns the standard output of `opencode run` into [`TransportEvent`]s.

use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;

use crate::opencode::{LineSplitter, RunEvent, RunEventKind, RunLine, SplitLine, begins_as_text, parse_line};
use crate::transport::TransportEvent;
use crate::transport::raw_log::RawLog;

/// Reads standard output to its end. Every byte goes into the raw log, every event to the receiver.
pub(super) async fn read_events(
    mut stdout: ChildStdout,
    mut raw: RawLog,
    events: mpsc::Sender<TransportEvent>,
) {
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let mut out = Vec::new();
        let read = stdout.read(&mut chunk).await.unwrap_or(0);
        if !raw.wants_lines() {
            raw.bytes(&chunk[..read]);
        }
        let take = |line: SplitLine<'_>| {
            if raw.wants_lines() {
                let (SplitLine::Whole(bytes) | SplitLine::TooLong { prefix: bytes, .. }) = line;
                raw.line(bytes);
            }
            take_line(&line, &mut out);
        };
        if read == 0 {
            std::mem::take(&mut lines).finish(take);
        } else {
            lines.push(&chunk[..read], take);
        }
        for event in out {
            // Without a receiver, the pipe is still read: opencode spins on a full one (anomalyco/opencode#33653).
            let _ = events.send(event).await;
        }
        if read == 0 {
            return;
        }
    }
}

fn take_line(line: &SplitLine<'_>, out: &mut Vec<TransportEvent>) {
    match line {
        SplitLine::Whole(bytes) => match parse_line(bytes) {
            RunLine::Event(event) => translate(event, out),
            RunLine::Notice(text) if text.trim().is_empty() => {}
            RunLine::Notice(text) => out.push(TransportEvent::Notice(text)),
            RunLine::Unknown { session, .. } => {
                out.extend(session.map(TransportEvent::Session));
                out.push(TransportEvent::Activity);
            }
        },
        SplitLine::TooLong { prefix, length } => {
            let what = format!("opencode wrote a line of {length} bytes, which is too long to be read");
            if begins_as_text(prefix) {
                out.push(TransportEvent::Unread(what));
            } else {
                out.extend([TransportEvent::Notice(what), TransportEvent::Activity]);
            }
        }
    }
}

fn translate(event: RunEvent, out: &mut Vec<TransportEvent>) {
    out.extend(event.session.map(TransportEvent::Session));
    match event.kind {
        RunEventKind::StepStart => out.push(TransportEvent::StepStarted),
        RunEventKind::Text { part, text } => whole_text(part, text, false, out),
        RunEventKind::Reasoning { part, text } => whole_text(part, text, true, out),
        RunEventKind::Tool(call) => out.push(TransportEvent::Tool(call)),
        RunEventKind::StepFinish {
            reason,
            cost_usd,
            tokens,
        } => out.push(TransportEvent::StepFinished {
            reason,
            cost_usd,
            tokens,
        }),
        RunEventKind::Error(error) => out.push(TransportEvent::Error(error)),
    }
}

/// `run` prints a part once it is complete, so one delta holds the whole text.
fn whole_text(part: String, text: String, reasoning: bool, out: &mut Vec<TransportEvent>) {
    if !text.is_empty() {
        out.push(TransportEvent::Text {
            part: part.clone(),
            reasoning,
            delta: text.clone(),
        });
    }
    out.push(TransportEvent::TextEnded {
        part,
        reasoning,
        text,
    });
}
