//! The live view of a turn on stderr: a status line on a terminal, or a line now and then elsewhere.

use std::time::{Duration, Instant};

use super::output::count;
use super::printer::Show;
use super::status_line::{StatusLine, StatusLineEnder};
use super::turn_id::short;
use crate::terminal::{Piece, Stream, one_line};
use jiff::Timestamp;
use kugetsu_api::{StreamEvent, StreamLine};
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::money::print_usd;
use kugetsu_engine::operations::WaitsFor;
use kugetsu_engine::turn::stream::tool_label;

/// The interval between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Whether a turn reports its progress on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Progress {
    /// A status line on a terminal, and a line every 30 s elsewhere.
    #[default]
    Auto,
    /// A line every 30 s, also on a terminal.
    Always,
    /// Nothing.
    Never,
}

/// The flags of commands that show a turn.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ViewArgs {
    /// Whether to show on stderr what the turn is doing
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(super) progress: Progress,

    /// On a terminal, print the answer as the model wrote it, without rendering its Markdown
    #[arg(long)]
    pub(super) plain: bool,
}

/// The live view. Dropping it removes the status line.
#[derive(Debug)]
pub(super) struct LiveView {
    form: Form,
    began: Instant,
    activity: String,
    /// What the turn waits for before it begins.
    waits: Option<WaitsFor>,
    step: u64,
    tokens: u64,
    cost_usd: f64,
}

#[derive(Debug)]
enum Form {
    Nothing,
    Line(StatusLine),
    /// When the next line is due.
    Lines(Instant),
}

impl LiveView {
    /// A view beside this output on stdout. JSON on a terminal leaves no room for a status line.
    pub(super) fn beside(show: &Show, progress: Progress) -> Self {
        let shares_terminal = matches!(show, Show::Lines(_) | Show::Raw) && Stream::Stdout.is_terminal();
        let progress = match progress {
            Progress::Auto if shares_terminal => Progress::Never,
            progress => progress,
        };
        Self::start(progress)
    }

    pub(super) fn start(progress: Progress) -> Self {
        let began = Instant::now();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let form = match progress {
            Progress::Never => Form::Nothing,
            Progress::Auto if Stream::Stderr.is_terminal() && !dumb => Form::Line(StatusLine::start()),
            _ => Form::Lines(began + LINE_INTERVAL),
        };
        let view = Self {
            form,
            began,
            activity: "preparing".to_owned(),
            waits: None,
            step: 0,
            tokens: 0,
            cost_usd: 0.0,
        };
        view.show();
        view
    }

    /// What ends the status line from another thread, if this view has one.
    pub(super) fn ender(&self) -> Option<StatusLineEnder> {
        match &self.form {
            Form::Line(line) => Some(line.ender()),
            _ => None,
        }
    }

    /// Whether this view shows nothing at any time.
    pub(super) fn shows_nothing(&self) -> bool {
        matches!(self.form, Form::Nothing)
    }

    /// Whether [`LiveView::tick`] prints a line now.
    pub(super) fn is_due(&self) -> bool {
        matches!(&self.form, Form::Lines(due) if *due <= Instant::now())
    }

    /// The time until [`LiveView::tick`] has something to do.
    pub(super) fn until_tick(&self) -> Duration {
        match &self.form {
            Form::Lines(due) => due.saturating_duration_since(Instant::now()),
            _ => LINE_INTERVAL,
        }
    }

    /// Prints a line if one is due. A wait is shown with the time that it has taken until now.
    pub(super) fn tick(&mut self) {
        if let Some(line) = self.due_line(Instant::now()) {
            let _ = Stream::Stderr.write(&[Piece::Text(&line), Piece::Own("\n")]);
        }
        if self.waits.is_some() {
            self.show();
        }
    }

    /// The line that is due now, if there is one.
    fn due_line(&mut self, now: Instant) -> Option<String> {
        match &mut self.form {
            Form::Lines(due) if *due <= now => *due = now + LINE_INTERVAL,
            _ => return None,
        }
        let took = now.saturating_duration_since(self.began).as_secs();
        let took = print_duration(Duration::from_secs(took));
        Some(format!("kugetsu: {took}, {}", self.text(", ")))
    }

    /// Takes up what the turn waits for before it begins.
    pub(super) fn waits_for(&mut self, waits: Option<WaitsFor>) {
        self.waits = waits;
        self.show();
    }

    /// Takes up what the command waits for before there is a turn.
    pub(super) fn says(&mut self, activity: &str) {
        self.activity = activity.to_owned();
        self.show();
    }

    /// Takes up a line of the stream. Pieces of the answer need not be passed on.
    pub(super) fn line(&mut self, line: &StreamLine) {
        let waiting = || "waiting for the model".to_owned();
        // It has begun.
        self.waits = None;
        match &line.event {
            StreamEvent::AgentStart { .. } => {
                self.activity = waiting();
                // The turn may have begun long before this process.
                let age = Duration::try_from(Timestamp::now().duration_since(line.time)).unwrap_or_default();
                if let Some(began) = Instant::now().checked_sub(age)
                    && began < self.began
                {
                    self.began = began;
                }
            }
            StreamEvent::StepStart { step } => {
                self.step = *step;
                self.activity = waiting();
            }
            StreamEvent::MessageStart { reasoning, .. } => {
                let activity = if *reasoning { "thinking" } else { "answering" };
                activity.clone_into(&mut self.activity);
            }
            StreamEvent::ToolExecutionStart { tool, input, .. } => {
                self.activity = tool_label(tool, "", input);
            }
            StreamEvent::ToolExecutionUpdate {
                tool, title, input, ..
            } => self.activity = tool_label(tool, title, input),
            StreamEvent::ToolExecutionEnd { .. }
            | StreamEvent::Response { .. }
            | StreamEvent::MessageEnd { .. } => self.activity = waiting(),
            StreamEvent::Request { kind, .. } => {
                self.activity = format!("waiting for an answer to a {kind}");
            }
            StreamEvent::Notice { level, message }
                if ["retry", "restart", "control"].contains(&level.as_str()) =>
            {
                self.activity = format!("{level}: {message}");
            }
            StreamEvent::StepEnd { cost_usd, tokens, .. } => {
                self.tokens += tokens.total();
                self.cost_usd += cost_usd;
            }
            _ => {}
        }
    }

    /// Removes the status line, so that text can be printed in its place.
    pub(super) fn hide(&self) {
        if let Form::Line(line) = &self.form {
            line.hide();
        }
    }

    /// Shows the status line, on a line of its own.
    pub(super) fn show(&self) {
        if let Form::Line(line) = &self.form {
            line.show(self.began, self.text(" · "));
        }
    }

    fn text(&self, separator: &str) -> String {
        let mut parts = Vec::new();
        if self.step > 0 {
            parts.push(format!("step {}", self.step));
        }
        if self.tokens > 0 {
            parts.push(count(self.tokens, "token"));
            parts.push(print_usd(self.cost_usd));
        }
        let waiting = self
            .waits
            .as_ref()
            .map(|waits| describe_wait(waits, Timestamp::now()));
        parts.push(one_line(waiting.as_ref().unwrap_or(&self.activity)));
        parts.join(separator)
    }
}

/// What is waited for, who has it, and for how long.
fn describe_wait(waits: &WaitsFor, now: Timestamp) -> String {
    let what = "waiting for the session";
    let Some(holder) = &waits.holder else {
        return format!("{what}, which another process uses");
    };
    let user = match holder.turn {
        Some(turn) => format!("turn {}", short(turn)),
        None => format!("process {} ({})", holder.pid, holder.what),
    };
    let age = Duration::try_from(now.duration_since(holder.since)).unwrap_or_default();
    let age = print_duration(Duration::from_secs(age.as_secs()));
    format!("{what}, which {user} has used for {age}")
}

#[cfg(test)]
mod tests {
    use kugetsu_api::{Holder, TokenCount};

    use super::*;

    #[test]
    fn without_a_terminal_a_line_is_due_every_thirty_seconds() {
        let mut view = LiveView::start(Progress::Always);
        let began = view.began;
        let mut told = Vec::new();
        for second in 0..=100 {
            if second == 31 {
                for event in [
                    StreamEvent::StepStart { step: 1 },
                    StreamEvent::StepEnd {
                        step: 1,
                        reason: "tool-calls".to_owned(),
                        cost_usd: 0.5,
                        tokens: TokenCount {
                            input: 7,
                            ..TokenCount::default()
                        },
                    },
                    StreamEvent::StepStart { step: 2 },
                ] {
                    let time = Timestamp::now();
                    let turn = uuid::Uuid::nil();
                    view.line(&StreamLine {
                        schema: 2,
                        time,
                        subject: String::new(),
                        turn,
                        event,
                    });
                }
            }
            told.extend(view.due_line(began + Duration::from_secs(second)));
        }
        assert_eq!(
            told,
            [
                "kugetsu: 30s, preparing",
                "kugetsu: 1m, step 2, 7 tokens, $0.50, waiting for the model",
                "kugetsu: 1m30s, step 2, 7 tokens, $0.50, waiting for the model",
            ]
        );
        assert_eq!(
            LiveView::start(Progress::Never).due_line(began + Duration::from_hours(1)),
            None
        );
    }

    #[test]
    fn a_wait_names_who_is_waited_for() {
        let now = Timestamp::now();
        let holder = Holder {
            pid: 12,
            host: "box".to_owned(),
            since: now - jiff::SignedDuration::from_secs(90),
            what: "attach".to_owned(),
            turn: None,
        };
        let turn = Holder {
            turn: Some(uuid::uuid!("01a1fbdd-6d77-7679-95ff-a3c0af00cef8")),
            ..holder.clone()
        };
        for (holder, expected) in [
            (None, "waiting for the session, which another process uses"),
            (
                Some(turn),
                "waiting for the session, which turn af00cef8 has used for 1m30s",
            ),
            (
                Some(holder),
                "waiting for the session, which process 12 (attach) has used for 1m30s",
            ),
        ] {
            let waits = WaitsFor { holder };
            assert_eq!(describe_wait(&waits, now), expected);
            let mut view = LiveView::start(Progress::Never);
            view.waits_for(Some(waits));
            assert!(view.text(", ").starts_with("waiting "));
            view.waits_for(None);
            assert_eq!(view.text(", "), "preparing");
        }
    }
}
