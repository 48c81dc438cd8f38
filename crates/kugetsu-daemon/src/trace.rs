//! Traces: one for each task, sent with OTLP over HTTP.
//!
//! Spans are made when a turn has ended, from its record and from the log of its events, so a turn that the daemon did
//! not survive has them as well: the next daemon makes them. All ids follow from those of the task and its turns, so
//! that hooks and tools get the id of a span that is sent later. One thread sends. What waits for it is small and
//! bounded, and what does not fit is left out: a receiver that is down delays nothing. No span has anything of a
//! message, an answer, or a tool's arguments and output.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kugetsu_api::{Phase, StreamEvent, StreamLine, Task, TaskId, TaskState, TurnRecord, Verdict};
use kugetsu_engine::operations::Environment;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::events;

/// The header of a submission, which names the span that the task belongs to.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// How many turns may wait to be sent.
const WAITING: usize = 1000;
/// How many spans one request has.
const BATCH: usize = 500;
/// How many steps and tools of one turn have a span.
const MAX_SPANS: usize = 2000;
/// The longest line of a log that is read.
const MAX_LINE: u64 = 32 << 20;
/// The longest name of a tool in a span, in bytes.
const MAX_NAME: usize = 80;
/// How long the receiver may take to answer, and how long its answer may be.
const ANSWER: Duration = Duration::from_secs(10);
const MAX_ANSWER: u64 = 1 << 20;
/// How long the last spans may take to be sent when the daemon ends.
const LAST: Duration = Duration::from_secs(3);

/// Makes and sends traces, if the environment names a receiver.
pub(crate) struct Tracer(Option<Sending>);

struct Sending {
    /// Closed when the daemon ends.
    jobs: Mutex<Option<mpsc::SyncSender<Job>>>,
    /// Closed by the thread when it has sent everything.
    done: Mutex<mpsc::Receiver<()>>,
}

/// Spans to send, and the log with further ones.
struct Job {
    spans: Vec<SpanData>,
    log: Option<Log>,
}

/// The log of a turn's events.
struct Log {
    path: PathBuf,
    trace: Trace,
    turn: Uuid,
    /// When the turn ended, and with it what the log leaves open.
    ended: Timestamp,
}

impl Tracer {
    /// Reads the variables of OpenTelemetry. If they name a receiver that cannot be used, the log says so.
    pub(crate) fn open(environment: &Environment) -> Self {
        let is = |name: &str, value: &str| {
            let text = environment.get(name).and_then(|text| text.to_str());
            text.is_some_and(|text| text.trim().eq_ignore_ascii_case(value))
        };
        let has_receiver = [
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ]
        .iter()
        .any(|name| environment.get(name).is_some());
        if !has_receiver || is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Self(None);
        }
        Self(
            Sending::start()
                .inspect_err(|problem| tracing::error!(problem, "no traces are sent"))
                .ok(),
        )
    }

    /// The span that the hooks and tools of a turn belong to: that of the turn, or, if it has none, the span that the
    /// task was submitted with.
    pub(crate) fn parent_of_tools(&self, task: &Task, turn: Uuid) -> Option<String> {
        match Trace::of(task).filter(|_| self.0.is_some()) {
            Some(trace) => Some(format!("00-{}-{}-01", trace.id, span_id(turn, "turn"))),
            None => task.spec.traceparent.clone(),
        }
    }

    /// Sends the spans of an attempt that has a turn. `task` is the task as it was claimed.
    pub(crate) fn turn(&self, task: &Task, turn: &TurnRecord, log: PathBuf) {
        let Some(trace) = Trace::of(task) else { return };
        let spans = vec![trace.queue(task, turn.turn)]
            .into_iter()
            .chain(trace.turn(turn))
            .collect();
        let log = Log {
            path: log,
            trace,
            turn: turn.turn,
            ended: turn.ended,
        };
        self.send(spans, Some(log));
    }

    /// Sends the span of a task that has ended.
    pub(crate) fn task(&self, task: &Task) {
        if let Some(trace) = Trace::of(task)
            && task.state.is_final()
        {
            self.send(vec![trace.task(task)], None);
        }
    }

    fn send(&self, spans: Vec<SpanData>, log: Option<Log>) {
        let Some(sending) = &self.0 else { return };
        let jobs = sending.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // What does not fit is left out; the thread says that it cannot send.
        let _ = jobs.as_ref().map(|jobs| jobs.try_send(Job { spans, log }));
    }

    /// Sends what waits, for a short time. Blocks.
    pub(crate) fn close(&self) {
        let Some(sending) = &self.0 else { return };
        drop(sending.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let done = sending.done.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = done.recv_timeout(LAST);
    }
}

impl Sending {
    fn start() -> Result<Self, String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Http::new())
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(&resource());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| error.to_string())?;
        let (jobs, received) = mpsc::sync_channel::<Job>(WAITING);
        let (ended, done) = mpsc::channel();
        let send = move || {
            let _ended = ended;
            let mut fails = false;
            for job in received {
                let mut spans = job.spans;
                spans.extend(job.log.iter().flat_map(Log::spans));
                while !spans.is_empty() {
                    let rest = spans.split_off(spans.len().min(BATCH));
                    let sent = runtime.block_on(exporter.export(std::mem::replace(&mut spans, rest)));
                    match &sent {
                        Ok(()) if fails => tracing::info!("traces are sent again"),
                        Err(error) if !fails => {
                            tracing::warn!(%error, "traces cannot be sent, and are left out until they can");
                        }
                        _ => {}
                    }
                    fails = sent.is_err();
                }
            }
        };
        std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(send)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            done: Mutex::new(done),
        })
    }
}

/// The name of the service is that of OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES, if they give one.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = Resource::builder().with_attribute(version.clone()).build();
    let name = named.get(&Key::from_static_str("service.name"));
    if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        let builder = Resource::builder().with_attribute(version);
        return builder.with_service_name("kugetsu").build();
    }
    named
}

/// Sends requests to the receiver, from the thread that waits for them.
#[derive(Debug)]
struct Http(ureq::Agent);

impl Http {
    fn new() -> Self {
        let tls = ureq::tls::TlsConfig::builder().root_certs(kugetsu_forge::trusted_roots());
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(ANSWER))
            .tls_config(tls.build());
        Self(config.build().into())
    }
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let mut response = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let body = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()?;
        let (parts, _) = response.into_parts();
        Ok(Response::from_parts(parts, body.into()))
    }
}

/// A span as W3C Trace Context writes it; `None` if it is not one.
pub(crate) fn parse(traceparent: &str) -> Option<SpanContext> {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context =
        TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &carrier);
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// A span in the form that W3C Trace Context gives to it.
pub(crate) fn write(span: &SpanContext) -> String {
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
    format!("00-{trace}-{id}-{flags:02x}")
}

/// The trace of a task.
#[derive(Clone, Copy)]
struct Trace {
    id: TraceId,
    task: TaskId,
    /// The span that the task was submitted with.
    parent: Option<SpanId>,
}

impl Trace {
    /// `None` if whoever submitted the task does not record the trace.
    fn of(task: &Task) -> Option<Self> {
        let parent = task.spec.traceparent.as_deref().and_then(parse);
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled()) {
            return None;
        }
        Some(Self {
            id: parent.as_ref().map_or_else(
                || TraceId::from_bytes(task.task.0.into_bytes()),
                SpanContext::trace_id,
            ),
            task: task.task,
            parent: parent.map(|parent| parent.span_id()),
        })
    }

    fn root(&self) -> SpanId {
        span_id(self.task.0, "task")
    }

    fn task(&self, task: &Task) -> SpanData {
        let ended = task.ended.unwrap_or_else(Timestamp::now);
        let mut span = self.span("task", self.root(), self.parent, (task.submitted, ended));
        span.parent_span_is_remote = self.parent.is_some();
        span.span_kind = SpanKind::Consumer;
        span.status = match (task.state, task.verdict) {
            (TaskState::Ended, Some(verdict)) => status(verdict),
            (state, _) => Status::error(state.as_str()),
        };
        span.attributes = vec![
            KeyValue::new("kugetsu.task", task.task.to_string()),
            KeyValue::new("kugetsu.ref", task.spec.address.to_string()),
            KeyValue::new("kugetsu.state", task.state.as_str()),
            KeyValue::new("kugetsu.attempts", i64::from(task.attempts)),
            KeyValue::new("kugetsu.cost_usd", task.cost_usd),
        ];
        span.attributes.extend(
            task.verdict
                .map(|verdict| KeyValue::new("kugetsu.verdict", verdict.as_str())),
        );
        span
    }

    /// How long the task waited before this turn.
    fn queue(&self, task: &Task, turn: Uuid) -> SpanData {
        let since = task.not_before.unwrap_or(task.submitted).max(task.submitted);
        let until = task.started.unwrap_or(since);
        let root = Some(self.root());
        self.span("queue", span_id(turn, "queue"), root, (since.min(until), until))
    }

    /// The span of a turn, and those of its parts before the prompt.
    fn turn(&self, turn: &TurnRecord) -> Vec<SpanData> {
        let id = span_id(turn.turn, "turn");
        let mut span = self.span("turn", id, Some(self.root()), (turn.started, turn.ended));
        span.status = status(turn.verdict);
        let tokens = turn.tokens;
        span.attributes = vec![
            KeyValue::new("kugetsu.turn", turn.turn.to_string()),
            KeyValue::new("kugetsu.verdict", turn.verdict.as_str()),
            KeyValue::new("kugetsu.cost_usd", turn.cost_usd),
            KeyValue::new("kugetsu.steps", turn.steps as i64),
            KeyValue::new("kugetsu.tool_calls", turn.tool_calls as i64),
            KeyValue::new("kugetsu.opencode_restarts", i64::from(turn.restarts)),
            KeyValue::new("kugetsu.opencode", turn.opencode.clone()),
            KeyValue::new("gen_ai.usage.input_tokens", tokens.input as i64),
            KeyValue::new("gen_ai.usage.output_tokens", tokens.output as i64),
        ];
        let first = turn.timings.first_output_ms;
        span.attributes
            .extend(first.map(|ms| KeyValue::new("kugetsu.time_to_first_token_ms", ms as i64)));
        let timings = turn.timings;
        let parts = [
            ("connect", timings.connect),
            ("fork", timings.fork),
            ("policy", timings.policy),
        ];
        let part = |(name, phase): (&'static str, Option<Phase>)| {
            let phase = phase?;
            let at = |ms: u64| later(turn.started, ms);
            let times = (at(phase.at_ms), at(phase.at_ms.saturating_add(phase.took_ms)));
            Some(self.span(name, span_id(turn.turn, name), Some(id), times))
        };
        std::iter::once(span)
            .chain(parts.into_iter().filter_map(part))
            .collect()
    }

    fn span(
        &self,
        name: &'static str,
        id: SpanId,
        parent: Option<SpanId>,
        (start, end): (Timestamp, Timestamp),
    ) -> SpanData {
        SpanData {
            span_context: SpanContext::new(self.id, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start.into(),
            // The clock may have been set back.
            end_time: end.max(start).into(),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("kugetsu")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}

impl Log {
    /// The spans of the steps and tools. Blocks.
    fn spans(&self) -> Vec<SpanData> {
        let Some(log) = events::read_log(&self.path) else {
            return Vec::new();
        };
        let mut lines = BufReader::new(log);
        let mut found = Steps {
            log: self,
            spans: Vec::new(),
            step: None,
            tools: HashMap::new(),
        };
        let mut line = Vec::new();
        while found.spans.len() < MAX_SPANS {
            line.clear();
            match lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(count) if count > 0 && line.ends_with(b"\n") => {}
                _ => break,
            }
            if let Ok(line) = serde_json::from_slice::<StreamLine>(&line) {
                found.take(line);
            }
        }
        found.end()
    }
}

/// Reads steps and tools from events.
struct Steps<'a> {
    log: &'a Log,
    spans: Vec<SpanData>,
    /// The step that runs, and when it began.
    step: Option<(u64, Timestamp)>,
    /// The tools that run: the step, the name, and when it began.
    tools: HashMap<String, (Option<u64>, String, Timestamp)>,
}

impl Steps<'_> {
    fn take(&mut self, line: StreamLine) {
        let time = line.time;
        match line.event {
            StreamEvent::StepStart { step } => {
                self.end_step(time, Vec::new());
                self.step = Some((step, time));
            }
            StreamEvent::StepEnd {
                reason,
                cost_usd,
                tokens,
                ..
            } => {
                let attributes = vec![
                    KeyValue::new("kugetsu.finish", short(reason)),
                    KeyValue::new("kugetsu.cost_usd", cost_usd),
                    KeyValue::new("gen_ai.usage.input_tokens", tokens.input as i64),
                    KeyValue::new("gen_ai.usage.output_tokens", tokens.output as i64),
                ];
                self.end_step(time, attributes);
            }
            StreamEvent::ToolExecutionStart { call, tool, .. } if self.tools.len() < MAX_SPANS => {
                let step = self.step.map(|(step, _)| step);
                self.tools.entry(call).or_insert((step, tool, time));
            }
            StreamEvent::ToolExecutionEnd { call, error, .. } => {
                let status = error.map_or(Status::Unset, |_| Status::error("failed"));
                self.end_tool(&call, time, status);
            }
            _ => {}
        }
    }

    fn end_step(&mut self, time: Timestamp, mut attributes: Vec<KeyValue>) {
        let Some((step, began)) = self.step.take() else {
            return;
        };
        let turn = Some(span_id(self.log.turn, "turn"));
        let mut span = self
            .log
            .trace
            .span("step", self.step_id(step), turn, (began, time));
        attributes.push(KeyValue::new("kugetsu.step", step as i64));
        span.attributes = attributes;
        self.spans.push(span);
    }

    fn end_tool(&mut self, call: &str, time: Timestamp, status: Status) {
        let Some((step, tool, began)) = self.tools.remove(call) else {
            return;
        };
        let turn = self.log.turn;
        let parent = step.map_or_else(|| span_id(turn, "turn"), |step| self.step_id(step));
        let id = span_id(turn, &format!("tool {call}"));
        let mut span = self.log.trace.span("tool", id, Some(parent), (began, time));
        let tool = short(tool);
        span.name = format!("tool {tool}").into();
        span.status = status;
        span.attributes = vec![KeyValue::new("gen_ai.tool.name", tool)];
        self.spans.push(span);
    }

    fn step_id(&self, step: u64) -> SpanId {
        span_id(self.log.turn, &format!("step {step}"))
    }

    /// Ends what the log leaves open.
    fn end(mut self) -> Vec<SpanData> {
        let ended = self.log.ended;
        let open: Vec<String> = self.tools.keys().cloned().collect();
        for call in open {
            self.end_tool(&call, ended, Status::error("unfinished"));
        }
        self.end_step(ended, Vec::new());
        self.spans.truncate(MAX_SPANS);
        self.spans
    }
}

/// The id of a span, which follows from what it is about.
fn span_id(of: Uuid, what: &str) -> SpanId {
    let mut hash = Sha256::new();
    hash.update(of);
    hash.update(what);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize()[..8]);
    SpanId::from_bytes(bytes)
}

fn status(verdict: Verdict) -> Status {
    match verdict {
        Verdict::Completed => Status::Ok,
        verdict => Status::error(verdict.as_str()),
    }
}

/// The time this many milliseconds later.
fn later(time: Timestamp, ms: u64) -> Timestamp {
    time.checked_add(Duration::from_millis(ms)).unwrap_or(time)
}

/// A name that opencode or a model chose.
fn short(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(MAX_NAME));
    name
}
