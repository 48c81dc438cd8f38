//! The shared part of `start` and `continue`: the flags of a turn, running the turn, and reporting its end.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Args, ValueEnum};
use tokio::sync::watch;
use uuid::Uuid;

use super::bounded::{self, MAX_ANSWERS};
use super::context::{Context, duration, time_limit};
use super::ending::{exit_of, result, summary};
use super::form::{EventsSchemaArg, OutputForm};
use super::live::{LiveView, Progress, ViewArgs};
use super::output::{Output, can_ask};
use super::printer::{Lines, Printer, Screen, Show, Verbosity};
use super::prompt::Written;
use super::signals::with_signals;
use super::turn_id::ChosenId;
use super::{CommandError, Outcome, detach, init, issue, prompt, through_daemon, wait};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Address, ErrorCode, SandboxMode, TransportChoice};
use kugetsu_engine::SHORTEST_SECRET;
use kugetsu_engine::money::parse_usd;
use kugetsu_engine::operations::{
    EngineError, Mode, Subject, TurnHandle, TurnOptions, TurnReport, TurnRequest, WorktreeRequest,
};
use kugetsu_engine::settings::{OnAskSetting, Settings, parse_model};
use kugetsu_engine::turn::answers::{Answers, Reply};
use kugetsu_engine::turn::stream::Feed;
use kugetsu_engine::turn::{Interrupt, Limits, Responder};

impl TurnArgs {
    /// Refuses an output form that has no place for events and requests, which need JSON lines.
    fn check_form(&self) -> Result<(), CommandError> {
        let form = match self.output {
            Some(OutputForm::Text) => "text",
            Some(OutputForm::Json) => "json",
            Some(OutputForm::StreamJson) | None => return Ok(()),
        };
        let flag = match (self.asking.supervised, self.events.is_empty()) {
            (true, _) => "--supervised",
            (false, false) => "--events",
            (false, true) => return Ok(()),
        };
        Err(CommandError::usage(
            format!("{flag} prints JSON lines, and --output {form} prints none"),
            format!("leave --output out, or use --output stream-json with {flag}"),
        ))
    }

    /// Whether the turn's own flags put JSON on stdout.
    pub(super) fn prints_json(&self) -> bool {
        match self.output {
            Some(form) => form != OutputForm::Text,
            None => !self.events.is_empty() || self.asking.supervised,
        }
    }
}

/// The values of `--sandbox`.
pub(super) fn sandbox_modes() -> impl TypedValueParser<Value = SandboxMode> {
    PossibleValuesParser::new(["off", "auto", "required"]).try_map(|name| name.parse())
}

fn transports() -> impl TypedValueParser<Value = TransportChoice> {
    PossibleValuesParser::new(["auto", "run", "serve"]).try_map(|name| name.parse())
}

/// The value of a `--wait` without a value.
const WITHOUT_LIMIT: &str = "3650d";

/// Refuses a duration right after a `--wait` without a value. The user meant it as the value of `--wait`, but it would
/// become a part of the message, and the model would be paid to read it.
pub(super) fn check_wait(matches: &ArgMatches) -> Result<(), CommandError> {
    let Some(("start" | "continue", given)) = matches.subcommand() else {
        return Ok(());
    };
    let bare = given
        .get_raw("wait")
        .is_some_and(|mut values| values.any(|value| value == WITHOUT_LIMIT));
    let at = given.indices_of("wait").and_then(Iterator::last);
    let (Some(arguments), Some(places)) = (given.get_many::<String>("message"), given.indices_of("message"))
    else {
        return Ok(());
    };
    let next = arguments
        .zip(places)
        .find(|(_, place)| at.is_some_and(|at| *place == at + 1));
    match next {
        Some((argument, _)) if bare && duration(argument).is_ok() => Err(CommandError::usage(
            format!(
                "`{argument}` after --wait would be a part of the message: --wait takes its value only with `=`"
            ),
            format!(
                "write --wait={argument}; if the message begins with it, pipe the message in and write `-`"
            ),
        )),
        _ => Ok(()),
    }
}

/// The flags of commands that run a turn.
#[derive(Debug, Args)]
pub(super) struct TurnArgs {
    /// How kugetsu reaches opencode [config: transport]
    #[arg(long, value_name = "HOW", value_parser = transports())]
    transport: Option<TransportChoice>,

    /// What to print: the answer as text, one object at the end, or every event as a JSON line (as --json does)
    #[arg(long, value_enum)]
    output: Option<OutputForm>,

    /// Print the turn's id and return as soon as the turn is on record; the turn continues in the background
    #[arg(long, conflicts_with_all = ["supervised", "verbose", "events"])]
    detach: bool,

    /// An id of your choice for the turn, of up to 200 characters; a repeated command with the same id and message waits for that turn and prints its result instead of running it twice
    #[arg(long, value_name = "ID")]
    turn_id: Option<ChosenId>,

    /// Write the message in your editor (VISUAL, EDITOR), beginning with the words that are given
    #[arg(short, long, conflicts_with = "supervised")]
    edit: bool,

    /// Fetch the issue, and add its title, text and newest comments to the message
    #[arg(long)]
    with_issue: bool,

    #[command(flatten)]
    limits: LimitArgs,

    /// If a turn runs on the session, wait for its end, at most this long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = WITHOUT_LIMIT, require_equals = true, value_parser = duration)]
    wait: Option<Duration>,

    /// Use this model, as provider/model, instead of the session's own [config: model]
    #[arg(long, value_parser = parse_model)]
    model: Option<String>,

    /// The agent instead of the session's own [config: agent]
    #[arg(long)]
    agent: Option<String>,

    #[command(flatten)]
    asking: AskArgs,

    /// Print a line for every event on stderr, instead of what --progress shows
    #[arg(long)]
    verbose: bool,

    #[command(flatten)]
    view: ViewArgs,

    /// Do not keep the message in kugetsu's record of the turn; opencode keeps it in any case [config: keep_prompt]
    #[arg(long)]
    no_keep_prompt: bool,

    /// Print only events of these types, as JSON lines
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    events: Vec<String>,

    #[command(flatten)]
    schema: EventsSchemaArg,

    /// Run the turn without the daemon, also if one runs [config: daemon]
    #[arg(long)]
    no_daemon: bool,

    /// Write opencode's log at DEBUG and kugetsu's own trace to the session's debug.log
    #[arg(long)]
    debug: bool,
}

/// The flags for answers to opencode's requests.
#[derive(Debug, Args)]
struct AskArgs {
    /// JSON file with answers to questions and permission requests, and with secrets for opencode's environment
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,

    /// Print requests as JSON lines and read replies from stdin: {"request": "...", "answer": "allow"}
    #[arg(long)]
    supervised: bool,

    /// How long to wait for a reply with --supervised before the default applies [config: response_timeout]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    response_timeout: Option<Duration>,

    /// How to handle a request that nothing answers: give the default answer, or end the turn as blocked [config:
    /// on_ask]
    #[arg(long, value_name = "HOW", value_enum)]
    on_ask: Option<OnAskForm>,
}

/// How to handle a request that nothing answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnAskForm {
    /// Refuse permissions and choose the first option of questions.
    Answer,
    /// End the turn as blocked; `kugetsu pending` lists the request.
    Block,
}

impl AskArgs {
    fn reply_timeout(&self, settings: &Settings) -> Duration {
        self.response_timeout.unwrap_or(settings.response_timeout)
    }

    fn responder(&self, settings: &Settings) -> Result<Responder, CommandError> {
        let on_ask = match self.on_ask {
            Some(OnAskForm::Answer) => OnAskSetting::Answer,
            Some(OnAskForm::Block) => OnAskSetting::Block,
            None => settings.on_ask,
        };
        let answers = self
            .answers
            .as_deref()
            .map(|path| read_answers(path).map(|(_, answers)| answers))
            .transpose()?;
        let supervisor = self
            .supervised
            .then(|| Ok::<_, CommandError>((replies_from_stdin()?, self.reply_timeout(settings))))
            .transpose()?;
        Ok(Responder {
            answers,
            supervisor,
            on_ask: on_ask.with(settings.on_question),
        })
    }
}

/// The text of an answers file, after validation.
pub(super) fn answers_text(path: &Path) -> Result<String, CommandError> {
    read_answers(path).map(|(text, _)| text)
}

/// Reads an answers file. Errors name the place of a mistake, never the content, because the file holds secrets.
fn read_answers(path: &Path) -> Result<(String, Answers), CommandError> {
    let invalid = |problem: String| {
        CommandError::usage(
            format!("the answers file {} cannot be used: {problem}", path.display()),
            "write JSON with questions, secrets, permissions and defaults",
        )
    };
    let text = bounded::read_file(path, MAX_ANSWERS).map_err(|error| invalid(error.to_string()))?;
    let answers: Answers = serde_json::from_str(&text)
        .map_err(|error| invalid(format!("line {}, column {}", error.line(), error.column())))?;
    let short = answers
        .secrets
        .iter()
        .find(|(_, value)| value.len() < SHORTEST_SECRET);
    match short {
        None => Ok((text, answers)),
        Some((name, _)) => Err(invalid(format!(
            "the secret {name} has fewer than {SHORTEST_SECRET} bytes, so it cannot be kept out of the logs"
        ))),
    }
}

/// Starts a thread that reads replies until stdin ends. The thread does not delay the end of the command.
fn replies_from_stdin() -> Result<tokio::sync::mpsc::Receiver<Reply>, CommandError> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let reading = std::thread::Builder::new().spawn(move || {
        let mut stdin = std::io::stdin().lock();
        // A line that is longer ends the replies.
        while let Ok(line) = bounded::read_line(&mut stdin, MAX_ANSWERS) {
            if line.is_empty() {
                return;
            }
            let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
            if line.is_empty() {
                continue;
            }
            // An invalid reply is reported like a reply to an unknown request.
            let reply = serde_json::from_str(&line).unwrap_or(Reply {
                request: line,
                answer: serde_json::Value::Null,
            });
            if sender.blocking_send(reply).is_err() {
                return;
            }
        }
    });
    reading.map_err(super::signals::no_runtime)?;
    Ok(receiver)
}

/// The limits of a turn.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// How long the turn may take [config: timeout]
    #[arg(long, value_name = "DURATION", value_parser = time_limit)]
    timeout: Option<Duration>,

    /// How long the turn may go without any progress [config: stall_timeout]
    #[arg(long, value_name = "DURATION", value_parser = time_limit)]
    stall_timeout: Option<Duration>,

    /// How long to wait when the provider asks to retry later [config: max_quota_wait]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_quota_wait: Option<Duration>,

    /// End the turn as looping after this many consecutive steps without a finish reason [config: max_steps_without_progress]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_steps_without_progress: Option<u32>,

    /// End the turn when it has cost more than this many US dollars [config: max_cost]
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    max_cost: Option<f64>,

    /// End the turn when it has used more than this many tokens [config: max_tokens]
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,

    /// End the turn when it has taken more than this many steps (requests to the model) [config: max_steps]
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,

    /// How often to restart opencode after a crash [config: max_restarts]
    #[arg(long, value_name = "N")]
    max_restarts: Option<u32>,

    /// How long opencode may take to end before it is killed [config: grace]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<Duration>,
}

impl LimitArgs {
    /// The limits from the settings, overridden by flags.
    pub(super) fn limits(&self, settings: &Settings) -> Limits {
        let set = settings.limits();
        Limits {
            timeout: self.timeout.unwrap_or(set.timeout),
            stall: self.stall_timeout.unwrap_or(set.stall),
            idle_steps: self.max_steps_without_progress.unwrap_or(set.idle_steps),
            cost_usd: self.max_cost.or(set.cost_usd),
            tokens: self.max_tokens.or(set.tokens),
            steps: self.max_steps.or(set.steps),
            quota_wait: self.max_quota_wait.unwrap_or(set.quota_wait),
            grace: self.grace.unwrap_or(set.grace),
            restarts: self.max_restarts.unwrap_or(set.restarts),
            ..set
        }
    }
}

/// Runs a turn and prints its result.
pub(super) fn run(
    reference: String,
    message: &[String],
    mode: Mode,
    place: (WorktreeRequest, Option<SandboxMode>),
    args: TurnArgs,
    context: &Context,
    output: Output,
) -> Outcome {
    let mut written = None;
    let asked = (reference, message, mode, place);
    let result = run_with(asked, args, &mut written, context, output);
    match (result, written) {
        (Err(error), Some(written)) => Err(written.keep_after(error)),
        (result, Some(written)) => {
            written.keep();
            result
        }
        (result, None) => result,
    }
}

/// Leaves in `written` a message from the editor that was not sent.
fn run_with(
    (reference, message, mode, (mut worktree, sandbox)): (
        String,
        &[String],
        Mode,
        (WorktreeRequest, Option<SandboxMode>),
    ),
    args: TurnArgs,
    written: &mut Option<Written>,
    context: &Context,
    output: Output,
) -> Outcome {
    let address = context.address(&reference)?;
    args.check_form()?;
    if args.asking.supervised && (message.is_empty() && !args.with_issue || message == ["-"]) {
        return Err(CommandError::usage(
            "with --supervised, stdin carries the replies, so it cannot carry the message",
            "write the message after the reference",
        ));
    }
    let engine = &context.engine;
    let for_tool = engine.parent_turn().is_some();
    if for_tool && args.edit {
        // An editor of a tool would run outside of the turn.
        return Err(CommandError::usage(
            "--edit opens an editor for a person, and this command runs in a tool of a turn",
            "write the message after the reference, or pipe it in and write `-`",
        ));
    }
    let can_ask = || !for_tool && can_ask();
    // A detached turn is awaited only until it is on record, by the command that detaches it.
    let _waiting = match context.detached {
        Some(_) => None,
        None => Some(engine.wait_for(&address)?),
    };
    // Without a message, the issue says what to do, if a person agrees.
    let ask = mode == Mode::Start
        && message.is_empty()
        && !args.edit
        && !args.with_issue
        && !output.json
        && can_ask();
    let with_issue = args.with_issue || ask;
    let (mut prompt, mut issue_title) = if let Some(detached) = &context.detached {
        (detached.prompt(), detached.issue_title())
    } else if message.is_empty() && !args.edit && (with_issue || has_undelivered_answer(context, &address)) {
        (String::new(), None)
    } else if args.edit || (message.is_empty() && mode != Mode::Start && can_ask()) {
        // Nobody should write a message for nothing.
        context.engine.check_mode(&address, mode)?;
        let edited = written.insert(prompt::edit(message, &address.to_string())?);
        (edited.message().to_owned(), None)
    } else {
        (prompt::read(message)?, None)
    };
    let chosen = args.turn_id.as_ref().map(|id| id.of(&address));
    let settings = engine.settings();
    let needs_lines = !args.events.is_empty() || args.asking.supervised;
    let form = OutputForm::chosen(args.output, needs_lines, output);
    args.schema.check_types(&args.events)?;
    let lines = Lines {
        types: args.events,
        schema: args.schema.events_schema,
    };
    if context.detached.is_none() {
        if let Some(turn) = chosen
            && engine.is_recorded(&address, turn, (!with_issue).then_some(&prompt))?
        {
            *written = None;
            return follow_recorded(
                &address,
                turn,
                args.detach,
                (form, lines),
                args.view,
                context,
                output,
            );
        }
        if mode != Mode::Continue
            && let Some(status) = init::offer(&address, context, output)?
        {
            return Ok(status);
        }
        if with_issue {
            engine.check_mode(&address, mode)?;
            let with_text = issue::prompt((&address, &reference), &prompt, ask, context, output)?;
            (prompt, issue_title) = (with_text.prompt, Some(with_text.title));
        }
        if args.detach {
            let launched = detach::launch(&address, (prompt, issue_title), form, context, output)?;
            if launched == ExitStatus::Ok {
                *written = None;
            }
            return Ok(launched);
        }
    }
    if args.debug {
        super::output::trace_to(engine.open_debug_log(&Subject::Session(address.clone()))?);
    }
    worktree.here = Some(context.here.clone());
    let responder = args.asking.responder(engine.settings())?;
    let request = TurnRequest {
        address: address.clone(),
        typed: reference,
        turn: chosen,
        prompt,
        earlier: Vec::new(),
        issue_title,
        mode,
        wait: args.wait,
        worktree,
        sandbox,
        narrowing: Vec::new(),
        options: TurnOptions {
            transport: args.transport.unwrap_or(settings.transport),
            limits: args.limits.limits(settings),
            model: args.model.or_else(|| settings.model.clone()),
            agent: args.agent.or_else(|| settings.agent.clone()),
            keep_prompt: settings.keep_prompt && !args.no_keep_prompt,
            debug: args.debug,
        },
    };
    let mut printer = None;
    let detached = context.detached.as_ref();
    let show = match detached {
        Some(_) => Show::Nothing,
        None => form.show(lines.clone()),
    };
    // A person who types replies must see them.
    let types_replies = args.asking.supervised && std::io::stdin().is_terminal();
    let progress = match detached {
        None if !args.verbose && !types_replies => args.view.progress,
        _ => Progress::Never,
    };
    let shows_notes = show == Show::Text;
    let plain = args.view.plain;
    let mut view = Some(LiveView::beside(&show, progress));
    let through = through_daemon::Use::of(context, args.no_daemon, output);
    let (report, signal) = with_signals(detached.is_some(), async |mut interrupts| {
        let slot = through
            .place(&address, &mut interrupts, &mut view, output)
            .await?;
        let mut request = request;
        through_daemon::limit(&mut request, slot.as_ref());
        let turn = through_daemon::engine(engine, slot.as_ref()).spawn(request, responder);
        let id = turn.id;
        let report = follow(turn, interrupts, &mut view, |feed, view| {
            let verbosity = args.verbose.then_some(Verbosity::Lines);
            printer = Some(Printer::start(feed, Screen::new(show, verbosity, view, plain)));
            if let Some(written) = written {
                written.may_have_begun(&id.to_string());
            }
            if let Some(detached) = detached {
                detached.ready(id, &address, engine);
            }
        })
        .await;
        through_daemon::end(slot, &report).await;
        report
    })?;
    // The view of a turn that never began.
    drop(view);
    match printer {
        // The stream of a turn whose end is not recorded may never end.
        Some(printer) if matches!(report, Err(EngineError::InterruptedWhile { .. })) => printer.abandon(),
        Some(printer) => printer.finish(),
        None => {}
    }
    if let Err(error) = &report
        && let Some(turn) = detach::report_recorded(error, context)
    {
        *written = None;
        return match detached {
            Some(_) => Ok(ExitStatus::Ok),
            // The signal came before the command found the recorded turn, so the command ends without waiting for that
            // turn.
            None if let Some(status) = signal => Ok(status),
            None => follow_recorded(&address, turn, false, (form, lines), args.view, context, output),
        };
    }
    let report = report.map_err(|error| {
        let can_wait = args.wait.is_none() && error.code() == ErrorCode::InUse;
        let error = CommandError::from(error).after(signal);
        if can_wait {
            error.hint("or add --wait to wait for the end of the turn")
        } else {
            error
        }
    })?;
    *written = None;
    let status = exit_of(&report, signal);
    if form == OutputForm::Json {
        output.object(result(&report, status));
    }
    summary(&report, shows_notes, output);
    if let Some(note) = engine.notify(&report) {
        output.note(format!("kugetsu: {note}"));
    }
    if settings.notify_by_bell() {
        output.bell();
    }
    Ok(status)
}

/// How often the view shows how long something is waited for.
const WAIT_TICK: Duration = Duration::from_secs(1);

/// Follows a turn to its end: passes interrupts on to the turn, and the turn's stream with the view to `show`. Until
/// there is a stream, the view shows what the turn waits for.
async fn follow(
    mut turn: TurnHandle,
    mut interrupts: watch::Receiver<Interrupt>,
    view: &mut Option<LiveView>,
    show: impl FnOnce(Feed, LiveView),
) -> Result<TurnReport, EngineError> {
    let mut show = Some(show);
    let mut ticks = tokio::time::interval(WAIT_TICK);
    loop {
        tokio::select! {
            biased;
            Ok(()) = interrupts.changed() => turn.control.interrupt(*interrupts.borrow_and_update()),
            Some(feed) = turn.feed.ready(), if show.is_some() => {
                if let (Some(show), Some(view)) = (show.take(), view.take()) {
                    show(feed, view);
                }
            }
            Ok(()) = turn.waits.changed(), if view.is_some() => {
                let waits = turn.waits.borrow_and_update().clone();
                if let Some(view) = view {
                    view.waits_for(waits);
                }
            }
            _ = ticks.tick(), if view.is_some() => {
                if let Some(view) = view {
                    view.tick();
                }
            }
            done = turn.done.wait() => return done,
        }
    }
}

/// Whether the next turn has an answer to deliver and needs no message.
fn has_undelivered_answer(context: &Context, address: &Address) -> bool {
    let record = context.engine.find(address).ok().flatten();
    record.is_some_and(|record| record.pending.iter().any(|pending| pending.answer.is_some()))
}

/// Handles a request for a turn that is already on record: waits for its end, or with `--detach` prints only its id.
fn follow_recorded(
    address: &Address,
    turn: Uuid,
    detach: bool,
    (form, lines): (OutputForm, Lines),
    view: ViewArgs,
    context: &Context,
    output: Output,
) -> Outcome {
    if detach {
        return detach::print_turn(address, turn, None, form, output);
    }
    wait::until_end(address, turn, None, (form, lines), view, context, output)
}

#[cfg(test)]
mod tests {
    use kugetsu_engine::operations::Environment;

    use super::*;

    /// A library-level test, because a command would show this value only by how long it waits.
    #[test]
    fn the_reply_timeout_comes_from_flag_environment_or_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let reply_timeout = |environment: Option<&str>, flag: Option<u64>| {
            let set = environment.map(|value| ("KUGETSU_RESPONSE_TIMEOUT".into(), value.into()));
            let environment = Environment::new(set, "/".into(), "kugetsu".into());
            let settings = Settings::load(&file, &environment);
            let args = AskArgs {
                answers: None,
                supervised: true,
                response_timeout: flag.map(Duration::from_secs),
                on_ask: None,
            };
            args.reply_timeout(&settings.unwrap()).as_secs()
        };
        assert_eq!(reply_timeout(None, None), 30);
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&file, "response_timeout = \"7s\"\n").unwrap();
        assert_eq!(reply_timeout(None, None), 7);
        assert_eq!(reply_timeout(Some("8s"), None), 8);
        assert_eq!(reply_timeout(Some("8s"), Some(9)), 9);
    }
}
