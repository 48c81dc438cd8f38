//! Follows the events of the turns of a task, or of one turn of a session. The file of the turn is the only buffer: a reader that stalls costs a small
//! buffer and delays nobody.

use std::convert::Infallible;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use kugetsu_api::{Address, Task, TaskId, TaskState};
use kugetsu_engine::log_file::{self, LogReader};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::app::App;

/// How soon a file is looked at again that may have grown, and how seldom at the most.
const SOONEST: Duration = Duration::from_millis(5);
const LATEST: Duration = Duration::from_millis(100);
/// How often a stream without news gets a sign of life.
const ALIVE: Duration = Duration::from_secs(15);
/// How much is read at once.
const CHUNK: usize = 16 << 10;
/// The longest event, in bytes. opencode's own limits are far below; only what a tool has written into the file is longer.
const LONGEST: usize = 64 << 20;

/// The form of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Server-sent events.
    ServerSent,
    /// JSON lines.
    Lines,
}

impl Form {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::ServerSent => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }
}

/// A place in the stream of a task: the end of an event in the file of a turn. It is the id of server-sent events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    turn: Uuid,
    offset: u64,
}

impl Position {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (turn, offset) = text.split_once(':')?;
        Some(Self {
            turn: turn.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    }
}

/// The reader has gone.
struct Gone;

/// A turn that is followed.
struct Followed {
    address: Address,
    turn: Uuid,
    /// The task that it is the turn of, if it is followed as such.
    task: Option<TaskId>,
}

/// How a stream is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Its form.
    pub(crate) form: Form,
    /// Whether to wait for events that are to come.
    pub(crate) follow: bool,
    /// Where a reader stopped before.
    pub(crate) resume: Option<Position>,
}

pub(crate) type Sender = mpsc::Sender<Result<Bytes, Infallible>>;

/// Sends the events of a task's turns until the task has ended.
pub(crate) async fn follow_task(app: Arc<App>, task: Task, stream: Stream, sender: Sender) {
    let follower = Follower { app, stream, sender };
    let _: Result<(), Gone> = follower.follow_task(task).await;
}

/// Sends the events of a session's turn until the turn has ended.
pub(crate) async fn follow_turn(app: Arc<App>, address: Address, turn: Uuid, stream: Stream, sender: Sender) {
    let follower = Follower { app, stream, sender };
    let followed = Followed {
        address,
        turn,
        task: None,
    };
    let _: Result<(), Gone> = follower.follow_turn(&followed).await;
}

/// The pauses between two looks at a file, which grow while nothing comes.
#[derive(Default)]
struct Pause(Duration);

impl Pause {
    fn next(&mut self) -> Duration {
        self.0 = (self.0 * 5 / 4).clamp(SOONEST, LATEST);
        self.0
    }
}

/// The log of a turn's events, which may be compressed.
enum Log {
    Plain(File),
    /// It is complete: only the logs of turns that have ended are compressed. `None` if a read was cut off.
    Packed(Option<Box<LogReader>>),
}

impl Log {
    /// Opens the log at an offset. `None` if there is none. What a tool may have put in its place, such as a link to a file
    /// of the user or a pipe, is not a log.
    async fn open(path: &Path, offset: u64) -> Option<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Self::open_now(&path, offset))
            .await
            .ok()
            .flatten()
    }

    fn open_now(path: &Path, offset: u64) -> Option<Self> {
        if is_log(path) {
            let mut file = std::fs::File::options()
                .read(true)
                .custom_flags(crate::place::NOFOLLOW)
                .open(path)
                .ok()?;
            file.seek(std::io::SeekFrom::Start(offset)).ok()?;
            return Some(Self::Plain(File::from_std(file)));
        }
        let mut reader = read_log(path)?;
        std::io::copy(&mut (&mut reader).take(offset), &mut std::io::sink()).ok()?;
        Some(Self::Packed(Some(Box::new(reader))))
    }

    async fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(chunk).await,
            Self::Packed(reader) => {
                let Some(mut opened) = reader.take() else {
                    return Ok(0);
                };
                let mut piece = vec![0; chunk.len()];
                let read = move || {
                    let count = opened.read(&mut piece);
                    (opened, piece, count)
                };
                let (opened, piece, count) = tokio::task::spawn_blocking(read)
                    .await
                    .map_err(std::io::Error::other)?;
                *reader = Some(opened);
                let count = count?;
                chunk[..count].copy_from_slice(&piece[..count]);
                Ok(count)
            }
        }
    }
}

/// Whether this is a file, and not what a tool may have put in its place.
fn is_log(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Opens the log of a turn that has ended, in either form. Blocks.
pub(crate) fn read_log(path: &Path) -> Option<LogReader> {
    let is_compressed = || path.symlink_metadata().is_err() && is_log(&log_file::compressed(path));
    (is_log(path) || is_compressed())
        .then(|| LogReader::open(path).ok())
        .flatten()
}

struct Follower {
    app: Arc<App>,
    stream: Stream,
    sender: Sender,
}

impl Follower {
    async fn follow_task(&self, mut task: Task) -> Result<(), Gone> {
        let mut shown = None;
        loop {
            if let Some(turn) = task.turn.filter(|turn| shown != Some(*turn)) {
                let followed = Followed {
                    address: task.spec.address.clone(),
                    turn,
                    task: Some(task.task),
                };
                self.follow_turn(&followed).await?;
                shown = Some(turn);
            }
            if !self.stream.follow {
                return Ok(());
            }
            task = match self.changed(task.task, shown).await? {
                Some(task) => task,
                None => return Ok(()),
            };
        }
    }

    /// Waits until the task has another turn. `None` if it has ended without one.
    async fn changed(&self, task: TaskId, shown: Option<Uuid>) -> Result<Option<Task>, Gone> {
        let mut changes = self.app.queue.changes();
        let mut alive = tokio::time::interval(ALIVE);
        alive.reset();
        loop {
            changes.mark_unchanged();
            let Ok(Some(now)) = self.app.queue.task(task).await else {
                return Ok(None);
            };
            if now.turn.is_some() && now.turn != shown {
                return Ok(Some(now));
            }
            if now.state.is_final() {
                return Ok(None);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.sender.closed() => return Err(Gone),
                _ = alive.tick() => self.alive().await?,
            }
        }
    }

    async fn alive(&self) -> Result<(), Gone> {
        match self.stream.form {
            Form::ServerSent => self.send(b": alive\n\n".to_vec()).await,
            // A blank line is not an event.
            Form::Lines => self.send(b"\n".to_vec()).await,
        }
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.sender.send(Ok(bytes.into())).await.map_err(|_| Gone)
    }

    /// Sends the events of a turn, from where the reader stopped before, until the turn is over.
    async fn follow_turn(&self, followed: &Followed) -> Result<(), Gone> {
        let turn = followed.turn;
        let path = self.app.engine().stream_path(&followed.address, turn);
        let resume = self.stream.resume.filter(|position| position.turn == turn);
        let mut at = resume.map_or(0, |position| position.offset);
        let Some(mut file) = self.open(&path, followed, at).await? else {
            return Ok(());
        };
        let mut growth = self.app.growth.watch(&path);
        // The beginning of a line whose end is to come, or is not of interest because the line is too long for an event.
        let mut pending = Vec::new();
        let mut is_skipping = false;
        let mut quiet = Instant::now();
        let mut pause = Pause::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            // Whether the turn is over is asked before its last lines are read.
            let over = !self.runs(followed).await;
            let mut grown = false;
            while let Ok(count) = file.read(&mut chunk).await {
                if count == 0 {
                    break;
                }
                grown = true;
                let mut read = &chunk[..count];
                if is_skipping {
                    let skipped = read.iter().position(|byte| *byte == b'\n');
                    let skipped = skipped.map_or(count, |end| end + 1);
                    is_skipping = read[skipped - 1] != b'\n';
                    at += skipped as u64;
                    read = &read[skipped..];
                }
                let end = read.iter().rposition(|byte| *byte == b'\n');
                let end = end.map(|end| pending.len() + end + 1);
                pending.extend_from_slice(read);
                if let Some(end) = end {
                    let rest = pending.split_off(end);
                    let lines = std::mem::replace(&mut pending, rest);
                    self.send_lines(lines, &mut at, turn).await?;
                }
                if pending.len() > LONGEST {
                    at += pending.len() as u64;
                    pending.clear();
                    is_skipping = true;
                }
            }
            if over || !self.stream.follow {
                return Ok(());
            }
            if grown {
                quiet = Instant::now();
                pause = Pause::default();
            } else if quiet.elapsed() >= ALIVE {
                quiet = Instant::now();
                self.alive().await?;
            }
            tokio::select! {
                () = self.sender.closed() => return Err(Gone),
                () = growth.grown() => {}
                // The turn may be over, or the system may not tell.
                () = tokio::time::sleep(pause.next()) => {}
            }
        }
    }

    /// Opens the log of a turn when it is there. `None` if the turn ends without one.
    async fn open(&self, path: &Path, followed: &Followed, offset: u64) -> Result<Option<Log>, Gone> {
        let mut pause = Pause::default();
        loop {
            let over = !self.runs(followed).await;
            if let Some(log) = Log::open(path, offset).await {
                return Ok(Some(log));
            }
            if over || !self.stream.follow {
                return Ok(None);
            }
            tokio::select! {
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(pause.next()) => {}
            }
        }
    }

    /// Whether the turn still runs. It is asked often, so the queue is asked only when the daemon does not run it.
    async fn runs(&self, followed: &Followed) -> bool {
        let turn = followed.turn;
        let Some(task) = followed.task else {
            let (engine, address) = (self.app.engine(), followed.address.clone());
            let runs = move || engine.is_running(&address, turn);
            return tokio::task::spawn_blocking(runs).await.unwrap_or(false);
        };
        let here = self
            .app
            .turns()
            .get(&task)
            .is_some_and(|running| running.turn == turn);
        if here {
            return true;
        }
        let now = self.app.queue.task(task).await.ok().flatten();
        now.is_some_and(|now| now.state == TaskState::Running && now.turn == Some(turn))
    }

    /// Sends whole lines, which begin at `at`.
    async fn send_lines(&self, lines: Vec<u8>, at: &mut u64, turn: Uuid) -> Result<(), Gone> {
        let bytes = match self.stream.form {
            Form::Lines => {
                *at += lines.len() as u64;
                lines
            }
            Form::ServerSent => {
                let mut events = Vec::with_capacity(lines.len() * 2);
                for line in lines.split_inclusive(|byte| *byte == b'\n') {
                    *at += line.len() as u64;
                    events.extend_from_slice(format!("id: {turn}:{at}\ndata: ").as_bytes());
                    events.extend_from_slice(line);
                    events.push(b'\n');
                }
                events
            }
        };
        self.send(bytes).await
    }
}
