//! A private `opencode serve` on loopback, with a random password. The server ends with the value that owns it.

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use super::environment::{Launch, read_stderr, wait_until_read};
use super::{Api, ApiError, ConfigProblem, Problem, StderrTail, found_database_locked};
use crate::process::sandbox::SERVE_PORT;
use crate::process::{Exit, Guarded, ProcessError, Tree};

/// The text that the server prints when it is ready.
const LISTENING: &str = "listening on ";
/// The number of attempts to start a server.
const STARTS: u32 = 3;

/// A running server.
pub struct Server {
    process: Guarded,
    api: Api,
    stderr: StderrTail,
    readers: JoinSet<()>,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The process could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The server ended, or did not report its address in time.
    #[error("{problem}{}", last_line(.stderr))]
    NotReady {
        /// What happened instead.
        problem: String,
        /// The server's last lines on standard error.
        stderr: Vec<String>,
    },
    /// opencode cannot read its configuration.
    #[error(transparent)]
    Config(ConfigProblem),
    /// The server is ready but does not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

fn last_line(stderr: &[String]) -> String {
    stderr.last().map(|line| format!(" ({line})")).unwrap_or_default()
}

impl Server {
    /// Starts a server for `launch.directory` and waits until it passes its health check. If the server ends because
    /// other servers that started at the same time had locked the database, starts it again.
    pub async fn start(launch: &Launch) -> Result<Self, ServerError> {
        let until = tokio::time::Instant::now() + launch.ready;
        let mut starts = 1;
        loop {
            match Self::start_once(launch, until).await {
                Err(ServerError::NotReady { problem, stderr })
                    if starts < STARTS && found_database_locked(&stderr) =>
                {
                    tracing::warn!(
                        "opencode serve: {problem}: it found its database locked and is started again"
                    );
                    starts += 1;
                }
                other => return other,
            }
        }
    }

    /// opencode chooses the port (`--port 0`: 4096 if free, or else another free port, both versions). So the port is
    /// read from the line that names it, not guessed.
    async fn start_once(launch: &Launch, until: tokio::time::Instant) -> Result<Self, ServerError> {
        let ready = launch.ready;
        let password = format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        );
        let mut spec = launch.guard_spec(
            ["serve", "--hostname", "127.0.0.1", "--port"]
                .map(Into::into)
                .to_vec(),
        );
        let port = match &mut spec.sandbox {
            // The network of the sandbox has no other server.
            Some(sandbox) if sandbox.has_own_network() => {
                sandbox.network.serve = Some(SERVE_PORT);
                SERVE_PORT
            }
            _ => 0,
        };
        // opencode reads its own options before those that `guard_spec` adds.
        spec.args.insert(4, port.to_string().into());
        spec.set_env
            .push(("OPENCODE_SERVER_PASSWORD".into(), password.clone().into()));
        spec.remove_env.push("OPENCODE_SERVER_USERNAME".into());
        let mut process = Guarded::spawn(spec).await?;
        let stderr = StderrTail::default();
        let mut readers = JoinSet::new();
        if let Some(pipe) = process.stderr.take() {
            readers.spawn(read_stderr(
                pipe,
                stderr.clone(),
                launch.debug_log.clone(),
                launch.secrets.redactor.clone(),
                None,
            ));
        }
        let Some(stdout) = process.stdout.take() else {
            return Err(not_ready("its standard output is closed", &stderr));
        };
        let mut lines = BufReader::new(stdout).lines();
        let url = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, url)) = line.split_once(LISTENING) {
                    return Some(url.trim().to_owned());
                }
            }
            None
        };
        let url = match tokio::time::timeout_at(until, url).await {
            Ok(Some(url)) => url,
            Ok(None) => {
                let exit = process.wait().await;
                wait_until_read(&mut readers).await;
                return Err(not_ready(&format!("it ended ({exit})"), &stderr));
            }
            Err(_) => {
                process.kill().await;
                let _ = process.wait().await;
                return Err(not_ready(
                    &format!("it did not report its address within {} s", ready.as_secs()),
                    &stderr,
                ));
            }
        };
        readers.spawn(async move {
            // Keep reading, because a server that cannot write its standard output may spin or stop.
            while let Ok(Some(_)) = lines.next_line().await {}
        });
        let url = match process.port() {
            Some(port) => format!("http://127.0.0.1:{port}"),
            None => url,
        };
        let api = Api::new(url, password, &launch.directory);
        let mut server = Self {
            process,
            api,
            stderr,
            readers,
        };
        match tokio::time::timeout_at(until, server.api.health()).await {
            Ok(Ok(_)) => Ok(server),
            Ok(Err(error)) => {
                server.stop(true).await;
                Err(error.into())
            }
            Err(_) => {
                server.stop(true).await;
                Err(ApiError {
                    request: "GET /global/health".to_owned(),
                    problem: Problem::Connection(format!("no answer within {} s", ready.as_secs())),
                }
                .into())
            }
        }
    }

    /// A client for this server.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The server's last lines on standard error.
    pub fn stderr_lines(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Forgets the lines on standard error so far.
    pub(crate) fn forget_stderr(&self) {
        self.stderr.clear();
    }

    /// The processes of the server, as long as it runs.
    pub(crate) fn tree(&self) -> Option<Tree> {
        self.process.tree()
    }

    /// Whether the server has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// The process id of the server, as long as it runs.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.tree().map(Tree::program)
    }

    /// Waits until the server has ended and its standard error has been read. Cancel-safe.
    pub async fn ended(&mut self) -> Exit {
        let exit = self.process.wait().await;
        wait_until_read(&mut self.readers).await;
        exit
    }

    /// Ends the server and everything that it started. With `now`, skips the grace period.
    pub async fn stop(&mut self, now: bool) {
        if now {
            self.process.kill().await;
        } else {
            self.process.terminate().await;
        }
        let _ = self.process.wait().await;
        self.readers.abort_all();
    }
}

fn not_ready(problem: &str, stderr: &StderrTail) -> ServerError {
    if let Some(problem) = ConfigProblem::from_stderr(&stderr.lines()) {
        return ServerError::Config(problem);
    }
    ServerError::NotReady {
        problem: problem.to_owned(),
        stderr: stderr.lines(),
    }
}
