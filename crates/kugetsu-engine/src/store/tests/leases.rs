//! Leases and locks, between threads and between processes.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::store::{Holder, Lease, LeaseError, Member, RecordKey, Store, StoreError, TurnOf, holder_of_turn};

use super::common::*;

#[test]
fn a_lease_is_exclusive_names_its_holder_and_is_given_back() {
    let (_folder, store) = store();
    let (address, other) = (address("github.com/o/r#1"), address("github.com/o/r#2"));
    let mut holder = me();
    holder.what = "continue".to_owned();
    holder.host = "box-7".to_owned();
    let held = store.lease_session(&address, holder.clone(), None).unwrap();
    assert_eq!((held.key(), held.holder()), (&RecordKey::from(&address), &holder));
    assert_eq!(
        store.lease_holder(&RecordKey::from(&address)),
        Some(Some(holder.clone()))
    );
    let Err(error @ LeaseError::Held { .. }) = store.lease_session(&address, me(), None) else {
        panic!("two leases of one issue")
    };
    let message = error.to_string();
    let start = holder.since.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    for part in [
        "github.com/o/r#1",
        &std::process::id().to_string(),
        "box-7",
        &start,
        "continue",
    ] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    // Another issue and the base are not affected.
    store.lease_session(&other, me(), None).unwrap();
    store.lease_base(address.repo(), me(), None).unwrap();
    drop(held);
    assert_eq!(store.lease_holder(&RecordKey::from(&address)), None);
    store.lease_session(&address, me(), None).unwrap();
}

/// Between fork and exec, a new program holds every open file of this process, including one with a lock.
#[test]
fn a_lease_that_was_given_back_is_free_whatever_is_started_meanwhile() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        // Nothing here may panic: the other threads would run for ever.
        let free = (0..1000).all(|_| {
            let taken = store.lease_session(&address, me(), None).map(drop).is_ok();
            taken && store.lease_holder(&RecordKey::from(&address)).is_none()
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(free);
    });
}

#[test]
fn a_lease_can_be_waited_for() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let held = lease(&store, &address);
    let journal = Instant::now();
    assert!(matches!(
        store.lease_session(&address, me(), Some(Duration::from_millis(200))),
        Err(LeaseError::Held { holder: Some(_), .. })
    ));
    assert!(
        journal.elapsed() >= Duration::from_millis(200),
        "it gave up early"
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.lease_session(&address, me(), Some(Duration::from_mins(1))));
        drop(held);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn a_left_or_damaged_lock_file_holds_nobody_up() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let path = store.run_path(&RecordKey::from(&address), ".lease");
    let stale = Holder { pid: 1, ..me() };
    for left in [
        serde_json::to_vec(&stale).unwrap(),
        b"{\"pid\": 12".to_vec(),
        vec![0xff; 100_000],
    ] {
        overwrite(&path, &left);
        overwrite(&store.home().join("index.lock"), &left);
        assert_eq!(store.lease_holder(&RecordKey::from(&address)), None);
        save(&store, &address, "x").unwrap();
        store.rebuild_index().unwrap();
        let held = lease(&store, &address);
        let held_by: Holder = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(&held_by, held.holder());
        // A holder whose name cannot be read still holds the lease.
        overwrite(&path, b"{\"pi");
        assert!(matches!(
            store.lease_session(&address, me(), None),
            Err(LeaseError::Held { holder: None, .. })
        ));
    }
}

#[test]
fn a_lock_file_that_was_removed_is_not_mistaken_for_the_one_that_is_there() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    drop(lease(&store, &address));
    std::fs::remove_dir_all(store.home().join("run")).unwrap();
    let held = lease(&store, &address);
    assert!(matches!(
        store.lease_session(&address, me(), None),
        Err(LeaseError::Held { .. })
    ));
    drop(held);
    assert!(
        store.run_path(&RecordKey::from(&address), ".lease").exists(),
        "the file stays for those who wait on it"
    );
}

#[test]
fn a_lease_dies_with_its_holder() {
    const NAME: &str = "store::tests::leases::a_lease_dies_with_its_holder";
    let address = address("github.com/o/r#1");
    if let Some(role) = role() {
        let store = Store::open(role[0].as_str().into());
        let _lease = lease(&store, &address);
        let _other = store.lock("other.lock", "other", Duration::ZERO).unwrap();
        save(&store, &common_other(), "x").unwrap();
        println!("\nholding");
        // Until the test kills this process or ends itself.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        return;
    }
    let (_folder, store) = store();
    let mut child = another_process(NAME, &[store.home().to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    let Err(LeaseError::Held {
        holder: Some(holder), ..
    }) = store.lease_session(&address, me(), None)
    else {
        panic!("another process holds it")
    };
    assert_eq!((holder.pid, holder.host), (child.id(), me().host));
    let other = |wait| store.lock("other.lock", "other", wait);
    let Err(error @ StoreError::LockTimeout { .. }) = other(Duration::from_millis(50)) else {
        panic!("another process holds it")
    };
    assert!(
        error.is_temporary() && error.to_string().contains(&child.id().to_string()),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    lease(&store, &address);
    other(Duration::ZERO).unwrap();
}

fn common_other() -> kugetsu_api::Address {
    address("github.com/o/r#2")
}

#[test]
fn a_family_of_turns_is_not_removed_while_a_turn_may_join_it() {
    let (_folder, store) = store();
    let turn = uuid::Uuid::now_v7();
    let ended = Member {
        own: TurnOf {
            turn,
            address: address("github.com/o/r#1"),
        },
        ancestors: Vec::new(),
        max_cost: None,
        max_tokens: None,
        cost_usd: 0.0,
        tokens: 0,
        ended: true,
    };
    store.write_member(&ended).unwrap();
    let joining = store.families_lock("begin a turn").unwrap();
    let impatient = store.clone().with_lock_wait(Duration::from_millis(60));
    impatient.end_member(&ended).unwrap();
    assert_eq!(store.member(turn), Some(ended.clone()));
    drop(joining);
    impatient.end_member(&ended).unwrap();
    assert_eq!(store.member(turn), None);
}

#[test]
fn a_family_of_turns_is_removed_with_the_last_turn_that_runs() {
    let (_folder, store) = store();
    let turn_of = |number: &str| TurnOf {
        turn: uuid::Uuid::now_v7(),
        address: address(&format!("github.com/o/r#{number}")),
    };
    let member = |own: &TurnOf, ancestors: &[&TurnOf]| Member {
        own: own.clone(),
        ancestors: ancestors.iter().copied().cloned().collect(),
        max_cost: None,
        max_tokens: None,
        cost_usd: 0.0,
        tokens: 0,
        ended: false,
    };
    let (outer, inner) = (turn_of("1"), turn_of("2"));
    let members = [member(&outer, &[]), member(&inner, &[&outer])];
    let running: Vec<Lease> = members
        .iter()
        .map(|member| {
            store.write_member(member).unwrap();
            let holder = holder_of_turn("start", member.own.turn);
            store.lease_session(&member.own.address, holder, None).unwrap()
        })
        .collect();
    let [outer, inner] = members.map(|member| Member {
        ended: true,
        ..member
    });
    // Each still has its own lease when it ends.
    store.end_member(&outer).unwrap();
    assert_eq!(store.family(outer.root()).len(), 2);
    assert_eq!(store.member(outer.own.turn), Some(outer.clone()));
    store.end_member(&inner).unwrap();
    assert!(store.family(outer.root()).is_empty() && !store.has_families());
    drop(running);
}

#[test]
fn the_index_is_waited_for_with_a_limit() {
    let (_folder, store) = store();
    save(&store, &address("github.com/o/r#1"), "x").unwrap();
    let lock = store.home().join("index.lock");
    let file = std::fs::OpenOptions::new().write(true).open(&lock).unwrap();
    file.lock().unwrap();
    let holder = Holder {
        pid: 4711,
        host: "elsewhere".to_owned(),
        ..me()
    };
    overwrite(&lock, serde_json::to_vec(&holder).unwrap());
    let impatient = store.clone().with_lock_wait(Duration::from_millis(60));
    // Readers, and writers that change no entry, do not wait.
    assert_eq!(impatient.session_records().unwrap().found.len(), 1);
    save(&impatient, &address("github.com/o/r#1"), "y").unwrap();
    let error = save(&impatient, &address("github.com/o/r#2"), "x").unwrap_err();
    assert!(
        matches!(&error, StoreError::LockTimeout { holder: Some(named), .. } if *named == holder),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("4711") && message.contains("elsewhere") && message.contains("index.lock"),
        "{message}"
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| save(&store, &address("github.com/o/r#3"), "x"));
        file.unlock().unwrap();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn threads_never_hold_one_lease_together() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    save(&store, &address, "0").unwrap();
    let (threads, rounds) = (4, 25);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let lease = store
                        .lease_session(&address, me(), Some(Duration::from_mins(2)))
                        .unwrap();
                    let mut record = store.session_record(&address).unwrap().unwrap();
                    record.totals.turns += 1;
                    store.save_session(&lease, &record).unwrap();
                    store
                        .append_turn(&lease, &address, &turn(record.totals.turns))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(
        store.session_record(&address).unwrap().unwrap().totals.turns,
        threads * rounds
    );
    assert_eq!(store.turns(&address).unwrap().len() as u64, threads * rounds);
}

#[test]
fn processes_make_records_at_once_and_the_index_has_them_all() {
    const NAME: &str = "store::tests::leases::processes_make_records_at_once_and_the_index_has_them_all";
    if let Some(role) = role() {
        let store = Store::open(role[0].as_str().into());
        let number = |at: u64| role[1].parse::<u64>().unwrap() * 100 + at;
        for at in 1..=20 {
            save(&store, &address(&format!("github.com/o/r#{}", number(at))), "x").unwrap();
        }
        // All of them want this lease; one at a time gets it.
        let shared = address("github.com/o/r#1");
        let lease = store
            .lease_session(&shared, me(), Some(Duration::from_mins(2)))
            .unwrap();
        let mut record = store
            .session_record(&shared)
            .unwrap()
            .unwrap_or_else(|| issue_record(&shared, "shared"));
        record.totals.turns += 1;
        store.save_session(&lease, &record).unwrap();
        return;
    }
    let (_folder, store) = store();
    let children: Vec<_> = (1..=4)
        .map(|child: u64| {
            another_process(NAME, &[store.home().to_str().unwrap(), &child.to_string()])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.session_records().unwrap().found.len(), 81);
    assert_eq!(store.index().unwrap().issues.len(), 81);
    assert_eq!(
        store
            .session_record(&address("github.com/o/r#1"))
            .unwrap()
            .unwrap()
            .totals
            .turns,
        4
    );
    assert_eq!(store.check(), []);
}
