//! Reads issues from GitHub, GitLab, Forgejo and Gitea.
//!
//! This crate must not know sessions, turns or opencode, and reads neither the environment nor any settings: the caller
//! gives a [`Connection`]. All requests block, within the connection's time limit.

mod error;
mod forgejo;
mod github;
mod gitlab;
mod http;
mod kind;
mod quote;

pub use error::ForgeError;
pub use http::{Connection, ProxySettings, Token};
pub use kind::ForgeKind;
pub use quote::{clean, quote};

use kugetsu_api::{Issue, IssueRef};

/// A forge.
pub trait Forge: std::fmt::Debug {
    /// An issue or a pull request, with its newest comments if `comments` is true.
    fn issue(&self, issue: &IssueRef, comments: bool) -> Result<Issue, ForgeError>;
}

/// The most comments of an issue that are read: its newest ones.
const MAX_COMMENTS: usize = 300;
/// The number of comments in one answer.
const PAGE: usize = 100;
/// The longest text of an issue or a comment that is kept, in bytes. GitHub allows a quarter of that, GitLab four times
/// as much.
const MAX_TEXT: usize = 256 << 10;
/// The longest title, name or address that is kept, in bytes.
const MAX_LINE: usize = 1024;
/// The most labels that are kept.
const MAX_LABELS: usize = 100;

/// Opens the forge of this kind.
pub fn open(kind: ForgeKind, connection: Connection) -> Result<Box<dyn Forge>, ForgeError> {
    let client = http::Client::new(connection)?;
    Ok(match kind {
        ForgeKind::Github => Box::new(github::Github(client)),
        ForgeKind::Gitlab => Box::new(gitlab::Gitlab(client)),
        ForgeKind::Forgejo => Box::new(forgejo::Forgejo(client)),
    })
}

/// A text with a limit of its length, and with line feeds as the only ends of lines.
fn text(text: Option<String>) -> String {
    cut(text.unwrap_or_default().replace("\r\n", "\n"), MAX_TEXT)
}

/// A title, name or address, on one line.
fn line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    cut(words.join(" "), MAX_LINE)
}

fn lines(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    texts
        .into_iter()
        .take(MAX_LABELS)
        .map(|text| line(&text))
        .collect()
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = text.floor_char_boundary(most);
        let left_out = text.len() - end;
        text.truncate(end);
        text.push_str(&format!(" [{left_out} bytes are left out]"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let long = "\u{e9}".repeat(MAX_TEXT);
        let kept = text(Some(long));
        assert!(kept.len() < MAX_TEXT + 50 && kept.ends_with(" [262144 bytes are left out]"));
        assert_eq!(text(Some("a\r\nb\n".to_owned())), "a\nb\n");
        assert_eq!(line(" two\n lines "), "two lines");
    }
}
