//! A clock for some programs alone, with libfaketime (Debian: `faketime`).

use std::path::Path;

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The variables that give a program the clock in this file, such as `-1d`. Reading the file at each look takes many times
/// as long, so only a program during which the clock `changes` does it.
pub fn clock_variables(file: &Path, changes: bool) -> [(&'static str, String); 5] {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
    ];
    let library = folders
        .iter()
        .map(|folder| Path::new(folder).join(LIBRARY))
        .find(|path| path.is_file());
    let library = library.expect("libfaketime is installed (Debian: apt-get install faketime)");
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", if changes { "1" } else { "0" }.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ]
}
