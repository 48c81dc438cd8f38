//! What is kept in memory of the records, beside a walk over the files, while the files change in every way.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::common::*;
use crate::store::listing::Broken;
use crate::store::{RecordCache, Store};
use kugetsu_api::SessionRecord;

/// Something that happens to the files.
#[derive(Clone, Debug)]
enum Step {
    /// Another content, written into the file.
    Write(usize, u8),
    /// Another content, by a file that takes the place of the old one.
    Replace(usize, u8),
    /// Half a record.
    Spoil(usize),
    Delete(usize),
    /// A link in the place of the file.
    Link(usize),
    /// A folder in the place of the file.
    Folder(usize),
    /// A file that is none of kugetsu's records.
    Other(usize),
    /// The folder of an issue, without roles.
    IssueFolder(usize),
    /// The folder of a repository moves elsewhere, or to the place of another one.
    Move(usize, usize),
    RemoveRepo(usize),
    RemoveAll,
    /// Only one of several changes is followed by a look.
    Look,
}

/// Records of all kinds, and what only looks like one.
const FILES: [&str; 10] = [
    "github.com/acme/shop/1.json",
    "github.com/acme/shop/2.json",
    "github.com/acme/shop/1/at/review.json",
    "github.com/acme/shop/3/at/review.json",
    "github.com/acme/shop/~nightly.json",
    "github.com/acme/shop/base.json",
    "github.com/acme/other/1.json",
    "github.com/acme/other/2/at/review.json",
    "git.example.org/group/below/deep/7.json",
    "github.com/acme/shop/007.json",
];
const OTHERS: [&str; 5] = [
    "github.com/acme/shop/notes.txt",
    "github.com/acme/shop/1/a.events.jsonl",
    "github.com/acme/9.json",
    "github.com/acme/shop/.tmp-1.json",
    "github.com/acme/shop/1/at/notes.txt",
];
const REPOS: [&str; 4] = [
    "github.com/acme/shop",
    "github.com/acme/other",
    "git.example.org/group/below/deep",
    "github.com/acme",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = 0..FILES.len();
    let repo = 0..REPOS.len();
    let step = prop_oneof![
        6 => (file.clone(), any::<u8>()).prop_map(|(file, content)| Step::Write(file, content)),
        6 => (file.clone(), any::<u8>()).prop_map(|(file, content)| Step::Replace(file, content)),
        2 => file.clone().prop_map(Step::Spoil),
        3 => file.clone().prop_map(Step::Delete),
        1 => file.clone().prop_map(Step::Link),
        1 => file.prop_map(Step::Folder),
        2 => (0..OTHERS.len()).prop_map(Step::Other),
        1 => (1..5_usize).prop_map(Step::IssueFolder),
        1 => (repo.clone(), repo.clone()).prop_map(|(from, to)| Step::Move(from, to)),
        1 => repo.prop_map(Step::RemoveRepo),
        1 => Just(Step::RemoveAll),
        8 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 1..50)
}

/// The text of a record of this file. All contents of a file have the same length.
fn content(file: &str, content: u8) -> String {
    let (repo, name) = file.split_once("/at/").map_or_else(
        || file.rsplit_once('/').unwrap(),
        |(issue, _)| issue.rsplit_once('/').unwrap(),
    );
    let name = name.trim_end_matches(".json");
    if name == "base" {
        return serde_json::to_string(&base_record(&super::common::repo(repo), i64::from(content))).unwrap();
    }
    let mut address = match name.strip_prefix('~') {
        Some(_) => format!("{repo}{name}"),
        None => format!("{repo}#{}", name.trim_start_matches('0')),
    };
    if file.contains("/at/") {
        address.push_str("/review");
    }
    let record = issue_record(&super::common::address(&address), &format!("title {content:03}"));
    serde_json::to_string(&record).unwrap()
}

fn prepare(path: &Path) {
    // What is in the way may be of any kind.
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    }
    let mut parent = path.parent().unwrap().to_owned();
    while !parent.exists() && !parent.is_symlink() {
        parent.pop();
    }
    if !parent.is_dir() || parent.is_symlink() {
        fs::remove_file(&parent).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
}

/// Writes into the file that is there, if it is one.
fn write(path: &Path, text: &str) {
    prepare(path);
    if path.is_symlink() {
        fs::remove_file(path).unwrap();
    }
    fs::write(path, text).unwrap();
}

fn happen(sessions: &Path, step: &Step) {
    let file = |file: &usize| sessions.join(FILES[*file]);
    match step {
        Step::Write(at, number) => write(&file(at), &content(FILES[*at], *number)),
        Step::Replace(at, number) => {
            let path = file(at);
            prepare(&path);
            let new = path.with_file_name(".tmp-new");
            fs::write(&new, content(FILES[*at], *number)).unwrap();
            fs::rename(new, path).unwrap();
        }
        Step::Spoil(at) => write(&file(at), &content(FILES[*at], 0)[..40]),
        Step::Delete(at) => {
            let _ = fs::remove_file(file(at));
        }
        Step::Link(at) => {
            let path = file(at);
            prepare(&path);
            let _ = fs::remove_file(&path);
            symlink("/dev/null", path).unwrap();
        }
        Step::Folder(at) => {
            let path = file(at);
            prepare(&path);
            let _ = fs::remove_file(&path);
            fs::create_dir_all(path).unwrap();
        }
        Step::Other(at) => write(&sessions.join(OTHERS[*at]), "what is not a record"),
        Step::IssueFolder(number) => {
            let path = sessions.join(REPOS[0]).join(number.to_string());
            prepare(&path);
            let _ = fs::create_dir(path);
        }
        Step::Move(from, to) => {
            let _ = fs::rename(sessions.join(REPOS[*from]), sessions.join(REPOS[*to]));
            // A folder that is full is not replaced.
            let aside = sessions.join("github.com/aside");
            if fs::rename(sessions.join(REPOS[*from]), &aside).is_ok() {
                let _ = fs::rename(sessions.join(REPOS[*to]), sessions.join(REPOS[*from]));
                prepare(&sessions.join(REPOS[*to]));
                let _ = fs::rename(&aside, sessions.join(REPOS[*to]));
            }
        }
        Step::RemoveRepo(at) => {
            let _ = fs::remove_dir_all(sessions.join(REPOS[*at]));
        }
        Step::RemoveAll => {
            let _ = fs::remove_dir_all(sessions);
        }
        Step::Look => {}
    }
}

type Cache = RecordCache<SessionRecord, Vec<SessionRecord>>;

/// What the cache has, and how many records it has read for that.
fn cached(cache: &mut Cache, store: &Store) -> (Vec<SessionRecord>, Vec<Broken>, usize) {
    let read = std::sync::atomic::AtomicUsize::new(0);
    let mut found = Vec::new();
    let broken = cache.fold(
        store,
        |record| {
            read.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            record
        },
        |block: &mut Vec<_>, record| {
            block.push(record.clone());
            record.title != "title 001"
        },
        |block| found.extend_from_slice(block),
    );
    let broken = broken.unwrap().expect("this file system can be watched");
    (found, broken, read.into_inner())
}

fn walked(store: &Store) -> (Vec<SessionRecord>, Vec<Broken>) {
    let listing = store.session_records().unwrap();
    (listing.found, listing.broken)
}

#[track_caller]
fn compare(cache: &mut Cache, store: &Store) {
    let (found, broken, _) = cached(cache, store);
    assert_eq!((found, broken), walked(store));
}

fn sessions_of(store: &Store) -> PathBuf {
    store.home().join("sessions")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_in_memory_is_what_is_on_disk(steps in steps()) {
        let (_folder, store) = store();
        fs::create_dir_all(store.home()).unwrap();
        let mut cache = Cache::default();
        for step in &steps {
            happen(&sessions_of(&store), step);
            if matches!(step, Step::Look) {
                compare(&mut cache, &store);
            }
        }
        compare(&mut cache, &store);
    }
}

#[test]
fn only_what_has_changed_is_read() {
    let (_folder, store) = store();
    for number in 1..=300 {
        save(
            &store,
            &address(&format!("github.com/acme/shop#{number}")),
            "title",
        )
        .unwrap();
    }
    let mut cache = Cache::default();
    assert_eq!(cached(&mut cache, &store).2, 300);
    assert_eq!(cached(&mut cache, &store).2, 0);
    for (number, read) in [(7, 1), (301, 1)] {
        save(
            &store,
            &address(&format!("github.com/acme/shop#{number}")),
            "another",
        )
        .unwrap();
        assert_eq!(cached(&mut cache, &store).2, read);
        compare(&mut cache, &store);
    }
}
