//! Follows the events of a task's turn. The file of the turn is the only buffer: a reader that stalls costs a small
//! buffer and delays nobody.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use kugetsu_api::{Task, TaskId, TaskState};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::app::App;

/// How often a file is looked at that may have grown.
const POLL: Duration = Duration::from_millis(10);
/// How often a stream without news gets a sign of life.
const ALIVE: Duration = Duration::from_secs(15);
/// How much is read at once.
const CHUNK: usize = 64 << 10;

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

/// Sends the events of a task's turns until the task has ended; without `follow`, those that are there.
pub(crate) async fn follow_task(
    app: Arc<App>,
    task: Task,
    resume: Option<Position>,
    form: Form,
    follow: bool,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
) {
    let follower = Follower {
        app,
        form,
        follow,
        sender,
    };
    let _: Result<(), Gone> = follower.follow_task(task, resume).await;
}

struct Follower {
    app: Arc<App>,
    form: Form,
    follow: bool,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
}

impl Follower {
    async fn follow_task(&self, mut task: Task, resume: Option<Position>) -> Result<(), Gone> {
        let mut resume = resume;
        let mut shown = None;
        loop {
            if let Some(turn) = task.turn.filter(|turn| shown != Some(*turn)) {
                let from = resume.take().filter(|position| position.turn == turn);
                self.follow_turn(&task, turn, from.map_or(0, |position| position.offset))
                    .await?;
                shown = Some(turn);
            }
            if !self.follow {
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
                () = tokio::time::sleep(ALIVE) => self.alive().await?,
            }
        }
    }

    async fn alive(&self) -> Result<(), Gone> {
        match self.form {
            Form::ServerSent => self.send(b": alive\n\n".to_vec()).await,
            // A blank line is not an event.
            Form::Lines => self.send(b"\n".to_vec()).await,
        }
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.sender.send(Ok(bytes.into())).await.map_err(|_| Gone)
    }

    /// Sends the events of a turn from an offset on, until the turn is over.
    async fn follow_turn(&self, task: &Task, turn: Uuid, offset: u64) -> Result<(), Gone> {
        let path = self.app.engine().stream_path(&task.spec.address, turn);
        let Some(mut file) = self.open(&path, task.task, turn, offset).await? else {
            return Ok(());
        };
        let mut at = offset;
        let mut pending = Vec::new();
        let mut quiet = tokio::time::Instant::now();
        loop {
            // Whether the turn is over is asked before its last lines are read.
            let over = !self.runs(task.task, turn).await;
            let mut chunk = vec![0; CHUNK];
            let mut grown = false;
            while let Ok(count) = file.read(&mut chunk).await {
                if count == 0 {
                    break;
                }
                grown = true;
                pending.extend_from_slice(&chunk[..count]);
                self.send_lines(&mut pending, &mut at, turn).await?;
            }
            if over || !self.follow {
                return Ok(());
            }
            if grown {
                quiet = tokio::time::Instant::now();
            } else if quiet.elapsed() >= ALIVE {
                quiet = tokio::time::Instant::now();
                self.alive().await?;
            }
            tokio::select! {
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Opens the file of a turn when it is there. `None` if the turn ends without one.
    async fn open(
        &self,
        path: &PathBuf,
        task: TaskId,
        turn: Uuid,
        offset: u64,
    ) -> Result<Option<File>, Gone> {
        loop {
            let over = !self.runs(task, turn).await;
            if let Ok(mut file) = File::open(path).await {
                let sought = file.seek(std::io::SeekFrom::Start(offset)).await;
                return Ok(sought.is_ok().then_some(file));
            }
            if over || !self.follow {
                return Ok(None);
            }
            tokio::select! {
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Whether the turn still runs. It is asked often, so the queue is asked only when the daemon does not run it.
    async fn runs(&self, task: TaskId, turn: Uuid) -> bool {
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

    /// Sends the whole lines of `pending`, and leaves the rest there.
    async fn send_lines(&self, pending: &mut Vec<u8>, at: &mut u64, turn: Uuid) -> Result<(), Gone> {
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let rest = pending.split_off(end + 1);
        let lines = std::mem::replace(pending, rest);
        let bytes = match self.form {
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
