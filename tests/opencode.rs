//! opencode's surroundings: the binary, the database, lines, events. Everything here is made by the test; what the real
//! ones do is in `real_opencode.rs`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes files as it likes, and a panic is how it fails"
)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kugetsu::opencode::{
    After, Database, DatabaseError, KEPT_PREFIX, Line, LineSplitter, MAX_LINE, OpencodeError, RunEventKind,
    RunLine, Search, SessionPatch, Version, find, parse_line, probe, prompt_matches, rejected_permission,
};
use kugetsu::permission::{Policy, Rule};
use kugetsu::session::{SessionId, TokenCount};
use proptest::prelude::*;
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};

const VERSIONS: [&str; 2] = ["1.3.2", "1.18.33"];

fn fixture(path: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(path),
    )
    .unwrap()
}

// ---- binary

/// A folder with programs, and a search in it.
struct Place {
    root: tempfile::TempDir,
    cache: PathBuf,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache/opencode.json");
        Self { root, cache }
    }

    /// A search that finds nothing.
    fn search(&self) -> Search<'_> {
        Search {
            configured: None,
            env_override: None,
            path: None,
            home: Path::new("/home/dev"),
            xdg_data_home: None,
            opencode_db: None,
            cache_file: &self.cache,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(path)
    }

    fn file(&self, path: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// An opencode that answers and counts how often it was asked.
    fn fake(&self, path: &str, version: &str) -> PathBuf {
        let calls = self.path("calls");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >> {}\ncase \"$1\" in\n--version) echo {version};;\n\
             db) echo \"${{XDG_DATA_HOME:-$HOME/.local/share}}/opencode/${{OPENCODE_DB:-opencode.db}}\";;\nesac\n",
            calls.display()
        );
        self.file(path, &script, 0o755)
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.path("calls")).map_or(0, |calls| calls.lines().count())
    }
}

fn bin_path(place: &Place) -> String {
    format!("{}:/usr/bin:/bin", place.path("bin").display())
}

#[test]
fn the_first_of_variable_configuration_and_path_is_taken() {
    let place = Place::new();
    let on_path = place.fake("bin/opencode", "1.3.2");
    let configured = place.fake("configured/oc", "1.3.2");
    let named = place.fake("named/oc", "1.3.2");
    let path = bin_path(&place);
    let path = Some(OsStr::new(&path));
    assert_eq!(
        find(&Search {
            path,
            ..place.search()
        })
        .unwrap(),
        on_path
    );
    assert_eq!(
        find(&Search {
            path,
            configured: Some(&configured),
            ..place.search()
        })
        .unwrap(),
        configured
    );
    let all = Search {
        path,
        configured: Some(&configured),
        env_override: Some(named.as_os_str()),
        ..place.search()
    };
    assert_eq!(find(&all).unwrap(), named);
    // An empty variable is none; a bare name is looked up.
    let empty = Search {
        path,
        env_override: Some(OsStr::new("")),
        ..place.search()
    };
    assert_eq!(find(&empty).unwrap(), on_path);
    let bare = Search {
        path,
        env_override: Some(OsStr::new("opencode")),
        ..place.search()
    };
    assert_eq!(find(&bare).unwrap(), on_path);
}

#[test]
fn what_cannot_be_run_is_said_with_what_to_do() {
    let place = Place::new();
    place.file("bin/opencode", "x", 0o644);
    let path = place.path("bin").into_os_string();
    let empty = place.path("empty").into_os_string();
    let missing = place.path("missing");
    let directory = place.path("bin");

    let error = find(&Search {
        path: Some(&empty),
        ..place.search()
    })
    .unwrap_err();
    assert!(matches!(error, OpencodeError::NotFound), "{error}");
    assert!(
        error.to_string().contains("npm install -g opencode-ai"),
        "{error}"
    );
    assert!(matches!(
        find(&Search { ..place.search() }),
        Err(OpencodeError::NotFound)
    ));
    let error = find(&Search {
        path: Some(&path),
        ..place.search()
    })
    .unwrap_err();
    assert!(matches!(error, OpencodeError::NotExecutable { .. }), "{error}");
    let error = find(&Search {
        configured: Some(&missing),
        ..place.search()
    })
    .unwrap_err();
    assert!(matches!(error, OpencodeError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("the configuration names"), "{error}");
    let error = find(&Search {
        env_override: Some(missing.as_os_str()),
        ..place.search()
    })
    .unwrap_err();
    assert!(error.to_string().contains("KUGETSU_OPENCODE names"), "{error}");
    let error = find(&Search {
        configured: Some(&directory),
        ..place.search()
    })
    .unwrap_err();
    assert!(matches!(error, OpencodeError::NotExecutable { .. }), "{error}");
}

fn platform_package() -> String {
    let system = if cfg!(target_os = "macos") {
        "darwin"
    } else {
        std::env::consts::OS
    };
    let machine = if cfg!(target_arch = "x86_64") {
        "x64"
    } else {
        "arm64"
    };
    format!("opencode-{system}-{machine}")
}

#[test]
fn npms_script_is_replaced_by_the_binary_behind_it() {
    let place = Place::new();
    let script = place.file(
        "node_modules/opencode-ai/bin/opencode",
        "#!/usr/bin/env node\nrun()\n",
        0o755,
    );
    fs::create_dir_all(place.path("node_modules/.bin")).unwrap();
    symlink(
        "../opencode-ai/bin/opencode",
        place.path("node_modules/.bin/opencode"),
    )
    .unwrap();
    let path = place.path("node_modules/.bin").into_os_string();
    let found = || {
        find(&Search {
            path: Some(&path),
            ..place.search()
        })
        .unwrap()
    };

    // Nothing behind it: the script itself.
    assert_eq!(found(), script);
    let package = platform_package();
    let baseline = place.fake(&format!("node_modules/{package}-baseline/bin/opencode"), "1.3.2");
    assert_eq!(found(), baseline);
    let binary = place.fake(&format!("node_modules/{package}/bin/opencode"), "1.3.2");
    let best = found();
    assert!(best == binary || best == baseline, "{best:?}");
    // What the package's install script leaves beside it comes first.
    let beside = place.fake("node_modules/opencode-ai/bin/.opencode", "1.3.2");
    assert_eq!(found(), beside);
}

#[test]
fn a_package_whose_install_script_did_not_run_is_seen_through() {
    let place = Place::new();
    let placeholder = place.fake("node_modules/opencode-ai/bin/opencode.exe", "1.18.33");
    fs::create_dir_all(place.path("node_modules/.bin")).unwrap();
    symlink(
        "../opencode-ai/bin/opencode.exe",
        place.path("node_modules/.bin/opencode"),
    )
    .unwrap();
    let path = place.path("node_modules/.bin").into_os_string();
    let found = || {
        find(&Search {
            path: Some(&path),
            ..place.search()
        })
        .unwrap()
    };
    assert_eq!(found(), placeholder);
    let binary = place.fake(
        &format!("node_modules/{}/bin/opencode", platform_package()),
        "1.18.33",
    );
    assert_eq!(found(), binary);
    // What is as large as a program is the program.
    fs::File::options()
        .write(true)
        .open(&placeholder)
        .unwrap()
        .set_len(2 * 1024 * 1024)
        .unwrap();
    assert_eq!(found(), placeholder);
}

#[test]
fn a_script_without_binary_still_works_and_is_known_to_cost_more() {
    let place = Place::new();
    let answers = "#!/bin/sh\n# node\n[ \"$1\" = db ] && echo /data/opencode.db || echo 1.3.2\n";
    // A shell script is no shim, whatever it mentions further down.
    let program = place.file("bin/opencode", answers, 0o755);
    let path = bin_path(&place);
    let found = probe(&Search {
        path: Some(OsStr::new(&path)),
        ..place.search()
    })
    .unwrap();
    assert_eq!((found.program, found.shim), (program, false));

    let place = Place::new();
    place.file(
        "tools/node",
        "#!/bin/sh\nshift\n[ \"$1\" = db ] && echo /data/opencode.db || echo 1.3.2\n",
        0o755,
    );
    let program = place.file("bin/opencode", "#!/usr/bin/env node\n", 0o755);
    let path = format!("{}:{}", place.path("tools").display(), bin_path(&place));
    let found = probe(&Search {
        path: Some(OsStr::new(&path)),
        ..place.search()
    })
    .unwrap();
    assert_eq!((found.program, found.shim), (program, true));
    assert_eq!(found.database, Path::new("/data/opencode.db"));
}

#[test]
fn answers_are_remembered_until_something_changes() {
    let place = Place::new();
    let program = place.fake("bin/opencode", "1.3.2");
    let ask = |home: &str, xdg: Option<&str>, db: Option<&str>| {
        probe(&Search {
            configured: Some(&program),
            home: Path::new(home),
            xdg_data_home: xdg.map(Path::new),
            opencode_db: db.map(OsStr::new),
            ..place.search()
        })
        .unwrap()
    };
    let first = ask("/home/dev", None, None);
    assert_eq!(first.version, Version::new(1, 3, 2));
    assert_eq!(
        first.database,
        Path::new("/home/dev/.local/share/opencode/opencode.db")
    );
    assert_eq!(place.calls(), 2);
    assert_eq!(ask("/home/dev", None, None), first);
    assert_eq!(place.calls(), 2, "the second time from the cache");

    // What decides where the database is.
    assert_eq!(
        ask("/home/other", None, None).database,
        Path::new("/home/other/.local/share/opencode/opencode.db")
    );
    assert_eq!(
        ask("/home/dev", Some("/xdg"), None).database,
        Path::new("/xdg/opencode/opencode.db")
    );
    assert_eq!(
        ask("/home/dev", Some("/xdg"), Some("b.db")).database,
        Path::new("/xdg/opencode/b.db")
    );
    assert_eq!(place.calls(), 8);
    assert_eq!(ask("/home/dev", None, None), first);
    assert_eq!(place.calls(), 8, "several answers are kept");

    // A broken cache is no cache.
    for broken in ["", "{", "{\"schema\":99,\"entries\":[]}", "\0\0\0"] {
        let before = place.calls();
        fs::write(place.path("cache/opencode.json"), broken).unwrap();
        assert_eq!(ask("/home/dev", None, None), first);
        assert_eq!(place.calls(), before + 2, "{broken:?}");
        assert_eq!(ask("/home/dev", None, None), first);
        assert_eq!(place.calls(), before + 2, "and it was replaced");
    }

    // Another binary in the same place, of the same size; then of another size.
    let before = place.calls();
    let later = std::time::SystemTime::now() + Duration::from_secs(100);
    fs::File::options()
        .append(true)
        .open(&program)
        .unwrap()
        .set_modified(later)
        .unwrap();
    assert_eq!(ask("/home/dev", None, None), first);
    assert_eq!(place.calls(), before + 2);
    let before = place.calls();
    place.fake("bin/opencode", "1.18.33");
    assert_eq!(ask("/home/dev", None, None).version, Version::new(1, 18, 33));
    assert_eq!(place.calls(), before + 2);
}

#[test]
fn a_cache_that_cannot_be_written_costs_time_only() {
    let place = Place::new();
    let program = place.fake("bin/opencode", "1.3.2");
    place.file("blocked", "a file, no folder", 0o644);
    let cache = place.path("blocked/cache.json");
    let search = Search {
        configured: Some(&program),
        cache_file: &cache,
        ..place.search()
    };
    probe(&search).unwrap();
    probe(&search).unwrap();
    assert_eq!(place.calls(), 4);
}

#[test]
fn an_opencode_that_cannot_be_used_is_refused_with_what_to_do() {
    let place = Place::new();
    let mut number = 0;
    let mut refused = |script: &str| {
        number += 1;
        let program = place.file(&format!("bin/oc{number}"), script, 0o755);
        let error = probe(&Search {
            configured: Some(&program),
            ..place.search()
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(text.lines().count() <= 3, "{text}");
        (error, text)
    };
    let (error, text) = refused("#!/bin/sh\necho 1.1.65\n");
    assert!(matches!(error, OpencodeError::TooOld { .. }), "{text}");
    assert!(
        text.contains("1.1.65") && text.contains("needs 1.2.0 or later"),
        "{text}"
    );
    let (error, text) = refused("#!/bin/sh\necho 2.0.1\n");
    assert!(matches!(error, OpencodeError::TooNew { .. }), "{text}");
    assert!(text.contains("opencode-ai@1"), "{text}");
    let (error, text) = refused("#!/bin/sh\necho hello\n");
    assert!(
        matches!(error, OpencodeError::Garbage { .. }) && text.contains("printed `hello`"),
        "{text}"
    );
    let (error, text) = refused("#!/bin/sh\ntrue\n");
    assert!(
        matches!(error, OpencodeError::Garbage { .. }) && text.contains("printed nothing"),
        "{text}"
    );
    let (error, text) = refused("#!/bin/sh\necho 1.3.2; echo broken install >&2; exit 7\n");
    assert!(
        matches!(error, OpencodeError::Garbage { .. }) && text.contains("broken install"),
        "{text}"
    );
    let (error, text) = refused("#!/bin/sh\nhead -c 100000000 /dev/zero\n");
    assert!(
        matches!(error, OpencodeError::Garbage { .. }) && text.len() < 1000,
        "{text}"
    );
    let (error, text) = refused("#!/bin/sh\n[ $1 = db ] && { echo no db >&2; exit 1; }\necho 1.3.2\n");
    assert!(
        matches!(error, OpencodeError::DatabasePath { .. }) && text.contains("no db"),
        "{text}"
    );
    let (error, text) = refused("#!/no/such/interpreter\n");
    assert!(matches!(error, OpencodeError::Start { .. }), "{text}");
    // It does not read what is not meant for it.
    let program = place.file(
        "bin/reads",
        "#!/bin/sh\ncat\n[ $1 = db ] && echo /d.db || echo 1.3.2\n",
        0o755,
    );
    probe(&Search {
        configured: Some(&program),
        ..place.search()
    })
    .unwrap();
}

#[test]
fn versions_are_ordered_as_they_should() {
    let sorted = [
        "0.9.9",
        "1.2.0-beta.2",
        "1.2.0-beta.10",
        "1.2.0",
        "1.3.2",
        "1.18.33",
        "2.0.0-rc.1",
        "2.0.0",
    ];
    let parsed: Vec<Version> = sorted.iter().map(|text| text.parse().unwrap()).collect();
    assert!(parsed.is_sorted_by(|a, b| a < b));
    for (text, version) in sorted.iter().zip(&parsed) {
        assert_eq!(version.to_string(), *text);
    }
    assert_eq!("v1.3.2+linux".parse::<Version>().unwrap(), Version::new(1, 3, 2));
    for nonsense in [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "a.b.c",
        "1.2.x",
        "1..2",
        "-1.2.3",
        "1.2.3-",
        "1.2.+3",
        "99999999999999999999.0.0",
    ] {
        assert!(nonsense.parse::<Version>().is_err(), "{nonsense}");
    }
}

// ---- database

/// A database with opencode's tables, as the versions make them.
struct Db {
    _root: tempfile::TempDir,
    path: PathBuf,
}

const BASE: &str = "ses_base";
const OTHER: &str = "ses_other";

impl Db {
    fn new(version: &str) -> Self {
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

    fn raw(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    fn session(&self, id: &str, title: &str, created: i64) {
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

    fn read(&self) -> Database {
        Database::open_read(&self.path).unwrap()
    }

    fn write(&self) -> Database {
        Database::open_write(&self.path, Duration::from_secs(10)).unwrap()
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
        // Also through a reader that was there before, when nobody else was.
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

type Open = fn(&Path) -> Result<Database, DatabaseError>;

#[test]
fn each_way_of_being_unusable_has_its_own_error() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("none/opencode.db");
    let garbage = root.path().join("garbage.db");
    fs::write(
        &garbage,
        "this is no database, and long enough to be looked at as one would be by SQLite itself",
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

    let opens: [Open; 2] = [Database::open_read, |path| {
        Database::open_write(path, Duration::from_secs(1))
    }];
    for open in opens {
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
        let mut database = Database::open_write(&db.path, Duration::from_millis(50)).unwrap();
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
        // Reading goes on meanwhile.
        assert_eq!(db.read().session(&id(BASE)).unwrap().unwrap().title, "Base");
        holder.execute_batch("ROLLBACK").unwrap();
        assert_eq!(database.patch(&id(BASE), &patch).unwrap().title, "x");
    });
}

#[test]
fn a_lock_that_ends_in_time_is_waited_for() {
    let db = Db::new("1.3.2");
    let holder = db.raw();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut database = db.write();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            database.patch(
                &id(BASE),
                &SessionPatch {
                    title: Some("x"),
                    ..SessionPatch::default()
                },
            )
        });
        std::thread::sleep(Duration::from_millis(100));
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
fn a_patch_changes_what_it_says_and_nothing_else() {
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
fn what_is_already_so_is_not_written() {
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
        // And it held no lock.
        db.raw().execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
    });
}

#[test]
fn a_write_that_does_not_take_effect_is_undone_and_said() {
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
fn a_forgotten_fork_is_found_again() {
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
        let found = |base, since| {
            let forks = database.forks_of(base, since).unwrap();
            forks.iter().map(|row| row.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(&base, 2000), ["ses_fork", "ses_later"]);
        assert_eq!(found(&base, 3001), [""; 0]);
        // A base that is a fork itself.
        db.session("ses_second", "Base (fork #2)", 4000);
        let fork = database.session(&id("ses_later")).unwrap().unwrap();
        assert_eq!(found(&fork, 3001), ["ses_second"]);
    });
}

#[test]
fn messages_are_evidence() {
    each_version(|db, _| {
        let assistant = r#"{"role":"assistant","time":{"created":11,"completed":15},"cost":0.25,
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
        assert_eq!(
            database.last_user_text(&base).unwrap().as_deref(),
            Some("second prompt")
        );
        assert_eq!(database.last_user_text(&id(OTHER)).unwrap(), None);

        let all = database.messages_after(&base, None).unwrap();
        assert_eq!(
            all.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(),
            ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"]
        );
        let done = &all[1];
        assert_eq!(
            (done.role.as_str(), done.finish.as_deref(), done.has_text),
            ("assistant", Some("stop"), true)
        );
        assert_eq!(
            (done.created_ms, done.completed_ms, done.cost_usd),
            (11, Some(15), 0.25)
        );
        let tokens = TokenCount {
            input: 60,
            output: 7,
            reasoning: 1,
            cache_read: 40,
            cache_write: 2,
        };
        assert_eq!((done.tokens, done.error.is_none()), (tokens, true));
        assert_eq!(all[3].error.as_ref().unwrap()["data"]["message"], "bad things");
        assert_eq!((all[3].finish.as_deref(), all[3].has_text), (None, false));
        assert_eq!((all[4].role.as_str(), all[4].has_text), ("", false));

        let ids = |after| {
            let messages = database.messages_after(&base, Some(after)).unwrap();
            messages.into_iter().map(|message| message.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(After::Message("msg_3")), ["msg_4", "msg_5"]);
        assert_eq!(ids(After::Time(20)), ["msg_4", "msg_5"]);
        assert_eq!(ids(After::Time(19)), ["msg_3", "msg_4", "msg_5"]);
        let error = database
            .messages_after(&base, Some(After::Message("msg_x")))
            .unwrap_err();
        assert!(matches!(error, DatabaseError::NoMessage { .. }), "{error:?}");
    });
}

#[test]
fn a_stored_prompt_is_recognised_with_the_one_line_feed_of_1_3_2() {
    use std::fmt::Write as _;
    let sha = |text: &str| {
        Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
    };
    for prompt in ["fix it", "\nfix it", "", "\n"] {
        assert!(prompt_matches(prompt, &sha(prompt)));
        assert!(prompt_matches(&format!("\n{prompt}"), &sha(prompt)));
        assert!(!prompt_matches(&format!("\n\n{prompt}"), &sha(prompt)));
        assert!(!prompt_matches(&format!("{prompt}\n."), &sha(prompt)));
    }
}

// ---- lines

fn split(data: &[u8], sizes: &[usize]) -> Vec<(Vec<u8>, u64)> {
    let mut lines = Vec::new();
    let mut take = |line: Line<'_>| {
        lines.push(match line {
            Line::Whole(bytes) => (bytes.to_vec(), bytes.len() as u64),
            Line::TooLong { prefix, length } => (prefix.to_vec(), length),
        });
    };
    let mut splitter = LineSplitter::new();
    let (mut rest, mut at) = (data, 0);
    while !rest.is_empty() {
        let size = sizes.get(at).copied().unwrap_or(usize::MAX).clamp(1, rest.len());
        splitter.push(&rest[..size], &mut take);
        rest = &rest[size..];
        at += 1;
    }
    splitter.finish(&mut take);
    lines
}

#[test]
fn overlong_lines_keep_their_beginning_and_length() {
    for over in [MAX_LINE + 1, 10 * 1024 * 1024] {
        let mut data = b"short\n".to_vec();
        data.extend((0..over).map(|at| b'a' + (at % 26) as u8));
        data.extend_from_slice(b"\nnext\n");
        for chunk in [1 << 16, 7919, data.len()] {
            let lines = split(&data, &vec![chunk; data.len() / chunk + 1]);
            assert_eq!(lines.len(), 3, "{over} {chunk}");
            assert_eq!(lines[0].0, b"short");
            assert_eq!(
                (lines[1].0.as_slice(), lines[1].1),
                (&data[6..6 + KEPT_PREFIX], over as u64)
            );
            assert_eq!(lines[2].0, b"next");
        }
    }
    // Exactly as long as allowed, and an overlong one without an end.
    let longest = vec![b'x'; MAX_LINE];
    assert_eq!(
        split(&longest, &[1000, 1 << 20]),
        [(longest.clone(), MAX_LINE as u64)]
    );
    let open = vec![b'x'; MAX_LINE + 5];
    let lines = split(&open, &[MAX_LINE, 3]);
    assert_eq!(
        (lines.len(), lines[0].0.len(), lines[0].1),
        (1, KEPT_PREFIX, MAX_LINE as u64 + 5)
    );
}

// ---- events

#[test]
fn real_output_is_understood() {
    for version in VERSIONS {
        let mut events = Vec::new();
        for line in fixture(&format!("run-events/{version}.jsonl")).split(|&byte| byte == b'\n') {
            match parse_line(line) {
                RunLine::Event(event) => {
                    assert!(event.timestamp_ms > 1_700_000_000_000, "{event:?}");
                    assert!(
                        event
                            .session
                            .as_ref()
                            .is_some_and(|id| id.as_str().starts_with("ses_")),
                        "{event:?}"
                    );
                    let is_error = matches!(event.kind, RunEventKind::Error { .. });
                    assert_eq!(event.message.is_some_and(|id| id.starts_with("msg_")), !is_error);
                    events.push(event.kind);
                }
                RunLine::Notice(text) if text.is_empty() => {}
                RunLine::Notice(text) => {
                    let rejected = rejected_permission(&text).expect(&text);
                    assert_eq!(
                        text,
                        "! permission requested: external_directory (/nonexistent/*); auto-rejecting"
                    );
                    assert_eq!(rejected.permission, "external_directory");
                    assert_eq!(rejected.patterns, "/nonexistent/*");
                }
                unknown @ RunLine::Unknown { .. } => panic!("{version}: {unknown:?}"),
            }
        }
        let tokens = TokenCount {
            input: 60,
            output: 7,
            reasoning: 0,
            cache_read: 40,
            cache_write: 0,
        };
        let finish = |reason: &str| RunEventKind::StepFinish {
            reason: reason.to_owned(),
            cost_usd: 0.000_078,
            tokens,
        };
        assert_eq!(events.len(), 12, "{version}");
        assert_eq!(events[0], RunEventKind::StepStart);
        assert!(
            matches!(&events[1], RunEventKind::Text { text, part } if text == "hello world" && part.starts_with("prt_"))
        );
        assert_eq!(events[2], finish("stop"));
        match &events[4] {
            RunEventKind::ToolUse {
                call,
                tool,
                status,
                title,
                input,
                output,
                error,
            } => {
                assert_eq!(
                    (call.as_str(), tool.as_str(), status.as_str()),
                    ("call_4_1", "read", "error")
                );
                assert_eq!((title, output), (&None, &None));
                assert_eq!(input["filePath"], "/nonexistent/x");
                assert!(error.as_ref().unwrap().contains("rejected permission"));
            }
            other => panic!("{other:?}"),
        }
        match &events[5] {
            RunEventKind::ToolUse {
                tool,
                status,
                title,
                output,
                error,
                ..
            } => {
                assert_eq!((tool.as_str(), status.as_str()), ("bash", "completed"));
                assert!(title.is_some());
                assert_eq!((output.as_deref(), error), (Some("hi\nerr\n"), &None));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(events[6], finish("tool-calls"));
        match &events[7] {
            RunEventKind::Error {
                name,
                message,
                payload,
            } => {
                assert_eq!((name.as_str(), message.as_str()), ("APIError", "bad things"));
                assert_eq!(payload["data"]["statusCode"], 400);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(&events[9], RunEventKind::Reasoning { text, .. } if text == "hmm, let me think"));
    }
}

#[test]
fn what_is_no_event_is_told_apart() {
    assert_eq!(parse_line(b""), RunLine::Notice(String::new()));
    assert_eq!(
        parse_line(b"\x1b[91m\x1b[1mError: \x1b[0mSession not found\r"),
        RunLine::Notice("Error: Session not found".into())
    );
    assert_eq!(
        parse_line(b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link"),
        RunLine::Notice("textlink".into())
    );
    assert_eq!(parse_line(b"a\0b\x1b"), RunLine::Notice("ab".into()));
    assert_eq!(parse_line(b"42"), RunLine::Notice("42".into()));
    assert_eq!(parse_line(b"[1]"), RunLine::Notice("[1]".into()));
    let unknown = |line: &str, expected: &str, session: Option<&str>| {
        let session = session.map(|text| SessionId::new(text).unwrap());
        assert_eq!(
            parse_line(line.as_bytes()),
            RunLine::Unknown {
                kind: expected.to_owned(),
                session
            }
        );
    };
    unknown("{}", "", None);
    unknown(r#"{"type":7}"#, "", None);
    unknown(
        r#"{"type":"brand_new","sessionID":"ses_1","part":{}}"#,
        "brand_new",
        Some("ses_1"),
    );
    unknown(
        r#"{"type":"text","sessionID":"../../x","part":{"text":7}}"#,
        "text",
        None,
    );
    unknown(r#"{"type":"tool_use","part":{"tool":"bash"}}"#, "tool_use", None);
    unknown(r#"{"type":"step_finish"}"#, "step_finish", None);
    unknown(r#"{"type":"error"}"#, "error", None);
    assert_eq!(rejected_permission("something else"), None);
}

#[test]
fn odd_numbers_and_bytes_do_no_harm() {
    let line =
        br#"{"type":"step_finish","timestamp":1e300,"sessionID":"ses_1","part":{"reason":"stop","cost":-1,
        "tokens":{"input":1e300,"output":-5,"reasoning":"x","cache":{"read":1.9}}}}"#;
    let RunLine::Event(event) = parse_line(line) else {
        panic!()
    };
    assert_eq!(event.timestamp_ms, i64::MAX);
    let tokens = TokenCount {
        input: u64::MAX,
        output: 0,
        reasoning: 0,
        cache_read: 1,
        cache_write: 0,
    };
    assert_eq!(
        event.kind,
        RunEventKind::StepFinish {
            reason: "stop".into(),
            cost_usd: 0.0,
            tokens
        }
    );

    // Invalid UTF-8 inside an event keeps the event.
    let RunLine::Event(event) =
        parse_line(b"{\"type\":\"text\",\"part\":{\"id\":\"p\",\"text\":\"a\xffb\"}}")
    else {
        panic!()
    };
    assert_eq!(
        event.kind,
        RunEventKind::Text {
            part: "p".into(),
            text: "a\u{fffd}b".into()
        }
    );
    assert_eq!(event.session, None);

    let deep = format!("{{\"type\":\"text\",\"part\":{}", "[".repeat(100_000));
    assert!(matches!(parse_line(deep.as_bytes()), RunLine::Notice(text) if text.len() <= 8192));
    // An error in words.
    let RunLine::Event(event) = parse_line(br#"{"type":"error","error":"plain"}"#) else {
        panic!()
    };
    assert!(
        matches!(event.kind, RunEventKind::Error { name, message, .. } if name == "Error" && message == "plain")
    );
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<Vec<u8>> = VERSIONS
        .iter()
        .flat_map(|version| {
            fixture(&format!("run-events/{version}.jsonl"))
                .split(|&byte| byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        })
        .filter(|line| !line.is_empty())
        .collect();
    (
        prop::sample::select(samples),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<Vec<u8>>(),
    )
        .prop_map(|(mut line, from, to, with)| {
            let (from, to) = (from.index(line.len()), to.index(line.len()));
            line.splice(from.min(to)..from.max(to), with);
            line
        })
}

proptest! {
    #[test]
    fn lines_are_the_same_however_they_come(
        data in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300),
        sizes in prop::collection::vec(1usize..40, 0..60),
    ) {
        let mut expected: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
        if expected.last().is_some_and(|last| last.is_empty()) {
            expected.pop();
        }
        let lines: Vec<Vec<u8>> = split(&data, &sizes).into_iter().map(|(line, _)| line).collect();
        prop_assert_eq!(lines, expected);
    }

    #[test]
    fn no_line_makes_the_parser_panic(line in prop_oneof![any::<Vec<u8>>(), mutated()]) {
        if let RunLine::Notice(text) = parse_line(&line) {
            prop_assert!(!text.chars().any(char::is_control));
            rejected_permission(&text);
        }
    }
}
