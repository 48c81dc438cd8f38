//! The command line: arguments in, text and exit status out. The only place that prints, prompts or exits.

mod attach;
mod backup;
mod bounded;
mod complete;
mod completions;
mod config;
mod context;
mod continue_;
mod daemon;
mod deferred;
mod delegate;
mod destroy;
mod detach;
mod detached;
mod diff;
mod doctor;
mod each;
mod editor;
mod ending;
mod error;
mod examples;
mod form;
mod gc;
mod host;
mod init;
mod issue;
mod list;
mod live;
mod logs;
mod man;
mod markdown;
mod move_;
mod on_terminal;
mod output;
mod pending;
mod permit;
mod printer;
mod prompt;
mod prune;
mod query;
mod restore;
mod restore_backup;
mod show;
mod signal;
mod signals;
mod start;
mod start_daemon;
mod status_line;
mod stop;
mod submit;
mod table;
mod tail;
mod task;
mod through_daemon;
mod tone;
mod trash;
mod turn;
mod turn_id;
mod wait;
mod watch;
mod worktree;

use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::terminal::{Piece, Stream, escape_bytes};
use clap_complete::engine::ArgValueCompleter;
use context::Context;
use deferred::Deferred;
pub(crate) use error::CommandError;
use kugetsu_api::exit::ExitStatus;
use kugetsu_engine::operations::DELEGATE_COMMAND;
use output::Output;
use uuid::Uuid;

/// Run and resume one opencode session per issue
#[derive(Debug, Parser)]
#[command(name = "kugetsu", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// Print JSON on stdout instead of text; start, continue, wait, watch, logs and tail print one line per event
    #[arg(long, global = true)]
    json: bool,

    /// Run the command on another host over ssh: user@host, or a name from [hosts] in config.toml
    #[arg(long, global = true, value_name = "HOST", add = ArgValueCompleter::new(complete::Hosts))]
    host: Option<String>,
}

const EXIT_HELP: &str = "\
A REF names a session. Inside a clone of the repository, the part before # or ~ may be left out.
  instance/owner/repo#14         the session of an issue; also owner/repo#14, the issue's URL, 14
  instance/owner/repo#14/review  a further session of that issue; also 14/review
  instance/owner/repo~nightly    a session without an issue; also owner/repo~nightly, ~nightly

Exit status:
  0   completed                       69  opencode or forge unusable
  1   failed                          73  store or output unwritable
  2   a person is needed              75  try again later
  64  wrong usage                     130 interrupted
  66  no such session, base or issue  143 terminated";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make or adopt the base session of a repository
    Init(Deferred<init::InitArgs>),
    /// Start a session: fork it from the base and run its first turn
    Start(Deferred<start::StartArgs>),
    /// Continue a session: run one more turn
    Continue(Deferred<continue_::ContinueArgs>),
    /// List the sessions
    #[command(visible_alias = "ls")]
    List(Deferred<list::ListArgs>),
    /// Show one session
    Show(Deferred<show::ShowArgs>),
    /// Show what a session has changed in its clone or worktree since it began
    Diff(Deferred<diff::DiffArgs>),
    /// Print an issue: its title, text and comments
    Issue(Deferred<issue::IssueArgs>),
    /// Open the session in opencode's own terminal interface
    Attach(Deferred<attach::AttachArgs>),
    /// Print a turn: its answer and its tools, or every event
    Logs(Deferred<logs::LogsArgs>),
    /// Wait for a turn of another process, and exit with its status
    Wait(Deferred<wait::WaitArgs>),
    /// Follow the running turns of many sessions, a line for each event
    Watch(Deferred<watch::WatchArgs>),
    /// Stop the running turn of a session, and wait until it has ended
    Stop(Deferred<stop::StopArgs>),
    /// Pause, resume or stop the running turn of a session, or rebase its worktree
    Signal(Deferred<signal::SignalArgs>),
    /// Print one JSON object about all sessions: states, live turns, totals, next commands
    Query(Deferred<query::QueryArgs>),
    /// Show, change or explain the permissions of a session
    Permit(Deferred<permit::PermitArgs>),
    /// List the requests of blocked turns, and the answers that the next continue delivers
    Pending(Deferred<pending::PendingArgs>),
    /// Answer the request of a blocked turn; the next continue delivers the answer
    Answer(Deferred<pending::AnswerArgs>),
    /// Move the records of sessions that opencode no longer has to the trash
    Prune(Deferred<prune::PruneArgs>),
    /// Remove a session from opencode and from kugetsu; it can be restored
    Destroy(Deferred<destroy::DestroyArgs>),
    /// Restore a session that destroy removed
    Restore(Deferred<restore::RestoreArgs>),
    /// List what is in the trash, or empty it
    Trash(Deferred<trash::TrashArgs>),
    /// Tell sessions where their clone is after it was moved
    Move(Deferred<move_::MoveArgs>),
    /// Compress old logs and remove the oldest, as the settings say
    Gc(Deferred<gc::GcArgs>),
    /// Write kugetsu's home and opencode's database into one archive, also while turns run
    Backup(Deferred<backup::BackupArgs>),
    /// Make kugetsu's home what it was when an archive was written
    RestoreBackup(Deferred<restore_backup::RestoreBackupArgs>),
    /// Check the store, opencode, its database and the sessions
    Doctor(Deferred<doctor::DoctorArgs>),
    /// Show the settings and where their values came from, or change them
    Config(Deferred<config::ConfigArgs>),
    /// Run, inspect or end the daemon, which keeps opencode warm and runs tasks
    Daemon(Deferred<daemon::DaemonArgs>),
    /// Give the daemon a task: a turn that runs when its time has come
    Submit(Deferred<submit::SubmitArgs>),
    /// Print the events of a task's turn
    Tail(Deferred<tail::TailArgs>),
    /// List, show, cancel or retry the daemon's tasks
    Task(Deferred<task::TaskArgs>),
    /// Print a completion script for a shell
    Completions(Deferred<completions::CompletionsArgs>),
    /// Print the manual page
    Man(man::ManArgs),
}

impl Verb {
    /// Whether the verb's own flags put JSON on stdout, as `--json` does for every verb.
    fn prints_json(&self) -> bool {
        match self {
            Self::Start(Deferred(args)) => args.turn.prints_json(),
            Self::Continue(Deferred(args)) => args.turn.prints_json(),
            Self::Wait(Deferred(args)) => args.output.is_some_and(|form| form != form::OutputForm::Text),
            _ => false,
        }
    }

    /// Whether the verb runs a turn on a session. A tool's turn must not run in the tool.
    fn is_delegated(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Continue(_))
    }
}

/// The result of a verb: an exit status, or an error to print.
type Outcome = Result<ExitStatus, CommandError>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    print_panics();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == detach::COMMAND)
    {
        return detach::child_main().into();
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == DELEGATE_COMMAND)
    {
        return delegate::delegate_main().into();
    }
    if complete::answer() {
        return ExitStatus::Ok.into();
    }
    execute(std::env::args_os().collect(), None).into()
}

/// Runs a command line, and prints its error. Returns the exit status. With `tool_of`, for a tool of this turn.
fn execute(arguments: Vec<OsString>, tool_of: Option<Uuid>) -> u8 {
    let command = examples::add(man::with_pages(Cli::command()), EXIT_HELP);
    // The system frees the memory of a process faster than this process can.
    let mut command = ManuallyDrop::new(command);
    let parsed = command
        .try_get_matches_from_mut(prompt::marked(arguments.iter().cloned()))
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            print_parsing(&error, &mut command);
            if !error.use_stderr() {
                return ExitStatus::Ok.code();
            }
            if asks_for_json(arguments.into_iter().skip(1)) {
                Output::new(true).error_object(&usage_error(&error));
            }
            return ExitStatus::Usage.code();
        }
    };
    let output = Output::new(cli.json);
    let error_output = Output::new(cli.json || cli.verb.prints_json());
    let status = turn::check_wait(&matches).and_then(|()| match (&cli.host, tool_of) {
        (Some(name), None) => host::run(&command, &matches, name),
        (host, Some(_)) if host.is_some() || !cli.verb.is_delegated() => Err(delegate::refused()),
        _ => run(cli.verb, arguments, tool_of, output).map(ExitStatus::code),
    });
    let status = match output::write_error() {
        Some(error)
            if status
                .as_ref()
                .is_ok_and(|status| *status == ExitStatus::Ok.code()) =>
        {
            Err(error)
        }
        _ => status,
    };
    match status {
        Ok(status) => status,
        Err(error) => {
            error_output.error(&error);
            error.exit_status().code()
        }
    }
}

/// Runs this process as the tether of a command from another host; returns its exit status.
pub fn tether_main() -> u8 {
    crate::ssh::tether_main(&context::own_program())
}

/// Prints clap's help, version or error. An error quotes arguments, and only clap can style it, so its text is made again
/// from arguments that are escaped.
fn print_parsing(error: &clap::Error, command: &mut clap::Command) {
    // Help and version are not errors, and go to stdout.
    let stream = if error.use_stderr() {
        Stream::Stderr
    } else {
        Stream::Stdout
    };
    let escaped = std::env::args_os()
        .map(|argument| OsString::from(escape_bytes(argument.as_encoded_bytes()).into_owned()));
    let text = match command.try_get_matches_from_mut(prompt::marked(escaped)) {
        Err(same) if same.kind() == error.kind() => same.render(),
        // A part of the arguments had a meaning that it has no more.
        _ => error.render(),
    };
    let text = if stream.takes_colours() {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    let _ = stream.write(&[Piece::Rendered(&text)]);
}

/// Reports panics like anything else that is printed, because their text may quote anything.
fn print_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let mut text = format!("thread '{}' {panic}\n", thread.name().unwrap_or("<unnamed>"));
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            text.push_str(&trace.to_string());
        }
        let _ = Stream::Stderr.write(&[Piece::Text(&text)]);
    }));
}

/// Converts clap's message of several lines to an error with a message and, if clap has a tip, a hint.
fn usage_error(error: &clap::Error) -> CommandError {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n");
    let parts: Vec<_> = paragraphs.next().unwrap_or_default().split_whitespace().collect();
    let message = parts.join(" ");
    let tip = paragraphs.find_map(|text| text.trim().strip_prefix("tip: "));
    CommandError::usage(
        message.strip_prefix("error: ").unwrap_or(&message),
        tip.unwrap_or("see: kugetsu --help"),
    )
}

/// Whether arguments that could not be parsed contain a flag for JSON on stdout.
fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut before = String::new();
    arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .take_while(|argument| argument != "--")
        .any(|argument| {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag, value),
                None if before == "--output" => (before.as_str(), argument.as_str()),
                None => (argument.as_str(), ""),
            };
            let asks = match flag {
                "--json" | "--supervised" | "--events" => true,
                "--output" => ["json", "stream-json"].contains(&value),
                _ => false,
            };
            before = argument;
            asks
        })
}

fn run(verb: Verb, arguments: Vec<OsString>, tool_of: Option<Uuid>, output: Output) -> Outcome {
    // These verbs need no store, settings or opencode.
    let verb = match verb {
        Verb::Completions(Deferred(args)) => {
            return completions::run(&args, output);
        }
        Verb::Man(args) => return man::run(&args, Cli::command(), output),
        other => other,
    };
    let tolerant = match &verb {
        Verb::Doctor(_) => true,
        Verb::Config(Deferred(args)) => args.mends(),
        _ => false,
    };
    let mut context = Context::from_environment(tolerant)?;
    context.arguments = arguments;
    if tool_of.is_some() {
        context = context.for_tool_of(tool_of);
    } else if verb.is_delegated() && context.engine.parent_turn().is_some() {
        return delegate::ask(&context);
    }
    dispatch(verb, &context, output).map_err(|error| context.with_subject(error))
}

fn dispatch(verb: Verb, context: &Context, output: Output) -> Outcome {
    match verb {
        Verb::Init(Deferred(args)) => init::run(args, context, output),
        Verb::Start(Deferred(args)) => start::run(args, context, output),
        Verb::Continue(Deferred(args)) => continue_::run(args, context, output),
        Verb::List(Deferred(args)) => list::run(&args, context, output),
        Verb::Show(Deferred(args)) => show::run(&args, context, output),
        Verb::Diff(Deferred(args)) => diff::run(&args, context, output),
        Verb::Issue(Deferred(args)) => issue::run(&args, context, output),
        Verb::Attach(Deferred(args)) => attach::run(&args, context, output),
        Verb::Logs(Deferred(args)) => logs::run(&args, context, output),
        Verb::Wait(Deferred(args)) => wait::run(&args, context, output),
        Verb::Watch(Deferred(args)) => watch::run(&args, context, output),
        Verb::Stop(Deferred(args)) => stop::run(&args, context, output),
        Verb::Signal(Deferred(args)) => signal::run(&args, context, output),
        Verb::Query(Deferred(args)) => query::run(&args, context, output),
        Verb::Permit(Deferred(args)) => permit::run(args, context, output),
        Verb::Pending(Deferred(args)) => pending::list(&args, context, output),
        Verb::Answer(Deferred(args)) => pending::answer(&args, context, output),
        Verb::Prune(Deferred(args)) => prune::run(&args, context, output),
        Verb::Destroy(Deferred(args)) => destroy::run(&args, context, output),
        Verb::Restore(Deferred(args)) => restore::run(&args, context, output),
        Verb::Trash(Deferred(args)) => trash::run(&args, context, output),
        Verb::Move(Deferred(args)) => move_::run(&args, context, output),
        Verb::Gc(Deferred(args)) => gc::run(&args, context, output),
        Verb::Backup(Deferred(args)) => backup::run(&args, context, output),
        Verb::RestoreBackup(Deferred(args)) => restore_backup::run(&args, context, output),
        Verb::Doctor(Deferred(args)) => doctor::run(&args, context, output),
        Verb::Config(Deferred(args)) => config::run(&args, context, output),
        Verb::Daemon(Deferred(args)) => daemon::run(&args, context, output),
        Verb::Submit(Deferred(args)) => submit::run(args, context, output),
        Verb::Tail(Deferred(args)) => tail::run(&args, context, output),
        Verb::Task(Deferred(args)) => task::run(&args, context, output),
        Verb::Completions(_) | Verb::Man(_) => Ok(ExitStatus::Ok),
    }
}
