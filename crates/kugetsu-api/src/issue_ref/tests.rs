//! Issue references: every form that is accepted, every trap that is refused, and the files that they lead to.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use crate::{IssueRef, RefContext, RefError, RepoRef};
use proptest::prelude::*;

fn context() -> RefContext {
    RefContext {
        default_instance: Some("github.com".to_owned()),
        origin: Some(RepoRef::try_from("git.example.org/team/tool".to_owned()).unwrap()),
    }
}

fn parse(text: &str) -> Result<String, RefError> {
    IssueRef::parse(text, &context()).map(|issue| issue.to_string())
}

fn alone(text: &str) -> Result<String, RefError> {
    IssueRef::parse(text, &RefContext::default()).map(|issue| issue.to_string())
}

fn remote(url: &str) -> Result<String, RefError> {
    RepoRef::from_remote_url(url).map(|repo| repo.to_string())
}

#[test]
fn accepted_forms() {
    let table = [
        ("github.com/shoko/kugetsu#14", "github.com/shoko/kugetsu#14"),
        ("GitHub.com/Shoko/KUGETSU#14", "github.com/shoko/kugetsu#14"),
        ("github.com/shoko/kugetsu#0014", "github.com/shoko/kugetsu#14"),
        (
            "github.com/shoko/kugetsu#18446744073709551615",
            "github.com/shoko/kugetsu#18446744073709551615",
        ),
        ("github.com/shoko/kugetsu.git#14", "github.com/shoko/kugetsu#14"),
        (
            "gitlab.com/group/sub/deeper/tool#3",
            "gitlab.com/group/sub/deeper/tool#3",
        ),
        ("localhost/o/r#1", "localhost/o/r#1"),
        ("localhost:3000/o/r#1", "localhost:3000/o/r#1"),
        ("forge:03000/o/r#1", "forge:3000/o/r#1"),
        ("10.0.0.7:8080/o/r#1", "10.0.0.7:8080/o/r#1"),
        ("git.sr.ht/~user/c++.x_y-z#1", "git.sr.ht/~user/c++.x_y-z#1"),
        ("shoko/kugetsu#14", "github.com/shoko/kugetsu#14"),
        ("john.doe/tool#2", "github.com/john.doe/tool#2"),
        ("#14", "git.example.org/team/tool#14"),
        ("14", "git.example.org/team/tool#14"),
        ("#0014", "git.example.org/team/tool#14"),
        ("0014", "git.example.org/team/tool#14"),
        ("a-b/c#1", "github.com/a-b/c#1"),
        ("a/b-c#1", "github.com/a/b-c#1"),
    ];
    for (text, canonical) in table {
        assert_eq!(parse(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn accepted_urls() {
    let table = [
        (
            "https://github.com/shoko/kugetsu/issues/14",
            "github.com/shoko/kugetsu#14",
        ),
        (
            "HTTPS://GitHub.com/Shoko/Kugetsu/issues/14",
            "github.com/shoko/kugetsu#14",
        ),
        (
            "http://github.com:80/shoko/kugetsu/issues/14/",
            "github.com/shoko/kugetsu#14",
        ),
        (
            "https://github.com:443/shoko/kugetsu/pull/14/files",
            "github.com/shoko/kugetsu#14",
        ),
        (
            "https://github.com:80/shoko/kugetsu/pull/14",
            "github.com:80/shoko/kugetsu#14",
        ),
        (
            "https://github.com/shoko/kugetsu/pull/14/commits/4a5b#diff-1",
            "github.com/shoko/kugetsu#14",
        ),
        (
            "https://github.com/shoko/kugetsu/issues/14?a=b&c=%20#issuecomment-1",
            "github.com/shoko/kugetsu#14",
        ),
        ("https://github.com/o/issues/issues/14", "github.com/o/issues#14"),
        ("https://www.github.com/o/r/issues/1", "www.github.com/o/r#1"),
        (
            "https://gitlab.com/g/sub/repo/-/issues/14",
            "gitlab.com/g/sub/repo#14",
        ),
        (
            "https://gitlab.com/g/sub/repo/-/issues/14/designs",
            "gitlab.com/g/sub/repo#14",
        ),
        (
            "https://gitlab.com/g/repo/-/merge_requests/7/diffs#note_1",
            "gitlab.com/g/repo#7",
        ),
        ("https://gitlab.com/g/repo/-/work_items/9", "gitlab.com/g/repo#9"),
        (
            "https://gitlab.com/g/x/issues/1/repo/-/issues/14",
            "gitlab.com/g/x/issues/1/repo#14",
        ),
        ("https://codeberg.org/o/r/issues/14", "codeberg.org/o/r#14"),
        ("https://codeberg.org/o/r/pulls/14/files", "codeberg.org/o/r#14"),
        (
            "http://git.example.org:3000/o/r/pulls/14",
            "git.example.org:3000/o/r#14",
        ),
        (
            "https://me:secret@git.example.org/o/r/issues/14",
            "git.example.org/o/r#14",
        ),
        ("http://forge/o/r/issues/1", "forge:80/o/r#1"),
        ("https://forge/o/r/issues/1", "forge:443/o/r#1"),
        ("https://github.com/o/r/issues/0014", "github.com/o/r#14"),
    ];
    for (text, canonical) in table {
        assert_eq!(alone(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn one_repository_has_one_key_from_its_pages_and_its_remotes() {
    let key = "github.com/shoko/kugetsu";
    for url in [
        "https://github.com/shoko/kugetsu",
        "https://github.com/shoko/kugetsu/",
        "https://github.com/Shoko/kugetsu.git",
        "https://token:x-oauth@github.com/shoko/kugetsu.git",
        "ssh://git@github.com/shoko/kugetsu.git",
        "ssh://git@github.com:22/shoko/kugetsu.git",
        "ssh://git@ssh.github.com:443/shoko/kugetsu.git",
        "git@ssh.github.com:shoko/kugetsu.git",
        "git+ssh://git@github.com/shoko/kugetsu",
        "git@github.com:shoko/kugetsu.git",
        "git@github.com:/shoko/kugetsu.git",
        "github.com:shoko/kugetsu",
        "git://github.com/shoko/kugetsu.git",
        "git://github.com:9418/shoko/kugetsu.git/",
    ] {
        assert_eq!(remote(url).as_deref(), Ok(key), "{url}");
    }
    assert_eq!(
        remote("http://git.example.org:3000/o/r.git").as_deref(),
        Ok("git.example.org:3000/o/r")
    );
    assert_eq!(
        remote("git@gitlab.com:g/sub/r.git").as_deref(),
        Ok("gitlab.com/g/sub/r")
    );
}

#[test]
fn remotes_that_name_no_forge() {
    for path in [
        "/srv/git/kugetsu.git",
        "../kugetsu",
        "./a:b/c",
        "kugetsu",
        "~/kugetsu.git",
        "file:///srv/git/kugetsu.git",
    ] {
        assert!(
            matches!(remote(path), Err(RefError::LocalRemote { .. })),
            "{path}: {:?}",
            remote(path)
        );
    }
    assert!(matches!(
        remote("alias:o/r.git"),
        Err(RefError::BadInstance { .. })
    ));
    assert!(matches!(
        remote("ftp://example.org/o/r"),
        Err(RefError::Scheme { .. })
    ));
    assert!(matches!(
        remote("ext::sh -c foo"),
        Err(RefError::BadInstance { .. })
    ));
    assert!(matches!(
        remote("git@github.com:r.git"),
        Err(RefError::TooFewSegments { .. })
    ));
    assert!(matches!(
        remote("https://github.com/"),
        Err(RefError::TooFewSegments { .. })
    ));
    assert!(matches!(
        remote("C:\\git\\kugetsu"),
        Err(RefError::BadInstance { .. })
    ));
}

#[test]
fn repositories_as_written_for_the_option() {
    let repo = |text| RepoRef::parse(text, &context()).map(|repo| repo.to_string());
    for (text, canonical) in [
        ("github.com/shoko/kugetsu", "github.com/shoko/kugetsu"),
        ("shoko/Kugetsu", "github.com/shoko/kugetsu"),
        (
            "https://github.com/shoko/kugetsu/issues/14",
            "github.com/shoko/kugetsu",
        ),
        ("https://gitlab.com/g/sub/r/-/tree/main/src", "gitlab.com/g/sub/r"),
        ("git@github.com:shoko/kugetsu.git", "github.com/shoko/kugetsu"),
        (
            "ssh://git@github.com/shoko/kugetsu.git",
            "github.com/shoko/kugetsu",
        ),
    ] {
        assert_eq!(repo(text).as_deref(), Ok(canonical), "{text}");
    }
    assert!(matches!(repo("shoko/kugetsu#14"), Err(RefError::NotARepo { .. })));
    assert!(matches!(repo("kugetsu"), Err(RefError::TooFewSegments { .. })));
}

#[test]
fn what_a_context_must_say() {
    assert!(matches!(
        alone("shoko/kugetsu#14"),
        Err(RefError::NoDefaultInstance { .. })
    ));
    for text in ["14", "#14"] {
        let error = alone(text).unwrap_err();
        assert!(matches!(error, RefError::NotInClone { .. }));
        assert!(error.to_string().contains("clone"), "{error}");
    }
    let error = parse("group/sub/tool#14").unwrap_err();
    assert!(matches!(error, RefError::NoInstance { .. }));
    assert!(error.to_string().contains("write the instance first"), "{error}");
    // The instance is there, and the owner is not.
    for text in [
        "github.com/kugetsu#14",
        "localhost/kugetsu#14",
        "forge:3000/kugetsu#14",
    ] {
        assert!(
            matches!(parse(text), Err(RefError::TooFewSegments { .. })),
            "{text}"
        );
    }
}

#[test]
fn numbers_that_no_issue_has() {
    for text in [
        "o/r#0",
        "o/r#000",
        "#0",
        "0",
        "o/r#",
        "#",
        "o/r#-1",
        "o/r#+1",
        "o/r#1.5",
        "o/r#1#2",
        "o/r#x",
        "o/r# 1",
        "o/r#18446744073709551616",
        "99999999999999999999999",
        "o/r#\u{ff11}\u{ff14}",
    ] {
        assert!(
            matches!(parse(text), Err(RefError::BadNumber { .. })),
            "{text}: {:?}",
            parse(text)
        );
    }
    for text in ["o/r", "github.com/o/r", "github.com/o/r/issues/14"] {
        assert!(
            matches!(parse(text), Err(RefError::NoNumber { .. })),
            "{text}: {:?}",
            parse(text)
        );
    }
    for url in [
        "https://github.com/o/r",
        "https://github.com/o/r/issues",
        "https://github.com/o/r/issues/new",
        "https://github.com/o/r/tree/main",
        "https://github.com/issues/14",
        "https://gitlab.com/groups/g/-/epics/3",
        "https://gitlab.com/g/r/-/issues",
    ] {
        assert!(
            matches!(alone(url), Err(RefError::NotAnIssueUrl { .. })),
            "{url}: {:?}",
            alone(url)
        );
    }
    assert!(matches!(
        alone("https://github.com/o/r/issues/0"),
        Err(RefError::BadNumber { .. })
    ));
    assert!(matches!(
        alone("ssh://github.com/o/r/issues/1"),
        Err(RefError::Scheme { .. })
    ));
}

#[test]
fn a_bad_character_is_named_with_its_place() {
    let table = [
        ("o/r\0#1", '\0', 4, "\\u{0}"),
        ("o/r\n#1", '\n', 4, "\\n"),
        ("o\\p/r#1", '\\', 2, "\\\\"),
        ("o/r%2e#1", '%', 4, "%"),
        ("o/my repo#1", ' ', 5, "' '"),
        (" o/r#1", ' ', 1, "' '"),
        ("sh\u{43e}ko/r#1", '\u{43e}', 3, "\\u{43e}"),
        ("o/\u{ff52}#1", '\u{ff52}', 3, "\\u{ff52}"),
        ("o/r\u{202e}#1", '\u{202e}', 4, "\\u{202e}"),
        ("github.com/o:x/r#1", ':', 13, "':'"),
        ("github.com/o/@r#1", '@', 14, "'@'"),
        ("gith\u{fc}b.com/o/r#1", '\u{fc}', 5, "\\u{fc}"),
    ];
    for (text, wrong, at, shown) in table {
        let error = parse(text).unwrap_err();
        let RefError::BadCharacter {
            character, position, ..
        } = &error
        else {
            panic!("{text:?}: {error:?}")
        };
        assert_eq!((*character, *position), (wrong, at), "{text:?}");
        let message = error.to_string();
        assert!(
            message.contains(shown) && message.contains(&at.to_string()),
            "{message}"
        );
        assert!(
            message
                .chars()
                .all(|character| character.is_ascii() && !character.is_control()),
            "{message}"
        );
    }
    // In a URL the place is that in the whole of it.
    let error = alone("https://github.com/o/r%20x/issues/1").unwrap_err();
    assert!(
        matches!(
            error,
            RefError::BadCharacter {
                character: '%',
                position: 23,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn paths_in_disguise_are_refused() {
    for text in [
        "github.com/../etc#1",
        "github.com/o/..#1",
        "github.com/./r#1",
        "../../etc#1",
        "o/..#1",
        "/etc/passwd#1",
        "github.com//r#1",
        "github.com/o/r/#1",
        "/#1",
        "//#1",
        "github.com/o/.git#1",
        "..//x#1",
        "https://github.com/o/../r/issues/1",
        "https://github.com//o/r/issues/1",
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            matches!(error, RefError::BadSegment { .. } | RefError::BadInstance { .. }),
            "{text}: {error:?}"
        );
    }
    for text in [
        "../o/r#1",
        "./o/r#1",
        ".../o/r#1",
        "a..b/o/r#1",
        ".com/o/r#1",
        "-a.com/o/r#1",
        "a.com./o/r#1",
    ] {
        assert!(
            matches!(parse(text), Err(RefError::BadInstance { .. })),
            "{text}: {:?}",
            parse(text)
        );
    }
    for port in ["0", "65536", "", "99999999999"] {
        let text = format!("forge:{port}/o/r#1");
        assert!(
            matches!(parse(&text), Err(RefError::BadInstance { .. })),
            "{text}: {:?}",
            parse(&text)
        );
    }
}

#[test]
fn lengths() {
    let name = |bytes| "x".repeat(bytes);
    assert!(parse(&format!("o/{}#1", name(200))).is_ok());
    assert!(matches!(
        parse(&format!("o/{}#1", name(201))),
        Err(RefError::SegmentTooLong { bytes: 201, .. })
    ));
    assert!(matches!(
        parse(&format!("o/{}#1", name(300))),
        Err(RefError::SegmentTooLong { bytes: 300, .. })
    ));
    assert!(matches!(
        parse(&format!("{}.com/o/r#1", name(300))),
        Err(RefError::SegmentTooLong { .. })
    ));
    assert!(parse(&format!("github.com{}#1", "/a".repeat(20))).is_ok());
    assert!(matches!(
        parse(&format!("github.com{}#1", "/a".repeat(21))),
        Err(RefError::TooManySegments { count: 21, .. })
    ));
    assert!(matches!(parse(&name(100_000)), Err(RefError::TooLong { .. })));
    assert!(matches!(
        parse(&format!("o/r#{}1", "0".repeat(1000))),
        Err(RefError::TooLong { .. })
    ));
    assert_eq!(parse(""), Err(RefError::Empty));
    // A query may be as long as it likes.
    assert!(alone(&format!("https://github.com/o/r/issues/1?{}", name(5000))).is_ok());
    // The longest repository takes the largest number, and what is printed is read again.
    let longest = format!("github.com{}", format!("/{}", name(192)).repeat(5));
    let repo = RepoRef::try_from(longest.clone()).unwrap();
    let largest = IssueRef::new(repo, u64::MAX).unwrap();
    assert_eq!(IssueRef::try_from(largest.to_string()), Ok(largest));
    assert!(matches!(
        RepoRef::try_from(longest + "xxxxx"),
        Err(RefError::TooLong { .. })
    ));
}

#[test]
fn a_password_in_a_url_is_not_repeated() {
    for text in [
        "https://me:hunter2@github.com/o/r",
        "https://me:hunter2@github.com/o/r x/issues/1",
    ] {
        let message = alone(text).unwrap_err().to_string();
        assert!(
            !message.contains("hunter2") && message.contains("***@github.com"),
            "{message}"
        );
    }
}

#[test]
fn accessors_and_serde() {
    let issue = IssueRef::parse("Git.Example.org:3000/G/sub/Repo#7", &context()).unwrap();
    assert_eq!(issue.instance(), "git.example.org:3000");
    assert_eq!(issue.segments().collect::<Vec<_>>(), ["g", "sub", "repo"]);
    assert_eq!((issue.name(), issue.number()), ("repo", 7));
    assert_eq!(issue.repo().to_string(), "git.example.org:3000/g/sub/repo");
    let json = serde_json::to_string(&issue).unwrap();
    assert_eq!(json, "\"git.example.org:3000/g/sub/repo#7\"");
    assert_eq!(serde_json::from_str::<IssueRef>(&json).unwrap(), issue);
    // A record never depends on where it is read: short forms are none.
    for short in [
        "\"#7\"",
        "\"7\"",
        "\"o/r#7\"",
        "\"https://github.com/o/r/issues/7\"",
        "\"github.com/o/../r#7\"",
    ] {
        assert!(serde_json::from_str::<IssueRef>(short).is_err(), "{short}");
    }
    assert!(IssueRef::new(issue.repo().clone(), 0).is_err());
}

/// A repository, or an issue of it.
fn reference() -> impl Strategy<Value = (RepoRef, Option<IssueRef>)> {
    let instance = prop::sample::select(vec!["a.b", "a.b:1", "localhost", "14.json", "base.json"]);
    let odd = prop::sample::select(vec![
        "14",
        "014",
        "base.json",
        "a-b",
        "-",
        "x.git",
        "14.json.broken-1",
    ]);
    let usual = "[a-zA-Z0-9._~+-]{1,6}".prop_filter("a path's own names", |text| text != "." && text != "..");
    let segment = prop_oneof![odd.prop_map(str::to_owned), usual];
    let number = prop_oneof![Just(None), any::<u64>().prop_map(|number| Some(number.max(1)))];
    let parts = (instance, prop::collection::vec(segment, 2..6), number);
    parts.prop_filter_map("a name that is only .git", |(instance, segments, number)| {
        let repo = RepoRef::try_from(format!("{instance}/{}", segments.join("/"))).ok()?;
        let issue = number
            .map(|number| IssueRef::new(repo.clone(), number))
            .transpose()
            .ok()?;
        Some((repo, issue))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_again((repo, issue) in reference()) {
        if let Some(issue) = issue {
            let text = issue.to_string();
            prop_assert_eq!(&IssueRef::parse(&text, &RefContext::default()).unwrap(), &issue);
            prop_assert_eq!(&IssueRef::parse(&text.to_uppercase(), &context()).unwrap(), &issue);
            prop_assert_eq!(&IssueRef::try_from(text).unwrap(), &issue);
        } else {
            let text = repo.to_string();
            prop_assert_eq!(&RepoRef::parse(&text, &RefContext::default()).unwrap(), &repo);
            prop_assert_eq!(&RepoRef::try_from(text).unwrap(), &repo);
        }
    }

    #[test]
    fn what_was_read_before_changes_nothing(
        texts in prop::collection::vec("(a\\.b|A\\.B)/(c|C)(/d|/D|/d\\.git|/\\.\\.|/)?(#1|#01|#0|#)?", 1..8)
    ) {
        let read = |text: &String| (RepoRef::try_from(text.clone()), IssueRef::try_from(text.clone()));
        for text in &texts {
            // A thread of its own has read nothing.
            let fresh = std::thread::scope(|scope| scope.spawn(|| read(text)).join().unwrap());
            prop_assert_eq!(read(text), fresh);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check_any(&text);
    }

    #[test]
    fn no_text_that_looks_right_panics(
        text in "(https?://|ssh://|git@|HTTP://)?[a-z.:@-]{0,9}(/([a-zA-Z0-9._~-]{0,4}|\\.\\.|-|issues|pull|%2e)){0,6}[#:/?]?[0-9]{0,21}\\PC?"
    ) {
        check_any(&text);
    }
}

fn check_any(text: &str) {
    for context in [context(), RefContext::default()] {
        match IssueRef::parse(text, &context) {
            Ok(issue) => assert_eq!(IssueRef::try_from(issue.to_string()), Ok(issue)),
            Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error}"),
        }
        let _ = RepoRef::parse(text, &context);
    }
    let _ = RepoRef::from_remote_url(text);
}
