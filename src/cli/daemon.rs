//! `kugetsu daemon`.

use std::io::{Read as _, Seek as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{DaemonEndOutput, DaemonStartOutput, PageLinkOutput, TokenListOutput, TokenOutput};
use kugetsu_api::{DaemonStatus, ErrorCode, Scope, ServerState, StopRequest};
use kugetsu_client::{Client, ClientError};
use kugetsu_daemon::{DAEMON_LOG, DaemonError, DaemonOptions, NewToken, TokenError, Tokens};
use kugetsu_engine::files::write_atomic;
use kugetsu_engine::money::{parse_usd, print_usd};
use kugetsu_engine::settings::Settings;

use super::context::{Context, duration, time_limit};
use super::output::{Output, count, size};
use super::signals::{event_loop, no_runtime};
use super::table::Column;
use super::turn_id::short;
use super::{CommandError, Outcome, start_daemon};
use crate::daemon;
use crate::terminal::{Piece, Stream, one_line};

#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    #[command(subcommand)]
    verb: DaemonVerb,
}

#[derive(Debug, Subcommand)]
enum DaemonVerb {
    /// Run the daemon, in the foreground unless --detach is given
    Start(StartArgs),
    /// Print what the daemon is doing: turns, queue and servers
    Status,
    /// Open the daemon's page in a browser, by a link that works once
    Open(OpenArgs),
    /// End the daemon; turns of tasks are continued by the next one
    Stop(StopArgs),
    /// Print the log of a daemon that runs in the background
    Logs(LogArgs),
    /// Make, list or revoke tokens for the daemon's API
    Token(TokenArgs),
    /// Print the OpenAPI document of the daemon's API
    Openapi,
}

#[derive(Debug, Args)]
struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token, and print it; it cannot be printed again
    Create(CreateArgs),
    /// List the tokens, without their secrets
    List,
    /// Revoke a token
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A name of your choice
    name: String,

    /// What the token allows: to read; to submit, cancel and retry tasks as well; to answer, signal and end everything as well
    #[arg(long, default_value = "submit", value_parser = scopes())]
    scope: Scope,

    /// Limit the token to this repository; repeatable
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO")]
    repo: Vec<String>,

    /// Refuse the token when this time is over, such as 30d; without it, it does not expire
    #[arg(long, value_name = "DURATION", value_parser = time_limit)]
    expires: Option<Duration>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The name of the token
    name: String,
}

fn scopes() -> impl TypedValueParser<Value = Scope> {
    PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)).try_map(|name| name.parse())
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Run in the background, and return when the daemon listens
    #[arg(long)]
    detach: bool,

    /// Listen for HTTP on this address as well; whoever is not you on this machine needs a token
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// The certificate of that address with those that sign it, in PEM; it has TLS then
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"])]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Listen on an address that other machines reach, without TLS, because a proxy in front of it has TLS
    #[arg(long, requires = "listen", conflicts_with = "tls_cert")]
    insecure_behind_proxy: bool,

    /// Serve health and metrics for Prometheus on this address, to everybody
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,

    /// What all turns may cost in a day, in US dollars [config: budget_daily]
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    budget_daily: Option<f64>,

    /// The format of the log
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// How many turns may run at once [config: max_concurrent]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent: Option<u32>,

    /// The longest time of a task's turn, if it is below the setting timeout
    #[arg(long, value_name = "DURATION", value_parser = time_limit)]
    task_timeout: Option<Duration>,

    /// End after this time without work
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    idle: Option<Duration>,

    /// The process is the background of --detach
    #[arg(long, hide = true, conflicts_with = "detach")]
    background: bool,
}

/// The format of the daemon's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
struct StopArgs {
    /// Finish what runs first, and take nothing new; the queue stays
    #[arg(long)]
    drain: bool,
}

#[derive(Debug, Args)]
struct OpenArgs {
    /// Print the link, and open no browser
    #[arg(long)]
    print: bool,

    /// The address of the page, if it is not where the daemon listens, as behind a proxy
    #[arg(long, value_name = "URL", value_parser = page_url)]
    url: Option<String>,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// Print further lines as they come
    #[arg(long, short)]
    follow: bool,
}

/// How long the daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a daemon may take to end what runs.
const STOP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// The file that leads the browser to the page, below the home. The daemon has made its folder.
const PAGE_LINK: &str = "run/open.html";
const LOG_POLL: Duration = Duration::from_millis(200);

pub(super) fn run(args: &DaemonArgs, context: &Context, output: Output) -> Outcome {
    match &args.verb {
        DaemonVerb::Start(args) => {
            refuse_tool(context)?;
            check_listen(args)?;
        }
        DaemonVerb::Open(_) | DaemonVerb::Stop(_) | DaemonVerb::Token(_) => refuse_tool(context)?,
        _ => {}
    }
    match &args.verb {
        DaemonVerb::Start(args) if args.detach => start_detached(args, context, output),
        DaemonVerb::Start(args) => start(args, context),
        DaemonVerb::Status => status(context, output),
        DaemonVerb::Open(args) => open(args, context, output),
        DaemonVerb::Stop(args) => stop(args, context, output),
        DaemonVerb::Logs(args) => logs(args, context),
        DaemonVerb::Token(args) => token(&args.verb, context, output),
        DaemonVerb::Openapi => {
            output.text(format!("{:#}", kugetsu_daemon::openapi()));
            Ok(ExitStatus::Ok)
        }
    }
}

/// Refuses to show the API to other machines in clear text.
fn check_listen(args: &StartArgs) -> Result<(), CommandError> {
    match args.listen {
        Some(address)
            if !address.ip().is_loopback() && !args.insecure_behind_proxy && args.tls_cert.is_none() =>
        {
            Err(CommandError::usage(
                format!("other machines reach {address}, and everybody between could read what they send"),
                "give the daemon a certificate: --tls-cert FILE --tls-key FILE",
            )
            .hint("or put a proxy with TLS in front of it, and add --insecure-behind-proxy")
            .hint("or listen on 127.0.0.1"))
        }
        _ => Ok(()),
    }
}

/// Refuses what a tool of a turn must not do: its tasks would cost nothing of the turn's budget, and a daemon that it
/// starts would end with it.
pub(super) fn refuse_tool(context: &Context) -> Result<(), CommandError> {
    if context.engine.parent_turn().is_none() {
        return Ok(());
    }
    Err(CommandError::usage(
        "this command runs in a tool of a turn, which has no say over the daemon and its tasks",
        "begin a turn instead, which counts as a part of this one: kugetsu start, kugetsu continue",
    ))
}

/// The error of a daemon that cannot run.
fn no_daemon(error: &DaemonError) -> CommandError {
    let code = match error {
        DaemonError::Running(_) => ErrorCode::DaemonRunning,
        DaemonError::Queue(_) => ErrorCode::StoreUnwritable,
        DaemonError::System(_) => ErrorCode::System,
        DaemonError::LongSocket(_)
        | DaemonError::File { .. }
        | DaemonError::Tls(_)
        | DaemonError::Listen { .. }
        | DaemonError::QueueLost
        | DaemonError::Api(_) => ErrorCode::DaemonUnusable,
    };
    let this = CommandError::new(code, error.to_string());
    match error {
        DaemonError::Running(_) => this.hint("see what it does: kugetsu daemon status"),
        DaemonError::LongSocket(_) => this.hint("set KUGETSU_HOME to a shorter path"),
        _ => this,
    }
}

/// The error of a request that the daemon refused or did not answer.
pub(super) fn refused(error: ClientError) -> CommandError {
    match error {
        ClientError::Problem(problem) => {
            let this = CommandError::new(problem.code, problem.detail);
            problem.hints.into_iter().fold(this, CommandError::hint)
        }
        ClientError::Unreachable(_) | ClientError::Unexpected(_) => {
            CommandError::new(ErrorCode::DaemonUnusable, error.to_string())
                .hint("see its log: kugetsu daemon logs")
        }
    }
}

/// The daemon of this home, or the error that none runs.
pub(super) fn client(context: &Context) -> Result<Client, CommandError> {
    daemon::find(&context.home).ok_or_else(|| {
        CommandError::new(
            ErrorCode::NoDaemon,
            format!("no daemon runs for {}", context.home.display()),
        )
        .hint("start one: kugetsu daemon start --detach")
    })
}

/// Runs a request to the daemon to its end.
pub(super) fn ask<T>(request: impl Future<Output = Result<T, ClientError>>) -> Result<T, CommandError> {
    let runtime = event_loop().map_err(no_runtime)?;
    let answer = runtime.block_on(async { tokio::time::timeout(ANSWER, request).await });
    let silent = || {
        CommandError::new(
            ErrorCode::DaemonUnusable,
            format!("the daemon does not answer within {} s", ANSWER.as_secs()),
        )
        .hint("see its log: kugetsu daemon logs")
    };
    answer.map_err(|_| silent())?.map_err(refused)
}

fn start_detached(args: &StartArgs, context: &Context, output: Output) -> Outcome {
    if daemon::find(&context.home).is_some() {
        return Err(no_daemon(&DaemonError::Running(context.home.clone())));
    }
    let mut flags = Vec::new();
    if let Some(most) = args.max_concurrent {
        flags.extend(["--max-concurrent".to_owned(), most.to_string()]);
    }
    if let Some(address) = args.listen {
        flags.extend(["--listen".to_owned(), address.to_string()]);
    }
    if let Some(address) = args.metrics {
        flags.extend(["--metrics".to_owned(), address.to_string()]);
    }
    if let Some(budget) = args.budget_daily {
        flags.extend(["--budget-daily".to_owned(), budget.to_string()]);
    }
    for (flag, file) in [("--tls-cert", &args.tls_cert), ("--tls-key", &args.tls_key)] {
        if let Some(file) = file {
            // The daemon works in another folder.
            flags.extend([flag.to_owned(), context.here.join(file).display().to_string()]);
        }
    }
    if args.log_format == LogFormat::Json {
        flags.extend(["--log-format", "json"].map(str::to_owned));
    }
    if args.insecure_behind_proxy {
        flags.push("--insecure-behind-proxy".to_owned());
    }
    let durations = [("--task-timeout", args.task_timeout), ("--idle", args.idle)];
    for (flag, value) in durations {
        if let Some(value) = value {
            flags.extend([flag.to_owned(), format!("{}s", value.as_secs_f64())]);
        }
    }
    let (client, pid) = start_daemon::in_background(context, &flags)?;
    let socket = kugetsu_daemon::socket_path(&context.home);
    let listen = match args.listen {
        Some(_) => ask(client.status())?.listen,
        None => None,
    };
    if output.json {
        output.object(DaemonStartOutput { pid, socket, listen });
    } else {
        let listens = listen
            .map(|url| format!(", listens on {url}"))
            .unwrap_or_default();
        output.note(format!("kugetsu: the daemon runs (process {pid}){listens}"));
    }
    Ok(ExitStatus::Ok)
}

fn start(args: &StartArgs, context: &Context) -> Outcome {
    if args.background {
        // No signal of a terminal reaches it.
        let _ = rustix::process::setsid();
    }
    log_to_stdout(args.log_format);
    let settings = context.engine.settings().clone();
    let options = DaemonOptions {
        home: context.home.clone(),
        environment: context.engine.environment().clone(),
        version: env!("CARGO_PKG_VERSION"),
        max_concurrent: args.max_concurrent,
        listen: args.listen,
        behind_proxy: args.insecure_behind_proxy,
        tls: args.tls_cert.clone().zip(args.tls_key.clone()),
        metrics: args.metrics,
        budget_daily: args.budget_daily,
        task_timeout: args.task_timeout,
        idle: args.idle,
        settings,
    };
    let reload_file = context.engine.settings_path();
    let environment = context.engine.environment().clone();
    let reload = move || Settings::load(&reload_file, &environment).map_err(|error| error.to_string());
    kugetsu_daemon::run(options, reload).map_err(|error| no_daemon(&error))?;
    Ok(ExitStatus::Ok)
}

/// Writes the daemon's log to stdout.
fn log_to_stdout(format: LogFormat) {
    struct Log;
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Stream::Stdout.write(&[Piece::Text(&String::from_utf8_lossy(bytes))])?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_target(false)
        // On a full disk, telling of it on stderr, which is the same file, would panic.
        .log_internal_errors(false)
        .with_writer(|| Log);
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

fn status(context: &Context, output: Output) -> Outcome {
    let client = client(context)?;
    let status = ask(client.status())?;
    if output.json {
        output.object(status);
        return Ok(ExitStatus::Ok);
    }
    output.text(summary(&status));
    let columns = [
        Column::new("SERVER"),
        Column::new("STATE"),
        Column::new("TURNS"),
        Column::new("MEMORY").spare(2),
        Column::new("PID").spare(1),
        Column::prose("DIRECTORY").spare(3),
    ];
    let rows: Vec<Vec<String>> = status
        .servers
        .iter()
        .map(|server| {
            let state = match server.state {
                ServerState::Starting => "starting",
                ServerState::Idle => "idle",
                ServerState::Lent => "in use",
                ServerState::Ending => "ending",
            };
            vec![
                short(server.server),
                state.to_owned(),
                server.turns.to_string(),
                server.memory_bytes.map_or_else(|| "-".to_owned(), size),
                server.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                server
                    .directory
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |path| one_line(&path.display().to_string())),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output.table(&columns, rows);
    }
    Ok(ExitStatus::Ok)
}

fn summary(status: &DaemonStatus) -> String {
    let mut lines = vec![format!(
        "daemon    kugetsu {}, process {}, since {}{}",
        status.version,
        status.pid,
        status.started,
        if status.draining { ", ending" } else { "" }
    )];
    let waiting = match status.waiting {
        0 => String::new(),
        waiting => format!(", {} waiting", count(u64::from(waiting), "command")),
    };
    lines.extend(status.listen.as_ref().map(|url| format!("listens   {url}")));
    lines.push(format!(
        "turns     {} of {} running{waiting}",
        status.running, status.max_concurrent
    ));
    let queue = status.queue;
    let oldest = queue.oldest.map(|oldest| format!(", the oldest since {oldest}"));
    lines.push(format!(
        "tasks     {} queued, {} running, {} parked{}",
        queue.queued,
        queue.running,
        queue.parked,
        oldest.unwrap_or_default()
    ));
    lines.push(format!(
        "servers   {}; {} of {} turns began warm",
        status.servers.len(),
        status.pool.warm_starts,
        status.pool.warm_starts + status.pool.cold_starts
    ));
    let budget = &status.budget;
    let most = budget.daily_usd.map(|most| format!(" of {}", print_usd(most)));
    lines.push(format!(
        "spent     {}{} today",
        print_usd(budget.spent_usd),
        most.unwrap_or_default()
    ));
    lines.join("\n")
}

/// The address of a page on the command line.
fn page_url(text: &str) -> Result<String, String> {
    let is_web = text.starts_with("http://") || text.starts_with("https://");
    if is_web && !text.contains(['#', '?']) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err("expected the address of the page, such as https://kugetsu.example.org".to_owned())
}

fn open(args: &OpenArgs, context: &Context, output: Output) -> Outcome {
    let client = client(context)?;
    let base = match &args.url {
        Some(url) => url.clone(),
        None => ask(client.status())?.listen.map(reachable).ok_or_else(|| {
            CommandError::new(
                ErrorCode::DaemonUnusable,
                "the daemon listens on no address, so no browser reaches it",
            )
            .hint("restart it with one: kugetsu daemon start --detach --listen 127.0.0.1:7878")
        })?,
    };
    let link = ask(client.page_link())?;
    // What follows the # is in no request and no log.
    let url = format!("{base}/#code={}", link.code);
    if output.json {
        output.object(PageLinkOutput {
            url,
            expires: link.expires,
        });
        return Ok(ExitStatus::Ok);
    }
    let opened = !args.print && Stream::Stdout.is_terminal() && browse(context, &url);
    output.text(url);
    output.note(if opened {
        "kugetsu: the browser opens the link, which works once, within a minute"
    } else {
        "kugetsu: open the link in a browser; it works once, within a minute"
    });
    Ok(ExitStatus::Ok)
}

/// The URL of a daemon that listens on all addresses, for this machine.
fn reachable(url: String) -> String {
    ["0.0.0.0", "[::]"].iter().fold(url, |url, all| {
        url.replacen(&format!("//{all}:"), "//localhost:", 1)
    })
}

/// Opens a link in the browser of the desktop, if there is one. Arguments are seen by every user of the machine, so the
/// browser gets a file that leads to the link.
fn browse(context: &Context, url: &str) -> bool {
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if has_desktop {
        "xdg-open"
    } else {
        return false;
    };
    let file = context.home.join(PAGE_LINK);
    let text = format!("<!doctype html>\n<meta http-equiv=\"refresh\" content=\"0; url={url}\">\n");
    if write_atomic(&file, text.as_bytes()).is_err() {
        return false;
    }
    let opening = std::process::Command::new(program)
        .arg(file)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    opening.is_ok()
}

fn stop(args: &StopArgs, context: &Context, output: Output) -> Outcome {
    let client = client(context)?;
    ask(client.stop(StopRequest { drain: args.drain }))?;
    let began = Instant::now();
    while daemon::find(&context.home).is_some() {
        if !args.drain && began.elapsed() > STOP {
            return Err(CommandError::new(
                ErrorCode::DaemonUnusable,
                format!("the daemon has not ended within {} s", STOP.as_secs()),
            )
            .hint("see what it does: kugetsu daemon status"));
        }
        std::thread::sleep(POLL);
    }
    if output.json {
        output.object(DaemonEndOutput { drained: args.drain });
    } else {
        output.note("kugetsu: the daemon has ended");
    }
    Ok(ExitStatus::Ok)
}

fn token(verb: &TokenVerb, context: &Context, output: Output) -> Outcome {
    let tokens = Tokens::of(&context.home);
    match verb {
        TokenVerb::Create(args) => {
            let repos: Result<Vec<_>, _> = args.repo.iter().map(|repo| context.repo(Some(repo))).collect();
            let new = NewToken {
                name: args.name.clone(),
                scope: args.scope,
                repos: repos?,
                expires: args.expires.map(time_in).transpose()?,
            };
            let token = tokens.create(new).map_err(|error| no_token(&error))?;
            if output.json {
                output.object(TokenOutput { token });
            } else {
                output.text(token);
                output.note("kugetsu: keep it now; it cannot be printed again");
            }
        }
        TokenVerb::List => {
            let tokens = tokens.list().map_err(|error| no_token(&error))?;
            if output.json {
                output.object(TokenListOutput { tokens });
                return Ok(ExitStatus::Ok);
            }
            if tokens.is_empty() {
                output.note("kugetsu: there are no tokens");
                return Ok(ExitStatus::Ok);
            }
            let columns = [
                Column::new("NAME"),
                Column::new("SCOPE"),
                Column::prose("REPOSITORIES"),
                Column::new("CREATED").spare(2),
                Column::new("LAST USE").spare(1),
                Column::new("EXPIRES"),
            ];
            let now = Timestamp::now();
            let rows = tokens.iter().map(|token| {
                let repos: Vec<_> = token.repos.iter().map(ToString::to_string).collect();
                let repos = if repos.is_empty() {
                    "all".to_owned()
                } else {
                    repos.join(" ")
                };
                let created = token.created.strftime("%F %T UTC").to_string();
                let used = token.last_used;
                let used = used.map_or_else(|| "never".to_owned(), minute);
                let expires = match token.expires {
                    None => "never".to_owned(),
                    Some(at) if at <= now => "expired".to_owned(),
                    Some(at) => minute(at),
                };
                vec![
                    token.name.clone(),
                    token.scope.to_string(),
                    repos,
                    created,
                    used,
                    expires,
                ]
            });
            output.table(&columns, rows.collect());
        }
        TokenVerb::Revoke(args) => {
            tokens.revoke(&args.name).map_err(|error| no_token(&error))?;
            if output.json {
                output.object(TokenListOutput {
                    tokens: tokens.list().map_err(|error| no_token(&error))?,
                });
            } else {
                output.note(format!("kugetsu: the token {} is revoked", args.name));
            }
        }
    }
    Ok(ExitStatus::Ok)
}

/// The time after this duration.
fn time_in(duration: Duration) -> Result<Timestamp, CommandError> {
    let time = SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| Timestamp::now().checked_add(duration).ok());
    time.ok_or_else(|| CommandError::usage("the time is too far away", "leave --expires out"))
}

fn minute(time: Timestamp) -> String {
    time.strftime("%F %R UTC").to_string()
}

fn no_token(error: &TokenError) -> CommandError {
    let code = match error {
        TokenError::Exists(_) | TokenError::TooMany => ErrorCode::Usage,
        TokenError::Missing(_) => ErrorCode::NotFound,
        TokenError::File { .. } | TokenError::Unwritten(_) | TokenError::Damaged { .. } => {
            ErrorCode::StoreUnwritable
        }
    };
    let this = CommandError::new(code, error.to_string());
    match error {
        TokenError::Exists(name) => this.hint(format!("revoke it first: kugetsu daemon token revoke {name}")),
        TokenError::Missing(_) => this.hint("list them: kugetsu daemon token list"),
        _ => this,
    }
}

fn logs(args: &LogArgs, context: &Context) -> Outcome {
    let path = context.home.join(DAEMON_LOG);
    let mut file = std::fs::File::open(&path).map_err(|error| {
        CommandError::new(ErrorCode::NoLog, format!("there is no log {}", path.display()))
            .caused_by(error)
            .hint("a daemon that runs in the foreground writes its log to its stdout; under systemd: journalctl -u kugetsu")
    })?;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = file.read_to_end(&mut bytes);
        if read.is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes);
            if Stream::Stdout.write(&[Piece::Text(&text)]).is_err() {
                return Ok(ExitStatus::Ok);
            }
        }
        if !args.follow {
            return Ok(ExitStatus::Ok);
        }
        // A new daemon begins the file anew.
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if file.stream_position().is_ok_and(|at| at > length) {
            let _ = file.rewind();
        }
        std::thread::sleep(LOG_POLL);
    }
}
