//! `kugetsu backup`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::BackupOutput;
use kugetsu_engine::operations::{BackupTarget, EngineError};

use super::context::Context;
use super::output::{Output, count, size};
use super::signals::with_signals;
use super::{CommandError, Outcome};
use crate::terminal::{self, Stream};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The archive to write; - for stdout
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Replace FILE if it exists
    #[arg(long)]
    force: bool,

    /// Leave out opencode's database, which has the messages of the sessions
    #[arg(long)]
    without_opencode: bool,
}

pub(super) fn run(args: &BackupArgs, context: &Context, output: Output) -> Outcome {
    let to_stdout = args.file == Path::new("-");
    let target = if to_stdout {
        if output.json || Stream::Stdout.is_terminal() {
            return Err(CommandError::usage(
                "an archive on stdout is for a file or a program, and leaves no room for JSON",
                "redirect it without --json: kugetsu backup - > FILE",
            ));
        }
        let stdout = terminal::stdout_file().map_err(|error| {
            CommandError::new(ErrorCode::OutputUnwritable, "stdout cannot be used").caused_by(error)
        })?;
        BackupTarget::Open(stdout)
    } else {
        BackupTarget::File {
            path: context.here.join(&args.file),
            replace: args.force,
        }
    };
    let work = async |interrupts| {
        let engine = &context.engine;
        engine.backup(target, !args.without_opencode, interrupts).await
    };
    let (done, signal) = with_signals(false, work)?;
    let done = done.map_err(|error| {
        let is_opencodes = matches!(error, EngineError::Opencode(_) | EngineError::Database(_));
        let error = CommandError::from(error).after(signal);
        if is_opencodes {
            error.hint("to back up kugetsu's home alone: --without-opencode")
        } else {
            error
        }
    })?;
    let files = &done.manifest.files;
    let bytes = files.iter().map(|file| file.size).sum();
    for path in &done.skipped {
        output.note(format!("kugetsu: not in the backup: {}", path.display()));
    }
    if output.json {
        output.object(BackupOutput {
            file: context.here.join(&args.file),
            archive_bytes: done.size,
            files: files.len(),
            files_bytes: bytes,
            has_opencode: done.manifest.opencode.is_some(),
            skipped: done.skipped,
        });
    } else if !to_stdout {
        let with = match done.manifest.opencode {
            Some(_) => "with opencode's database",
            None => "without opencode's database",
        };
        output.text(format!(
            "backed up {} of {} in {} of {}, {with}",
            count(files.len() as u64, "file"),
            size(bytes),
            args.file.display(),
            size(done.size)
        ));
    }
    Ok(ExitStatus::Ok)
}
