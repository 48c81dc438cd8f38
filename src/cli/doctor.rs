//! `kugetsu doctor`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::{Output, size};
use super::table::{Cell, Column};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{DoctorOutput, SizesView};
use kugetsu_api::{Check, Health};
use kugetsu_engine::operations::ModelCheck;
use kugetsu_engine::settings::parse_model;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Repair every problem that needs no decision from you
    #[arg(long)]
    fix: bool,

    /// Ask the model for one word, through opencode and at its price
    #[arg(long)]
    model_check: bool,

    /// Check this model, as provider/model, instead of the one in the settings
    #[arg(long, value_parser = parse_model)]
    model: Option<String>,
}

pub(super) fn run(args: &DoctorArgs, context: &Context, output: Output) -> Outcome {
    let mut checks = Vec::new();
    let model = ModelCheck {
        model: args.model.clone(),
        ask: args.model_check,
    };
    if let Some(error) = &context.invalid_settings {
        checks.push(Check {
            what: "settings".to_owned(),
            health: Health::Bad,
            detail: format!("{error}; all other checks use the defaults"),
            opencode: false,
        });
    }
    checks.extend(context.engine.doctor(args.fix, &context.here, &model));
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
    let sizes = context.engine.sizes();
    if output.json {
        output.object(DoctorOutput {
            checks,
            sizes: SizesView {
                sessions_bytes: sizes.sessions,
                logs_bytes: sizes.logs,
                trash_bytes: sizes.trash,
            },
            exit_status: status.code(),
        });
        return Ok(status);
    }
    let rows = checks.iter().map(|check| {
        let health = Cell::new(check.health.as_str(), check.health.into());
        vec![health, format!("{}: {}", check.what, check.detail).into()]
    });
    let disk = format!(
        "disk: {} in sessions, {} of it logs; {} in the trash",
        size(sizes.sessions),
        size(sizes.logs),
        size(sizes.trash)
    );
    let disk = vec![Cell::new(Health::Good.as_str(), Health::Good.into()), disk.into()];
    let rows = rows.chain([disk]).collect();
    output.table(&[Column::new(""), Column::prose("")], rows);
    if checks.iter().any(|check| check.health == Health::Fixable) {
        output.note("to repair the fixable problems: kugetsu doctor --fix");
    }
    Ok(status)
}
