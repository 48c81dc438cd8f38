//! Any text in an issue: the prompt begins with the message, and nothing in the issue looks like the issue's end.
#![no_main]

use kugetsu_forge::{clean, quote};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const MESSAGE: &str = "the message";

fuzz_target!(|text: &str| {
    let mut texts = text.split('\0');
    let mut next = || texts.next().unwrap_or_default();
    let (title, body, comment) = (next(), next(), next());
    let issue = serde_json::from_value(json!({
        "ref": "github.com/a/b#14", "url": title, "title": title, "state": body, "author": title, "labels": [body],
        "created": "2026-11-21T01:56:14Z", "is_pull_request": false, "body": body, "comments_left_out": 1,
        "comments": [{"author": comment, "created": "2026-11-21T01:56:14Z", "body": comment}],
    }))
    .expect("an issue");
    let prompt = quote(MESSAGE, &issue);
    let rest = prompt.strip_prefix(MESSAGE).expect("the message comes first");
    assert_eq!(clean(rest), rest);
    let (_, last) = rest.trim_end().rsplit_once("ends: ").expect("an end");
    let mark = last.strip_suffix(" ---").expect("a mark");
    assert_eq!(rest.matches(mark).count(), 3, "{prompt}");
});
