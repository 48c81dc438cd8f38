//! Turns the events of a server, and its lists of open requests and retries, into [`ServerReport`]s.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc;

use super::raw_log::RawLog;
use super::{Request, RequestKind, TransportEvent};
use crate::opencode::{
    Api, ApiError, EventStream, PartState, PermissionAsked, QuestionsAsked, Retry, Role, ServerEvent,
    ServerEventKind, SessionStatus, StreamedEvent, TurnAnswer, begins_as_text,
};
use kugetsu_api::{QuestionDetail, SessionId};

/// The pause before the stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// A report of one of the tasks around a server.
pub(super) enum ServerReport {
    Event(TransportEvent),
    /// The session went idle.
    Idle,
    /// Events may be missing.
    Gap,
    /// A piece of the answer was too long to be read.
    TextLost(String),
    /// The request that delivered the prompt was answered.
    Answered(Result<TurnAnswer, ApiError>),
}

impl From<TransportEvent> for ServerReport {
    fn from(event: TransportEvent) -> Self {
        Self::Event(event)
    }
}

/// Reads the events of one session and of its subagents' sessions.
pub(super) struct Listener {
    session: SessionId,
    /// The turn's session and those of its subagents, whose requests block the turn as well.
    family: HashSet<String>,
    /// The user's messages, whose parts do not belong to the answer.
    prompts: HashSet<String>,
    parts: HashMap<String, SentPart>,
    raw: RawLog,
}

/// How much of a text part has been reported.
#[derive(Default)]
struct SentPart {
    /// In bytes.
    length: usize,
    reasoning: bool,
}

impl Listener {
    pub(super) fn new(session: SessionId, raw: RawLog) -> Self {
        Self {
            family: HashSet::from([session.as_str().to_owned()]),
            session,
            prompts: HashSet::new(),
            parts: HashMap::new(),
            raw,
        }
    }

    /// Reports events until the receiver is dropped. Opens the stream again when it ends.
    pub(super) async fn run(
        mut self,
        api: Api,
        mut stream: EventStream,
        reports: mpsc::Sender<ServerReport>,
    ) {
        loop {
            let mut out = Vec::new();
            let more = stream.read(|event| self.take(event, &mut out)).await;
            for report in out {
                if reports.send(report).await.is_err() {
                    return;
                }
            }
            if more {
                continue;
            }
            if reports.send(ServerReport::Gap).await.is_err() {
                return;
            }
            loop {
                tokio::time::sleep(REOPEN_PAUSE).await;
                if reports.is_closed() {
                    return;
                }
                if let Ok(again) = api.events().await {
                    stream = again;
                    break;
                }
            }
        }
    }

    fn take(&mut self, event: StreamedEvent<'_>, out: &mut Vec<ServerReport>) {
        match event {
            StreamedEvent::Whole(data) => match ServerEvent::parse(data) {
                Some(event) => self.event(event, data, out),
                None => out.push(ServerReport::Gap),
            },
            // The event is not read. A notice reports it, and the raw log keeps the beginning of the event.
            StreamedEvent::TooLong { prefix, length } => {
                let length_note = format!("[{length} bytes in all]");
                self.raw.line(&[prefix, length_note.as_bytes()].concat());
                let notice =
                    format!("an event of {length} bytes was not read; its beginning is in the raw log");
                if self.is_of_answer(prefix) {
                    out.push(ServerReport::TextLost(notice));
                } else {
                    out.push(TransportEvent::Notice(notice).into());
                }
                out.push(TransportEvent::Activity.into());
                out.push(ServerReport::Gap);
            }
        }
    }

    fn event(&mut self, event: ServerEvent, data: &[u8], out: &mut Vec<ServerReport>) {
        if let Some(subagent) = event.subagent
            && self.family.contains(&subagent.parent)
        {
            self.family.insert(subagent.session);
        }
        if !self.family.contains(&event.session) {
            return;
        }
        self.raw.line(data);
        match event.kind {
            ServerEventKind::PermissionAsked(asked) => out.extend(permission(asked).map(Into::into)),
            ServerEventKind::QuestionsAsked(asked) => out.extend(questions(asked).map(Into::into)),
            kind if event.session == self.session.as_str() => self.own_event(kind, out),
            kind => out.extend(subagent_event(kind, event.session).map(Into::into)),
        }
    }

    fn own_event(&mut self, kind: ServerEventKind, out: &mut Vec<ServerReport>) {
        match kind {
            ServerEventKind::Idle => out.push(ServerReport::Idle),
            ServerEventKind::Retrying(retry) => out.push(retrying(retry).into()),
            ServerEventKind::Error(error) => out.push(TransportEvent::Error(error).into()),
            ServerEventKind::RequestClosed { request } => {
                out.push(TransportEvent::Answered(request).into());
            }
            ServerEventKind::Message { message, role } => {
                if role == Role::User {
                    self.prompts.insert(message);
                }
            }
            ServerEventKind::Delta { message, part, text } => {
                if !self.is_prompt(message.as_deref()) {
                    out.extend(self.delta(part, text).map(Into::into));
                }
            }
            ServerEventKind::Part { message, state } => {
                if !self.is_prompt(message.as_deref()) {
                    self.part(state, out);
                }
            }
            ServerEventKind::PermissionAsked(_)
            | ServerEventKind::QuestionsAsked(_)
            | ServerEventKind::Other => {}
        }
    }

    /// Whether an event may be a piece of the answer, judged by its beginning.
    fn is_of_answer(&self, prefix: &[u8]) -> bool {
        let names = |id: &String| memchr::memmem::find(prefix, id.as_bytes()).is_some();
        begins_as_text(prefix) && names(&self.session.as_str().to_owned()) && !self.prompts.iter().any(names)
    }

    fn is_prompt(&self, message: Option<&str>) -> bool {
        message.is_some_and(|message| self.prompts.contains(message))
    }

    fn delta(&mut self, part: Option<String>, text: Option<String>) -> Option<TransportEvent> {
        let Some(delta) = text else {
            return Some(TransportEvent::Activity);
        };
        let part = part.filter(|_| !delta.is_empty())?;
        let sent = self.parts.entry(part.clone()).or_default();
        sent.length += delta.len();
        Some(TransportEvent::Text {
            part,
            reasoning: sent.reasoning,
            delta,
        })
    }

    fn part(&mut self, state: PartState, out: &mut Vec<ServerReport>) {
        let event = match state {
            PartState::StepStarted => TransportEvent::StepStarted,
            PartState::StepFinished {
                reason,
                cost_usd,
                tokens,
            } => TransportEvent::StepFinished {
                reason,
                cost_usd,
                tokens,
            },
            PartState::Text {
                part,
                reasoning,
                text,
                ended,
            } => {
                if let Some(part) = &part {
                    out.extend(self.missing_text(part, reasoning, &text).map(Into::into));
                }
                if !ended {
                    return;
                }
                TransportEvent::TextEnded {
                    part: part.unwrap_or_default(),
                    reasoning,
                    text,
                }
            }
            PartState::Tool(call) => TransportEvent::Tool(call),
            PartState::Other => return,
        };
        out.push(event.into());
    }

    /// The rest of a text, if deltas were lost because the stream had to be opened again.
    fn missing_text(&mut self, part: &str, reasoning: bool, text: &str) -> Option<TransportEvent> {
        let sent = self.parts.entry(part.to_owned()).or_default();
        sent.reasoning = reasoning;
        let new = text.get(sent.length..).filter(|new| !new.is_empty())?;
        sent.length = text.len();
        Some(TransportEvent::Text {
            part: part.to_owned(),
            reasoning,
            delta: new.to_owned(),
        })
    }
}

/// The event of a subagent. Its text and tools are progress. A busy status is not progress, because a subagent is also
/// busy between two failed attempts.
fn subagent_event(kind: ServerEventKind, session: String) -> Option<TransportEvent> {
    match kind {
        ServerEventKind::Retrying(retry) => Some(retrying(retry)),
        ServerEventKind::Part {
            state:
                PartState::StepFinished {
                    reason,
                    cost_usd,
                    tokens,
                },
            ..
        } => Some(TransportEvent::SubagentStep {
            session,
            reason,
            cost_usd,
            tokens,
        }),
        ServerEventKind::Delta { .. }
        | ServerEventKind::Part {
            state: PartState::Text { .. } | PartState::Tool(_),
            ..
        } => Some(TransportEvent::Activity),
        _ => None,
    }
}

fn retrying(retry: Retry) -> TransportEvent {
    TransportEvent::Retrying {
        attempt: retry.attempt,
        message: retry.message,
        next: retry.next,
    }
}

fn permission(asked: PermissionAsked) -> Option<TransportEvent> {
    let kind = RequestKind::Permission {
        permission: asked.permission,
        patterns: asked.patterns,
    };
    request(asked.id, kind)
}

fn questions(asked: QuestionsAsked) -> Option<TransportEvent> {
    let questions = asked.questions.into_iter().map(|question| QuestionDetail {
        header: question.header,
        question: question.question,
        options: question.options.into_iter().map(|option| option.label).collect(),
        multiple: question.multiple,
    });
    request(asked.id, RequestKind::Question(questions.collect()))
}

/// Without an id, a request cannot be answered.
fn request(id: String, kind: RequestKind) -> Option<TransportEvent> {
    (!id.is_empty()).then_some(TransportEvent::Asked(Request { id, kind }))
}

/// Polls the open requests and the retries, because nothing else shows them when an event is lost. The server belongs
/// to this turn, so every request in it does, including those of subagents.
pub(super) async fn poll_waiting(api: Api, reports: mpsc::Sender<ServerReport>, every: Duration) {
    let mut known = HashSet::new();
    loop {
        tokio::time::sleep(every).await;
        let mut events = Vec::new();
        if let Ok(listed) = api.permissions().await {
            events.extend(listed.into_iter().filter_map(permission));
        }
        if let Ok(listed) = api.questions().await {
            events.extend(listed.into_iter().filter_map(questions));
        }
        events.retain(|event| match event {
            TransportEvent::Asked(request) => known.insert(request.id.clone()),
            _ => true,
        });
        if let Ok(statuses) = api.status().await {
            let retries = statuses.into_iter().filter_map(SessionStatus::into_retry);
            events.extend(retries.map(retrying));
        }
        for event in events {
            if reports.send(event.into()).await.is_err() {
                return;
            }
        }
    }
}
