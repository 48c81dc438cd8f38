//! Starts a daemon in the background.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kugetsu_api::ErrorCode;
use kugetsu_client::Client;
use kugetsu_daemon::DAEMON_LOG;

use super::CommandError;
use super::context::Context;
use crate::daemon;

/// How long a daemon may take to listen.
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// How many lines of the log an error shows.
const LOG_LINES: usize = 3;

/// Starts a daemon that ends when it has had no work for a while.
pub(super) fn on_need(context: &Context) -> Result<Client, CommandError> {
    let idle = format!("{}s", context.engine.settings().daemon_idle.as_secs_f64());
    in_background(context, &["--idle".to_owned(), idle]).map(|(client, _)| client)
}

/// Starts a daemon with these flags, and waits until it listens. Returns a client and the daemon's process id.
pub(super) fn in_background(context: &Context, flags: &[String]) -> Result<(Client, u32), CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::new(ErrorCode::ProcessFailed, "the daemon cannot be started").caused_by(error)
    };
    let log = kugetsu_daemon::open_log(&context.home).map_err(failed)?;
    let environment = context.engine.environment();
    let mut child = Command::new(environment.program())
        .env_clear()
        .envs(environment.variables())
        .env("KUGETSU_HOME", &context.home)
        .args(["daemon", "start", "--background"])
        .args(flags)
        .current_dir(&context.home)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let until = Instant::now() + START;
    loop {
        if let Some(client) = daemon::find(&context.home) {
            return Ok((client, child.id()));
        }
        if let Some(error) = ended(&mut child, context) {
            return Err(error);
        }
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            return Err(CommandError::new(
                ErrorCode::DaemonUnusable,
                format!("the daemon did not listen within {} s", START.as_secs()),
            )
            .hint(format!(
                "its log says more: {}",
                context.home.join(DAEMON_LOG).display()
            )));
        }
        std::thread::sleep(POLL);
    }
}

/// The error of a daemon that has ended before it listened. Of two that start at once, one ends, and the other one is as
/// good.
fn ended(child: &mut Child, context: &Context) -> Option<CommandError> {
    child.try_wait().ok().flatten()?;
    if daemon::find(&context.home).is_some() {
        return None;
    }
    let log = std::fs::read_to_string(context.home.join(DAEMON_LOG)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
    let said: Vec<&str> = lines.into_iter().rev().collect();
    Some(CommandError::new(
        ErrorCode::DaemonUnusable,
        format!("the daemon ended at once: {}", said.join("; ")),
    ))
}
