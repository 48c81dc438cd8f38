//! `kugetsu pending` and `kugetsu answer`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;

use super::Outcome;
use super::complete::References;
use super::context::Context;
use super::output::Output;
use kugetsu_api::SessionRecord;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{PendingOutput, PendingSession};
use kugetsu_engine::operations::describe;

#[derive(Debug, Args)]
pub(super) struct PendingArgs {}

#[derive(Debug, Args)]
pub(super) struct AnswerArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// `allow` or `deny` for a permission; one label per question
    #[arg(value_name = "ANSWER", required = true)]
    answer: Vec<String>,
}

pub(super) fn list(_args: &PendingArgs, context: &Context, output: Output) -> Outcome {
    let records = context.engine.pending()?;
    if output.json {
        let pending = records.into_iter().map(requests).collect();
        output.object(PendingOutput { pending });
        return Ok(ExitStatus::Ok);
    }
    if records.is_empty() {
        output.note("nothing waits for a person");
    }
    for record in &records {
        for pending in &record.pending {
            let state = match &pending.answer {
                None => "waits".to_owned(),
                Some(answer) => format!("answered {answer}; the next continue delivers it"),
            };
            output.text(format!("{}  {}  ({state})", record.address, describe(pending)));
        }
    }
    Ok(ExitStatus::Ok)
}

pub(super) fn answer(args: &AnswerArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let answer = match args.answer.as_slice() {
        [one] => Value::from(one.as_str()),
        more => Value::from(more),
    };
    let record = context.engine.answer(&address, &answer)?;
    if output.json {
        output.object(requests(record));
    } else {
        output.text(format!("stored; deliver it with: kugetsu continue {address}"));
    }
    Ok(ExitStatus::Ok)
}

fn requests(record: SessionRecord) -> PendingSession {
    PendingSession {
        address: record.address,
        requests: record.pending,
    }
}
