//! `kugetsu watch`: follows the running turns of many sessions at once, a line for each event. Starts nothing, takes no
//! lock.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use uuid::Uuid;

use super::complete::References;
use super::context::Context;
use super::form::EventsSchemaArg;
use super::logs::{POLL, wait_for};
use super::output::{Output, count, is_closed};
use super::{CommandError, Outcome};
use crate::terminal::one_line;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Address, ErrorCode, EventsSchema, LiveTurn, RepoRef, StreamEvent, StreamLine};
use kugetsu_engine::Redactor;
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::money::print_usd;
use kugetsu_engine::turn::stream::describe;

/// The interval between two searches for turns that have begun.
const SEARCH: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// The addresses of sessions, such as 14 or owner/repo#14 [default: every session with a running turn]
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    references: Vec<String>,

    /// Also follow turns that begin later, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    schema: EventsSchemaArg,
}

pub(super) fn run(args: &WatchArgs, context: &Context, output: Output) -> Outcome {
    let named = args
        .references
        .iter()
        .map(|reference| context.address(reference))
        .collect::<Result<Vec<_>, _>>()?;
    let mut watch = Watch {
        context,
        output,
        schema: args.schema.events_schema,
        here: context.repo(None).ok(),
        turns: HashMap::new(),
    };
    // Turns that run already are followed from now on, later ones from their beginning.
    watch.search(&named, true)?;
    if watch.turns.is_empty() && !args.follow {
        if let [address, ..] = &named[..] {
            return Err(
                CommandError::new(ErrorCode::NotRunning, format!("no turn runs on {address}"))
                    .hint(format!("see its last turn: kugetsu logs {address}")),
            );
        }
        output.note("no turn is running");
        return Ok(ExitStatus::Ok);
    }
    let mut searched = Instant::now();
    loop {
        watch.read();
        if is_closed() || (watch.turns.is_empty() && !args.follow) {
            return Ok(ExitStatus::Ok);
        }
        if args.follow && searched.elapsed() >= SEARCH {
            watch.search(&named, false)?;
            searched = Instant::now();
        }
        std::thread::sleep(POLL);
    }
}

struct Watch<'a> {
    context: &'a Context,
    output: Output,
    schema: EventsSchema,
    /// The repository whose sessions are shown by their short addresses.
    here: Option<RepoRef>,
    turns: HashMap<Uuid, Followed>,
}

/// A turn that is followed.
struct Followed {
    address: Address,
    reader: BufReader<File>,
    /// The beginning of a line that is still being written.
    line: Vec<u8>,
}

impl Watch<'_> {
    /// Adds the running turns that are not followed yet.
    fn search(&mut self, named: &[Address], at_end: bool) -> Result<(), CommandError> {
        let engine = &self.context.engine;
        let mut addresses = named.to_vec();
        if named.is_empty() {
            engine.list(
                |live: &mut Vec<Address>, summary, _| {
                    if engine.state_of_summary(&summary).is_live() {
                        live.push(summary.address);
                    }
                },
                |live| addresses.extend(live),
            )?;
        }
        for address in addresses {
            let record = engine.record(&address)?;
            let live = record
                .live
                .as_ref()
                .filter(|_| engine.state_of(&record).is_live());
            let Some(live) = live.filter(|live| !self.turns.contains_key(&live.turn)) else {
                continue;
            };
            // A turn that is just starting has no file yet.
            let path = engine.stream_path(&address, live.turn);
            let starting = !path.exists();
            wait_for(&path, || engine.is_running(&address, live.turn));
            let Ok(mut file) = File::open(path) else {
                continue;
            };
            if at_end && !starting {
                let _ = file.seek(SeekFrom::End(0));
                self.tell(&address, &self.so_far(&address, live));
            }
            let followed = Followed {
                address,
                reader: BufReader::new(file),
                line: Vec::new(),
            };
            self.turns.insert(live.turn, followed);
        }
        Ok(())
    }

    /// What a turn has done before it is followed.
    fn so_far(&self, address: &Address, live: &LiveTurn) -> String {
        let age = jiff::Timestamp::now().duration_since(live.started);
        let age = Duration::try_from(age).unwrap_or_default();
        let mut text = format!(
            "running for {}",
            print_duration(Duration::from_secs(age.as_secs()))
        );
        if let Some(status) = self.context.engine.live_status(address, live.turn) {
            text.push_str(&format!(", step {}", status.current_step));
            if let Some(tool) = &status.tool {
                text.push_str(&format!(", {tool}"));
            }
        }
        text
    }

    /// Prints what the followed turns have written since the last time, and drops those that have ended.
    fn read(&mut self) {
        let mut ended = Vec::new();
        let mut turns = std::mem::take(&mut self.turns);
        for (turn, followed) in &mut turns {
            // Checked before reading, so that everything a turn writes before its end is read.
            let over = !self.context.engine.is_running(&followed.address, *turn);
            while let Ok(1..) = followed.reader.read_until(b'\n', &mut followed.line) {
                if !followed.line.ends_with(b"\n") {
                    break;
                }
                self.print(&followed.address, &followed.line);
                followed.line.clear();
            }
            if over {
                ended.push(*turn);
            }
        }
        turns.retain(|turn, _| !ended.contains(turn));
        self.turns = turns;
    }

    fn print(&self, address: &Address, line: &[u8]) {
        if self.output.json {
            let line = self.schema.line(line);
            return self.output.json_line(line.trim_ascii_end());
        }
        let Ok(line) = serde_json::from_slice::<StreamLine>(line) else {
            return;
        };
        match &line.event {
            StreamEvent::MessageEnd {
                reasoning: false,
                text,
                ..
            } => {
                for line in text.lines() {
                    self.tell(address, line);
                }
            }
            StreamEvent::AgentEnd {
                verdict,
                reason,
                tokens,
                cost_usd,
                duration_ms,
                ..
            } => {
                let took = print_duration(Duration::from_millis(*duration_ms));
                let spent = format!("{}, {}", count(tokens.total(), "token"), print_usd(*cost_usd));
                self.tell(address, &format!("{verdict} in {took}: {spent}"));
                if !reason.is_empty() {
                    self.tell(address, reason);
                }
            }
            event => {
                if let Some(text) = describe(event, &Redactor::default()) {
                    self.tell(address, &text);
                }
            }
        }
    }

    fn tell(&self, address: &Address, text: &str) {
        if self.output.json {
            return;
        }
        let whole = address.to_string();
        let short = self
            .here
            .as_ref()
            .and_then(|here| whole.strip_prefix(&here.to_string()));
        let name = short.map_or(whole.as_str(), |short| short.strip_prefix('#').unwrap_or(short));
        self.output.text(format!("{name} | {}", one_line(text)));
    }
}
