//! Tests of the database, with the tables of both versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::opencode::{Database, DatabaseError, DatabaseFile, Finish, MAX_LINE, Role, SessionPatch};
use crate::permission::{Policy, Rule};
use kugetsu_api::{SessionId, TokenCount};
use rusqlite::{Connection, params};

use super::{VERSIONS, fixture};

/// A database with opencode's tables as each version creates them.
pub(crate) struct Db {
    _root: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) const BASE: &str = "ses_base";
const OTHER: &str = "ses_other";

impl Db {
    pub(crate) fn new(version: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("opencode.db");
        let db = Self { _root: root, path };
        let connection = db.raw();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        let sql = String::from_utf8(fixture(&format!("schema/{version}.sql"))).unwrap();
        connection.execute_batch(&sql).unwrap();
        connection
            .execute("INSERT INTO project (id, worktree, time_created, time_updated, sandboxes) VALUES ('p', '/repo', 1, 1, '[]')", [])
            .unwrap();
        drop(connection);
        db.session(BASE, "Base", 1000);
        db.session(OTHER, "Other", 1000);
        db
    }

    pub(crate) fn raw(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    pub(crate) fn session(&self, id: &str, title: &str, created: i64) {
        self.raw()
            .execute(
                "INSERT INTO session (id, project_id, slug, directory, title, version, time_created, time_updated) \
                 VALUES (?1, 'p', 's', '/repo', ?2, '1', ?3, ?3)",
                params![id, title, created],
            )
            .unwrap();
    }

    fn message(&self, id: &str, created: i64, data: &str, parts: &[&str]) {
        let connection = self.raw();
        connection
            .execute(
                "INSERT INTO message (id, session_id, time_created, time_updated, data) VALUES (?1, ?2, ?3, ?3, ?4)",
                params![id, BASE, created, data],
            )
            .unwrap();
        for (number, part) in parts.iter().enumerate() {
            connection
                .execute(
                    "INSERT INTO part (id, message_id, session_id, time_created, time_updated, data) \
                     VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
                    params![format!("{id}_{number}"), id, BASE, created, part],
                )
                .unwrap();
        }
    }

    fn file(&self) -> DatabaseFile {
        DatabaseFile {
            path: self.path.clone(),
            confined: false,
        }
    }

    /// The same file, as if a sandbox could write it.
    fn confined(&self) -> DatabaseFile {
        DatabaseFile {
            confined: true,
            ..self.file()
        }
    }

    fn read(&self) -> Database {
        self.file().open_read().unwrap()
    }

    fn write(&self) -> Database {
        self.file().open_write(Duration::from_secs(10)).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let folder = fs::read_dir(self.path.parent().unwrap()).unwrap();
        let mut names: Vec<String> = folder
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

fn each_version(test: impl Fn(&Db, &str)) {
    for version in VERSIONS {
        test(&Db::new(version), version);
    }
}

#[test]
fn sessions_are_read_without_a_trace() {
    each_version(|db, version| {
        let before = fs::read(&db.path).unwrap();
        assert_eq!(db.files(), ["opencode.db"]);
        let database = db.read();
        let row = database.session(&id(BASE)).unwrap().unwrap();
        assert_eq!(
            (row.id.as_str(), row.project_id.as_str(), row.title.as_str()),
            (BASE, "p", "Base")
        );
        assert_eq!(
            (row.directory.as_path(), row.permission.as_deref()),
            (Path::new("/repo"), None)
        );
        assert_eq!(
            (row.time_created, row.time_updated, row.parent_id),
            (1000, 1000, None)
        );
        assert_eq!(database.session(&id("ses_gone")).unwrap(), None);
        let exist = database
            .sessions_exist(&[id(BASE), id("ses_gone"), id(OTHER)])
            .unwrap();
        assert_eq!(exist.into_iter().collect::<Vec<_>>(), [id(BASE), id(OTHER)]);
        drop(database);
        assert_eq!(fs::read(&db.path).unwrap(), before, "{version}");
        assert_eq!(db.files(), ["opencode.db"], "{version}");
    });
}

#[test]
fn readers_see_what_a_live_opencode_wrote() {
    each_version(|db, _| {
        let live = db.raw();
        live.execute("UPDATE session SET title = 'New' WHERE id = ?1", [BASE])
            .unwrap();
        assert!(db.files().contains(&"opencode.db-wal".to_owned()));
        assert_eq!(db.read().session(&id(BASE)).unwrap().unwrap().title, "New");
        drop(live);
        // A reader that was opened before opencode began to write sees the write as well.
        let early = db.read();
        assert_eq!(early.session(&id(BASE)).unwrap().unwrap().title, "New");
        let live = db.raw();
        live.execute("UPDATE session SET title = 'Newer' WHERE id = ?1", [BASE])
            .unwrap();
        assert_eq!(early.session(&id(BASE)).unwrap().unwrap().title, "Newer");
        drop(live);
        assert_eq!(early.session(&id(BASE)).unwrap().unwrap().title, "Newer");
        assert_eq!(db.read().session(&id(BASE)).unwrap().unwrap().title, "Newer");
    });
}

type Open = fn(&DatabaseFile) -> Result<Database, DatabaseError>;

#[test]
fn each_way_of_being_unusable_has_its_own_error() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("none/opencode.db");
    let garbage = root.path().join("garbage.db");
    fs::write(
        &garbage,
        "this is not a database, but long enough that SQLite reads it as if it were a database",
    )
    .unwrap();
    let empty = root.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    let below_file = garbage.join("opencode.db");
    let modern = Db::new("1.18.33");
    modern
        .raw()
        .execute_batch("CREATE TABLE session_v2 (id text)")
        .unwrap();
    let lacking = Db::new("1.3.2");
    lacking
        .raw()
        .execute_batch("ALTER TABLE session DROP COLUMN permission; DROP TABLE part")
        .unwrap();
    let damaged = Db::new("1.3.2");
    let mut bytes = fs::read(&damaged.path).unwrap();
    bytes[100..].fill(0xff);
    fs::write(&damaged.path, bytes).unwrap();

    let opens: [Open; 2] = [DatabaseFile::open_read, |file| {
        file.open_write(Duration::from_secs(1))
    }];
    for open in opens {
        let open = |path: &Path| {
            open(&DatabaseFile {
                path: path.to_owned(),
                confined: false,
            })
        };
        assert!(matches!(open(&missing), Err(DatabaseError::Missing { .. })));
        assert!(matches!(open(&garbage), Err(DatabaseError::NotADatabase { .. })));
        assert!(matches!(
            open(root.path()),
            Err(DatabaseError::NotADatabase { .. })
        ));
        assert!(matches!(open(&below_file), Err(DatabaseError::Unreadable { .. })));
        assert!(matches!(
            open(&damaged.path),
            Err(DatabaseError::NotADatabase { .. })
        ));
        assert!(matches!(open(&modern.path), Err(DatabaseError::SessionV2 { .. })));
        match open(&lacking.path) {
            Err(DatabaseError::Schema { missing, .. }) => {
                assert_eq!(missing, ["the table part", "session.permission"]);
            }
            other => panic!("{other:?}"),
        }
        match open(&empty) {
            Err(DatabaseError::Schema { missing, .. }) => {
                assert!(missing.contains(&"the table session".to_owned()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!missing.exists() && !missing.parent().unwrap().exists());
    assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
}

#[test]
fn a_locked_database_is_locked_and_nothing_else() {
    each_version(|db, _| {
        let holder = db.raw();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut database = db.file().open_write(Duration::from_millis(50)).unwrap();
        let patch = SessionPatch {
            title: Some("x"),
            ..SessionPatch::default()
        };
        let error = database.patch(&id(BASE), &patch).unwrap_err();
        assert!(matches!(error, DatabaseError::Locked { .. }), "{error:?}");
        assert!(
            error.to_string().contains("locked by another process for 50 ms"),
            "{error}"
        );
        // Reads still work meanwhile.
        assert_eq!(db.read().session(&id(BASE)).unwrap().unwrap().title, "Base");
        holder.execute_batch("ROLLBACK").unwrap();
        assert_eq!(database.patch(&id(BASE), &patch).unwrap().title, "x");
    });
}

/// The number of times that a thread of this process has gone to sleep.
fn sleeps_of(thread: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == thread))
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|status| {
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            count.trim().parse::<u64>().ok()
        })
        .sum()
}

#[test]
fn a_lock_that_ends_in_time_is_waited_for() {
    let db = Db::new("1.3.2");
    let holder = db.raw();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut database = db.write();
    std::thread::scope(|scope| {
        let writer = std::thread::Builder::new().name("waits-for-lock".to_owned());
        let write = move || {
            let patch = SessionPatch {
                title: Some("x"),
                ..SessionPatch::default()
            };
            database.patch(&id(BASE), &patch)
        };
        let writing = writer.spawn_scoped(scope, write).unwrap();
        // SQLite sleeps between two attempts.
        let end = Instant::now() + Duration::from_secs(9);
        while sleeps_of("waits-for-lock") < 4 && !writing.is_finished() {
            assert!(Instant::now() < end, "it does not try again and again");
            std::thread::sleep(Duration::from_millis(1));
        }
        holder.execute_batch("COMMIT").unwrap();
        assert_eq!(writing.join().unwrap().unwrap().title, "x");
    });
}

fn all_columns(db: &Db, id: &str) -> Vec<(String, String)> {
    let connection = db.raw();
    let mut statement = connection.prepare("SELECT * FROM session WHERE id = ?1").unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    statement
        .query_row([id], |row| {
            (0..names.len())
                .map(|at| {
                    Ok((
                        names[at].clone(),
                        format!("{:?}", row.get::<_, rusqlite::types::Value>(at)?),
                    ))
                })
                .collect()
        })
        .unwrap()
}

#[test]
fn a_patch_changes_only_its_own_columns() {
    each_version(|db, version| {
        let rules = Policy::default().rules();
        let before = all_columns(db, BASE);
        let other = all_columns(db, OTHER);
        let patch = SessionPatch {
            permission: Some(&rules),
            directory: Some(Path::new("/repo/.worktrees/14")),
            path: Some("sub"),
            title: Some("it's \"14\" \u{1f600}"),
        };
        let row = db.write().patch(&id(BASE), &patch).unwrap();
        assert_eq!(row.rules().unwrap(), rules);
        assert_eq!(row.directory, Path::new("/repo/.worktrees/14"));
        assert_eq!(row.title, "it's \"14\" \u{1f600}");
        assert_eq!(row.path.as_deref(), (version == "1.18.33").then_some("sub"));
        assert!(row.time_updated > 1000);
        assert_eq!(db.read().session(&id(BASE)).unwrap().unwrap(), row);

        let after = all_columns(db, BASE);
        let changed: Vec<&str> = before
            .iter()
            .zip(&after)
            .filter(|(a, b)| a != b)
            .map(|(a, _)| a.0.as_str())
            .collect();
        let mut expected = vec!["directory", "title", "permission", "time_updated"];
        if version == "1.18.33" {
            expected.insert(1, "path");
        }
        assert_eq!(changed, expected);
        assert_eq!(all_columns(db, OTHER), other);
        // The rules are stored as opencode writes them.
        let stored: serde_json::Value = serde_json::from_str(row.permission.as_deref().unwrap()).unwrap();
        assert_eq!(
            stored[0],
            serde_json::json!({"permission": "question", "pattern": "*", "action": "deny"})
        );
    });
}

#[test]
fn an_unchanged_session_is_not_written() {
    each_version(|db, _| {
        let rules = Policy::default().rules();
        let patch = SessionPatch {
            permission: Some(&rules),
            title: Some("T"),
            ..SessionPatch::default()
        };
        let first = db.write().patch(&id(BASE), &patch).unwrap();
        let watcher = db.raw();
        let seen = || {
            watcher
                .query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        let before = seen();
        assert_eq!(db.write().patch(&id(BASE), &patch).unwrap(), first);
        assert_eq!(
            db.write().patch(&id(BASE), &SessionPatch::default()).unwrap(),
            first
        );
        assert_eq!(seen(), before);
        // The order of keys in the stored JSON does not matter, the order of rules does.
        let spelled = first.permission.clone().unwrap().replace(
            r#"{"permission":"question","pattern":"*","action":"deny"}"#,
            r#"{"action": "deny", "pattern": "*", "permission": "question"}"#,
        );
        db.raw()
            .execute(
                "UPDATE session SET permission = ?1 WHERE id = ?2",
                params![spelled, BASE],
            )
            .unwrap();
        let row = db.write().patch(&id(BASE), &patch).unwrap();
        assert_eq!(row.permission.as_deref(), Some(spelled.as_str()));
        let mut turned = rules.clone();
        turned.reverse();
        let patch = SessionPatch {
            permission: Some(&turned),
            ..SessionPatch::default()
        };
        assert_eq!(
            db.write().patch(&id(BASE), &patch).unwrap().rules().unwrap(),
            turned
        );
    });
}

#[test]
fn a_patch_of_a_missing_session_is_refused() {
    each_version(|db, _| {
        let patch = SessionPatch {
            title: Some("x"),
            ..SessionPatch::default()
        };
        let error = db.write().patch(&id("ses_gone"), &patch).unwrap_err();
        assert!(matches!(error, DatabaseError::NoSession { .. }), "{error:?}");
        assert!(error.to_string().contains("ses_gone"), "{error}");
        // The refused patch holds no lock.
        db.raw().execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
    });
}

#[test]
fn a_write_that_does_not_take_effect_is_undone_and_reported() {
    each_version(|db, _| {
        db.raw()
            .execute_batch(
                "CREATE TRIGGER meddle AFTER UPDATE OF permission ON session BEGIN \
                 UPDATE session SET permission = NULL WHERE id = new.id; END",
            )
            .unwrap();
        let rules = Policy::default().rules();
        let before = all_columns(db, BASE);
        let patch = SessionPatch {
            permission: Some(&rules),
            title: Some("x"),
            ..SessionPatch::default()
        };
        let error = db.write().patch(&id(BASE), &patch).unwrap_err();
        assert!(
            matches!(
                error,
                DatabaseError::NotStored {
                    what: "permission",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(all_columns(db, BASE), before);
    });
}

#[test]
fn unreadable_rules_are_replaced() {
    let db = Db::new("1.3.2");
    db.raw()
        .execute("UPDATE session SET permission = '{' WHERE id = ?1", [BASE])
        .unwrap();
    assert_eq!(db.read().session(&id(BASE)).unwrap().unwrap().rules(), None);
    let rules: Vec<Rule> = vec!["edit=deny".parse().unwrap()];
    let patch = SessionPatch {
        permission: Some(&rules),
        ..SessionPatch::default()
    };
    assert_eq!(db.write().patch(&id(BASE), &patch).unwrap().rules(), Some(rules));
}

#[test]
fn an_unrecorded_fork_is_found() {
    each_version(|db, _| {
        db.session("ses_old", "Base (fork #1)", 1500);
        db.session("ses_fork", "Base (fork #1)", 2000);
        db.session("ses_later", "Base (fork #1)", 3000);
        db.session("ses_renamed", "github.com/o/r#14", 2500);
        db.session("ses_of_other", "Other (fork #1)", 2500);
        db.session("ses_sub", "Base (fork #1)", 2500);
        db.raw()
            .execute("UPDATE session SET parent_id = ?1 WHERE id = 'ses_sub'", [BASE])
            .unwrap();
        let database = db.read();
        let base = database.session(&id(BASE)).unwrap().unwrap();
        let found = |base| {
            let forks = database.forks_of(base).unwrap();
            forks.iter().map(|row| row.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(&base), ["ses_old", "ses_fork", "ses_later"]);
        // The base is a fork itself.
        db.session("ses_second", "Base (fork #2)", 4000);
        let fork = database.session(&id("ses_later")).unwrap().unwrap();
        assert_eq!(found(&fork), ["ses_old", "ses_fork", "ses_second"]);
    });
}

#[test]
fn messages_are_evidence() {
    each_version(|db, _| {
        let assistant = r#"{"role":"assistant","parentID":"msg_1","time":{"created":11,"completed":15},"cost":0.25,
            "tokens":{"total":107,"input":60,"output":7,"reasoning":1,"cache":{"read":40,"write":2}},"finish":"stop"}"#;
        let failed = r#"{"role":"assistant","time":{"created":21,"completed":22},"cost":0,"tokens":{},
            "error":{"name":"APIError","data":{"message":"bad things","statusCode":400}}}"#;
        db.message(
            "msg_1",
            10,
            r#"{"role":"user"}"#,
            &[r#"{"type":"text","text":"\nfirst"}"#],
        );
        db.message(
            "msg_2",
            11,
            assistant,
            &[
                r#"{"type":"step-start"}"#,
                r#"{"type":"text","text":"answer"}"#,
                "not json",
                r#"{"type":"step-finish"}"#,
            ],
        );
        db.message(
            "msg_3",
            20,
            r#"{"role":"user"}"#,
            &[
                r#"{"type":"text","text":"second "}"#,
                r#"{"type":"file","text":"x"}"#,
                r#"{"type":"text","text":"added","synthetic":true}"#,
                r#"{"type":"text","text":"prompt"}"#,
            ],
        );
        db.message("msg_4", 21, failed, &[r#"{"type":"text","text":" \n"}"#]);
        db.message("msg_5", 30, "broken", &[]);

        let database = db.read();
        let base = id(BASE);
        assert_eq!(database.message_count(&base).unwrap(), 5);
        assert_eq!(database.message_count(&id(OTHER)).unwrap(), 0);
        let prompt_with = |session: &SessionId, text| database.prompt_with(session, text).unwrap();
        let of = |id: &str, before: &str| Some((id.to_owned(), Some(before.to_owned())));
        assert_eq!(prompt_with(&base, "second "), of("msg_3", "msg_2"));
        assert_eq!(prompt_with(&base, "first"), Some(("msg_1".to_owned(), None)));
        assert_eq!(prompt_with(&base, "answer"), None, "not a prompt");
        assert_eq!(prompt_with(&id(OTHER), "first"), None);

        let all = database.messages_after(&base, &[]).unwrap();
        assert_eq!(
            all.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(),
            ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"]
        );
        let done = &all[1];
        assert_eq!(
            (done.role, done.finish.as_ref()),
            (Role::Assistant, Some(&Finish::Stop))
        );
        assert_eq!((done.parent.as_deref(), done.cost_usd), (Some("msg_1"), 0.25));
        let tokens = TokenCount {
            input: 60,
            output: 7,
            reasoning: 1,
            cache_read: 40,
            cache_write: 2,
        };
        assert_eq!((done.tokens, done.error.is_none()), (tokens, true));
        assert_eq!(
            all[3].error.as_ref().unwrap().payload["data"]["message"],
            "bad things"
        );
        assert_eq!(all[3].finish, None);
        assert_eq!(all[4].role, Role::Other);

        let ids = |after: &str| {
            let messages = database.messages_after(&base, &[after.to_owned()]).unwrap();
            messages.into_iter().map(|message| message.id).collect::<Vec<_>>()
        };
        assert_eq!(ids("msg_3"), ["msg_4", "msg_5"]);
        assert_eq!(database.newest_messages(&base).unwrap(), ["msg_5"]);
        assert!(!database.message_order(&base).unwrap().is_reversed());
        // The clock went back.
        db.message("msg_0", 5, r#"{"role":"user"}"#, &[]);
        assert_eq!(ids("msg_5"), ["msg_0"]);
        assert_eq!(database.newest_messages(&base).unwrap(), ["msg_0"]);
        assert_eq!(database.message_ids(&base).unwrap().last().unwrap(), "msg_0");
        let order = database.message_order(&base).unwrap();
        assert!(order.is_reversed());
        assert_eq!(order.newest_ms, Some(30));
        // A person reverts to the third message, and opencode removes what follows when the next prompt arrives.
        db.raw()
            .execute(
                r#"UPDATE session SET revert = '{"messageID":"msg_3"}' WHERE id = ?1"#,
                [BASE],
            )
            .unwrap();
        let after = database.newest_messages(&base).unwrap();
        assert_eq!(after, ["msg_0", "msg_2"]);
        db.raw()
            .execute_batch("DELETE FROM message WHERE id IN ('msg_3', 'msg_4', 'msg_5', 'msg_0')")
            .unwrap();
        db.message("msg_6", 40, r#"{"role":"user"}"#, &[]);
        let messages = database.messages_after(&base, &after).unwrap();
        assert_eq!(
            messages.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(),
            ["msg_6"]
        );
    });
}

/// The reason for which the database of a sandbox is refused, by a reader and by a writer.
fn refusals(db: &Db) -> [String; 2] {
    let file = db.confined();
    let read = file.open_read().and_then(|database| database.session(&id(BASE)));
    let patch = SessionPatch {
        title: Some("x"),
        ..SessionPatch::default()
    };
    let written = file
        .open_write(Duration::from_secs(1))
        .and_then(|mut database| database.patch(&id(BASE), &patch));
    [read.map(drop), written.map(drop)].map(|result| match result {
        Err(DatabaseError::Tampered { reason, .. }) => reason,
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_database_of_a_sandbox_works_as_opencode_makes_it() {
    each_version(|db, version| {
        let patch = SessionPatch {
            title: Some("x"),
            ..SessionPatch::default()
        };
        let mut written = db.confined().open_write(Duration::from_secs(10)).unwrap();
        assert_eq!(written.patch(&id(BASE), &patch).unwrap().title, "x");
        let read = db.confined().open_read().unwrap();
        assert_eq!(read.session(&id(BASE)).unwrap().unwrap().title, "x", "{version}");
    });
}

#[test]
fn the_database_of_a_sandbox_is_no_link_and_nothing_but_files_lies_beside_it() {
    use std::os::unix::fs::symlink;
    let beside = |db: &Db, ending: &str| PathBuf::from(format!("{}{ending}", db.path.display()));
    for ending in ["", "-wal", "-shm", "-journal"] {
        let (db, other) = (Db::new("1.18.33"), Db::new("1.18.33"));
        let _ = fs::remove_file(beside(&db, ending));
        symlink(beside(&other, ending), beside(&db, ending)).unwrap();
        let before = all_columns(&other, BASE);
        for reason in refusals(&db) {
            assert!(reason.contains("opencode.db"), "{ending}: {reason}");
        }
        assert_eq!(all_columns(&other, BASE), before);
    }
    // To open a pipe would wait for a writer.
    let db = Db::new("1.18.33");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        beside(&db, "-journal"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    refusals(&db);
    // A folder in its path was replaced.
    let (db, folder) = (Db::new("1.18.33"), tempfile::tempdir().unwrap());
    symlink(db.path.parent().unwrap(), folder.path().join("link")).unwrap();
    let file = DatabaseFile {
        path: folder.path().canonicalize().unwrap().join("link/opencode.db"),
        confined: true,
    };
    assert!(file.open_read().is_err() && file.open_write(Duration::from_secs(1)).is_err());
}

#[test]
fn a_journal_in_a_sandbox_removes_no_file_outside() {
    let db = Db::new("1.18.33");
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().canonicalize().unwrap().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::write(format!("{}-journal", db.path.display()), hot_journal(&victim)).unwrap();
    for reason in refusals(&db) {
        assert!(reason.contains("-journal"), "{reason}");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

/// A rollback journal that belongs to a transaction over several files, which `super_journal` lists. SQLite removes that
/// file after it has rolled back (`atomiccommit.html`, "Multi-file commit").
fn hot_journal(super_journal: &Path) -> Vec<u8> {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let mut journal = MAGIC.to_vec();
    // No page, a nonce, the length of the database in pages, and the sizes of a sector and a page.
    for number in [0_u32, 0, 1, 512, 4096] {
        journal.extend(number.to_be_bytes());
    }
    journal.resize(512, 0);
    let name = super_journal.to_str().unwrap().as_bytes();
    // The page that holds SQLite's locks is never in a journal.
    let locks: u32 = 0x4000_0000 / 4096 + 1;
    journal.extend(locks.to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    let sum: u32 = name.iter().map(|&byte| u32::from(byte)).sum();
    journal.extend(sum.to_be_bytes());
    journal.extend(MAGIC);
    journal
}

#[test]
fn the_database_of_a_sandbox_has_tables_and_indexes_of_stored_columns_only() {
    for (schema, word) in [
        (
            "CREATE TRIGGER odd AFTER UPDATE ON session BEGIN UPDATE session SET permission = NULL; END",
            "odd",
        ),
        ("CREATE VIEW odd AS SELECT 1", "odd"),
        (
            "ALTER TABLE session RENAME TO old; CREATE VIEW session AS WITH RECURSIVE n(i) AS \
             (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT old.* FROM old, n",
            "session",
        ),
        ("CREATE VIRTUAL TABLE odd USING fts5(text)", "odd"),
        (
            "ALTER TABLE session ADD COLUMN odd TEXT AS (instr(title, title)) VIRTUAL",
            "`session` computes",
        ),
        (
            "CREATE TABLE odd (a TEXT, b TEXT GENERATED ALWAYS AS (replace(a, a, a)) STORED)",
            "`odd` computes",
        ),
        (
            "CREATE INDEX odd ON session (instr(title, title))",
            "`odd` computes",
        ),
        (
            "CREATE INDEX odd ON session (id) WHERE instr(title, title)",
            "`session` computes",
        ),
        (
            "CREATE TABLE pragma_table_xinfo (hidden); CREATE TABLE pragma_index_xinfo (cid); \
             CREATE INDEX odd ON session (instr(title, title))",
            "`odd` computes",
        ),
    ] {
        let db = Db::new("1.18.33");
        db.raw().execute_batch(schema).unwrap();
        for reason in refusals(&db) {
            assert!(reason.contains(word), "{schema}: {reason}");
        }
    }
}

#[test]
fn a_write_into_the_database_of_a_sandbox_computes_nothing_and_changes_no_other_table() {
    let db = Db::new("1.18.33");
    let raw = db.raw();
    raw.execute_batch(
        "CREATE UNIQUE INDEX titles ON session (title); \
         CREATE TABLE other (title TEXT REFERENCES session (title) ON UPDATE CASCADE); \
         INSERT INTO other VALUES ('Base'); \
         PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET sql = replace(sql, 'REFERENCES', 'CHECK (0) REFERENCES') WHERE name = 'other'; \
         UPDATE sqlite_schema SET sql = replace(sql, '`title` text', '`title` text CHECK (title <> ''x'')') \
            WHERE name = 'session'",
    )
    .unwrap();
    drop(raw);
    let patch = SessionPatch {
        title: Some("x"),
        ..SessionPatch::default()
    };
    let unconfined = db.write().patch(&id(BASE), &patch);
    assert!(unconfined.is_err(), "the check works");
    let mut database = db.confined().open_write(Duration::from_secs(1)).unwrap();
    assert_eq!(database.patch(&id(BASE), &patch).unwrap().title, "x");
    let other: String = db
        .raw()
        .query_row("SELECT title FROM other", [], |row| row.get(0))
        .unwrap();
    assert_eq!(other, "Base");
}

#[test]
fn a_locked_database_of_a_sandbox_is_locked_and_not_tampered_with() {
    let db = Db::new("1.18.33");
    let holder = db.raw();
    // Otherwise, a writer does not keep readers out of a database with a write-ahead log.
    holder
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; UPDATE session SET title = title")
        .unwrap();
    let file = db.confined();
    for error in [
        file.open_read().unwrap_err(),
        file.open_write(Duration::from_millis(50)).unwrap_err(),
    ] {
        assert!(matches!(error, DatabaseError::Locked { .. }), "{error:?}");
        assert!(error.is_temporary() && !error.is_lost());
    }
    drop(holder);
    assert!(file.open_read().unwrap().session(&id(BASE)).unwrap().is_some());
}

#[test]
fn a_huge_value_in_the_database_of_a_sandbox_is_too_large_and_not_tampered_with() {
    let db = Db::new("1.18.33");
    // As long as the longest answer that is kept, with room for what stands around it.
    let title = |bytes: i64| {
        db.raw()
            .execute(
                "UPDATE session SET title = hex(zeroblob(?1)) WHERE id = ?2",
                params![bytes / 2, BASE],
            )
            .unwrap();
        let read = db.confined().open_read();
        read.and_then(|database| database.session(&id(BASE)))
    };
    assert!(title(2 * i64::try_from(MAX_LINE).unwrap()).unwrap().is_some());
    let error = title(80 << 20).unwrap_err();
    assert!(matches!(error, DatabaseError::TooLarge { .. }), "{error:?}");
    assert!(!error.is_temporary() && !error.is_lost());
}

#[test]
fn a_removed_database_leaves_nothing_for_the_next_one() {
    let db = Db::new("1.18.33");
    let beside = |ending: &str| format!("{}{ending}", db.path.display());
    for ending in ["-wal", "-shm", "-journal", ".other"] {
        fs::write(beside(ending), "x").unwrap();
    }
    db.confined().remove().unwrap();
    assert_eq!(db.files(), ["opencode.db.other"]);
    db.confined().remove().unwrap();
}
