//! Random operations, including damage: afterwards, the index and the records always agree.

use std::collections::BTreeMap;

use crate::store::{Index, RecordKey, Store, StoreError};
use kugetsu_api::{Address, RepoRef};
use proptest::prelude::*;

use super::common::*;

#[derive(Clone, Debug)]
enum Operation {
    Save(usize),
    SaveBase(usize),
    Trash(usize),
    TrashBase(usize),
    Restore(usize),
    SetDefault(Option<usize>),
    Rebuild,
    LoseIndex,
    SpoilIndex,
    EmptyIndex,
}

const REPOS: [&str; 3] = [
    "github.com/shoko/kugetsu",
    "gitlab.com/g/sub",
    "gitlab.com/g/sub/14",
];

/// For each repository: two issues, a role of the first one, and a session without an issue.
const SESSIONS: usize = 12;

fn key_of(number: usize) -> Address {
    let rest = ["#13", "#14", "#13/review", "~nightly"][number / 3];
    address(&format!("{}{rest}", REPOS[number % 3]))
}

fn repo_of(number: usize) -> RepoRef {
    repo(REPOS[number % 3])
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..SESSIONS).prop_map(Operation::Save),
        2 => (0..3_usize).prop_map(Operation::SaveBase),
        2 => (0..SESSIONS).prop_map(Operation::Trash),
        1 => (0..3_usize).prop_map(Operation::TrashBase),
        2 => (0..SESSIONS).prop_map(Operation::Restore),
        1 => prop::option::of(0..3_usize).prop_map(Operation::SetDefault),
        1 => Just(Operation::Rebuild),
        1 => Just(Operation::LoseIndex),
        1 => Just(Operation::SpoilIndex),
        1 => Just(Operation::EmptyIndex),
    ]
}

/// The expected state: titles of sessions and bases, and the trash of each, newest last.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<Address, String>,
    bases: BTreeMap<RepoRef, i64>,
    trash: BTreeMap<Address, Vec<String>>,
}

fn apply(store: &Store, model: &mut Model, at: usize, operation: &Operation) {
    let index = store.home().join("index.json");
    match operation {
        Operation::Save(number) => {
            let address = key_of(*number);
            save(store, &address, &at.to_string()).unwrap();
            model.sessions.insert(address, at.to_string());
        }
        Operation::SaveBase(number) => {
            let repo = repo_of(*number);
            let created = *model
                .bases
                .entry(repo.clone())
                .or_insert(i64::try_from(at).unwrap());
            save_base(store, &repo, created);
        }
        Operation::Trash(number) => {
            let address = key_of(*number);
            let result = store.trash_session(&lease(store, &address), &address, "test");
            assert_eq!(result.is_ok(), model.sessions.contains_key(&address));
            if let Some(title) = model.sessions.remove(&address) {
                model.trash.entry(address).or_default().push(title);
            }
        }
        Operation::TrashBase(number) => {
            let repo = repo_of(*number);
            let lease = store.lease_base(&repo, me(), None).unwrap();
            assert_eq!(
                store.trash_base(&lease, &repo, "test").is_ok(),
                model.bases.remove(&repo).is_some()
            );
        }
        Operation::Restore(number) => {
            let address = key_of(*number);
            let trashed = model.trash.entry(address.clone()).or_default();
            match store.restore_session(&lease(store, &address), &address) {
                Ok(_) => {
                    assert!(!model.sessions.contains_key(&address));
                    model.sessions.insert(address, trashed.pop().unwrap());
                }
                Err(StoreError::Exists { .. }) => assert!(model.sessions.contains_key(&address)),
                Err(StoreError::NotInTrash { .. }) => assert!(trashed.is_empty()),
                Err(error) => panic!("{error}"),
            }
        }
        Operation::SetDefault(number) => {
            let repo = number.map(repo_of).filter(|repo| model.bases.contains_key(repo));
            store.set_default_base(repo.as_ref()).unwrap();
        }
        Operation::Rebuild => drop(store.rebuild_index().unwrap()),
        Operation::LoseIndex => drop(std::fs::remove_file(&index)),
        Operation::SpoilIndex => overwrite(&index, "{ \"schema\": 1, \"base"),
        Operation::EmptyIndex => overwrite(&index, "{\"schema\": 1, \"base\": null}"),
    }
}

fn check(store: &Store, model: &Model) {
    let found: BTreeMap<_, _> = store
        .session_records()
        .unwrap()
        .found
        .into_iter()
        .map(|record| (record.address, record.title))
        .collect();
    assert_eq!(found, model.sessions);
    let bases: BTreeMap<_, _> = store
        .bases()
        .unwrap()
        .found
        .into_iter()
        .map(|base| (base.repo, base.created))
        .collect();
    assert_eq!(
        bases,
        model
            .bases
            .iter()
            .map(|(repo, created)| (repo.clone(), at(*created)))
            .collect()
    );
    for number in 0..SESSIONS {
        let address = key_of(number);
        assert_eq!(
            store
                .session_record(&address)
                .unwrap()
                .map(|record| record.title)
                .as_ref(),
            model.sessions.get(&address)
        );
    }
    if let Some(default) = store.default_base().unwrap() {
        assert!(model.bases.contains_key(&default));
    }
}

fn index_of(model: &Model, base: Option<String>) -> Index {
    let file = |key: RecordKey| key.record().to_str().unwrap().to_owned();
    let entries = |expected: fn(&Address) -> bool| {
        let keys = model.sessions.keys().filter(|address| expected(address));
        keys.map(|address| (address.to_string(), file(address.into())))
            .collect()
    };
    Index {
        base,
        bases: model
            .bases
            .keys()
            .map(|repo| (repo.to_string(), file(repo.into())))
            .collect(),
        issues: entries(|address| matches!(address, Address::Issue(_))),
        sessions: entries(|address| !matches!(address, Address::Issue(_))),
        ..Index::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn index_and_records_agree(operations in prop::collection::vec(operation(), 1..24)) {
        let (_folder, store) = store();
        let mut model = Model::default();
        let mut damaged = false;
        for (at, operation) in operations.iter().enumerate() {
            apply(&store, &mut model, at, operation);
            damaged = match operation {
                Operation::LoseIndex | Operation::SpoilIndex | Operation::EmptyIndex => true,
                Operation::Rebuild => false,
                _ => damaged,
            };
            check(&store, &model);
            if !damaged {
                let index = store.index().unwrap();
                prop_assert_eq!(&index, &index_of(&model, index.base.clone()));
                prop_assert_eq!(store.check(), []);
            }
        }
        prop_assert_eq!(fix_all(&store), []);
        let index = store.index().unwrap();
        prop_assert_eq!(&index, &index_of(&model, index.base.clone()));
        check(&store, &model);
    }
}
