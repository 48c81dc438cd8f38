//! The fenced blocks of the project's documents.

use std::path::Path;

/// What stands before a block that is not to be run, with the reason.
const NOT_RUN: &str = "<!-- not run: ";

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// The word after the fence, such as `sh`.
    pub(crate) language: String,
    /// Where its fence is, counted from 1.
    pub(crate) line: usize,
    /// Whether it may be run.
    pub(crate) runs: bool,
    /// What is in it.
    pub(crate) text: String,
}

/// The text of a document of the project.
pub(crate) fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of a document in this language; a document without one is a mistake.
pub(crate) fn blocks(name: &str, language: &str) -> Vec<Block> {
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
