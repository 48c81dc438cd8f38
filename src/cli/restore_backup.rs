//! `kugetsu restore-backup`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{RestoreBackupOutput, RestoredDatabase};
use kugetsu_engine::operations::{EngineError, RestoreRequest};

use super::context::Context;
use super::output::{Output, count, size};
use super::signals::with_signals;
use super::{CommandError, Outcome};

#[derive(Debug, Args)]
pub(super) struct RestoreBackupArgs {
    /// An archive of `kugetsu backup`
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Restore although kugetsu's home is not empty; what is there is moved aside
    #[arg(long)]
    force: bool,

    /// Leave opencode's database alone
    #[arg(long)]
    without_opencode: bool,
}

pub(super) fn run(args: &RestoreBackupArgs, context: &Context, output: Output) -> Outcome {
    let request = RestoreRequest {
        archive: context.here.join(&args.file),
        force: args.force,
        with_opencode: !args.without_opencode,
    };
    let work = async |interrupts| context.engine.restore_backup(request, interrupts).await;
    let (done, signal) = with_signals(false, work)?;
    let done = done.map_err(|error| {
        let is_opencodes = matches!(error, EngineError::Opencode(_));
        let error = CommandError::from(error).after(signal);
        if is_opencodes {
            error.hint("to restore kugetsu's home alone: --without-opencode")
        } else {
            error
        }
    })?;
    let files = done.manifest.files.iter();
    let restored = RestoreBackupOutput {
        home: done.home,
        time: done.manifest.time,
        files: done.manifest.files.len(),
        files_bytes: files.map(|file| file.size).sum(),
        moved_to: done.moved_to,
        opencode: done.opencode,
        opencode_database: done.database,
        sessions_missing: done.sessions_missing,
    };
    if output.json {
        output.object(restored);
        return Ok(ExitStatus::Ok);
    }
    output.text(format!(
        "restored {} as it was at {:.0}: {} of {}",
        restored.home.display(),
        restored.time,
        count(restored.files as u64, "file"),
        size(restored.files_bytes)
    ));
    if let Some(moved_to) = &restored.moved_to {
        output.text(format!("the home of before is {}", moved_to.display()));
    }
    if let Some(database) = &restored.opencode_database {
        output.text(match restored.opencode {
            RestoredDatabase::Restored => format!("restored opencode's database {}", database.display()),
            _ => format!(
                "opencode's database {} exists, and stays as it is",
                database.display()
            ),
        });
    }
    match restored.sessions_missing {
        Some(missing @ 1..) => output.note(format!(
            "kugetsu: opencode does not have {} of the backup; see which: kugetsu doctor",
            count(missing as u64, "session")
        )),
        _ => output.note("kugetsu: to check it: kugetsu doctor"),
    }
    Ok(ExitStatus::Ok)
}
