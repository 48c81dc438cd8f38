//! `kugetsu doctor`.

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;
use kugetsu_engine::operations::Health;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Put right what a machine can
    #[arg(long)]
    fix: bool,
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Good => "ok",
        Health::Fixed => "fixed",
        Health::Fixable => "fixable",
        Health::Bad => "bad",
        Health::Unknown => "unknown",
    }
}

pub(super) fn run(args: &DoctorArgs, context: &Context, output: Output) -> Outcome {
    let checks = context.engine.doctor(args.fix)?;
    let sick = |of_opencode: bool| {
        checks.iter().any(|check| {
            check.opencode == of_opencode && matches!(check.health, Health::Bad | Health::Fixable)
        })
    };
    let status = if sick(true) {
        ExitStatus::Unavailable
    } else if sick(false) {
        ExitStatus::Failed
    } else {
        ExitStatus::Ok
    };
    if output.json {
        let rows: Vec<_> = checks
            .iter()
            .map(|check| json!({"what": check.what, "health": word(check.health), "detail": check.detail}))
            .collect();
        output.object(&json!({"checks": rows, "exit_status": status.code()}));
        return Ok(status);
    }
    for check in &checks {
        output.text(format!(
            "{:<8} {}: {}",
            word(check.health),
            check.what,
            check.detail
        ));
    }
    if checks.iter().any(|check| check.health == Health::Fixable) {
        output.note("what is fixable is put right by: kugetsu doctor --fix");
    }
    Ok(status)
}
