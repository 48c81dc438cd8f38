//! Whole copies of SQLite databases that other processes write meanwhile.

use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::cancel::Cancel;

/// How many pages are copied between two looks at a request to end.
const PAGES: i32 = 1024;
/// How often a lock is tried again, and the pause between.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Whether a copy failed because there is no room for it.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Copies the database as it is at one moment into a new file. Nobody waits for it: in WAL mode, a reader delays no
/// writer. A copy that is damaged, because the original is, is an error with `check`. Not synced.
pub(crate) fn copy(from: &Connection, to: &Path, check: bool, cancel: &Cancel) -> rusqlite::Result<()> {
    // Without a transaction, each write of somebody else would begin the copy anew.
    from.execute_batch("BEGIN")?;
    let copied = copy_snapshot(from, to, check, cancel);
    let _ = from.execute_batch("ROLLBACK");
    copied
}

fn copy_snapshot(from: &Connection, to: &Path, check: bool, cancel: &Cancel) -> rusqlite::Result<()> {
    // The first read begins the transaction.
    from.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(to, flags)?;
    copy.pragma_update(None, "synchronous", false)?;
    {
        let backup = Backup::new(from, &mut copy)?;
        let mut tries = 0;
        loop {
            if cancel.is_set() {
                return Err(failure(ffi::SQLITE_INTERRUPT, "interrupted"));
            }
            match backup.step(PAGES)? {
                StepResult::Done => break,
                StepResult::More => tries = 0,
                _ if tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
                _ => return Err(failure(ffi::SQLITE_BUSY, "the database is locked")),
            }
        }
    }
    if check {
        copy.pragma_update(None, "trusted_schema", false)?;
        let found: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(failure(ffi::SQLITE_CORRUPT, &found));
        }
    }
    copy.close().map_err(|(_, error)| error)
}

fn failure(code: i32, why: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(why.to_owned()))
}
