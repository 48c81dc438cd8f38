//! `kugetsu diff`: what a session has changed since it began. Takes no lock, and changes neither the clone nor its index.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use tokio::sync::watch;

use super::complete::References;
use super::context::Context;
use super::on_terminal::{self, Foreground};
use super::output::Output;
use super::signals::with_signals;
use super::{CommandError, Outcome};
use kugetsu_api::Address;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::DiffOutput;
use kugetsu_engine::operations::{DiffForm, DiffView, Engine, EngineError};
use kugetsu_engine::turn::Interrupt;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// Show the number of changed lines in each file
    #[arg(long, conflicts_with = "name_only")]
    stat: bool,

    /// Show only the names of the changed files
    #[arg(long)]
    name_only: bool,
}

/// git on this terminal.
struct Shown<'a> {
    engine: &'a Engine,
    address: Address,
    form: DiffForm,
    /// Holds what git reads until git has ended.
    view: Option<DiffView>,
}

impl Foreground for Shown<'_> {
    async fn start(
        &mut self,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<tokio::process::Child, EngineError> {
        let view = self.engine.diff(&self.address, self.form, interrupts).await?;
        self.view.insert(view).start().map_err(EngineError::Attach)
    }
}

pub(super) fn run(args: &DiffArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let engine = &context.engine;
    if output.json {
        let reading = async |interrupts| engine.changes_since_start(&address, interrupts).await;
        let (changes, signal) = with_signals(false, reading)?;
        let changes = changes.map_err(|error| CommandError::from(error).after(signal))?;
        output.object(DiffOutput { address, changes });
        return Ok(ExitStatus::Ok);
    }
    let form = match (args.stat, args.name_only) {
        (true, _) => DiffForm::Stat,
        (_, true) => DiffForm::Names,
        _ => DiffForm::Patch,
    };
    on_terminal::run(&mut Shown {
        engine,
        address,
        form,
        view: None,
    })
}
