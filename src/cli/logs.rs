//! `kugetsu logs`: the stream of a turn that is running or over.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::complete::{References, Turns};
use super::context::Context;
use super::ending;
use super::form::EventsSchemaArg;
use super::live::{LiveView, Progress, ViewArgs};
use super::output::{Output, can_ask, confirm};
use super::printer::{Lines, Screen, Show};
use super::tone::Tone;
use super::turn_id::TurnName;
use super::{CommandError, Outcome, signals};
use crate::terminal::Stream;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Address, ErrorCode, Verdict};
use kugetsu_engine::log_file::{self, LogReader};
use kugetsu_engine::operations::EngineError;

/// The interval between checks of a turn in another process.
pub(super) const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// Keep printing until the turn ends
    #[arg(short, long)]
    follow: bool,

    /// This turn instead of the newest one: its id, or the beginning or end of it; `kugetsu show REF --turns` lists them
    #[arg(long, value_name = "TURN", add = ArgValueCompleter::new(Turns))]
    turn: Option<TurnName>,

    /// Print opencode's own output as it is; a terminal may obey a part of it, so kugetsu asks first
    #[arg(long)]
    raw: bool,

    /// With --raw, print to a terminal without asking
    #[arg(short, long, requires = "raw")]
    yes: bool,

    /// Print only the answer, without a line for each tool
    #[arg(long, conflicts_with = "raw")]
    answer: bool,

    #[command(flatten)]
    schema: EventsSchemaArg,

    #[command(flatten)]
    view: ViewArgs,
}

pub(super) fn run(args: &LogsArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let record = context.engine.record(&address)?;
    let named = args.turn.as_ref();
    let turn = named
        .map(|turn| turn.resolve(&address, context))
        .transpose()?
        .or(record.live.as_ref().map(|live| live.turn))
        .or(record.last.as_ref().map(|last| last.turn))
        .ok_or_else(|| EngineError::NotFound {
            code: ErrorCode::NoTurn,
            problem: format!("{address} has had no turn yet"),
            hint: format!("run one: kugetsu continue {address}"),
        })?;
    if args.raw && Stream::Stdout.is_terminal() {
        sure_of_raw(args.yes, &address)?;
    }
    let path = if args.raw {
        context.engine.raw_log_path(&address, turn)
    } else {
        context.engine.stream_path(&address, turn)
    };
    let show = if args.raw {
        Show::Raw
    } else if output.json {
        Show::Lines(Lines {
            types: Vec::new(),
            schema: args.schema.events_schema,
        })
    } else if args.answer {
        Show::Text
    } else {
        Show::Transcript
    };
    let goes_on = || context.engine.is_running(&address, turn);
    if args.follow {
        wait_for(&path, goes_on);
    }
    let for_people = matches!(show, Show::Text | Show::Transcript);
    let progress = if args.follow {
        args.view.progress
    } else {
        Progress::Never
    };
    let view = LiveView::beside(&show, progress);
    print(
        &path,
        Screen::new(show, None, view, args.view.plain),
        args.follow,
        goes_on,
    )?;
    // The output of an interrupted turn, often empty, does not show that the turn was interrupted.
    if for_people
        && let Ok(Some((_, ended))) = context.engine.end_of(&address, turn)
        && (ended.verdict != Verdict::Completed || ended.log_gap.is_some())
    {
        output.note_line(&[
            (Tone::Plain, &format!("kugetsu: {address} ")),
            (ended.verdict.into(), ended.verdict.as_str()),
        ]);
        if !ended.reason.is_empty() {
            output.note(format!("  {}", ended.reason));
        }
        if let Some(why) = &ended.log_gap {
            ending::warn_of_gap(&address, why, output);
        }
    }
    Ok(ExitStatus::Ok)
}

/// Asks before a terminal gets text that a model or a tool may have written for it, unless `yes` was given.
fn sure_of_raw(yes: bool, address: &Address) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !can_ask() {
        return Err(CommandError::new(
            ErrorCode::NeedsConfirmation,
            "confirmation is needed before opencode's output goes to a terminal as it is, and there is no terminal \
             to ask on",
        )
        .hint(format!("read it in a pager: kugetsu logs {address} --raw | less"))
        .hint("to confirm, add -y"));
    }
    if confirm("The terminal may obey characters in opencode's output. Print it as it is?") {
        return Ok(());
    }
    Err(CommandError::new(ErrorCode::NotConfirmed, "nothing was printed")
        .hint(format!("read it in a pager: kugetsu logs {address} --raw | less")))
}

/// Waits for the file of a turn that is just starting. A turn that failed before its first event has no file.
pub(super) fn wait_for(path: &Path, goes_on: impl Fn() -> bool) {
    while !log_file::exists(path) && goes_on() {
        std::thread::sleep(POLL);
    }
}

pub(super) fn print(
    path: &Path,
    mut screen: Screen,
    follow: bool,
    runs: impl Fn() -> bool,
) -> Result<(), CommandError> {
    let file = LogReader::open(path).map_err(|error| EngineError::NotFound {
        code: ErrorCode::NoLog,
        problem: format!("there is no log {}: {error}", path.display()),
        hint:
            "kugetsu show REF --turns lists the turns; the settings log_keep and log_max_bytes say how long \
               the logs of old turns stay"
                .to_owned(),
    })?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    if let Some(status_line) = screen.ender() {
        signals::before_death(move || status_line.end())?;
    }
    loop {
        // Checked before reading, so that everything a turn writes before its end is read.
        let more = follow && runs();
        loop {
            let Ok(read) = reader.read_until(b'\n', &mut line) else {
                return Ok(());
            };
            if read == 0 || !line.ends_with(b"\n") {
                break;
            }
            screen.line(&line);
            if screen.is_closed() {
                return Ok(());
            }
            line.clear();
        }
        if !more {
            if !line.is_empty() {
                screen.line(&line);
            }
            screen.end();
            return Ok(());
        }
        screen.tick();
        std::thread::sleep(POLL);
    }
}
