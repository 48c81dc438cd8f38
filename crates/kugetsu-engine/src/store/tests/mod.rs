//! The store through its public interface: records, index, leases, turns, trash, and the findings of doctor.
#![allow(
    clippy::disallowed_methods,
    reason = "the tests do to files what the store must withstand"
)]
#![allow(
    clippy::disallowed_macros,
    reason = "the process of a test speaks to the test"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod cached;
mod common;
mod crash;
mod faults;
mod leases;
mod old_home;
mod paths;
mod random;
mod trash;

use std::os::unix::fs::PermissionsExt;

use crate::store::{Finding, Fixed, Index, RecordKey, Store, StoreError, record_text};
use common::*;
use kugetsu_api::{
    BaseRecord, BlockedRebase, LiveTurn, RunState, SCHEMA, SessionId, SessionSummary, TransportKind,
    TurnRecord, Verdict, Worktree,
};

#[test]
fn nothing_is_written_before_the_first_write() {
    let (folder, store) = store();
    let address = address("github.com/shoko/kugetsu#14");
    assert_eq!(store.session_record(&address).unwrap(), None);
    assert_eq!(store.base(address.repo()).unwrap(), None);
    assert_eq!(store.default_base().unwrap(), None);
    assert_eq!(store.session_records().unwrap().found, []);
    assert_eq!(store.index().unwrap(), Index::default());
    assert!(store.turns(&address).unwrap().is_empty() && store.trash_list().unwrap().is_empty());
    assert_eq!(store.check(), []);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_record_is_read_as_it_was_written_and_is_private() {
    let (_folder, store) = store();
    let address = address("github.com/shoko/kugetsu#14");
    save(&store, &address, "first").unwrap();
    save(&store, &address, "second").unwrap();
    assert_eq!(
        store.session_record(&address).unwrap(),
        Some(issue_record(&address, "second"))
    );
    let path = store.home().join("sessions/github.com/shoko/kugetsu/14.json");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    for folder in path
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(store.home()))
    {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(names, ["14.json"], "no temporary file stays");
    assert!(matches!(store.base(address.repo()), Ok(None)));
}

#[test]
fn a_write_needs_the_lease_of_its_own_key_in_its_own_store() {
    let (_folder, store) = store();
    let (_other_folder, elsewhere) = common::store();
    let (address, other) = (
        address("github.com/shoko/kugetsu#14"),
        address("github.com/shoko/kugetsu#15"),
    );
    let base = store.lease_base(address.repo(), me(), None).unwrap();
    for lease in [lease(&store, &other), lease(&elsewhere, &address), base] {
        let record = issue_record(&address, "x");
        assert!(matches!(
            store.save_session(&lease, &record),
            Err(StoreError::WrongLease { .. })
        ));
        assert!(matches!(
            store.append_turn(&lease, &address, &turn(1)),
            Err(StoreError::WrongLease { .. })
        ));
        assert!(matches!(
            store.trash_session(&lease, &address, ""),
            Err(StoreError::WrongLease { .. })
        ));
        assert!(matches!(
            store.restore_session(&lease, &address),
            Err(StoreError::WrongLease { .. })
        ));
    }
    assert_eq!(store.session_record(&address).unwrap(), None);
}

#[test]
fn a_summary_agrees_with_the_whole_record() {
    let address = address("github.com/shoko/kugetsu#14");
    let live = LiveTurn {
        turn: uuid::Uuid::from_u128(7),
        supervisor: crate::process::current(),
        started: at(5),
        transport: TransportKind::Run,
        shared: false,
        prompt: None,
        prompt_sha256: None,
        parent: None,
        after: None,
    };
    let worktree = |blocked_rebase| Worktree {
        path: "/srv/14".into(),
        branch: "kugetsu/14".to_owned(),
        base_commit: "0".repeat(40),
        base_branch: None,
        blocked_rebase,
        repo_dir: "/srv/kugetsu".into(),
        created: at(0),
        pending: false,
    };
    let blocked = BlockedRebase {
        onto: "main".to_owned(),
        conflicts: vec!["a".to_owned()],
    };
    let mut seen = std::collections::HashSet::new();
    for live in [None, Some(live)] {
        for verdict in [None, Some(Verdict::Completed), Some(Verdict::Quota)] {
            for worktree in [None, Some(worktree(None)), Some(worktree(Some(blocked.clone())))] {
                for session in [None, SessionId::new("ses_1a2b3c4d5e6f")] {
                    let mut record = issue_record(&address, "a title");
                    record.count(&turn(3));
                    record.live.clone_from(&live);
                    record.last = verdict.map(|verdict| TurnRecord { verdict, ..turn(3) });
                    record.worktree.clone_from(&worktree);
                    record.session.clone_from(&session);
                    let text = record_text(&record).unwrap();
                    let summary: SessionSummary = serde_json::from_slice(&text).unwrap();
                    assert_eq!(
                        (
                            summary.schema,
                            &summary.address,
                            &summary.session,
                            summary.updated,
                            summary.totals
                        ),
                        (
                            record.schema,
                            &record.address,
                            &record.session,
                            record.updated,
                            record.totals
                        )
                    );
                    assert!(summary.passes_on());
                    for alive in [true, false] {
                        let state = record.state(|_| alive.then_some(RunState::Running));
                        assert_eq!(
                            summary.state(|live| (alive && Some(live) == record.live.as_ref())
                                .then_some(RunState::Running)),
                            state
                        );
                        seen.insert(state);
                    }
                }
            }
        }
    }
    assert_eq!(
        seen.len(),
        6,
        "new, running, lost, two verdicts, blocked: {seen:?}"
    );
}

#[test]
fn a_newer_record_is_read_and_never_rewritten() {
    let (_folder, store) = store();
    let address = address("github.com/shoko/kugetsu#14");
    save(&store, &address, "old").unwrap();
    let path = record_path(&store, &address);
    let text = std::fs::read_to_string(&path).unwrap();
    let readable = text.replacen("\"schema\": 1", "\"schema\": 2, \"more\": [1]", 1);
    let unreadable = "{\"schema\": 7, \"everything\": \"else\"}";
    for (newer, found) in [(readable.as_str(), 2), (unreadable, 7)] {
        overwrite(&path, newer);
        match store.session_record(&address) {
            Ok(Some(record)) => assert_eq!(record.schema, 2),
            Err(StoreError::Newer { found, known, .. }) => assert_eq!((found, known), (7, SCHEMA)),
            other => panic!("{other:?}"),
        }
        let refused = save(&store, &address, "new").unwrap_err();
        assert!(
            matches!(refused, StoreError::Newer { found: f, .. } if f == found),
            "{refused}"
        );
        let finding = Finding::Newer {
            path: path.clone(),
            found,
        };
        assert_eq!(store.check(), std::slice::from_ref(&finding));
        assert_eq!(store.fix(&finding).unwrap(), Fixed::NotByMachine);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    }
    // A record that claims to be newer is not written either.
    let fresh = common::address("github.com/shoko/kugetsu#15");
    let mut record = issue_record(&fresh, "x");
    record.schema = 2;
    assert!(matches!(
        store.save_session(&lease(&store, &fresh), &record),
        Err(StoreError::Newer { .. })
    ));
    assert_eq!(store.session_record(&fresh).unwrap(), None);
}

#[test]
fn a_broken_record_stays_is_reported_and_is_moved_aside_only_by_fix() {
    let (_folder, store) = store();
    let address = address("github.com/shoko/kugetsu#14");
    let path = record_path(&store, &address);
    save(&store, &address, "good").unwrap();
    let whole = std::fs::read(&path).unwrap();
    let other = serde_json::to_vec(&issue_record(
        &common::address("github.com/shoko/kugetsu#15"),
        "x",
    ))
    .unwrap();
    let truncated = &whole[..whole.len() / 2];
    for broken in [
        truncated,
        b"",
        b"\0\xff\xfe",
        b"[]",
        b"{\"schema\": 1}",
        other.as_slice(),
    ] {
        overwrite(&path, broken);
        assert!(
            matches!(store.session_record(&address), Err(StoreError::Broken { path: named, .. }) if named == path)
        );
        assert!(matches!(
            save(&store, &address, "new"),
            Err(StoreError::Broken { .. })
        ));
        assert_eq!(
            std::fs::read(&path).unwrap(),
            broken,
            "neither reading nor writing changes it"
        );
        let listing = store.session_records().unwrap();
        assert!(
            listing.found.is_empty() && listing.broken[0].0 == path,
            "{listing:?}"
        );
        let findings = store.check();
        assert!(
            matches!(&findings[..], [Finding::Broken { path: named, .. }] if *named == path),
            "{findings:?}"
        );
        let Fixed::MovedAside(aside) = store.fix(&findings[0]).unwrap() else {
            panic!("not moved")
        };
        let name = aside.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("14.json.broken-2"), "{name}");
        assert_eq!(std::fs::read(&aside).unwrap(), broken);
        assert_eq!(store.check(), []);
        assert_eq!(store.session_record(&address).unwrap(), None);
        save(&store, &address, "new").unwrap();
        // Fixing an outdated finding does not damage a good file.
        assert_eq!(store.fix(&findings[0]).unwrap(), Fixed::Done);
        assert_eq!(store.session_record(&address).unwrap().unwrap().title, "new");
    }
    let aside = std::fs::read_dir(path.parent().unwrap()).unwrap().count() - 1;
    assert_eq!(aside, 6, "every broken file is still there");
}

#[test]
fn ten_thousand_records_are_listed_in_order_and_one_bad_one_spoils_none() {
    let (_folder, store) = store();
    let repos = [
        "github.com/shoko/kugetsu",
        "gitlab.com/g/sub/14",
        "gitlab.com/g/sub",
        "a.b:3000/base/base",
    ];
    let mut expected = Vec::new();
    for text in repos {
        for number in 1..=2500 {
            let address = address(&format!("{text}#{number}"));
            // Some records are larger than any buffer.
            let title = if number % 1000 == 7 {
                "t".repeat(200_000)
            } else {
                format!("title {number}")
            };
            let record = issue_record(&address, &title);
            overwrite(
                &record_path(&store, &address),
                serde_json::to_vec_pretty(&record).unwrap(),
            );
            expected.push(record);
        }
        let base = repo(text);
        overwrite(
            &store.record_path(&RecordKey::from(&base)),
            serde_json::to_vec(&base_record(&base, 0)).unwrap(),
        );
    }
    expected.sort_by(|a, b| a.address.cmp(&b.address));
    let bad = record_path(&store, &address("gitlab.com/g/sub#9999"));
    overwrite(&bad, "{");
    let newer = record_path(&store, &address("gitlab.com/g/sub#9998"));
    overwrite(&newer, "{\"schema\": 9}");
    let stray = bad.with_file_name("0014.json");
    overwrite(&stray, "{}");
    overwrite(&bad.with_file_name("notes.txt"), "not ours");
    overwrite(&bad.with_file_name(".tmp-1"), "{");
    overwrite(&bad.with_file_name("7.json.broken-20260101T000000Z"), "{");
    overwrite(&bad.with_file_name("12").join("13.json"), "{");
    let listing = store.session_records().unwrap();
    assert_eq!(listing.found, expected);
    let broken: Vec<_> = listing.broken.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(broken, [stray, newer, bad]);
    assert!(
        listing.broken[1].1.contains("schema 9"),
        "{:?}",
        listing.broken[1]
    );
    let bases = store.bases().unwrap();
    assert_eq!(bases.found.len(), 4);
    assert!(bases.found.is_sorted_by_key(|base| &base.repo));
}

#[test]
fn the_index_has_exactly_the_agreed_form() {
    let (_folder, store) = store();
    save_base(&store, &repo("github.com/shoko/kugetsu"), 5);
    save_base(&store, &repo("gitlab.com/g/sub/14"), 1);
    save(&store, &address("github.com/shoko/kugetsu#14"), "x").unwrap();
    store
        .set_default_base(Some(&repo("github.com/shoko/kugetsu")))
        .unwrap();
    let bytes = std::fs::read(store.home().join("index.json")).unwrap();
    let expected = serde_json::json!({
        "schema": 1,
        "base": "github.com/shoko/kugetsu/base.json",
        "bases": {
            "github.com/shoko/kugetsu": "github.com/shoko/kugetsu/base.json",
            "gitlab.com/g/sub/14": "gitlab.com/g/sub/@14/base.json",
        },
        "issues": { "github.com/shoko/kugetsu#14": "github.com/shoko/kugetsu/14.json" },
    });
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(),
        expected
    );
    // An existing entry costs no write.
    let before = store
        .home()
        .join("index.json")
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    save(&store, &address("github.com/shoko/kugetsu#14"), "y").unwrap();
    assert_eq!(
        store
            .home()
            .join("index.json")
            .metadata()
            .unwrap()
            .modified()
            .unwrap(),
        before
    );
}

#[test]
fn the_default_base_is_found_without_the_index() {
    let (_folder, store) = store();
    let (first, second) = (repo("b.com/o/first"), repo("a.com/o/second"));
    for (repo, default_since) in [(&second, 20), (&first, 30)] {
        let lease = store.lease_base(repo, me(), None).unwrap();
        let record = BaseRecord {
            default_since: Some(at(default_since)),
            ..base_record(repo, 0)
        };
        store.save_base(&lease, &record).unwrap();
    }
    save_base(&store, &repo("c.com/o/other"), 40);
    let index = store.home().join("index.json");
    store.set_default_base(Some(&second)).unwrap();
    assert_eq!(store.default_base().unwrap(), Some(second.clone()));
    for damage in [Some("{ not json"), Some(""), Some("{\"schema\": 9}"), None] {
        match damage {
            Some(text) => overwrite(&index, text),
            None => std::fs::remove_file(&index).unwrap(),
        }
        assert_eq!(
            store.default_base().unwrap(),
            Some(first.clone()),
            "the one that was chosen last: {damage:?}"
        );
    }
    let missing = "{\"schema\": 1, \"base\": \"x.com/o/gone/base.json\"}";
    overwrite(&index, missing);
    assert_eq!(store.default_base().unwrap(), Some(first.clone()));
    assert_eq!(fix_all(&store), []);
    assert_eq!(
        store.index().unwrap().base.as_deref(),
        Some("b.com/o/first/base.json")
    );
}

#[test]
fn an_index_that_disagrees_is_found_and_made_anew() {
    let (_folder, store) = store();
    let (here, gone) = (address("github.com/o/r#1"), address("github.com/o/r#2"));
    save(&store, &here, "x").unwrap();
    save_base(&store, here.repo(), 0);
    let good = store.index().unwrap();
    assert_eq!(store.check(), []);
    let mut wrong = good.clone();
    wrong.issues.clear();
    wrong
        .issues
        .insert(gone.to_string(), "github.com/o/r/2.json".to_owned());
    wrong.base = Some("nowhere/base.json".to_owned());
    overwrite(
        &store.home().join("index.json"),
        serde_json::to_vec(&wrong).unwrap(),
    );
    // Readers are not affected.
    assert_eq!(store.session_record(&gone).unwrap(), None);
    assert_eq!(store.session_records().unwrap().found.len(), 1);
    let findings = store.check();
    assert_eq!(
        findings,
        [
            Finding::FileWithoutEntry {
                key: RecordKey::from(&here)
            },
            Finding::EntryWithoutFile {
                name: gone.to_string(),
                file: "github.com/o/r/2.json".to_owned()
            },
            Finding::DefaultBaseMissing {
                file: "nowhere/base.json".to_owned()
            },
        ]
    );
    let report = store.rebuild_index().unwrap();
    assert_eq!(
        (report.added, report.dropped),
        (vec![here.to_string()], vec![gone.to_string()])
    );
    assert_eq!(store.index().unwrap(), good);
    assert_eq!(store.check(), []);
    std::fs::remove_file(store.home().join("index.json")).unwrap();
    assert_eq!(store.check(), [Finding::IndexMissing]);
    // The next new record restores the other entries too.
    save(&store, &gone, "x").unwrap();
    assert_eq!(store.check(), []);
    assert_eq!(store.index().unwrap().issues.len(), 2);
}

#[test]
fn a_broken_index_is_moved_aside_and_a_newer_one_is_left_alone() {
    let (_folder, store) = store();
    let path = store.home().join("index.json");
    save(&store, &address("github.com/o/r#1"), "x").unwrap();
    overwrite(&path, "{\"schema\": 1, \"iss");
    assert!(matches!(store.index(), Err(StoreError::Broken { .. })));
    assert!(matches!(&store.check()[..], [Finding::IndexBroken { .. }]));
    save(&store, &address("github.com/o/r#2"), "x").unwrap();
    assert_eq!(store.index().unwrap().issues.len(), 2);
    let aside = std::fs::read_dir(store.home())
        .unwrap()
        .map(|found| found.unwrap().path());
    let aside: Vec<_> = aside
        .filter(|path| path.to_string_lossy().contains("index.json.broken-"))
        .collect();
    assert_eq!(aside.len(), 1);
    assert_eq!(std::fs::read(&aside[0]).unwrap(), b"{\"schema\": 1, \"iss");

    let newer = "{\"schema\": 2, \"shards\": []}";
    overwrite(&path, newer);
    save(&store, &address("github.com/o/r#3"), "x").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    assert_eq!(store.session_records().unwrap().found.len(), 3);
    assert!(matches!(
        store.rebuild_index(),
        Err(StoreError::Newer { found: 2, .. })
    ));
    assert_eq!(store.check(), [Finding::Newer { path, found: 2 }]);
}

#[test]
fn a_torn_line_costs_no_other_turn() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let lease = lease(&store, &address);
    for number in 0..3 {
        store.append_turn(&lease, &address, &turn(number)).unwrap();
    }
    let path = store.folder(&RecordKey::from(&address)).join("turns.jsonl");
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(std::str::from_utf8(&whole).unwrap().lines().count(), 3);
    let numbers = |store: &Store| {
        store
            .turns(&address)
            .unwrap()
            .iter()
            .map(|turn| turn.steps)
            .collect::<Vec<_>>()
    };
    overwrite(&path, &whole[..whole.len() - 10]);
    assert_eq!(numbers(&store), [0, 1]);
    store.append_turn(&lease, &address, &turn(3)).unwrap();
    store.append_turn(&lease, &address, &turn(4)).unwrap();
    assert_eq!(numbers(&store), [0, 1, 3, 4]);
    assert_eq!(store.turns(&common::address("github.com/o/r#2")).unwrap(), []);
}
