//! The live view of a turn on stderr: a status line on a terminal, or a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::output::{count, money};
use super::status_line::StatusLine;
use super::terminal::safe_line;
use kugetsu_api::StreamEvent;
use kugetsu_engine::duration::print_duration;
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
    pub(super) fn start(progress: Progress) -> Self {
        let began = Instant::now();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let form = match progress {
            Progress::Never => Form::Nothing,
            Progress::Auto if std::io::stderr().is_terminal() && !dumb => {
                Form::Line(StatusLine::start(began))
            }
            _ => Form::Lines(began + LINE_INTERVAL),
        };
        let view = Self {
            form,
            began,
            activity: "starting opencode".to_owned(),
            step: 0,
            tokens: 0,
            cost_usd: 0.0,
        };
        view.show();
        view
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

    /// Takes up an event. Pieces of the answer need not be passed on.
    pub(super) fn event(&mut self, event: &StreamEvent) {
        match event {
            StreamEvent::AgentStart { .. } => "waiting for the model".clone_into(&mut self.activity),
            StreamEvent::TurnStart { step } => {
                self.step = *step;
                "waiting for the model".clone_into(&mut self.activity);
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
            StreamEvent::ExtensionUiRequest { kind, .. } => {
                self.activity = format!("waiting for an answer to a {kind}");
            }
            StreamEvent::Notice { level, message } if level == "retry" || level == "restart" => {
                self.activity = format!("{level}: {message}");
            }
            StreamEvent::TurnEnd { cost_usd, tokens, .. } => {
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
            line.show(self.text(" · "));
        }
    }

    fn text(&self, separator: &str) -> String {
        let mut parts = Vec::new();
        if self.step > 0 {
            parts.push(format!("step {}", self.step));
        }
        if self.tokens > 0 {
            parts.push(count(self.tokens, "token"));
            parts.push(money(self.cost_usd));
        }
        parts.push(safe_line(&self.activity));
        parts.join(separator)
    }
}
