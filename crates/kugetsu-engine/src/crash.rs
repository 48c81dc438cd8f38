//! Crash points: named places in the code at which tests kill the process, to check the state that the next command
//! finds.
//!
//! Each layer declares its own points with [`crash_points!`](crate::crash::crash_points) and calls [`CrashPoint::pass`]
//! at each one. This module depends on no layer.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A named place in the code.
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

/// The effect of passing a crash point.
enum Armed {
    /// Kills the process when this point has been passed this many more times.
    At(CrashPoint, u64),
    /// Appends the point's name to this file.
    Log(File),
}

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

/// Arms a crash point. With `name`, or `name:n` for the n-th pass, the process kills itself there as `kill -9` would.
/// With `log:FILE`, the process stays alive and appends the name of each point that it passes to FILE.
pub(crate) fn arm(spec: &str, points: &[&[CrashPoint]]) -> Result<(), String> {
    let (name, rest) = spec.split_once(':').unwrap_or((spec, "1"));
    let known = || points.iter().copied().flatten().copied();
    let armed = if name == "log" {
        #[expect(
            clippy::disallowed_methods,
            reason = "a log of a test, and fsx has crash points itself"
        )]
        let file = std::fs::OpenOptions::new().create(true).append(true).open(rest);
        Armed::Log(file.map_err(|error| format!("{rest}: {error}"))?)
    } else if let Some(point) = known().find(|point| point.0 == name) {
        match rest.parse() {
            Ok(count @ 1..) => Armed::At(point, count),
            _ => return Err(format!("`{rest}` is not a count of passes")),
        }
    } else {
        let names: Vec<_> = known().map(|point| point.0).collect();
        return Err(format!(
            "`{name}` is not a crash point; there are: {}",
            names.join(", ")
        ));
    };
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
    IS_ARMED.store(true, Ordering::SeqCst);
    Ok(())
}

impl CrashPoint {
    /// Only for use by [`crash_points!`].
    pub(crate) const fn declare(name: &'static str) -> Self {
        Self(name)
    }

    /// The name that [`arm`] accepts.
    #[cfg(test)]
    pub(crate) fn name(self) -> &'static str {
        self.0
    }

    /// Whether [`arm`] selected this point.
    pub(crate) fn is_armed(self) -> bool {
        IS_ARMED.load(Ordering::Relaxed)
            && match ARMED.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                Some(Armed::At(at, _)) => *at == self,
                Some(Armed::Log(_)) => true,
                None => false,
            }
    }

    /// Dies here if [`arm`] selected this point.
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
            None => {}
        }
    }
}
