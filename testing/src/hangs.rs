//! Measurements of the tests in `tests/real/hangs.rs`, passed to `cargo xtask test` as one file per row.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::workspace_root;

/// One cause of a hang on one version and transport, with the outcome of the turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HangRow {
    /// Its place in the table.
    pub place: usize,
    /// The cause of the hang.
    pub cause: String,
    /// opencode's version.
    pub opencode: String,
    /// The transport.
    pub transport: String,
    /// The turn's limit, as the flag or setting that sets it.
    pub limit: String,
    /// Seconds from the command to its end.
    pub seconds: f64,
    /// The verdict; `-` if no turn began.
    pub verdict: String,
    /// The exit status.
    pub status: i32,
    /// The number of processes left behind.
    pub left: usize,
    /// Whether `continue` completed after the cause was removed.
    pub continued: bool,
}

impl HangRow {
    /// The folder of the files; it may not exist.
    pub fn folder() -> PathBuf {
        workspace_root().join("target/hangs")
    }

    /// Writes the row's file.
    pub fn write(&self) {
        let folder = Self::folder();
        std::fs::create_dir_all(&folder).expect("a folder in target");
        let name = format!("{:02}-{}-{}.json", self.place, self.opencode, self.transport);
        let text = serde_json::to_string_pretty(self).expect("a row is plain data");
        std::fs::write(folder.join(name), text).expect("a file in target");
    }

    /// Every row that was written, in the order of the table.
    pub fn all() -> Vec<Self> {
        let files = std::fs::read_dir(Self::folder()).into_iter().flatten().flatten();
        let mut rows: Vec<Self> = files
            .filter_map(|file| serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok())
            .collect();
        rows.sort_by(|a, b| (a.place, &a.transport, &a.opencode).cmp(&(b.place, &b.transport, &b.opencode)));
        rows
    }

    /// Rows as a Markdown table.
    pub fn markdown(rows: &[Self]) -> String {
        let mut text = "| cause | opencode | transport | limit | ended after | verdict | exit status | left running | continued |\n\
                        |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for row in rows {
            text.push_str(&format!(
                "| {} | {} | {} | `{}` | {:.1} s | {} | {} | {} | {} |\n",
                row.cause,
                row.opencode,
                row.transport,
                row.limit,
                row.seconds,
                row.verdict,
                row.status,
                row.left,
                if row.continued { "yes" } else { "no" },
            ));
        }
        text
    }
}
