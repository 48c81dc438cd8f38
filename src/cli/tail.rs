//! `kugetsu tail`.

use clap::Args;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{ErrorCode, TaskState};

use super::context::Context;
use super::daemon::{client, refused};
use super::form::EventsSchemaArg;
use super::live::{LiveView, Progress, ViewArgs};
use super::output::Output;
use super::printer::{Lines, Screen, Show};
use super::signals::{event_loop, no_runtime};
use super::{CommandError, Outcome};

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// The task: its id, or the beginning or end of it
    task: String,

    /// Wait for the task's turn and for its end, and exit with the turn's status
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    schema: EventsSchemaArg,

    #[command(flatten)]
    view: ViewArgs,
}

pub(super) fn run(args: &TailArgs, context: &Context, output: Output) -> Outcome {
    let client = client(context)?;
    let show = if output.json {
        Show::Lines(Lines {
            types: Vec::new(),
            schema: args.schema.events_schema,
        })
    } else {
        Show::Transcript
    };
    let progress = if args.follow {
        args.view.progress
    } else {
        Progress::Never
    };
    let view = LiveView::beside(&show, progress);
    let mut screen = Screen::new(show, None, view, args.view.plain);
    let runtime = event_loop().map_err(no_runtime)?;
    let followed: Result<_, CommandError> = runtime.block_on(async {
        let mut lines = client.events(&args.task, args.follow).await.map_err(refused)?;
        loop {
            tokio::select! {
                line = lines.next_bytes() => {
                    let Some(mut line) = line.map_err(refused)? else {
                        break;
                    };
                    line.push(b'\n');
                    screen.line(&line);
                    if screen.is_closed() {
                        break;
                    }
                }
                () = tokio::time::sleep(screen.until_tick()) => screen.tick(),
            }
        }
        client.task(&args.task).await.map_err(refused)
    });
    screen.end();
    let task = followed?;
    if !args.follow {
        return Ok(ExitStatus::Ok);
    }
    let reason = task.reason.as_deref().unwrap_or_default();
    match (task.state, task.verdict) {
        (TaskState::Ended, Some(verdict)) => {
            if !reason.is_empty() {
                output.note(format!("kugetsu: {verdict}: {reason}"));
            }
            Ok(verdict.exit_status())
        }
        (TaskState::Cancelled, _) => {
            output.note("kugetsu: the task was cancelled");
            Ok(ExitStatus::Failed)
        }
        (TaskState::Parked, _) => {
            output.note(format!("kugetsu: the task is parked: {reason}"));
            Ok(ExitStatus::Failed)
        }
        _ => Err(
            CommandError::new(ErrorCode::DaemonUnusable, "the daemon has ended before the task")
                .hint("start it again: kugetsu daemon start --detach"),
        ),
    }
}
