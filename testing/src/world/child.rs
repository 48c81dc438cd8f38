//! A started command: reading its output while it runs, waiting for its end with a deadline, signalling it by its id.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::processes::{self, Signal};
use crate::schema;

/// How long to wait for a child's pipes to close after its end, if other processes hold them open.
const PIPE_GRACE: Duration = Duration::from_secs(2);

/// The stdin of a command.
#[derive(Clone, Debug)]
pub enum Stdin {
    /// The null device.
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// A pipe that stays open and silent while the command lives.
    OpenSilent,
}

impl Stdin {
    /// [`Stdin::Bytes`].
    pub fn text(text: impl Into<String>) -> Self {
        Self::Bytes(text.into().into_bytes())
    }
}

/// The result of a finished command.
#[derive(Clone, Debug)]
pub struct Output {
    what: String,
    /// The arguments of kugetsu; `None` for another program.
    arguments: Option<Vec<String>>,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Whether both pipes closed soon after the end. If not, a process that outlived the command holds one.
    pub pipes_closed: bool,
}

impl Output {
    /// The exit status, or 128 plus the number of the signal that ended it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// The number of the signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Stdout as text, invalid UTF-8 replaced.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stdout as raw bytes.
    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Stderr as text, invalid UTF-8 replaced.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Stdout as one JSON value. Panics with the whole output if it is not valid JSON, or if kugetsu printed it and it
    /// violates the schema of its command.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let value = serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not valid JSON: {error}\n{self}"));
        self.check_schema(&value);
        value
    }

    /// Stdout as one JSON value per line. Panics with the whole output if a line is not valid, as for [`Output::json`].
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            let value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("not valid JSON: {error}: {line}\n{self}"));
            self.check_schema(&value);
            value
        };
        self.stdout().lines().map(parse).collect()
    }

    #[track_caller]
    fn check_schema(&self, value: &serde_json::Value) {
        let Some(name) = self
            .arguments
            .as_ref()
            .and_then(|arguments| schema::of_command(arguments, value))
        else {
            return;
        };
        let problems = schema::problems(name, value);
        assert!(problems.is_empty(), "{}\n{self}", problems.join("\n"));
    }

    /// Panics with the whole output unless the exit status is this one.
    #[track_caller]
    pub fn expect_status(&self, code: i32) -> &Self {
        assert!(
            self.code() == code,
            "exit status {} instead of {code}\n{self}",
            self.code()
        );
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}",
            transcript(&self.what, Some(self.code()), &self.stdout, &self.stderr)
        )
    }
}

fn transcript(what: &str, code: Option<i32>, stdout: &[u8], stderr: &[u8]) -> String {
    let mut text = format!("$ {what}\n");
    if let Some(code) = code {
        let _ = writeln!(text, "[exit status {code}]");
    }
    for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        // The end of a long output is more useful than its beginning.
        let cut = bytes.len().saturating_sub(16 * 1024);
        let _ = writeln!(text, "--- {name} ({} bytes)", bytes.len());
        let _ = writeln!(text, "{}", String::from_utf8_lossy(&bytes[cut..]).trim_end());
    }
    text
}

type Bytes = Arc<Mutex<Vec<u8>>>;

fn taken(bytes: &Bytes) -> Vec<u8> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn collect(mut pipe: impl Read + Send + 'static) -> (Bytes, JoinHandle<()>) {
    let bytes = Bytes::default();
    let reader = std::thread::spawn({
        let bytes = Arc::clone(&bytes);
        move || {
            let mut piece = vec![0; 64 * 1024];
            while let Ok(count) = pipe.read(&mut piece) {
                if count == 0 {
                    return;
                }
                bytes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&piece[..count]);
            }
        }
    });
    (bytes, reader)
}

/// A command and its output so far, whether the command is alive or not.
#[derive(Clone)]
pub(super) struct Transcript {
    what: String,
    stdout: Bytes,
    stderr: Bytes,
}

impl Transcript {
    /// The command and its output; the exit status is unknown here.
    pub(super) fn transcript(&self) -> String {
        transcript(&self.what, None, &taken(&self.stdout), &taken(&self.stderr))
    }
}

/// A command that may still be alive. Dropping it kills it.
pub struct Running {
    printed: Transcript,
    arguments: Option<Vec<String>>,
    child: Child,
    stdin: Option<ChildStdin>,
    readers: Vec<JoinHandle<()>>,
}

/// The name of the program and its arguments, without the long environment.
fn described(command: &Command) -> String {
    let program = command.get_program();
    let name = Path::new(program).file_name().unwrap_or(program);
    let words = std::iter::once(name).chain(command.get_args());
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./:=@+#".contains(c));
        if plain {
            word.into_owned()
        } else {
            format!("{word:?}")
        }
    };
    words.map(quote).collect::<Vec<_>>().join(" ")
}

fn arguments_of_kugetsu(command: &Command) -> Option<Vec<String>> {
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    (Path::new(command.get_program()).file_name() == Some(OsStr::new("kugetsu"))).then(|| words.collect())
}

impl Running {
    pub(super) fn start(mut command: Command, stdin: Stdin) -> Self {
        let what = described(&command);
        let arguments = arguments_of_kugetsu(&command);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command.stdin(if matches!(stdin, Stdin::Null) {
            Stdio::null()
        } else {
            Stdio::piped()
        });
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        let mut pipe = child.stdin.take();
        if let Stdin::Bytes(bytes) = stdin {
            let mut pipe = pipe.take().expect("stdin was piped");
            // Not joined: a child that does not read keeps this thread until the child's end. A child may also close
            // its stdin without reading it, which is not an error.
            std::thread::spawn(move || {
                let _ = pipe.write_all(&bytes);
            });
        }
        let (stdout, out) = collect(child.stdout.take().expect("stdout was piped"));
        let (stderr, err) = collect(child.stderr.take().expect("stderr was piped"));
        Self {
            printed: Transcript { what, stdout, stderr },
            arguments,
            child,
            stdin: pipe,
            readers: vec![out, err],
        }
    }

    pub(super) fn printed(&self) -> Transcript {
        self.printed.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// What it has written on stdout so far.
    pub fn stdout_so_far(&self) -> String {
        String::from_utf8_lossy(&taken(&self.printed.stdout)).into_owned()
    }

    /// What it has written on stderr so far.
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&taken(&self.printed.stderr)).into_owned()
    }

    /// Writes to a stdin that was kept open.
    pub fn write_stdin(&mut self, bytes: &[u8]) {
        self.stdin
            .as_mut()
            .expect("stdin was kept open")
            .write_all(bytes)
            .expect("the command reads its stdin");
    }

    /// Closes a stdin that was kept open.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until stdout contains `needle`; panics if the command ends or `deadline` passes first.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, needle: &str, deadline: Duration) {
        let end = Instant::now() + deadline;
        while !self.stdout_so_far().contains(needle) {
            let alive = self.is_alive() || self.readers.iter().any(|reader| !reader.is_finished());
            let waited = Instant::now() < end;
            assert!(
                alive && waited,
                "{needle:?} did not come within {deadline:?}\n{}",
                self.transcript()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end. If `deadline` passes first, kills it and panics with its output.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Output {
        let end = Instant::now() + deadline;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                break status;
            }
            if Instant::now() >= end {
                let text = self.transcript();
                let _ = self.child.kill();
                panic!("not at its end after {deadline:?}, killed\n{text}");
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        let end = Instant::now() + PIPE_GRACE;
        let done = |readers: &[JoinHandle<()>]| readers.iter().all(JoinHandle::is_finished);
        while !done(&self.readers) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        Output {
            what: self.printed.what.clone(),
            arguments: self.arguments.clone(),
            status,
            stdout: taken(&self.printed.stdout),
            stderr: taken(&self.printed.stderr),
            pipes_closed: done(&self.readers),
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal).expect("the child is ours");
    }

    /// Sends a signal to the process group, as a terminal does with Ctrl-C.
    pub fn signal_group(&self, signal: Signal) {
        processes::signal_group(self.pid(), signal).expect("the group is ours");
    }

    /// Kills only this process at once, and waits for its end.
    pub fn kill9(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn transcript(&self) -> String {
        self.printed.transcript() + &processes::threads(self.pid())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
