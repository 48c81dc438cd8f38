//! The live view of a turn on stderr: a status line on a terminal, or a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::output::count;
use super::printer::Show;
use super::status_line::{StatusLine, StatusLineEnder};
use super::terminal::safe_line;
use jiff::Timestamp;
use kugetsu_api::{StreamEvent, StreamLine};
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::money::print_usd;
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
        let shares_terminal = matches!(show, Show::Lines(_) | Show::Raw) && std::io::stdout().is_terminal();
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
            Progress::Auto if std::io::stderr().is_terminal() && !dumb => Form::Line(StatusLine::start()),
            _ => Form::Lines(began + LINE_INTERVAL),
        };
        let view = Self {
            form,
            began,
            activity: "preparing".to_owned(),
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

    /// Prints a line if one is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if let Form::Lines(due) = &mut self.form
            && *due <= now
        {
            *due = now + LINE_INTERVAL;
            let took = print_duration(Duration::from_secs(self.began.elapsed().as_secs()));
            let _ = writeln!(std::io::stderr().lock(), "kugetsu: {took}, {}", self.text(", "));
        }
    }

    /// Takes up a line of the stream. Pieces of the answer need not be passed on.
    pub(super) fn line(&mut self, line: &StreamLine) {
        let waiting = || "waiting for the model".to_owned();
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
        parts.push(safe_line(&self.activity));
        parts.join(separator)
    }
}
