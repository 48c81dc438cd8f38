//! `kugetsu show`. One record; takes no lock and starts nothing.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::Outcome;
use super::complete::References;
use super::context::Context;
use super::ending::{describe_changes, describe_refused};
use super::output::{Output, count, size};
use super::table::{Cell, Column};
use super::tone::Tone;
use super::turn_id::short;
use crate::terminal::one_line;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{SessionWithState, ShowOutput};
use kugetsu_api::{ParentTurn, SessionState, TurnStatus};
use kugetsu_engine::money::print_usd;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// List every turn as well
    #[arg(long)]
    turns: bool,
}

pub(super) fn run(args: &ShowArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let engine = &context.engine;
    let record = engine.record(&address)?;
    let state = engine.state_of(&record);
    let turns = if args.turns {
        Some(engine.turns(&address)?)
    } else {
        None
    };
    let holder = engine.in_use(&address);
    let live = record.live.as_ref().filter(|_| state.is_live());
    let status = live.and_then(|live| engine.live_status(&address, live.turn));
    if output.json {
        output.document(&ShowOutput {
            session: SessionWithState { record, state },
            in_use: holder,
            status,
            size_bytes: engine.size_of(&address),
            turn_list: turns,
        });
        return Ok(ExitStatus::Ok);
    }
    let mut lines = vec![
        format!(
            "  session     {}",
            record
                .session
                .as_ref()
                .map_or("none yet", |session| session.as_str())
        ),
        format!("  directory   {}", record.directory.display()),
        format!("  base        {} ({})", record.base, record.base_session),
        format!("  permissions {}", record.policy.preset),
        format!(
            "  so far      {}, {}, {}",
            count(record.totals.turns, "turn"),
            count(record.totals.tokens.total(), "token"),
            print_usd(record.totals.cost_usd)
        ),
        format!("  created     {}", record.created.strftime("%F %T UTC")),
        format!("  updated     {}", record.updated.strftime("%F %T UTC")),
    ];
    if let Some(title) = &record.issue_title {
        lines.insert(0, format!("  title       {}", one_line(title)));
    }
    if let Some(worktree) = &record.worktree {
        let commit = &worktree.base_commit;
        let line = format!(
            "  worktree    {} (branch {} from {})",
            worktree.path.display(),
            worktree.branch,
            &commit[..commit.floor_char_boundary(10)]
        );
        lines.insert(0, line);
    }
    let prompt = match live {
        Some(live) => live.prompt.as_ref(),
        None => record.last.as_ref().and_then(|last| last.prompt.as_ref()),
    };
    if let Some(prompt) = prompt {
        lines.insert(0, format!("  prompt      {}", first_line(prompt)));
    }
    if let Some(blocked) = record.blocked_rebase() {
        lines.push(format!("  rebase      {blocked}"));
    }
    if let Some(live) = live {
        if let Some(status) = &status {
            lines.push(format!("  doing       {}", doing(status)));
        }
        lines.push(format!(
            "  {:<11} turn {} since {}, process {} on {}",
            state.as_str(),
            short(live.turn),
            live.started.strftime("%F %T UTC"),
            live.supervisor.pid,
            live.supervisor.host
        ));
        lines.extend(
            live.parent
                .as_ref()
                .map(|parent| format!("  begun       {}", begun(parent))),
        );
    }
    if !state.is_live()
        && let Some(holder) = &holder
    {
        let holder = holder.as_ref();
        let user = holder.map_or_else(
            || "by an unknown process".to_owned(),
            |holder| format!("by {holder}"),
        );
        lines.push(format!("  in use      {user}"));
    }
    if state == SessionState::Lost && record.live.is_some() {
        lines.push(
            "  lost        its supervisor died; the next continue, or kugetsu doctor --fix, closes the turn as lost"
                .to_owned(),
        );
    }
    if let Some(last) = &record.last {
        let reason = if last.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", last.reason)
        };
        lines.push(format!(
            "  last turn   {} {}{reason}",
            short(last.turn),
            last.verdict
        ));
        let changes = last
            .changes
            .as_ref()
            .map(|changes| describe_changes(changes, FILES_SHOWN));
        let details = changes
            .into_iter()
            .chain([describe_refused(&last.refused)])
            .flatten()
            .chain(
                last.parent
                    .as_ref()
                    .map(|parent| format!("begun {}", begun(parent))),
            )
            .chain(last.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.extend(details.map(|line| format!("              {line}")));
    }
    lines.push(format!("  on disk     {}", size(engine.size_of(&address))));
    lines.push(format!(
        "  record      {}",
        engine.record_path(&address).display()
    ));
    output.line(&[
        (Tone::Plain, &record.address.to_string()),
        (Tone::Plain, "  "),
        (state.into(), state.as_str()),
    ]);
    output.text(lines.join("\n"));
    if let Some(turns) = turns {
        output.text("");
        let rows = turns
            .iter()
            .map(|turn| {
                vec![
                    Cell::from(short(turn.turn)),
                    Cell::new(turn.verdict.as_str(), turn.verdict.into()),
                    turn.started.strftime("%F %T").to_string().into(),
                    turn.steps.to_string().into(),
                    turn.tokens.total().to_string().into(),
                    print_usd(turn.cost_usd).into(),
                    turn.prompt.as_deref().map(first_line).unwrap_or_default().into(),
                    turn.reason.as_str().into(),
                ]
            })
            .collect();
        output.table(
            &[
                Column::new("TURN"),
                Column::new("VERDICT"),
                Column::new("STARTED").spare(2),
                Column::new("STEPS").spare(4),
                Column::new("TOKENS").spare(3),
                Column::new("COST").spare(1),
                Column::prose("PROMPT"),
                Column::prose("REASON"),
            ],
            rows,
        );
    }
    Ok(ExitStatus::Ok)
}

/// The number of changed files that are named.
const FILES_SHOWN: usize = 5;

/// Who began a turn.
fn begun(parent: &ParentTurn) -> String {
    format!("by a tool of {}, turn {}", parent.address, short(parent.turn))
}

/// The first line of a prompt, shortened.
fn first_line(prompt: &str) -> String {
    const MOST: usize = 60;
    let line = prompt.lines().find(|line| !line.trim().is_empty());
    let line = one_line(line.unwrap_or_default());
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// What a running turn is doing, in one line.
fn doing(status: &TurnStatus) -> String {
    let mut parts = vec![format!("step {}", status.current_step)];
    parts.extend(status.tool.as_deref().map(one_line));
    parts.push(count(status.tokens.total(), "token"));
    parts.push(print_usd(status.cost_usd));
    parts.join(", ")
}
