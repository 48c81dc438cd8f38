//! Finds the live processes of a world by their environment.

use std::path::Path;

use rustix::process::Pid;

use rustix::process::Signal as RawSignal;

/// A signal that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

impl Signal {
    fn raw(self) -> RawSignal {
        match self {
            Self::Interrupt => RawSignal::INT,
            Self::Terminate => RawSignal::TERM,
            Self::Hangup => RawSignal::HUP,
            Self::Kill => RawSignal::KILL,
            Self::Stop => RawSignal::STOP,
            Self::Continue => RawSignal::CONT,
        }
    }
}

/// A live process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

impl ProcessInfo {
    /// Whether this is an opencode that serves or runs a turn.
    pub fn is_opencode(&self) -> bool {
        let mut words = self.command.split(' ');
        let program = words.next().unwrap_or_default();
        program.ends_with("/opencode") && words.any(|word| word == "serve" || word == "run")
    }
}

fn pid(id: u32) -> std::io::Result<Pid> {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    id.ok_or_else(|| std::io::Error::other("no process id"))
}

pub(super) fn signal(id: u32, signal: Signal) -> std::io::Result<()> {
    Ok(rustix::process::kill_process(pid(id)?, signal.raw())?)
}

pub(super) fn signal_group(id: u32, signal: Signal) -> std::io::Result<()> {
    Ok(rustix::process::kill_process_group(pid(id)?, signal.raw())?)
}

/// Every live process whose environment sets `variable` to `value`. Needs `/proc`.
pub(super) fn marked(variable: &str, value: &str) -> Vec<ProcessInfo> {
    let assignment = format!("{variable}={value}").into_bytes();
    let entries = std::fs::read_dir("/proc")
        .expect("/proc is needed to find processes")
        .flatten();
    entries
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let ours = environment
                .split(|byte| *byte == 0)
                .any(|pair| pair == assignment);
            ours.then(|| describe(id, &entry.path())).flatten()
        })
        .collect()
}

/// What each thread of a process does and which signals it has received, to help diagnose why a process does not end.
pub(super) fn threads(pid: u32) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return String::new();
    };
    let mut text = String::from("--- threads\n");
    for task in tasks.flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let shown = status.lines().filter(|line| {
            let shown = [
                "Name:", "State:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:",
            ];
            shown.iter().any(|field| line.starts_with(field))
        });
        text.extend(shown.flat_map(|line| [line, "  "]));
        text.extend(["wchan: ", read("wchan").trim(), "\n"]);
    }
    text
}

fn describe(pid: u32, folder: &Path) -> Option<ProcessInfo> {
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // The name in parentheses may itself contain parentheses and spaces; state and parent follow the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let arguments = std::fs::read(folder.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&arguments)
        .replace('\0', " ")
        .trim_end()
        .to_owned();
    Some(ProcessInfo { pid, parent, command })
}
