//! `kugetsu submit`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{PRIORITIES, TaskId, TaskLimits, TaskRequest};
use kugetsu_engine::money::parse_usd;
use kugetsu_engine::settings::parse_model;

use super::complete::References;
use super::context::{Context, time_limit};
use super::daemon::{ask, client, refuse_tool};
use super::output::Output;
use super::{Outcome, prompt};

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// The session, such as 14 or owner/repo#14; without one, the task gets a session of its own. Then the message: words,
    /// or `-` to read it from stdin
    #[arg(value_name = "[REF] MESSAGE", required = true, value_parser = prompt::word, add = ArgValueCompleter::new(References))]
    words: Vec<String>,

    /// The repository in which the task gets a session of its own [default: that of the clone]
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO")]
    repo: Option<String>,

    /// Tasks with a higher number run first, from -100 to 100
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true,
        value_parser = clap::value_parser!(i32).range(i64::from(*PRIORITIES.start())..=i64::from(*PRIORITIES.end())))]
    priority: i32,

    /// Begin when this task has ended, however it ends; repeatable
    #[arg(long, value_name = "TASK")]
    after: Vec<TaskId>,

    /// A key of your choice; a repeated command with the same key and message submits nothing new
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// Use this model, as provider/model, instead of the session's own
    #[arg(long, value_parser = parse_model)]
    model: Option<String>,

    /// The agent instead of the session's own
    #[arg(long)]
    agent: Option<String>,

    /// How long the turn may take
    #[arg(long, value_name = "DURATION", value_parser = time_limit)]
    timeout: Option<std::time::Duration>,

    /// End the turn when it has cost more than this many US dollars
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    max_cost: Option<f64>,
}

pub(super) fn run(args: SubmitArgs, context: &Context, output: Output) -> Outcome {
    refuse_tool(context)?;
    let (session, message) = session_and_message(&args.words, args.repo.is_some());
    let address = session.map(|session| context.address(session)).transpose()?;
    let prompt = prompt::read(message)?;
    let repo = match &address {
        Some(_) => None,
        None => Some(context.repo(args.repo.as_deref())?.to_string()),
    };
    let request = TaskRequest {
        prompt,
        address: address.map(|address| address.to_string()),
        context: None,
        repo,
        model: args.model,
        agent: args.agent,
        worktree: None,
        policy: Vec::new(),
        answers: None,
        limits: TaskLimits {
            timeout_seconds: args.timeout.map(|timeout| timeout.as_secs().max(1)),
            max_cost_usd: args.max_cost,
            ..TaskLimits::default()
        },
        priority: args.priority,
        after: args.after,
        not_before: None,
        stream: false,
    };
    let client = client(context)?;
    let span = context.engine.environment().get("TRACEPARENT");
    // A value that no header can have is no span.
    let span = span
        .and_then(|span| span.to_str())
        .filter(|span| span.bytes().all(|byte| byte.is_ascii_graphic()));
    let submitted = ask(client.submit(&request, args.idempotency_key.as_deref(), span))?;
    if output.json {
        output.object(submitted);
        return Ok(ExitStatus::Ok);
    }
    output.text(submitted.task_id.to_string());
    let again = if submitted.is_new { "" } else { ", as before" };
    output.note(format!(
        "kugetsu: the task runs in {}{again}; follow it: kugetsu tail {} -f",
        submitted.task.spec.address, submitted.task_id
    ));
    Ok(ExitStatus::Ok)
}

/// The session, if the words name one, and the message: the first word is the session if more words follow and no
/// repository is named.
pub(super) fn session_and_message<T>(words: &[T], has_repo: bool) -> (Option<&T>, &[T]) {
    match words {
        [first, rest @ ..] if !rest.is_empty() && !has_repo => (Some(first), rest),
        message => (None, message),
    }
}
