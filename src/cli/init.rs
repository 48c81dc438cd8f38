//! `kugetsu init`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::live::{LiveView, Progress};
use super::output::{Output, can_ask, confirm, count};
use super::permit::presets;
use super::signals::with_signals;
use super::turn::{LimitArgs, sandbox_modes};
use super::{CommandError, Outcome, prompt};
use kugetsu_api::SandboxMode;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::permission::Preset;
use kugetsu_api::{Address, ErrorCode, RepoRef, SessionId, TransportChoice, TransportKind};
use kugetsu_engine::money::print_usd;
use kugetsu_engine::operations::{EngineError, InitReport, InitRequest, Subject, TurnOptions};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The folder that the sessions work in [default: the top of the current clone]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,

    /// The repository, if the clone's remote does not name it
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO")]
    repo: Option<String>,

    /// Replace the existing base; its record goes to the trash
    #[arg(long)]
    force: bool,

    /// Make it the default base, which repositories without a base of their own use too
    #[arg(long)]
    default: bool,

    /// Use this opencode session as the base instead of a new one
    #[arg(long, value_name = "SESSION")]
    adopt: Option<String>,

    /// Deliver this prompt to the base once, so that every fork begins with it; runs a turn on the model
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,

    /// Like --prompt, read from a file
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,

    /// The permission preset of the forks [config: preset]
    #[arg(long, value_parser = presets())]
    preset: Option<Preset>,

    /// Whether sessions of the base are sandboxed; without a value: required [config: sandbox]
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "required", require_equals = true, value_parser = sandbox_modes())]
    sandbox: Option<SandboxMode>,
    /// Let opencode load what the repository brings for it: plugins, tools, MCP servers and others [config: trust_repo]
    #[arg(long, overrides_with = "no_trust_repo")]
    trust_repo: bool,

    /// Let opencode load nothing of that, and do not ask
    #[arg(long)]
    no_trust_repo: bool,

    #[command(flatten)]
    limits: LimitArgs,

    /// Write opencode's log at DEBUG and kugetsu's own trace to the base's debug.log
    #[arg(long)]
    debug: bool,
}

pub(super) fn run(args: InitArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let mut policy = engine.settings().policy();
    if let Some(preset) = args.preset {
        policy.preset = preset;
    }
    let prompt = match (args.prompt, args.prompt_file) {
        (Some(text), _) => Some(text),
        (None, Some(file)) => Some(prompt::read_file(&file)?),
        (None, None) => None,
    };
    let adopt = args
        .adopt
        .map(|id| {
            SessionId::new(id.clone()).ok_or_else(|| {
                CommandError::usage(
                    format!("`{id}` is not a session id of opencode"),
                    "session ids look like ses_...; list them: opencode session list",
                )
            })
        })
        .transpose()?;
    let trust_repo = super::permit::trust(args.trust_repo, args.no_trust_repo);
    let mut request = InitRequest {
        directory: args.dir,
        here: context.here.clone(),
        repo: args.repo.map(|text| context.repo(Some(&text))).transpose()?,
        force: args.force,
        default: args.default,
        adopt,
        prompt,
        policy,
        sandbox: args.sandbox.unwrap_or(engine.settings().sandbox),
        trust_repo,
        options: TurnOptions {
            transport: TransportChoice::Only(TransportKind::Serve),
            limits: args.limits.limits(engine.settings()),
            model: engine.settings().model.clone(),
            agent: engine.settings().agent.clone(),
            keep_prompt: engine.settings().keep_prompt,
            debug: args.debug,
        },
    };
    if args.debug {
        let (_, repo) = request.place(engine)?;
        super::output::trace_to(engine.open_debug_log(&Subject::Base(repo))?);
    }
    if request.trust_repo.is_none() && request.policy.preset.may_trust_repo() && !output.json && can_ask() {
        let (directory, _) = request.place(engine)?;
        if let Some(brings) = engine.brings(&directory) {
            request.trust_repo = Some(confirm(&format!(
                "The repository brings {brings}. That runs as you. Let opencode load it?"
            )));
        }
    }
    let view = LiveView::start(Progress::Auto);
    let (made, signal) = with_signals(false, async |interrupts| engine.init(request, interrupts).await)?;
    drop(view);
    let InitReport {
        record,
        log_gap,
        notes,
        brings,
    } = made.map_err(|error| CommandError::from(error).after(signal))?;
    for note in notes {
        output.note(format!("kugetsu: {note}"));
    }
    if let Some(brings) = brings {
        output.note(format!("kugetsu: {brings}"));
    }
    if output.json {
        output.document(&record);
    } else {
        let verb = if record.adopted { "adopted" } else { "made" };
        output.text(format!(
            "{verb} the base session of {}: {}",
            record.repo, record.session
        ));
        output.text(format!("  directory   {}", record.directory.display()));
        output.text(format!("  opencode    {}", record.opencode));
        output.text(format!("  permissions {}", record.policy.preset));
        if record.sandbox != SandboxMode::Off {
            output.text(format!("  sandbox     {}", record.sandbox));
        }
        if let Some(cost) = &record.prompted {
            let tokens = count(cost.tokens.total(), "token");
            output.text(format!("  prompt      {tokens}, {}", print_usd(cost.cost_usd)));
        }
        output.note(format!("next: kugetsu start {}#14 \"what to do\"", record.repo));
    }
    let Some(reason) = log_gap else {
        return Ok(ExitStatus::Ok);
    };
    output.note(format!("  the log of its prompt may be incomplete: {reason}"));
    Ok(ExitStatus::CannotWrite)
}

/// Says which base a session that is about to start will be forked from, if that is not its repository's own. If there
/// is no base, asks on a terminal whether to make one in the clone of the current directory.
///
/// Returns the exit status of the command if the turn must not begin.
pub(super) fn offer(
    address: &Address,
    context: &Context,
    output: Output,
) -> Result<Option<ExitStatus>, CommandError> {
    let engine = &context.engine;
    if engine
        .find(address)?
        .is_some_and(|record| record.session.is_some())
    {
        return Ok(None);
    }
    if let Some(clone) = context.unusual_clone() {
        let other = context.session_of_origin(&address.to_string());
        let other = other.map_or_else(String::new, |(other, _)| {
            format!("; {other} has a session as well")
        });
        output.note(format!(
            "kugetsu: {address}: the remote `{}` names the repository{other}",
            clone.remote
        ));
    }
    let repo = address.repo();
    match engine.base_for(repo) {
        Err(EngineError::NoBase(_)) => {}
        Ok(base) => {
            if let Some(note) = note_of_default(repo, &base.repo) {
                output.note(format!("kugetsu: {note}, in {}", base.directory.display()));
            }
            return Ok(None);
        }
        // The turn itself reports it.
        Err(_) => return Ok(None),
    }
    let ask = !output.json && context.engine.parent_turn().is_none() && can_ask();
    let here = || context.clone_repo().ok().flatten();
    if !ask || here().is_none_or(|clone| clone.repo != *repo) {
        return Ok(None);
    }
    if !confirm(&format!(
        "{repo} has no base session yet. Make one in this clone?"
    )) {
        return Ok(None);
    }
    // A process of its own, because a process can handle the signals of one operation only.
    let environment = engine.environment();
    let failed =
        |error| CommandError::new(ErrorCode::System, "kugetsu init could not be started").caused_by(error);
    let stdout = rustix::stdio::stderr().try_clone_to_owned().map_err(failed)?;
    let status = std::process::Command::new(environment.program())
        .env_clear()
        .envs(environment.variables())
        .arg0("kugetsu")
        .arg("init")
        .stdout(stdout)
        .status()
        .map_err(failed)?;
    Ok(if status.success() {
        None
    } else {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Some(code.and_then(ExitStatus::from_code).unwrap_or(ExitStatus::Failed))
    })
}

/// A note if a session does not fork the base of its own repository.
pub(super) fn note_of_default(repo: &RepoRef, base: &RepoRef) -> Option<String> {
    (repo != base)
        .then(|| format!("{repo} has no base of its own; the session is a fork of the default base {base}"))
}
