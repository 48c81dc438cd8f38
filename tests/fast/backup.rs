//! `backup` and `restore-backup`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::kit::{
    REPO, SOON, fake_world, files_below, record, refused, run, run_in, scripted_world, session_of, snapshot,
    start, text,
};
use kugetsu_testing::{FakeScript, Output, Signal, Step, World};
use serde_json::{Value, json};

/// Another machine of the same user: an empty home of kugetsu, and an opencode that was never used.
struct Elsewhere<'a> {
    world: &'a World,
    folder: PathBuf,
}

impl<'a> Elsewhere<'a> {
    fn new(world: &'a World) -> Self {
        let folder = world.root().join("elsewhere");
        std::fs::create_dir(&folder).unwrap();
        Self { world, folder }
    }

    fn home(&self) -> PathBuf {
        self.folder.join("kugetsu")
    }

    fn database(&self) -> PathBuf {
        self.folder.join(".local/share/opencode/opencode.db")
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Output {
        self.run_in(&[], words)
    }

    #[track_caller]
    fn run_in(&self, settings: &[(&str, &str)], words: &[&str]) -> Output {
        let home = self.home();
        let places = [
            ("KUGETSU_HOME", home.to_str().unwrap()),
            ("HOME", self.folder.to_str().unwrap()),
        ];
        run_in(self.world, &[&places, settings].concat(), words)
    }
}

fn archive(world: &World) -> PathBuf {
    world.root().join("kugetsu.backup")
}

#[track_caller]
fn backup(world: &World) -> Value {
    let file = archive(world);
    let done = run(world, ["backup", file.to_str().unwrap(), "--force", "--json"]);
    done.expect_status(0);
    done.json()
}

/// What is in a folder, as its names.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The files of a home that a restore brings back, with their content.
fn content(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let kept = |path: &Path| {
        let below = path.strip_prefix(home).unwrap();
        !below.starts_with("run") && below.extension().is_none_or(|ending| ending != "lock")
    };
    files_below(home)
        .into_iter()
        .filter(|path| kept(path))
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path.strip_prefix(home).unwrap().to_owned(), bytes)
        })
        .collect()
}

#[track_caller]
fn submit(world: &World, words: &[&str]) -> String {
    let output = run(
        world,
        ["submit", "--json"].into_iter().chain(words.iter().copied()),
    );
    output.expect_status(0);
    text(&output.json()["task"])
}

#[test]
fn everything_comes_back_from_a_backup_that_was_made_while_a_daemon_worked() {
    let world = scripted_world(&FakeScript::default().on("hang", [Step::step_start(), Step::Hang]));
    std::fs::write(world.kugetsu_home().join("config.toml"), "log_keep = \"90d\"\n").unwrap();
    world.start_daemon_with(&["--max-concurrent", "1"]);
    start(&world, "1", "remember this");
    run(&world, ["continue", "1", "and this", "--transport", "run"]).expect_status(0);
    start(&world, "2", "to be destroyed");
    run(&world, ["destroy", "2", "-y"]).expect_status(0);
    run(&world, ["daemon", "token", "create", "ci"]).expect_status(0);
    let running = submit(&world, &["3", "hang"]);
    world.wait_until("the task runs", SOON, || {
        record(&world, "3").is_some_and(|record| record["live"].is_object())
    });
    let queued = [
        submit(&world, &["4", "later"]),
        submit(&world, &["1", "later still"]),
    ];

    let file = archive(&world);
    let done = backup(&world);
    assert_eq!(
        (&done["has_opencode"], &done["skipped"], &done["file"]),
        (&json!(true), &json!([]), &json!(file)),
        "{done:#}"
    );
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(done["archive_bytes"], metadata.len());
    assert!(
        names(&world.kugetsu_home().join("run"))
            .iter()
            .all(|name| !name.starts_with("backup-"))
    );
    let says = |words: &[&str]| run(&world, words.iter().copied()).stdout();
    let shown: [&[&str]; 4] = [
        &["list", "--json"],
        &["show", "1", "--turns"],
        &["logs", "1", "--json"],
        &["trash", "list", "--json"],
    ];
    let before = shown.map(says);

    let elsewhere = Elsewhere::new(&world);
    let restored = elsewhere.run(&["restore-backup", file.to_str().unwrap(), "--json"]);
    let report = restored.expect_status(0).json();
    assert_eq!(
        (
            &report["home"],
            &report["opencode"],
            &report["moved_to"],
            &report["sessions_missing"]
        ),
        (
            &json!(elsewhere.home()),
            &json!("restored"),
            &json!(null),
            &json!(0)
        ),
        "{report:#}"
    );
    assert_eq!(
        (&report["files"], &report["files_bytes"]),
        (&done["files"], &done["files_bytes"])
    );
    for (words, before) in shown.iter().zip(&before).skip(1) {
        let shown = elsewhere.run(words).expect_status(0).stdout();
        let home = |home: PathBuf| home.to_str().unwrap().to_owned();
        let shown = shown.replace(&home(elsewhere.home()), &home(world.kugetsu_home()));
        assert_eq!(shown, *before, "{words:?}");
    }
    // The turn that ran does not run here.
    let sessions = elsewhere.run(&["list", "--json"]).json();
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    for name in ["config.toml", "tokens.json"] {
        let read = |home: PathBuf| std::fs::read(home.join(name)).unwrap();
        assert_eq!(read(elsewhere.home()), read(world.kugetsu_home()), "{name}");
    }

    // The original goes on, and what it does now is not in the backup.
    run(&world, ["task", "cancel", &running]).expect_status(0);
    for task in &queued {
        world.wait_until("the task has ended", SOON, || {
            run(&world, ["task", "show", task, "--json"]).json()["state"] == "ended"
        });
    }
    world.fake(&FakeScript::default());
    elsewhere
        .run(&["continue", "1", "go on", "--transport", "run"])
        .expect_status(0);
    elsewhere.run(&["restore", "2"]).expect_status(0);
    elsewhere
        .run(&["continue", "2", "go on", "--transport", "run"])
        .expect_status(0);
    let daemon = elsewhere.run_in(
        &[("KUGETSU_TRANSPORT", "run")],
        &["daemon", "start", "--detach", "--json"],
    );
    daemon.expect_status(0);
    for task in queued.iter().chain([&running]) {
        let shown = || {
            elsewhere
                .run(&["task", "show", task, "--json"])
                .expect_status(0)
                .json()
        };
        world.wait_until("the task has ended here as well", SOON, || {
            shown()["state"] == "ended"
        });
        if *task != running {
            assert_eq!(shown()["verdict"], "completed", "{:#}", shown());
        }
    }
    elsewhere.run(&["daemon", "stop"]).expect_status(0);
    elsewhere.run(&["doctor"]).expect_status(0);
    let turns = elsewhere.run(&["show", "1", "--json"]).json();
    assert_eq!(turns["totals"]["turns"], 4, "{turns:#}");
}

#[test]
fn sessions_that_move_during_a_backup_are_whole_in_it() {
    let world = fake_world();
    for issue in ["1", "2", "3"] {
        start(&world, issue, "remember this");
    }
    // Stops between the records and the database.
    let stalled = world.root().join("stalled");
    let file = archive(&world);
    let point = format!("stall:backup_records_read:1:{}", stalled.display());
    let running = crate::support::kit::start_in(
        &world,
        &[("KUGETSU_CRASH_AT", &point)],
        &["backup", file.to_str().unwrap()],
    );
    world.wait_until("the records are read", SOON, || stalled.exists());
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    start(&world, "4", "begun meanwhile");
    std::fs::remove_file(&stalled).unwrap();
    running.wait(SOON).expect_status(0);
    let elsewhere = Elsewhere::new(&world);
    elsewhere
        .run(&["restore-backup", file.to_str().unwrap()])
        .expect_status(0);
    for issue in ["2", "3", "4"] {
        elsewhere
            .run(&["continue", issue, "go on", "--transport", "run"])
            .expect_status(0);
    }
    elsewhere.run(&["restore", "1"]).expect_status(0);
    elsewhere
        .run(&["continue", "1", "go on", "--transport", "run"])
        .expect_status(0);
}

#[test]
fn a_backup_replaces_a_file_only_if_it_is_told_to() {
    let world = fake_world();
    start(&world, "1", "remember this");
    let file = archive(&world);
    let name = file.to_str().unwrap();
    std::fs::write(&file, "something else").unwrap();
    refused(&world, &["backup", name], 64, &["exists already", "--force"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"something else");
    run(&world, ["backup", name, "--force"]).expect_status(0);
    assert_ne!(std::fs::read(&file).unwrap(), b"something else");
    let missing = world.root().join("missing/kugetsu.backup");
    refused(&world, &["backup", missing.to_str().unwrap()], 73, &["missing"]);

    // On stdout, and without opencode's database.
    let piped = run(&world, ["backup", "-", "--without-opencode"]);
    piped.expect_status(0);
    std::fs::write(&file, piped.stdout_bytes()).unwrap();
    let json = run(&world, ["--json", "backup", "-"]);
    assert_eq!(json.expect_status(64).json()["error"]["code"], "usage", "{json}");
    let elsewhere = Elsewhere::new(&world);
    let restored = elsewhere.run(&["restore-backup", name, "--json"]);
    restored.expect_status(0);
    let report = restored.json();
    assert_eq!(
        (&report["opencode"], &report["opencode_database"]),
        (&json!("left-out"), &json!(null))
    );
    assert!(!elsewhere.database().exists());
    elsewhere.run(&["logs", "1"]).expect_status(0);
    elsewhere
        .run(&["continue", "1", "go on", "--transport", "run"])
        .expect_status(66);
}

#[test]
fn a_home_is_replaced_only_if_it_is_empty_or_moved_aside() {
    let world = scripted_world(&FakeScript::default().on("hang", [Step::step_start(), Step::Hang]));
    start(&world, "1", "remember this");
    backup(&world);
    let file = archive(&world);
    let restore = ["restore-backup", file.to_str().unwrap()];
    let forced = [restore[0], restore[1], "--force"];
    let home = world.kugetsu_home();
    run(&world, ["continue", "1", "forget this", "--transport", "run"]).expect_status(0);
    refused(&world, &restore, 64, &["is not empty", "--force"]);

    let turn = world.spawn(["continue", "1", "hang", "--transport", "run"]);
    world.wait_until("the turn runs", SOON, || {
        record(&world, "1").is_some_and(|record| record["live"].is_object())
    });
    let busy = run(&world, forced);
    assert!(
        busy.expect_status(75).stderr().contains("a turn runs in"),
        "{busy}"
    );
    turn.signal(Signal::Interrupt);
    turn.wait(SOON);
    world.start_daemon();
    let busy = run(&world, ["--json"].into_iter().chain(forced));
    assert_eq!(
        busy.expect_status(1).json()["error"]["code"],
        "daemon-running",
        "{busy}"
    );
    run(&world, ["daemon", "stop"]).expect_status(0);
    world.wait_nothing_left(SOON);

    let before = content(&home);
    let prompts = world.prompts(&session_of(&world, "1"));
    let restored = run(&world, ["--json"].into_iter().chain(forced));
    let report = restored.expect_status(0).json();
    let aside = PathBuf::from(text(&report["moved_to"]));
    assert_eq!(aside.parent(), home.parent());
    assert!(content(&aside) == before, "the home of before is whole");
    assert_eq!(report["opencode"], "kept", "{report:#}");
    assert_eq!(
        world.prompts(&session_of(&world, "1")),
        prompts,
        "opencode was left alone"
    );
    let shown = run(&world, ["show", "1", "--json"]).json();
    assert_eq!(shown["totals"]["turns"], 1, "{shown:#}");
    run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
    let expected: Vec<_> = names(home.parent().unwrap())
        .into_iter()
        .filter(|name| name.contains("restor"))
        .collect();
    assert_eq!(expected, [aside.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn a_backup_that_is_killed_leaves_no_archive_and_the_next_one_removes_its_copies() {
    let world = fake_world();
    start(&world, "1", "remember this");
    let file = archive(&world);
    for point in ["temp_created", "temp_written", "temp_synced"] {
        let killed = run_in(
            &world,
            &[("KUGETSU_CRASH_AT", point)],
            &["backup", file.to_str().unwrap()],
        );
        assert_eq!(killed.signal(), Some(9), "{point}: {killed}");
        assert!(!file.exists(), "{point}");
    }
    // A killed process removes nothing; what it left has the name of a temporary file, or is in `run/`.
    let left = world
        .kugetsu_home()
        .join("run/backup-00000000-0000-0000-0000-000000000000");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("opencode.db"), "half a copy").unwrap();
    backup(&world);
    assert!(!left.exists());
    for name in names(world.root()) {
        assert!(!name.contains("backup") || name == "kugetsu.backup", "{name}");
    }
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_home_or_the_new_one() {
    let world = fake_world();
    start(&world, "1", "remember this");
    backup(&world);
    let file = archive(&world);
    let home = world.kugetsu_home();
    let new = content(&home);
    let restore = ["restore-backup", file.to_str().unwrap(), "--force"];
    for pass in 1.. {
        // A home with something else, and no database.
        run(&world, ["continue", "1", "forget this", "--transport", "run"]).expect_status(0);
        let old = content(&home);
        let database = world.opencode_db();
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{ending}", database.display()));
        }
        let point = format!("moved:{pass}");
        let killed = run_in(&world, &[("KUGETSU_CRASH_AT", &point)], &restore);
        let now = content(&home);
        let has_moved = now == new;
        assert!(has_moved || now == old, "pass {pass}: the home is whole");
        let aside: Vec<_> = names(home.parent().unwrap())
            .into_iter()
            .filter(|name| name.contains(".before-restore-"))
            .map(|name| home.with_file_name(name))
            .collect();
        if has_moved {
            assert!(aside.iter().any(|aside| content(aside) == old), "pass {pass}");
        }
        if killed.signal().is_none() {
            killed.expect_status(0);
            assert!(has_moved && pass > 3, "pass {pass}");
            break;
        }
        // It can be repeated.
        run(&world, restore).expect_status(0);
        assert!(content(&home) == new, "pass {pass}");
        assert!(database.exists(), "pass {pass}");
        for aside in names(home.parent().unwrap()) {
            assert!(!aside.contains(".restoring-"), "pass {pass}: {aside}");
            if aside.contains(".before-restore-") {
                std::fs::remove_dir_all(home.with_file_name(aside)).unwrap();
            }
        }
    }
}

#[test]
fn an_archive_that_is_damaged_or_not_one_changes_nothing() {
    let world = fake_world();
    start(&world, "1", "remember this");
    backup(&world);
    let file = archive(&world);
    let whole = std::fs::read(&file).unwrap();
    let flipped = {
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        bytes
    };
    let elsewhere = Elsewhere::new(&world);
    for bytes in [
        &whole[..whole.len() - 1],
        &whole[..whole.len() / 2],
        &flipped,
        b"no archive",
        b"",
    ] {
        std::fs::write(&file, bytes).unwrap();
        refused(
            &world,
            &["restore-backup", file.to_str().unwrap(), "--force"],
            1,
            &["cannot be restored", "nothing was changed"],
        );
        let refused = elsewhere.run(&["restore-backup", file.to_str().unwrap(), "--json"]);
        assert_eq!(
            refused.expect_status(1).json()["error"]["code"],
            "backup-unusable",
            "{refused}"
        );
        assert!(
            names(&elsewhere.folder).is_empty(),
            "{:?}",
            names(&elsewhere.folder)
        );
    }
    refused(&world, &["restore-backup", "no-such-file"], 66, &["no-such-file"]);
    refused(&world, &["restore-backup", "/dev/null"], 1, &["not a file"]);
}

#[test]
fn links_in_the_home_are_not_followed() {
    let world = fake_world();
    start(&world, "1", "remember this");
    let secret = world.root().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "the secret itself").unwrap();
    let folder = world.kugetsu_home().join("sessions").join(REPO).join("1");
    std::os::unix::fs::symlink(secret.join("key"), folder.join("link.log")).unwrap();
    std::os::unix::fs::symlink(&secret, folder.join("linked")).unwrap();
    std::os::unix::net::UnixListener::bind(folder.join("s")).unwrap();
    // The settings may be a link, because a person chooses where they are.
    let settings = world.root().join("settings.toml");
    std::fs::write(&settings, "log_keep = \"90d\"\n").unwrap();
    std::os::unix::fs::symlink(&settings, world.kugetsu_home().join("config.toml")).unwrap();
    let done = backup(&world);
    let skipped: Vec<_> = ["link.log", "linked", "s"]
        .map(|name| json!(folder.join(name)))
        .into();
    assert_eq!(done["skipped"], json!(skipped), "{done:#}");
    let elsewhere = Elsewhere::new(&world);
    let file = archive(&world);
    elsewhere
        .run(&["restore-backup", file.to_str().unwrap()])
        .expect_status(0);
    let copied = std::fs::read_to_string(elsewhere.home().join("config.toml")).unwrap();
    assert_eq!(copied, "log_keep = \"90d\"\n");
    for (path, bytes) in content(&elsewhere.home()) {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("the secret itself"), "{}", path.display());
    }
    // Before it restores, nothing of the real home has changed.
    assert!(snapshot(&world).len() > 3);
}

#[test]
fn a_database_of_a_newer_opencode_is_not_given_to_an_older_one() {
    let world = fake_world();
    start(&world, "1", "remember this");
    backup(&world);
    let file = archive(&world);
    let elsewhere = Elsewhere::new(&world);
    world.fake(&FakeScript {
        version: "1.18.0".to_owned(),
        ..FakeScript::default()
    });
    let restore = ["restore-backup", file.to_str().unwrap()];
    let refused = elsewhere.run(&restore);
    let says = refused.expect_status(69).stderr();
    assert!(
        says.contains("1.18.0") && says.contains("--without-opencode"),
        "{refused}"
    );
    assert!(!elsewhere.home().join("sessions").exists());
    elsewhere
        .run(&[restore[0], restore[1], "--without-opencode"])
        .expect_status(0);
    elsewhere.run(&["logs", "1"]).expect_status(0);
}
