//! `kugetsu show`. One record; takes no lock and starts nothing.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::{Output, count, money};
use super::terminal::safe_line;
use kugetsu_api::SessionState;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{SessionWithState, ShowOutput};

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF")]
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
    if output.json {
        output.document(&ShowOutput {
            session: SessionWithState { record, state },
            in_use: holder,
            turn_list: turns,
        });
        return Ok(ExitStatus::Ok);
    }
    let mut lines = vec![
        format!("{}  {}", record.address, state.as_str()),
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
            money(record.totals.cost_usd)
        ),
        format!("  created     {}", record.created.strftime("%F %T UTC")),
        format!("  updated     {}", record.updated.strftime("%F %T UTC")),
    ];
    if let Some(title) = &record.issue_title {
        lines.insert(1, format!("  title       {}", safe_line(title)));
    }
    if let Some(worktree) = &record.worktree {
        let commit = &worktree.base_commit;
        let line = format!(
            "  worktree    {} (branch {} from {})",
            worktree.path.display(),
            worktree.branch,
            &commit[..commit.floor_char_boundary(10)]
        );
        let at = if record.issue_title.is_some() { 4 } else { 3 };
        lines.insert(at, line);
    }
    if let Some(blocked) = record.blocked_rebase() {
        lines.push(format!("  rebase      {blocked}"));
    }
    if let (Some(live), SessionState::Running) = (&record.live, state) {
        lines.push(format!(
            "  running     turn {} since {}, process {} on {}",
            live.turn,
            live.started.strftime("%F %T UTC"),
            live.supervisor.pid,
            live.supervisor.host
        ));
    }
    if state != SessionState::Running
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
        lines.push(format!("  last turn   {} {}{reason}", last.turn, last.verdict));
    }
    lines.push(format!(
        "  record      {}",
        engine.record_path(&address).display()
    ));
    output.text(lines.join("\n"));
    if let Some(turns) = turns {
        output.text("");
        let rows = turns
            .iter()
            .map(|turn| {
                vec![
                    turn.turn.to_string(),
                    turn.verdict.to_string(),
                    turn.started.strftime("%F %T").to_string(),
                    turn.steps.to_string(),
                    turn.tokens.total().to_string(),
                    money(turn.cost_usd),
                    turn.reason.clone(),
                ]
            })
            .collect();
        output.table(
            &["TURN", "VERDICT", "STARTED", "STEPS", "TOKENS", "COST", "REASON"],
            rows,
        );
    }
    Ok(ExitStatus::Ok)
}
