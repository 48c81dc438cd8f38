//! `kugetsu wait`: follows a turn of another process as if it ran here.

use std::time::{Duration, Instant};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use uuid::Uuid;

use super::complete::{References, Turns};
use super::context::{Context, time_limit};
use super::each::for_each;
use super::ending;
use super::form::{EventsSchemaArg, OutputForm};
use super::live::{LiveView, ViewArgs};
use super::logs;
use super::output::Output;
use super::printer::{Lines, Screen};
use super::turn_id::TurnName;
use super::{CommandError, Outcome};
use kugetsu_api::Address;
use kugetsu_api::exit::ExitStatus;
use kugetsu_engine::log_file;

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The addresses of sessions, such as 14 or owner/repo#14
    #[arg(id = "reference", value_name = "REF", required = true, add = ArgValueCompleter::new(References))]
    references: Vec<String>,

    /// Wait at most this long; the turn continues
    #[arg(long, value_name = "DURATION", value_parser = time_limit)]
    timeout: Option<Duration>,

    /// This turn instead of the one that runs, or ended last: its id, or the beginning or end of it
    #[arg(long, value_name = "TURN", add = ArgValueCompleter::new(Turns))]
    turn: Option<TurnName>,

    /// What to print: the answer as text, one object at the end, or every event as a JSON line
    #[arg(long, value_enum)]
    pub(super) output: Option<OutputForm>,

    #[command(flatten)]
    schema: EventsSchemaArg,

    #[command(flatten)]
    view: ViewArgs,
}

pub(super) fn run(args: &WaitArgs, context: &Context, output: Output) -> Outcome {
    let addresses = context.addresses(&args.references)?;
    if args.turn.is_some() && addresses.len() > 1 {
        return Err(CommandError::usage(
            "--turn names a turn of one session, and several are given",
            "wait for each of them alone",
        ));
    }
    let form = OutputForm::chosen(args.output, false, output);
    let began = Instant::now();
    let errors = Output::new(form != OutputForm::Text);
    for_each(&addresses, errors, |address| {
        let turn = match &args.turn {
            Some(turn) => turn.resolve(address, context)?,
            None => context.engine.newest_turn(address)?,
        };
        // The time is for all of them together.
        let left = args.timeout.map(|limit| limit.saturating_sub(began.elapsed()));
        let lines = Lines {
            types: Vec::new(),
            schema: args.schema.events_schema,
        };
        let form = (form, lines);
        until_end(address, turn, left, form, args.view, context, output)
    })
}

/// Prints a turn from its beginning to its end, and its result. The exit status is the turn's.
pub(super) fn until_end(
    address: &Address,
    turn: Uuid,
    at_most: Option<Duration>,
    (form, lines): (OutputForm, Lines),
    view: ViewArgs,
    context: &Context,
    output: Output,
) -> Outcome {
    let engine = &context.engine;
    let _waiting = engine.wait_for(address)?;
    let began = Instant::now();
    let expired = || at_most.is_some_and(|limit| began.elapsed() >= limit);
    let events = engine.stream_path(address, turn);
    let show = form.show(lines);
    let continues = || !expired() && engine.is_running(address, turn);
    logs::wait_for(&events, continues);
    if log_file::exists(&events) {
        let live = LiveView::beside(&show, view.progress);
        logs::print(
            &events,
            Screen::new(show, None, live, view.plain),
            true,
            continues,
        )?;
    }
    let report = engine.wait_turn(address, turn, began, at_most)?;
    let status: ExitStatus = ending::exit_of(&report, None);
    if form == OutputForm::Json {
        output.object(ending::result(&report, status));
    }
    ending::summary(&report, true, output);
    if engine.settings().notify_by_bell() {
        output.bell();
    }
    Ok(status)
}
