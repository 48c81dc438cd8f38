//! The paths of keys: every key has its own paths inside the store, and no input leads outside.

use std::path::{Component, Path, PathBuf};

use kugetsu_api::{Address, AddressName, IssueRef, RefContext, RepoRef};
use proptest::prelude::*;

use crate::store::{RecordKey, Store};

/// Segments that look like the store's own file names, and any others.
fn segment() -> impl Strategy<Value = String> {
    let sly = [
        "14",
        "15",
        "0",
        "014",
        "base",
        "base.json",
        "14.json",
        "15.json",
        "14.lease",
        "base.lease",
        "14.status.json",
        "14.signal",
        "14.json.broken-1",
        ".tmp-1",
        "base.x",
        "a",
        "b",
        "a-b",
        "-",
        "x.lease",
        "x.git",
        "turns.jsonl",
        "at",
        "14-a-b",
        "~base",
        "~base.json",
        "~base.signal",
    ];
    prop_oneof![
        4 => prop::sample::select(sly.to_vec()).prop_map(str::to_owned),
        1 => "[a-zA-Z0-9._~+-]{1,6}".prop_filter("a path's own names", |text| text != "." && text != ".."),
    ]
}

/// Roles and names, including some that look like files of the store.
fn name() -> impl Strategy<Value = AddressName> {
    let sly = [
        "at", "base", "14", "1.2", "review", "turns", "lease", "a-b", "a_b",
    ];
    prop_oneof![
        prop::sample::select(sly.to_vec()).prop_map(str::to_owned),
        "[a-zA-Z0-9][a-zA-Z0-9._-]{0,5}".prop_map(|text| text),
    ]
    .prop_filter_map("a name", |text| AddressName::new(&text).ok())
}

/// The session of an issue, or of one of the issue's roles.
fn of_issue(issue: IssueRef, role: Option<AddressName>) -> RecordKey {
    RecordKey::Session(match role {
        None => Address::Issue(issue),
        Some(role) => Address::Role(issue, role),
    })
}

fn key() -> impl Strategy<Value = RecordKey> {
    let instance = prop::sample::select(vec!["a.b", "a.b:1", "localhost", "14.json", "base.json"]);
    let number = prop_oneof![
        Just(None),
        (13_u64..17).prop_map(Some),
        any::<u64>().prop_map(|n| Some(n.max(1)))
    ];
    let parts = (
        instance,
        prop::collection::vec(segment(), 2..6),
        number,
        prop::option::of(name()),
    );
    parts.prop_filter_map(
        "a name that is only .git",
        |(instance, segments, number, name)| {
            let repo = RepoRef::try_from(format!("{instance}/{}", segments.join("/"))).ok()?;
            Some(match (number, name) {
                (None, None) => RecordKey::Base(repo),
                (None, Some(name)) => RecordKey::Session(Address::Named(repo, name)),
                (Some(number), role) => of_issue(IssueRef::new(repo, number).ok()?, role),
            })
        },
    )
}

/// Two keys; often one is named like a file or a folder of the other.
fn two_keys() -> impl Strategy<Value = (RecordKey, RecordKey)> {
    let more = (
        prop::collection::vec(segment(), 0..3),
        13_u64..17,
        prop::option::of(name()),
    );
    let nested = (key(), more).prop_filter_map("too deep", |(a, (more, n, role))| {
        let folders: Vec<_> = std::iter::once(a.repo().to_string()).chain(more).collect();
        let repo = RepoRef::try_from(folders.join("/")).ok()?;
        Some((a, of_issue(IssueRef::new(repo, n).ok()?, role)))
    });
    prop_oneof![nested, (key(), key())]
}

/// Every path that belongs to this key alone.
fn own_paths(store: &Store, key: &RecordKey) -> Vec<PathBuf> {
    vec![
        store.record_path(key),
        store.folder(key),
        store.run_path(key, ".lease"),
        store.run_path(key, ".status.json"),
        store.run_path(key, ".signal"),
    ]
}

fn is_inside(path: &Path, root: &Path) -> bool {
    path.strip_prefix(root).is_ok_and(|below| {
        below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_share_no_files((a, b) in two_keys()) {
        let store = Store::open("/home".into());
        for mine in own_paths(&store, &a) {
            for theirs in own_paths(&store, &b) {
                // Neither is inside the other: no file takes the place of the other's folder.
                let apart = !mine.starts_with(&theirs) && !theirs.starts_with(&mine);
                // An issue's roles are an exception: they are in a folder inside the issue's folder.
                let of_one_issue = is_role_of(&a, &b) || is_role_of(&b, &a);
                prop_assert!(a == b || apart || (of_one_issue && mine != theirs), "{a} has {}, {b} has {}", mine.display(), theirs.display());
            }
        }
    }

    #[test]
    fn no_worktree_is_inside_another((a, b) in two_keys()) {
        let (mine, theirs) = (a.worktree(), b.worktree());
        let apart = !mine.starts_with(&theirs) && !theirs.starts_with(&mine);
        prop_assert!(a == b || apart, "{a} has {}, {b} has {}", mine.display(), theirs.display());
        prop_assert!(is_inside(&Path::new("/w").join(&mine), Path::new("/w")));
        prop_assert!(!mine.to_string_lossy().contains(':'));
    }

    #[test]
    fn the_order_of_addresses_agrees_with_equality((a, b) in two_keys()) {
        if let (RecordKey::Session(a), RecordKey::Session(b)) = (a, b) {
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        }
    }

    #[test]
    fn every_file_is_inside_and_is_found_back(key in key()) {
        let store = Store::open("/home".into());
        for (path, root) in own_paths(&store, &key).into_iter().zip(["sessions", "sessions", "run", "run", "run"]) {
            prop_assert!(is_inside(&path, &store.home().join(root)), "{}", path.display());
            let longest = path.components().map(|part| part.as_os_str().len()).max().unwrap();
            prop_assert!(longest <= 255);
        }
        prop_assert_eq!(RecordKey::of_record(&key.record()), Some(key));
    }

    #[test]
    fn no_text_leaves_the_folder(text in any::<String>()) {
        check_any(&text);
    }

    #[test]
    fn no_plausible_text_leaves_the_folder(
        text in "(https?://|ssh://|git@|HTTP://)?[a-z.:@-]{0,9}(/([a-zA-Z0-9._~-]{0,4}|\\.\\.|-|issues|pull|%2e)){0,6}[#:/?~]?[0-9]{0,21}(/[a-z0-9.]{0,4})?\\PC?"
    ) {
        check_any(&text);
    }
}

fn is_role_of(role: &RecordKey, issue: &RecordKey) -> bool {
    match (role, issue) {
        (RecordKey::Session(Address::Role(of, _)), RecordKey::Session(Address::Issue(issue))) => of == issue,
        _ => false,
    }
}

fn check_any(text: &str) {
    let store = Store::open("/home".into());
    let origin = RepoRef::try_from("git.example.org/team/tool".to_owned()).unwrap();
    let context = RefContext {
        default_instance: Some("github.com".to_owned()),
        origin: Some(origin),
    };
    for context in [context, RefContext::default()] {
        if let Ok(address) = Address::parse(text, &context) {
            let key = RecordKey::from(&address);
            assert!(
                is_inside(&store.record_path(&key), Path::new("/home/sessions")),
                "{text:?}"
            );
            assert_eq!(RecordKey::of_record(&key.record()), Some(key), "{text:?}");
        }
        if let Ok(repo) = RepoRef::parse(text, &context) {
            assert!(
                is_inside(&store.folder(&(&repo).into()), Path::new("/home/sessions")),
                "{text:?}"
            );
        }
    }
}
