//! The fenced blocks of the project's documents.

use std::path::{Path, PathBuf};

use crate::workspace_root;

/// The marker before a block that must not be run; a reason follows.
const NOT_RUN: &str = "<!-- not run: ";

/// The front page and the manual, in the order in which a newcomer reads them.
pub const MANUAL: [&str; 8] = [
    "README.md",
    "docs/commands.md",
    "docs/configuration.md",
    "docs/automation.md",
    "docs/sandbox.md",
    "docs/operations.md",
    "docs/troubleshooting.md",
    "docs/files.md",
];

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The document that contains it.
    pub document: String,
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
    let found = blocks_or_none(name, language);
    assert!(!found.is_empty(), "{name} has no block in {language}");
    found
}

/// The blocks of [`MANUAL`] in this language. Panics if there are none.
pub fn manual_blocks(language: &str) -> Vec<Block> {
    let found: Vec<_> = MANUAL
        .iter()
        .flat_map(|name| blocks_or_none(name, language))
        .collect();
    assert!(!found.is_empty(), "the manual has no block in {language}");
    found
}

fn blocks_or_none(name: &str, language: &str) -> Vec<Block> {
    let text = document(name);
    let mut found: Vec<Block> = Vec::new();
    let (mut open, mut before) = (None, "");
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block {
                    document: name.to_owned(),
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
    found
}

/// The whole text of [`MANUAL`].
pub fn manual() -> String {
    MANUAL.map(document).join("\n")
}

/// The names of all documents for people: those at the top, the skill, and everything below `docs`.
pub fn all_documents() -> Vec<String> {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned);
    let root = workspace_root();
    let below = ["docs", "skills"].map(|folder| files_below(&root.join(folder)));
    let below = below.iter().flatten().filter_map(|path| {
        let name = path.strip_prefix(root).ok()?.to_str()?;
        Path::new(name)
            .extension()
            .is_some_and(|kind| kind == "md")
            .then(|| name.to_owned())
    });
    top.into_iter().chain(below).collect()
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
