//! `kugetsu doctor`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::Health;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::DoctorOutput;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Repair every problem that needs no decision from you
    #[arg(long)]
    fix: bool,
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
        output.object(DoctorOutput {
            checks,
            exit_status: status.code(),
        });
        return Ok(status);
    }
    for check in &checks {
        output.text(format!(
            "{:<8} {}: {}",
            check.health.as_str(),
            check.what,
            check.detail
        ));
    }
    if checks.iter().any(|check| check.health == Health::Fixable) {
        output.note("to repair the fixable problems: kugetsu doctor --fix");
    }
    Ok(status)
}
