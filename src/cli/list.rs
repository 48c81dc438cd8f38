//! `kugetsu list`. Reads records; takes no lock and starts nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Outcome;
use super::context::{Context, duration};
use super::output::Output;
use super::table::{Cell, Column};
use crate::terminal::{Stream, one_line};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::json;
use kugetsu_api::output::{ListFieldsOutput, ListRest, ListedFields};
use kugetsu_api::{BrokenFile, RepoRef, SessionState, SessionSummary};
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::money::print_usd;

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only sessions in one of these states, separated by commas; repeatable
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states())]
    state: Vec<String>,

    /// Only sessions of this repository
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO")]
    repo: Option<String>,

    /// Only sessions that changed within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer: Option<Duration>,

    /// Only sessions that did not change within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older: Option<Duration>,

    /// Only the first N sessions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// The order; with --json and without --limit, the default is by reference
    #[arg(long, value_enum, value_name = "ORDER")]
    sort: Option<Sort>,

    /// Only these fields, separated by commas, also with --json
    #[arg(long, value_enum, value_name = "FIELD", value_delimiter = ',')]
    fields: Vec<Field>,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(SessionState::all().map(SessionState::as_str))
}

impl ListArgs {
    fn matches(
        &self,
        summary: &SessionSummary,
        state: SessionState,
        repo: Option<&RepoRef>,
        age: Duration,
    ) -> bool {
        (self.state.is_empty() || self.state.iter().any(|name| name == state.as_str()))
            && repo.is_none_or(|repo| repo == summary.address.repo())
            && self.newer.is_none_or(|limit| age <= limit)
            && self.older.is_none_or(|limit| age >= limit)
    }
}

pub(super) fn run(args: &ListArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let repo = match &args.repo {
        Some(text) => Some(context.repo(Some(text))?),
        None => None,
    };
    let now = Timestamp::now();
    let matching_state = |summary: &SessionSummary| {
        let state = engine.state_of_summary(summary);
        let age = age(summary, now);
        args.matches(summary, state, repo.as_ref(), age)
            .then_some((state, age))
    };
    if output.json && args.fields.is_empty() && args.sort.is_none() && args.limit.is_none() {
        let mut object = output.long_object("sessions");
        let (bases, broken) = engine.list(
            |rows: &mut String, summary, text| {
                if let Some((state, _)) = matching_state(&summary) {
                    add_row(rows, &summary, text, state);
                }
            },
            |rows| object.rows(&rows),
        )?;
        let broken = broken.into_iter().map(broken_file).collect();
        object.end(&ListRest { bases, broken });
        return Ok(ExitStatus::Ok);
    }
    let whole_records = output.json && args.fields.is_empty();
    let mut found: Vec<Found> = Vec::new();
    let mut all = 0;
    let (bases, broken) = engine.list(
        |(seen, block): &mut (usize, Vec<Found>), summary, text| {
            *seen += 1;
            if let Some((state, age)) = matching_state(&summary) {
                let mut row = String::new();
                if whole_records {
                    add_row(&mut row, &summary, text, state);
                }
                block.push(Found {
                    summary,
                    state,
                    age,
                    row,
                });
            }
        },
        |(seen, block)| {
            all += seen;
            found.extend(block);
        },
    )?;
    let matching = found.len();
    // The references come in their order, and sorting keeps it among equals.
    let by_default = if output.json && args.limit.is_none() {
        Sort::Ref
    } else {
        Sort::Updated
    };
    match args.sort.unwrap_or(by_default) {
        Sort::Updated => found.sort_by_key(|found| std::cmp::Reverse(found.summary.updated)),
        Sort::Ref => {}
        Sort::Cost => found.sort_by(|a, b| {
            let cost = |found: &Found| found.summary.totals.cost_usd;
            cost(b).total_cmp(&cost(a))
        }),
    }
    if let Some(limit) = args.limit {
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if output.json {
        let broken: Vec<_> = broken.into_iter().map(broken_file).collect();
        if args.fields.is_empty() {
            let mut object = output.long_object("sessions");
            for found in &found {
                object.rows(&found.row);
            }
            object.end(&ListRest { bases, broken });
        } else {
            let sessions = found.iter().map(|found| found.chosen(&args.fields)).collect();
            output.object(ListFieldsOutput { sessions, broken });
        }
        return Ok(ExitStatus::Ok);
    }
    for (path, problem) in &broken {
        output.note(format!("kugetsu: {} is left out: {problem}", path.display()));
    }
    if found.is_empty() {
        output.note(if all == 0 {
            "no sessions yet; start one with: kugetsu start REF \"what to do\""
        } else {
            "no session matches"
        });
        return Ok(ExitStatus::Ok);
    }
    let mut fields = args.fields.clone();
    if fields.is_empty() {
        fields.extend(Field::DEFAULT);
        if found.iter().any(|found| found.summary.issue_title.is_some()) {
            fields.push(Field::IssueTitle);
        }
    }
    let columns: Vec<_> = fields.iter().map(|field| field.column()).collect();
    let rows = found.iter().map(|found| found.cells(&fields)).collect();
    output.table(&columns, rows);
    if found.len() < matching {
        output.note(format!("{} of {matching} sessions", found.len()));
    }
    Ok(ExitStatus::Ok)
}

/// A field of a session, a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Field {
    Ref,
    State,
    Turns,
    Tokens,
    #[value(alias = "cost")]
    CostUsd,
    Age,
    Updated,
    Session,
    #[value(alias = "title")]
    IssueTitle,
}

impl Field {
    const DEFAULT: [Self; 7] = [
        Self::Ref,
        Self::State,
        Self::Turns,
        Self::Tokens,
        Self::CostUsd,
        Self::Age,
        Self::Session,
    ];

    fn column(self) -> Column {
        match self {
            Self::Ref => Column::new("REF"),
            Self::State => Column::new("STATE").spare(1),
            Self::Turns => Column::new("TURNS").spare(5),
            Self::Tokens => Column::new("TOKENS").spare(6),
            Self::CostUsd => Column::new("COST").spare(4),
            Self::Age => Column::new("AGE").spare(2),
            Self::Updated => Column::new("UPDATED").spare(3),
            Self::Session => Column::new("SESSION").spare(7),
            Self::IssueTitle => Column::new("TITLE").spare(3),
        }
    }
}

/// The longest title, in columns.
const LONGEST_TITLE: usize = 40;

/// The order of the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The one that changed last comes first.
    Updated,
    /// By their references.
    Ref,
    /// The most expensive one comes first.
    Cost,
}

/// A session that matches.
struct Found {
    summary: SessionSummary,
    state: SessionState,
    age: Duration,
    /// The whole record as JSON, if it is needed.
    row: String,
}

impl Found {
    fn chosen(&self, fields: &[Field]) -> ListedFields {
        let mut chosen = ListedFields::default();
        let summary = &self.summary;
        for field in fields {
            match field {
                Field::Ref => chosen.address = Some(summary.address.clone()),
                Field::State => chosen.state = Some(self.state),
                Field::Turns => chosen.turns = Some(summary.totals.turns),
                Field::Tokens => chosen.tokens = Some(summary.totals.tokens.total()),
                Field::CostUsd => chosen.cost_usd = Some(summary.totals.cost_usd),
                Field::Age => chosen.age = Some(self.age.as_secs()),
                Field::Updated => chosen.updated = Some(summary.updated),
                Field::Session => chosen.session = Some(summary.session.clone()),
                Field::IssueTitle => chosen.issue_title = Some(summary.issue_title.clone()),
            }
        }
        chosen
    }

    fn cells(&self, fields: &[Field]) -> Vec<Cell> {
        let summary = &self.summary;
        let cell = |field: &Field| match field {
            Field::Ref => summary.address.to_string().into(),
            Field::State => Cell::new(self.state.as_str(), self.state.into()),
            Field::Turns => summary.totals.turns.to_string().into(),
            Field::Tokens => summary.totals.tokens.total().to_string().into(),
            Field::CostUsd => print_usd(summary.totals.cost_usd).into(),
            Field::Age => print_duration(Duration::from_secs(self.age.as_secs())).into(),
            Field::Updated => summary.updated.strftime("%F %T UTC").to_string().into(),
            Field::Session => summary
                .session
                .as_ref()
                .map_or("-", |session| session.as_str())
                .into(),
            Field::IssueTitle => {
                let title = one_line(summary.issue_title.as_deref().unwrap_or_default());
                console::truncate_str(&Stream::Stdout.text(&title), LONGEST_TITLE, "…")
                    .into_owned()
                    .into()
            }
        };
        fields.iter().map(cell).collect()
    }
}

/// The initial capacity for the rows of a block, which mostly have less than 1.5 kB each.
const ROWS: usize = 96 * 1024;

/// Adds a comma and the record's file text, on one line and with the state as its last field. Measured with ten
/// thousand records: parsing each record in full would take another sixth of the total time, and writing it as JSON
/// again a third.
fn add_row(rows: &mut String, summary: &SessionSummary, text: &str, state: SessionState) {
    if rows.is_empty() {
        rows.reserve(ROWS);
    }
    rows.push(',');
    if !summary.passes_on() {
        let mut record: Map<String, Value> =
            serde_json::from_str(text).expect("the store gives objects that can be read as a whole");
        record.insert("state".to_owned(), Value::from(state.as_str()));
        rows.push_str(&json::to_string(&record).expect("a map of values is always JSON"));
        return;
    }
    let text = text.trim_ascii();
    let fields = text.strip_suffix('}').unwrap_or(text);
    // A JSON string contains no line break, so the white space around one stands between tokens.
    let mut from = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', fields.as_bytes()) {
        rows.push_str(fields[from..end].trim_ascii_end());
        let indent = fields[end + 1..].bytes().take_while(|byte| *byte == b' ');
        from = end + 1 + indent.count();
    }
    rows.push_str(&fields[from..]);
    rows.push_str(",\"state\":\"");
    rows.push_str(state.as_str());
    rows.push_str("\"}");
}

pub(super) fn broken_file((path, problem): (PathBuf, String)) -> BrokenFile {
    BrokenFile { path, problem }
}

fn age(summary: &SessionSummary, now: Timestamp) -> Duration {
    // If the clock was set back, the age is 0.
    Duration::try_from(now.duration_since(summary.updated)).unwrap_or_default()
}
