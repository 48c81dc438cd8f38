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
pub use http::{Connection, ProxySettings, Token, trusted_roots};
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
        ForgeKind::Github => Box::new(github::Github::new(client)),
        ForgeKind::Gitlab => Box::new(gitlab::Gitlab::new(client)),
        ForgeKind::Forgejo => Box::new(forgejo::Forgejo::new(client)),
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
    use kugetsu_api::IssueRef;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::github::{RawComment, RawIssue};

    fn any_text() -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<char>(), 0..600).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn an_issue_of_a_forge_is_read_or_refused(
            texts in proptest::collection::vec(any_text(), 5),
            count in any::<u64>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let raw = json!({
                "html_url": texts[0], "title": texts[1], "state": texts[2], "body": texts[3], "comments": count,
                "user": {"login": texts[4]}, "labels": [texts[0], {"name": texts[1]}, {"name": null}],
                "created_at": "2026-11-21T01:56:14Z", "pull_request": {},
            })
            .to_string();
            let issue = IssueRef::try_from("github.com/a/b#14".to_owned()).unwrap();
            let comment = json!({"user": null, "created_at": "2026-11-21T01:56:14Z", "body": "x"});
            let comments: Vec<RawComment> =
                (0..MAX_COMMENTS + 9).map(|_| serde_json::from_value(comment.clone()).unwrap()).collect();
            let read = serde_json::from_str::<RawIssue>(&raw).unwrap().into_issue(&issue, comments);
            for line in [&read.title, &read.url, &read.state].into_iter().chain(&read.labels) {
                prop_assert!(line.len() < MAX_LINE + 50 && !line.contains(['\n', '\r']), "{:?}", line);
            }
            prop_assert_eq!(read.comments.len(), MAX_COMMENTS);
            prop_assert_eq!(read.comments_left_out, count.saturating_sub(MAX_COMMENTS as u64));
            // Half an answer is refused.
            let half = &raw.as_bytes()[..cut.index(raw.len())];
            prop_assert!(serde_json::from_slice::<RawIssue>(half).is_err());
        }
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let long = "\u{e9}".repeat(MAX_TEXT);
        let kept = text(Some(long));
        assert!(kept.len() < MAX_TEXT + 50 && kept.ends_with(" [262144 bytes are left out]"));
        assert_eq!(text(Some("a\r\nb\n".to_owned())), "a\nb\n");
        assert_eq!(line(" two\n lines "), "two lines");
    }
}
