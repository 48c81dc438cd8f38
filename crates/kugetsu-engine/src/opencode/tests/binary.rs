//! Tests of finding opencode, with programs that the tests write.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::environment::Environment;
use crate::opencode::{OpencodeError, Search, Version, find, probe};
use kugetsu_testing::kugetsu_binary;

/// A folder with programs, and a search in it.
struct Place {
    root: tempfile::TempDir,
    cache: PathBuf,
    environment: Environment,
    cancel: Cancel,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache/opencode.json");
        Self {
            root,
            cache,
            environment: Environment::new([], "/home/dev".into(), kugetsu_binary()),
            cancel: Cancel::default(),
        }
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
            environment: &self.environment,
            cache_file: &self.cache,
            cancel: &self.cancel,
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

    /// An opencode that answers and counts its calls.
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
    // An empty variable counts as absent; a bare name is searched on PATH.
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
fn an_unusable_program_is_reported_with_a_remedy() {
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

    // Without a binary, the script itself is used.
    assert_eq!(found(), script);
    let package = platform_package();
    let baseline = place.fake(&format!("node_modules/{package}-baseline/bin/opencode"), "1.3.2");
    assert_eq!(found(), baseline);
    let binary = place.fake(&format!("node_modules/{package}/bin/opencode"), "1.3.2");
    let best = found();
    assert!(best == binary || best == baseline, "{best:?}");
    // The binary that the package's install script puts beside the script comes first.
    let beside = place.fake("node_modules/opencode-ai/bin/.opencode", "1.3.2");
    assert_eq!(found(), beside);
}

#[test]
fn a_package_works_although_its_install_script_did_not_run() {
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
    // A file as large as a binary is the binary.
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
    // A shell script is not a shim, even if it mentions node further down.
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
fn probes_are_cached_until_something_changes() {
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

    // The variables that decide where the database is.
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

    // A broken cache counts as empty.
    for broken in ["", "{", "{\"schema\":99,\"entries\":[]}", "\0\0\0"] {
        let before = place.calls();
        fs::write(place.path("cache/opencode.json"), broken).unwrap();
        assert_eq!(ask("/home/dev", None, None), first);
        assert_eq!(place.calls(), before + 2, "{broken:?}");
        assert_eq!(ask("/home/dev", None, None), first);
        assert_eq!(place.calls(), before + 2, "and it was replaced");
    }

    // Another binary in the same place, first of the same size, then of another size.
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
fn an_unusable_opencode_is_refused_with_a_remedy() {
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
        text.contains("1.1.65") && text.contains("needs 1.3.2 or later"),
        "{text}"
    );
    // It has no `db path` and prints its whole help instead.
    let (error, text) = refused(
        "#!/bin/sh\n[ $1 = db ] && { yes '  --agent  agent to use' | head -50; exit 1; }\necho 1.2.1\n",
    );
    assert!(
        matches!(error, OpencodeError::TooOld { .. }) && !text.contains("--agent"),
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
    // The program does not read kugetsu's standard input.
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
fn versions_are_ordered_by_precedence() {
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
