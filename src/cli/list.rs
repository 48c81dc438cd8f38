//! `kugetsu list`. Reads records; takes no lock and starts nothing.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::context::{Context, duration};
use super::output::{Output, SCHEMA, money};
use super::{CliError, Outcome};
use crate::config::print_duration;
use crate::exit::ExitStatus;
use crate::session::{BaseRecord, IssueRecord, RefContext, RepoRef, SessionState, Verdict};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only sessions in this state: new, running, lost, or a verdict such as completed; may be given often
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<String>,

    /// Only sessions of this repository
    #[arg(long, value_name = "INSTANCE/OWNER/REPO")]
    repo: Option<String>,

    /// Only sessions that changed within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer: Option<Duration>,

    /// Only sessions that did not change within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older: Option<Duration>,
}

impl ListArgs {
    fn check(&self) -> Result<(), CliError> {
        let known = |word: &str| matches!(word, "new" | "running") || word.parse::<Verdict>().is_ok();
        match self.state.iter().find(|word| !known(word)) {
            None => Ok(()),
            Some(word) => {
                let all: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect();
                Err(CliError::usage(
                    format!("`{word}` is no state of a session"),
                    format!("the states are new, running, {}", all.join(", ")),
                ))
            }
        }
    }

    fn takes(
        &self,
        record: &IssueRecord,
        state: SessionState,
        repo: Option<&RepoRef>,
        age: Duration,
    ) -> bool {
        (self.state.is_empty() || self.state.iter().any(|word| word == state.as_str()))
            && repo.is_none_or(|repo| repo == record.issue.repo())
            && self.newer.is_none_or(|limit| age <= limit)
            && self.older.is_none_or(|limit| age >= limit)
    }
}

pub(super) fn run(args: &ListArgs, context: &Context, output: Output) -> Outcome {
    args.check()?;
    let store = &context.broker.store;
    let repo = match &args.repo {
        Some(text) => Some(RepoRef::parse(text, &RefContext::default())?),
        None => None,
    };
    let listing = store.issues()?;
    let now = Timestamp::now();
    let found: Vec<_> = listing
        .found
        .iter()
        .map(|record| (record, context.broker.state_of(record), age(record, now)))
        .filter(|(record, state, age)| args.takes(record, *state, repo.as_ref(), *age))
        .collect();
    if output.json {
        let bases = store.bases()?;
        output.serialized(&View {
            schema: SCHEMA,
            sessions: found
                .iter()
                .map(|(record, state, _)| Row {
                    record,
                    state: state.as_str(),
                })
                .collect(),
            bases: &bases.found,
            broken: listing
                .broken
                .iter()
                .chain(&bases.broken)
                .map(|(path, problem)| BrokenFile { path, problem })
                .collect(),
        });
        return Ok(ExitStatus::Ok);
    }
    for (path, why) in &listing.broken {
        output.note(format!("kugetsu: {} is left out: {why}", path.display()));
    }
    if found.is_empty() {
        output.note(if listing.found.is_empty() {
            "no sessions yet; begin one with: kugetsu start REF \"what to do\""
        } else {
            "no session is so"
        });
        return Ok(ExitStatus::Ok);
    }
    let rows = found
        .iter()
        .map(|(record, state, age)| {
            vec![
                record.issue.to_string(),
                state.as_str().to_owned(),
                record.totals.turns.to_string(),
                record.totals.tokens.total().to_string(),
                money(record.totals.cost_usd),
                print_duration(Duration::from_secs(age.as_secs())),
                record
                    .session
                    .as_ref()
                    .map_or("-", |session| session.as_str())
                    .to_owned(),
            ]
        })
        .collect();
    output.table(
        &["REF", "STATE", "TURNS", "TOKENS", "COST", "AGE", "SESSION"],
        rows,
    );
    Ok(ExitStatus::Ok)
}

/// What `--json` prints. Thousands of records go from memory to stdout without a tree of values in between.
#[derive(Serialize)]
struct View<'a> {
    schema: u32,
    sessions: Vec<Row<'a>>,
    bases: &'a [BaseRecord],
    broken: Vec<BrokenFile<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    record: &'a IssueRecord,
    state: &'static str,
}

#[derive(Serialize)]
struct BrokenFile<'a> {
    path: &'a Path,
    problem: &'a str,
}

fn age(record: &IssueRecord, now: Timestamp) -> Duration {
    // A clock that was set back makes no session younger than now.
    Duration::try_from(now.duration_since(record.updated)).unwrap_or_default()
}

/// The record as it is, with the state beside it.
pub(super) fn with_state(record: &IssueRecord, state: SessionState) -> Value {
    let mut value = json!(record);
    value["state"] = json!(state.as_str());
    value
}
