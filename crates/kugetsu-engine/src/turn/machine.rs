//! The state machine of one turn. Its input is opencode's events and the time; its output is what to do next.
//!
//! It is pure: no clock, file or process. Time is measured from the beginning of the turn. docs/turns.md has a diagram;
//! property tests feed it events in random order.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::Limits;
use crate::opencode::{
    ConfigProblem, ErrorKind, Refusal, found_database_locked, refusal, rejected_permission, tool_label,
};
use crate::process::Exit;
use crate::transport::{
    End, ErrorPayload, Finish, Request, RequestKind, ToolCall, ToolStatus, TransportEvent,
};
use kugetsu_api::{Refused, RefusedCall, TokenCount, Verdict};

/// The next action of the supervisor.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Keep listening.
    Go,
    /// Answer this request.
    Ask(Request),
    /// End the turn with this judgement; opencode still runs.
    Stop(Judgement),
    /// opencode has finished; this is the judgement.
    Done(Judgement),
    /// opencode ended in the middle of its work, for this reason.
    Crashed(String),
}

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// How the turn ended.
    pub verdict: Verdict,
    /// The reason in one line; empty for a completed turn.
    pub reason: String,
    /// When to try again after reaching a quota.
    pub retry_at: Option<Timestamp>,
    /// Whether opencode ended well and its events do not have the end of an answer. `opencode run` may end before its
    /// output is written (both versions, with answers of megabytes).
    pub lacks_end: bool,
}

impl Judgement {
    /// A verdict with this reason.
    pub fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self {
            verdict,
            reason: reason.into(),
            retry_at: None,
            lacks_end: false,
        }
    }

    fn without_end(self) -> Self {
        Self {
            lacks_end: true,
            ..self
        }
    }
}

/// The state machine; see the module's documentation.
#[derive(Debug)]
pub struct Machine {
    limits: Limits,
    /// The counts so far.
    pub counts: Counts,
    last_progress: Duration,
    idle_steps: u32,
    /// Steps of the turn and of its subagents.
    spent_steps: u64,
    /// The same for each subagent, by session.
    subagents_idle: HashMap<String, u32>,
    last_reason: Option<Finish>,
    answer_over: bool,
    error: Option<ErrorPayload>,
    /// Every refused tool call.
    refusals: Refused,
    /// The last refused tool call that ends opencode's work, and its error.
    refused: Option<(Refusal, String)>,
    /// The last permission that opencode asked for.
    requested_permission: Option<String>,
    asked: HashSet<String>,
    tools: HashSet<String>,
    waits_since: Option<Duration>,
    retry: Option<(String, Option<Timestamp>)>,
}

/// Totals of one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Events of any kind.
    pub events: u64,
    /// Finished model steps.
    pub steps: u64,
    /// Finished tool calls.
    pub tool_calls: u64,
    /// US dollars, including subagents.
    pub cost_usd: f64,
    /// Tokens, including subagents.
    pub tokens: TokenCount,
    /// Bytes of answer text.
    pub text: u64,
}

impl Machine {
    /// A machine for one turn.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            counts: Counts::default(),
            last_progress: Duration::ZERO,
            idle_steps: 0,
            spent_steps: 0,
            subagents_idle: HashMap::new(),
            last_reason: None,
            answer_over: false,
            error: None,
            refusals: Refused::default(),
            refused: None,
            requested_permission: None,
            asked: HashSet::new(),
            tools: HashSet::new(),
            waits_since: None,
            retry: None,
        }
    }

    /// The time by which the machine must be called even if no event arrives, measured from the beginning.
    pub fn deadline(&self) -> Duration {
        let mut next = self.limits.timeout;
        if self.tools.is_empty() {
            next = next.min(self.last_progress.saturating_add(self.limits.stall));
        }
        if self.answer_over {
            next = next.min(self.last_progress.saturating_add(self.limits.linger));
        }
        if let Some(since) = self.waits_since {
            next = next.min(since.saturating_add(self.limits.quota_wait));
        }
        next
    }

    /// Handles the passing of time.
    pub fn tick(&mut self, at: Duration) -> Step {
        if self.answer_over && at >= self.last_progress.saturating_add(self.limits.linger) {
            // The answer is complete but opencode stays (anomalyco/opencode#17516): the work is done.
            return Step::Stop(Judgement::new(Verdict::Completed, ""));
        }
        if at >= self.limits.timeout {
            return Step::Stop(self.timed_out());
        }
        if let Some(since) = self.waits_since
            && at >= since.saturating_add(self.limits.quota_wait)
        {
            return Step::Stop(self.quota(None));
        }
        if self.is_silent(at) {
            if self.retry.is_some() {
                return Step::Stop(self.quota(None));
            }
            return Step::Stop(Judgement::new(
                Verdict::Stalled,
                format!("no sign of progress for {}", seconds(self.limits.stall)),
            ));
        }
        Step::Go
    }

    /// The error that opencode reported, unless a later step succeeded.
    pub fn error(&self) -> Option<&ErrorPayload> {
        self.error.as_ref()
    }

    /// The tool calls that were refused.
    pub fn refused(&self) -> &Refused {
        &self.refusals
    }

    /// The judgement of a turn that exceeded its time limit.
    pub fn timed_out(&self) -> Judgement {
        Judgement::new(
            Verdict::Timeout,
            format!("not done after {}", seconds(self.limits.timeout)),
        )
    }

    fn quota(&self, wait: Option<Timestamp>) -> Judgement {
        let (message, next) = self.retry.clone().unwrap_or_default();
        Judgement {
            verdict: Verdict::Quota,
            reason: format!("still waiting for the model's provider: {message}"),
            retry_at: wait.or(next),
            lacks_end: false,
        }
    }

    fn progress(&mut self, at: Duration) {
        self.last_progress = at;
        self.waits_since = None;
        self.retry = None;
    }

    /// Whether no tool runs and nothing has progressed for the stall limit.
    pub fn is_silent(&self, at: Duration) -> bool {
        self.tools.is_empty() && at >= self.last_progress.saturating_add(self.limits.stall)
    }

    /// Records activity without an event: a tool runs, or a request was asked or answered.
    pub fn alive(&mut self, at: Duration) {
        self.last_progress = at;
    }

    /// Handles an event of opencode. `now` is the wall clock, because opencode reports retry times as wall-clock times.
    pub fn event(&mut self, event: &TransportEvent, at: Duration, now: Timestamp) -> Step {
        self.counts.events += 1;
        match event {
            TransportEvent::Session(_)
            | TransportEvent::Notice(_)
            | TransportEvent::Unread(_)
            | TransportEvent::Answered(_) => Step::Go,
            TransportEvent::Activity => {
                self.progress(at);
                Step::Go
            }
            TransportEvent::StepStarted => {
                self.answer_over = false;
                self.progress(at);
                Step::Go
            }
            TransportEvent::Text { delta, reasoning, .. } => {
                self.progress(at);
                if !reasoning {
                    self.counts.text += delta.len() as u64;
                }
                Step::Go
            }
            TransportEvent::TextEnded { .. } => {
                self.progress(at);
                Step::Go
            }
            TransportEvent::Tool(call) => {
                self.progress(at);
                match call.status {
                    // The model is still writing the arguments and may stall while it does.
                    ToolStatus::Pending => {}
                    // The subagent reports its own activity.
                    ToolStatus::Running if call.is_subagent() => {}
                    ToolStatus::Running => {
                        self.tools.insert(call.call.clone());
                    }
                    ToolStatus::Completed | ToolStatus::Failed => {
                        self.tools.remove(&call.call);
                        self.counts.tool_calls += 1;
                        if let Some(error) = &call.error
                            && let Some(refusal) = refusal(error)
                        {
                            self.note_refusal(call);
                            // The model continues after the policy's own refusals, so they end nothing.
                            if refusal != Refusal::Policy {
                                self.refused = Some((refusal, format!("{}: {error}", call.tool)));
                            }
                        }
                    }
                }
                Step::Go
            }
            TransportEvent::StepFinished {
                reason,
                cost_usd,
                tokens,
            } => self.step_finished(reason, *cost_usd, *tokens, at),
            TransportEvent::SubagentStep {
                session,
                reason,
                cost_usd,
                tokens,
            } => self.subagent_step(session, reason, *cost_usd, *tokens, at),
            TransportEvent::Retrying { message, next, .. } => self.retrying(message, *next, at, now),
            TransportEvent::Asked(request) => {
                self.last_progress = at;
                if let RequestKind::Permission { permission, patterns } = &request.kind {
                    self.requested_permission = Some(format!("{permission} on {}", patterns.join(", ")));
                }
                if self.asked.insert(request.id.clone()) {
                    Step::Ask(request.clone())
                } else {
                    Step::Go
                }
            }
            TransportEvent::Error(error) => {
                self.error = Some(error.clone());
                Step::Go
            }
            TransportEvent::Ended(end) => match self.crash(end) {
                Some(crash) => Step::Crashed(crash),
                None => Step::Done(self.judge(end, now)),
            },
        }
    }

    fn note_refusal(&mut self, call: &ToolCall) {
        self.refusals.count += 1;
        if self.refusals.calls.len() < Refused::KEPT {
            self.refusals.calls.push(RefusedCall {
                tool: call.tool.clone(),
                call: tool_label(&call.tool, &call.title, &call.input),
            });
        }
    }

    fn step_finished(&mut self, reason: &Finish, cost_usd: f64, tokens: TokenCount, at: Duration) -> Step {
        self.progress(at);
        self.tools.clear();
        self.error = None;
        self.counts.steps += 1;
        self.last_reason = Some(reason.clone());
        self.answer_over = reason.is_over();
        if let Some(judgement) = self.spend(cost_usd, tokens) {
            return Step::Stop(judgement);
        }
        if !reason.is_idle() {
            self.idle_steps = 0;
            return Step::Go;
        }
        self.idle_steps += 1;
        if self.idle_steps >= self.limits.idle_steps {
            return Step::Stop(looping(self.idle_steps, ""));
        }
        Step::Go
    }

    /// Handles a subagent's step. Its `stop` is not the end of the answer, and its steps are not the turn's steps, but
    /// its cost counts.
    fn subagent_step(
        &mut self,
        session: &str,
        reason: &Finish,
        cost_usd: f64,
        tokens: TokenCount,
        at: Duration,
    ) -> Step {
        self.progress(at);
        if let Some(judgement) = self.spend(cost_usd, tokens) {
            return Step::Stop(judgement);
        }
        if !reason.is_idle() {
            self.subagents_idle.remove(session);
            return Step::Go;
        }
        let idle = self.subagents_idle.entry(session.to_owned()).or_default();
        *idle += 1;
        if *idle >= self.limits.idle_steps {
            return Step::Stop(looping(*idle, " of a subagent"));
        }
        Step::Go
    }

    /// Adds the cost of a step. Returns a judgement if the turn exceeds its budget.
    fn spend(&mut self, cost_usd: f64, tokens: TokenCount) -> Option<Judgement> {
        if cost_usd.is_finite() && cost_usd > 0.0 {
            self.counts.cost_usd += cost_usd;
        }
        self.counts.tokens += tokens;
        if let Some(limit) = self.limits.cost_usd
            && self.counts.cost_usd > limit
        {
            return Some(Judgement::new(
                Verdict::Failed,
                format!("budget: {:.4} USD of at most {limit} USD", self.counts.cost_usd),
            ));
        }
        if let Some(limit) = self.limits.tokens
            && self.counts.tokens.total() > limit
        {
            return Some(Judgement::new(
                Verdict::Failed,
                format!("budget: {} tokens of at most {limit}", self.counts.tokens.total()),
            ));
        }
        self.spent_steps += 1;
        if let Some(limit) = self.limits.steps
            && self.spent_steps > limit
        {
            return Some(Judgement::new(
                Verdict::Failed,
                format!("budget: {} steps of at most {limit}", self.spent_steps),
            ));
        }
        None
    }

    fn retrying(&mut self, message: &str, next: Option<Timestamp>, at: Duration, now: Timestamp) -> Step {
        let since = *self.waits_since.get_or_insert(at);
        self.retry = Some((message.to_owned(), next));
        let until_next = next.map_or(Duration::ZERO, |next| {
            Duration::try_from(next.duration_since(now)).unwrap_or_default()
        });
        if at.saturating_add(until_next) > since.saturating_add(self.limits.quota_wait) {
            return Step::Stop(self.quota(next));
        }
        Step::Go
    }

    /// Handles a restart of opencode: the activity of the old process is over.
    pub fn restarted(&mut self, at: Duration) {
        self.tools.clear();
        self.subagents_idle.clear();
        self.answer_over = false;
        self.last_reason = None;
        self.error = None;
        self.progress(at);
    }

    /// Whether opencode ended before it had finished: by a signal, or with a failure in the middle of its work. An
    /// error that it reported counts as a result, and so does a refusal to start.
    fn crash(&self, end: &End) -> Option<String> {
        if self.error.is_some() || self.answer_over {
            return None;
        }
        let what = match (end.exit, &end.broken) {
            (Some(exit @ (Exit::Signal(_) | Exit::GuardLost)), _) => format!("opencode: {exit}"),
            (Some(exit @ Exit::Code(code)), None) if code != 0 && self.counts.steps > 0 => {
                format!("opencode: {exit}")
            }
            // Nothing is wrong with the turn.
            (Some(exit @ Exit::Code(code)), None) if code != 0 && found_database_locked(&end.stderr) => {
                format!("opencode: {exit}")
            }
            (Some(exit), Some(broken)) => format!("{broken}: {exit}"),
            (None, Some(broken)) => broken.clone(),
            _ => return None,
        };
        Some(with_stderr_line(&what, end))
    }

    /// Judges the turn by its events after opencode has ended.
    fn judge(&self, end: &End, now: Timestamp) -> Judgement {
        if let Some(error) = &self.error {
            let text = format!("{}: {}", error.name, error.message);
            return match error.kind {
                ErrorKind::ProviderUnavailable { retry_after } => Judgement {
                    retry_at: retry_after.and_then(|wait| now.checked_add(wait).ok()),
                    ..Judgement::new(
                        Verdict::Quota,
                        format!("the model's provider is unavailable: {}", error.message),
                    )
                },
                ErrorKind::CauseInLog => Judgement::new(Verdict::Failed, with_stderr_line(&text, end)),
                ErrorKind::Other => Judgement::new(Verdict::Failed, text),
            };
        }
        if let Some(broken) = end.broken.as_ref().filter(|_| !self.answer_over) {
            return Judgement::new(Verdict::Failed, with_stderr_line(broken, end));
        }
        match end.finish.as_ref().or(self.last_reason.as_ref()) {
            Some(reason) if reason.is_over() => Judgement::new(Verdict::Completed, ""),
            Some(Finish::Length) => Judgement::new(
                Verdict::Failed,
                "the answer was cut off at the model's output limit",
            ),
            Some(Finish::ContentFilter) => Judgement::new(
                Verdict::Failed,
                "the answer was withheld by the provider's content filter",
            ),
            Some(reason) => match &self.refused {
                Some((Refusal::Question, call)) => {
                    Judgement::new(Verdict::Failed, format!("a question was cancelled: {call}"))
                }
                Some((Refusal::Permission | Refusal::Policy, call)) => {
                    // `run` prints the requested permission only on its standard error.
                    let on_stderr = || {
                        let lines = end.stderr.iter().rev();
                        let rejected = lines.map(String::as_str).find_map(rejected_permission)?;
                        Some(format!("{} on {}", rejected.permission, rejected.patterns))
                    };
                    let what = self.requested_permission.clone().or_else(on_stderr);
                    let what = what.map_or_else(String::new, |what| format!("{what}: "));
                    Judgement::new(Verdict::Failed, format!("a permission was refused: {what}{call}"))
                }
                None => {
                    let text = format!("opencode ended in the middle of its work (last step: {reason})");
                    Judgement::new(Verdict::Failed, with_stderr_line(&text, end)).without_end()
                }
            },
            None => match end.exit {
                Some(Exit::Code(0)) | None => {
                    Judgement::new(Verdict::Void, "opencode ended without doing anything").without_end()
                }
                Some(exit) => Judgement::new(
                    Verdict::Failed,
                    match ConfigProblem::from_stderr(&end.stderr) {
                        Some(problem) => problem.to_string(),
                        None => {
                            with_stderr_line(&format!("opencode ended ({exit}) before its first step"), end)
                        }
                    },
                ),
            },
        }
    }
}

fn looping(steps: u32, whose: &str) -> Judgement {
    Judgement::new(
        Verdict::Looping,
        format!("{steps} steps{whose} in a row ended without a finish reason"),
    )
}

fn with_stderr_line(text: &str, end: &End) -> String {
    match end.stderr.last() {
        Some(last) => format!("{text}: {last}"),
        None => text.to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    crate::duration::print_duration(duration)
}
