//! The exit status of every command, in one place. The numbers from 64 up are those of BSD's `sysexits.h`.

/// The exit status of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitStatus {
    /// 0: done; for a turn: the verdict is `completed`.
    Ok = 0,
    /// 1: the turn failed, timed out, stalled, looped, was void or was lost; or the command failed for another reason.
    Failed = 1,
    /// 2: a person is needed.
    Blocked = 2,
    /// 64: the command line is not valid (`EX_USAGE`).
    Usage = 64,
    /// 66: no such session, base or issue (`EX_NOINPUT`).
    NotFound = 66,
    /// 69: opencode, its database or a forge is missing or unusable (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// 73: kugetsu's own store cannot be read or written, or its output cannot be written (`EX_CANTCREAT`).
    CannotWrite = 73,
    /// 75: try again later: a lease is held, a quota is used up, a database is locked, a forge cannot be reached (`EX_TEMPFAIL`).
    TryAgain = 75,
    /// 130: interrupted (SIGINT).
    Interrupted = 130,
    /// 143: terminated (SIGTERM).
    Terminated = 143,
}

impl ExitStatus {
    /// The status as a number for the operating system.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The status with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::Ok,
            Self::Failed,
            Self::Blocked,
            Self::Usage,
            Self::NotFound,
            Self::Unavailable,
            Self::CannotWrite,
            Self::TryAgain,
            Self::Interrupted,
            Self::Terminated,
        ]
        .into_iter()
        .find(|status| status.code() == code)
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
