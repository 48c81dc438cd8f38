//! Crash points: named places in the code at which tests kill the process, or have it hang, to check the state that the
//! next command finds.
//!
//! Each layer declares its own points with [`crash_points!`](crate::crash::crash_points) and calls [`CrashPoint::pass`]
//! at each one. This module depends on no layer.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A moment that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrashPoint(&'static str);

/// Declares the crash points of a layer: a constant for each, and `ALL`.
macro_rules! crash_points {
    ($($constant:ident = $name:literal;)*) => {
        use crate::crash::CrashPoint;

        $(pub(crate) const $constant: CrashPoint = CrashPoint::declare($name);)*

        /// Every crash point of this layer.
        pub(crate) const ALL: &[CrashPoint] = &[$($constant),*];
    };
}
pub(crate) use crash_points;

/// How often a stopped thread looks whether it may go on.
const STALL_POLL: Duration = Duration::from_millis(10);

/// The effect of passing a crash point.
enum Armed {
    /// Kills the process when this point has been passed this many more times.
    At(CrashPoint, u64),
    /// Makes this file when this point has been passed this many more times, and stops the thread until it is removed.
    Stall(CrashPoint, u64, PathBuf),
    /// Appends the point's name to this file.
    Log(File),
}

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

/// Arms a crash point. With `name`, or `name:n` for the n-th pass, the process kills itself there as `kill -9` would.
/// With `stall:name:n:FILE`, the thread of the n-th pass makes FILE and stops there until somebody removes FILE, as on a
/// disk that hangs.
/// With `log:FILE`, the process stays alive and appends the name of each point that it passes to FILE.
pub(crate) fn arm(spec: &str, points: &[&[CrashPoint]]) -> Result<(), String> {
    let point = |name: &str| {
        let known = || points.iter().copied().flatten();
        known().find(|point| point.0 == name).copied().ok_or_else(|| {
            let names: Vec<_> = known().map(|point| point.0).collect();
            format!("`{name}` is not a crash point; there are: {}", names.join(", "))
        })
    };
    let count = |text: &str| match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err(format!("`{text}` is not a count of passes")),
    };
    let words: Vec<&str> = spec.splitn(4, ':').collect();
    let armed = match words[..] {
        ["log", ..] => Armed::Log(make(spec.trim_start_matches("log:"))?),
        ["stall", name, passes, file] => Armed::Stall(point(name)?, count(passes)?, file.into()),
        [name] => Armed::At(point(name)?, 1),
        [name, passes] => Armed::At(point(name)?, count(passes)?),
        _ => {
            return Err(format!(
                "`{spec}` is not NAME, NAME:N, log:FILE or stall:NAME:N:FILE"
            ));
        }
    };
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
    IS_ARMED.store(true, Ordering::SeqCst);
    Ok(())
}

fn make(file: impl AsRef<Path>) -> Result<File, String> {
    let file = file.as_ref();
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of a test, and fsx has crash points itself"
    )]
    let made = std::fs::OpenOptions::new().create(true).append(true).open(file);
    made.map_err(|error| format!("{}: {error}", file.display()))
}

impl CrashPoint {
    /// Only for use by [`crash_points!`].
    pub(crate) const fn declare(name: &'static str) -> Self {
        Self(name)
    }

    /// The name that [`arm`] takes.
    #[cfg(test)]
    pub(crate) fn name(self) -> &'static str {
        self.0
    }

    /// Whether somebody wants to know of this point.
    pub(crate) fn is_armed(self) -> bool {
        IS_ARMED.load(Ordering::Relaxed)
            && match ARMED.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                Some(Armed::At(at, _) | Armed::Stall(at, ..)) => *at == self,
                Some(Armed::Log(_)) => true,
                None => false,
            }
    }

    /// Dies here when [`arm`] asked for it.
    pub(crate) fn pass(self) {
        if !self.is_armed() {
            return;
        }
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        match armed.as_mut() {
            Some(Armed::Log(file)) => {
                let _ = writeln!(file, "{}", self.0);
            }
            Some(Armed::At(_, left)) => {
                *left -= 1;
                if *left == 0 {
                    let us = rustix::process::getpid();
                    let _ = rustix::process::kill_process(us, rustix::process::Signal::KILL);
                    loop {
                        std::thread::park();
                    }
                }
            }
            Some(Armed::Stall(_, left, file)) => {
                *left -= 1;
                if *left == 0 {
                    let file = std::mem::take(file);
                    let _ = make(&file);
                    *armed = None;
                    drop(armed);
                    while file.exists() {
                        std::thread::sleep(STALL_POLL);
                    }
                }
            }
            None => {}
        }
    }
}
