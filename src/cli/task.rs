//! `kugetsu task`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Task, TaskState};
use kugetsu_client::TaskQuery;
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::money::print_usd;

use super::Outcome;
use super::context::Context;
use super::daemon::{ask, client, refuse_tool};
use super::output::Output;
use super::table::Column;
use super::turn_id::short;
use crate::terminal::one_line;

#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    #[command(subcommand)]
    verb: TaskVerb,
}

#[derive(Debug, Subcommand)]
enum TaskVerb {
    /// List tasks, newest first
    List(ListArgs),
    /// Show one task
    Show(OneArgs),
    /// Cancel a task, also a parked one; its turn is stopped if it runs
    Cancel(OneArgs),
    /// Put a parked task back into the queue
    Retry(OneArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only tasks in one of these states, separated by commas; repeatable
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    state: Vec<String>,

    /// Only tasks of this repository
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO")]
    repo: Option<String>,

    /// At most this many tasks
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The task: its id, or the beginning or end of it
    task: String,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(TaskState::ALL.map(TaskState::as_str))
}

pub(super) fn run(args: &TaskArgs, context: &Context, output: Output) -> Outcome {
    let client = client(context)?;
    match &args.verb {
        TaskVerb::List(args) => {
            let repo = args
                .repo
                .as_deref()
                .map(|repo| context.repo(Some(repo)))
                .transpose()?;
            let query = TaskQuery {
                state: (!args.state.is_empty()).then(|| args.state.join(",")),
                repo: repo.map(|repo| repo.to_string()),
                limit: Some(args.limit),
                ..TaskQuery::default()
            };
            let list = ask(client.tasks(&query))?;
            if output.json {
                output.object(list);
            } else {
                table(&list.tasks, output);
            }
        }
        TaskVerb::Show(args) => print(ask(client.task(&args.task))?, output),
        TaskVerb::Cancel(args) => {
            refuse_tool(context)?;
            print(ask(client.cancel(&args.task))?, output);
        }
        TaskVerb::Retry(args) => {
            refuse_tool(context)?;
            print(ask(client.retry(&args.task))?, output);
        }
    }
    Ok(ExitStatus::Ok)
}

fn table(tasks: &[Task], output: Output) {
    if tasks.is_empty() {
        output.note("kugetsu: there are no tasks; submit one: kugetsu submit REF MESSAGE");
        return;
    }
    let columns = [
        Column::new("TASK"),
        Column::new("STATE"),
        Column::new("SESSION"),
        Column::new("AGE").spare(1),
        Column::prose("MESSAGE").spare(2),
    ];
    let now = Timestamp::now();
    let rows = tasks.iter().map(|task| {
        let age = now.duration_since(task.submitted).try_into().unwrap_or_default();
        vec![
            short(task.task.0),
            state(task),
            task.spec.address.to_string(),
            print_duration(age),
            one_line(task.spec.prompt.lines().next().unwrap_or_default()),
        ]
    });
    output.table(&columns, rows.collect());
}

/// What a task is doing, or its verdict.
fn state(task: &Task) -> String {
    match task.verdict.filter(|_| task.state == TaskState::Ended) {
        Some(verdict) => verdict.to_string(),
        None => task.state.to_string(),
    }
}

fn print(task: Task, output: Output) {
    if output.json {
        output.object(task);
        return;
    }
    let mut lines = vec![
        ("task", task.task.to_string()),
        ("session", task.spec.address.to_string()),
        ("state", state(&task)),
        ("submitted", task.submitted.to_string()),
    ];
    let optional = [
        ("started", task.started),
        ("ended", task.ended),
        ("not before", task.not_before),
    ];
    lines.extend(
        optional
            .into_iter()
            .filter_map(|(name, at)| Some((name, at?.to_string()))),
    );
    lines.extend(task.turn.map(|turn| ("turn", turn.to_string())));
    if task.attempts > 1 {
        lines.push(("attempts", task.attempts.to_string()));
    }
    if task.cost_usd > 0.0 {
        lines.push(("cost", print_usd(task.cost_usd)));
    }
    lines.extend(task.reason.map(|reason| ("reason", one_line(&reason))));
    for (name, value) in lines {
        output.text(format!("{name:<11} {value}"));
    }
}
