//! `kugetsu diff`: what a session has changed since it began. Takes no lock, and changes neither the clone nor its index.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::thread::JoinHandle;

use anstyle::{AnsiColor, Style};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use tokio::sync::watch;

use super::complete::References;
use super::context::Context;
use super::on_terminal::{self, Foreground};
use super::output::Output;
use super::signals::with_signals;
use super::{CommandError, Outcome};
use crate::terminal::{Piece, Stream, escape_bytes};
use kugetsu_api::Address;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::DiffOutput;
use kugetsu_engine::operations::{DiffForm, DiffView, Engine, EngineError};
use kugetsu_engine::turn::Interrupt;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// Show the number of changed lines in each file
    #[arg(long, conflicts_with = "name_only")]
    stat: bool,

    /// Show only the names of the changed files
    #[arg(long)]
    name_only: bool,
}

/// git, on a terminal with a pager that gets its output escaped and coloured.
struct Shown<'a> {
    engine: &'a Engine,
    address: Address,
    form: DiffForm,
    /// Holds what git reads until git has ended.
    view: Option<DiffView>,
    /// Waits for git, if a pager shows its output.
    git: Option<JoinHandle<std::io::Result<std::process::ExitStatus>>>,
}

impl Foreground for Shown<'_> {
    async fn start(
        &mut self,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<tokio::process::Child, EngineError> {
        let view = self.engine.diff(&self.address, self.form, interrupts).await?;
        let view = self.view.insert(view);
        if !Stream::Stdout.is_terminal() {
            return view.start().map_err(EngineError::Attach);
        }
        let (pager, git) = paged(view, self.form).map_err(EngineError::Attach)?;
        self.git = Some(git);
        Ok(pager)
    }
}

impl Shown<'_> {
    /// The outcome, which is git's if the pager has shown all of its output.
    fn outcome(self, shown: ExitStatus) -> ExitStatus {
        let Some(git) = self.git else {
            return shown;
        };
        // A pager that was closed early has ended git by a signal.
        let failed = |git: std::process::ExitStatus| git.code().is_some_and(|code| code != 0);
        match git.join() {
            Ok(Ok(git)) if shown == ExitStatus::Ok && failed(git) => ExitStatus::Failed,
            _ => shown,
        }
    }
}

/// Starts the pager, and git with its output in a pipe to it.
fn paged(
    view: &DiffView,
    form: DiffForm,
) -> std::io::Result<(
    tokio::process::Child,
    JoinHandle<std::io::Result<std::process::ExitStatus>>,
)> {
    let mut pager = view.pager().spawn()?;
    let input = pager.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    // A file without O_NONBLOCK, which the thread below writes to.
    let mut input = File::from(input.into_owned_fd()?);
    rustix::io::ioctl_fionbio(&input, false)?;
    let mut git = view.start_piped(Stream::Stdout.columns())?;
    let output = git.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    let thread = std::thread::Builder::new().name("diff".to_owned());
    let copied = thread.spawn(move || {
        // Both pipes are closed before git is waited for, so that git ends if the pager does.
        let _ = colour(BufReader::new(output), form, &mut input);
        drop(input);
        git.wait()
    })?;
    Ok((pager, copied))
}

/// Copies git's output line by line, escaped, in git's own colours. A line that is longer than [`LONGEST_LINE`] is
/// copied in pieces.
fn colour(mut from: impl BufRead, form: DiffForm, to: &mut impl Write) -> std::io::Result<()> {
    let mut patch = Patch::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let style = match form {
            DiffForm::Patch => patch.style_of(text),
            DiffForm::Stat | DiffForm::Names => Style::new(),
        };
        let escaped = escape_bytes(text);
        let end = if text.len() < line.len() { "\n" } else { "" };
        to.write_all(&Stream::Stdout.shown(&[Piece::Styled(style, &escaped), Piece::Own(end)]))?;
    }
}

/// The longest line that is kept in memory, in bytes.
const LONGEST_LINE: u64 = 1024 * 1024;

/// Where the next line of a patch stands.
#[derive(Debug, Default)]
struct Patch {
    /// The numbers of old and new lines that are left in a hunk.
    left: (u64, u64),
}

impl Patch {
    fn style_of(&mut self, line: &[u8]) -> Style {
        let colour = |colour: AnsiColor| colour.on_default();
        let (old, new) = &mut self.left;
        if *old > 0 || *new > 0 {
            let style = match line.first() {
                Some(b'-') => colour(AnsiColor::Red),
                Some(b'+') => colour(AnsiColor::Green),
                _ => Style::new(),
            };
            *old -= u64::from(*old > 0 && !matches!(line.first(), Some(b'+' | b'\\')));
            *new -= u64::from(*new > 0 && !matches!(line.first(), Some(b'-' | b'\\')));
            return style;
        }
        match hunk(line) {
            Some(left) => {
                self.left = left;
                colour(AnsiColor::Cyan)
            }
            None if line.starts_with(b"\\") => Style::new(),
            None => Style::new().bold(),
        }
    }
}

/// The numbers of lines in `@@ -1,2 +3,4 @@`.
fn hunk(line: &[u8]) -> Option<(u64, u64)> {
    let line = String::from_utf8_lossy(line);
    let (old, rest) = line.strip_prefix("@@ -")?.split_once(" +")?;
    let (new, _) = rest.split_once(" @@")?;
    let count = |range: &str| {
        range
            .split_once(',')
            .map_or(Some(1), |(_, count)| count.parse().ok())
    };
    Some((count(old)?, count(new)?))
}

pub(super) fn run(args: &DiffArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let engine = &context.engine;
    if output.json {
        let reading = async |interrupts| engine.changes_since_start(&address, interrupts).await;
        let (changes, signal) = with_signals(false, reading)?;
        let changes = changes.map_err(|error| CommandError::from(error).after(signal))?;
        output.object(DiffOutput { address, changes });
        return Ok(ExitStatus::Ok);
    }
    let form = match (args.stat, args.name_only) {
        (true, _) => DiffForm::Stat,
        (_, true) => DiffForm::Names,
        _ => DiffForm::Patch,
    };
    let mut shown = Shown {
        engine,
        address,
        form,
        view: None,
        git: None,
    };
    let status = on_terminal::run(&mut shown)?;
    Ok(shown.outcome(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_hunk_is_never_taken_for_a_head() {
        let patch = "diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@ fn\n--- old\n+++ new\n same\n\
                     \\ No newline at end of file\ndiff --git a/g b/g\n";
        let mut place = Patch::default();
        let styles: Vec<_> = patch
            .lines()
            .map(|line| place.style_of(line.as_bytes()))
            .collect();
        let (head, plain) = (Style::new().bold(), Style::new());
        let colour = |colour: AnsiColor| colour.on_default();
        let [red, green, cyan] = [AnsiColor::Red, AnsiColor::Green, AnsiColor::Cyan].map(colour);
        assert_eq!(styles, [head, head, head, cyan, red, green, plain, plain, head]);
    }
}
