//! `kugetsu list`. Reads records; takes no lock and starts nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Outcome;
use super::context::{Context, duration};
use super::output::{Output, money};
use super::terminal::safe_line;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::ListRest;
use kugetsu_api::{BrokenFile, RepoRef, SessionState, SessionSummary, Verdict};
use kugetsu_engine::duration::print_duration;

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
}

fn states() -> PossibleValuesParser {
    let verdicts = Verdict::ALL.map(Verdict::as_str);
    PossibleValuesParser::new(["new", "running"].into_iter().chain(verdicts))
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
    if output.json {
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
    let mut rows = Vec::new();
    let mut all = 0;
    let (_, broken) = engine.list(
        |(seen, rows): &mut (usize, Vec<_>), summary, _| {
            *seen += 1;
            let Some((state, age)) = matching_state(&summary) else {
                return;
            };
            rows.push(vec![
                summary.address.to_string(),
                state.as_str().to_owned(),
                summary.totals.turns.to_string(),
                summary.totals.tokens.total().to_string(),
                money(summary.totals.cost_usd),
                print_duration(Duration::from_secs(age.as_secs())),
                summary
                    .session
                    .as_ref()
                    .map_or("-", |session| session.as_str())
                    .to_owned(),
                safe_line(summary.issue_title.as_deref().unwrap_or_default()),
            ]);
        },
        |(seen, block)| {
            all += seen;
            rows.extend(block);
        },
    )?;
    for (path, problem) in &broken {
        output.note(format!("kugetsu: {} is left out: {problem}", path.display()));
    }
    if rows.is_empty() {
        output.note(if all == 0 {
            "no sessions yet; start one with: kugetsu start REF \"what to do\""
        } else {
            "no session matches"
        });
        return Ok(ExitStatus::Ok);
    }
    let mut head = vec![
        "REF", "STATE", "TURNS", "TOKENS", "COST", "AGE", "SESSION", "TITLE",
    ];
    let width = title_width(&head, &rows);
    let no_title = |row: &Vec<String>| row.last().is_none_or(String::is_empty);
    if width < SHORTEST_TITLE || rows.iter().all(no_title) {
        head.pop();
        for row in &mut rows {
            row.pop();
        }
    }
    for row in &mut rows {
        if let Some(title) = row.get_mut(7) {
            *title = console::truncate_str(title, width, "...").into_owned();
        }
    }
    output.table(&head, rows);
    Ok(ExitStatus::Ok)
}

/// The width for titles: on a terminal, what the other columns leave.
fn title_width(head: &[&str], rows: &[Vec<String>]) -> usize {
    let Some((_, columns)) = console::Term::stdout().size_checked() else {
        return LONGEST_TITLE;
    };
    let width_of = |column: usize| {
        let cells = rows.iter().map(|row| console::measure_text_width(&row[column]));
        cells.chain([head[column].len()]).max().unwrap_or_default() + 2
    };
    let others: usize = (0..head.len() - 1).map(width_of).sum();
    usize::from(columns).saturating_sub(others).min(LONGEST_TITLE)
}

/// The longest title, in columns.
const LONGEST_TITLE: usize = 40;
/// Less room than this is not worth a column.
const SHORTEST_TITLE: usize = 12;

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
        rows.push_str(&Value::Object(record).to_string());
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
