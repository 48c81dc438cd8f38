//! The fenced blocks of the project's documents.

use std::path::{Path, PathBuf};

use crate::workspace_root;

/// The marker before a block that must not be run; a reason follows.
const NOT_RUN: &str = "<!-- not run: ";

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The word after the fence, such as `sh`.
    pub language: String,
    /// The line number of its fence, from 1.
    pub line: usize,
    /// Whether it may be run.
    pub runs: bool,
    /// The content.
    pub text: String,
}

/// The text of a document of the project.
pub fn document(name: &str) -> String {
    let path = workspace_root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of a document in this language. Panics if there are none.
pub fn blocks(name: &str, language: &str) -> Vec<Block> {
    let text = document(name);
    let mut found: Vec<Block> = Vec::new();
    let (mut open, mut before) = (None, "");
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.to_owned(),
                    line: number + 1,
                    runs: !before.starts_with(NOT_RUN),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => block.text.push_str(&format!("{line}\n")),
            (None, None) => before = line,
        }
    }
    assert!(open.is_none(), "{name}: the last block is not closed");
    found.retain(|block| block.language == language);
    assert!(!found.is_empty(), "{name} has no block in {language}");
    found
}

/// Every file below a folder, in order.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
