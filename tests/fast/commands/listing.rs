//! The output of `list` and `logs`.

use crate::in_both_modes;
use crate::support::kit::{self, SOON, fake_world, record_path, refused, run, run_in, start};
use kugetsu_testing::{FakeScript, Step};
use serde_json::{Value, json};

#[test]
fn a_list_is_filtered() {
    let world = fake_world();
    kit::make_default(&world);
    start(&world, "1", "hello");
    world.fake(&FakeScript::steps([Step::Error {
        name: "APIError".into(),
        message: "no key".into(),
    }]));
    run(&world, ["start", "2", "hello", "--transport", "run"]).expect_status(1);
    world.fake(&FakeScript::default());
    start(&world, "codeberg.org/a/b#3", "hello");
    let refs = |arguments: &[&str]| -> Vec<String> {
        let mut all = vec!["list", "--json"];
        all.extend(arguments);
        let listed = run(&world, all);
        listed.expect_status(0);
        let value = listed.json();
        let sessions = value["sessions"].as_array().expect("a list").iter();
        sessions.map(|session| kit::text(&session["ref"])).collect()
    };
    let (one, two, three) = (
        "github.com/shoko/kugetsu#1",
        "github.com/shoko/kugetsu#2",
        "codeberg.org/a/b#3",
    );
    assert_eq!(refs(&[]), [three, one, two]);
    assert_eq!(refs(&["--state", "failed"]), [two]);
    assert_eq!(refs(&["--state", "failed,completed"]), [three, one, two]);
    assert_eq!(refs(&["--repo", "codeberg.org/a/b"]), [three]);
    assert_eq!(refs(&["--repo", "shoko/kugetsu"]), [one, two]);
    let elsewhere = ["list", "--json", "--repo", "a/b"];
    let there = run_in(&world, &[("KUGETSU_INSTANCE", "codeberg.org")], &elsewhere).json();
    assert_eq!(there["sessions"][0]["ref"], three, "{there}");
    let config = world.kugetsu_home().join("config.toml");
    std::fs::write(&config, "instance = \"\"\n").expect("a file");
    refused(&world, &["list", "--repo", "a/b"], 64, &["set `instance`"]);
    std::fs::remove_file(config).expect("it is there");
    assert_eq!(refs(&["--newer", "1h"]), [three, one, two]);
    assert_eq!(refs(&["--older", "1h"]), [""; 0]);
    let table = run(&world, ["list"]);
    for word in [one, two, three, "completed", "failed", "REF"] {
        assert!(table.stdout().contains(word), "{word}\n{table}");
    }
    let nothing = run(&world, ["list", "--older", "1h"]);
    assert_eq!(
        (nothing.code(), nothing.stdout()),
        (0, String::new()),
        "{nothing}"
    );
}

in_both_modes! {
    logs_report_on_stderr_the_end_of_a_turn_that_did_not_complete,
}

fn logs_report_on_stderr_the_end_of_a_turn_that_did_not_complete() {
    let world = fake_world();
    let error = || Step::Error {
        name: "APIError".into(),
        message: "no key".into(),
    };
    let logs = |more: &[&str]| {
        let output = run(&world, ["logs", "1"].into_iter().chain(more.iter().copied()));
        output.expect_status(0);
        (output.stdout(), output.stderr())
    };
    world.fake(&FakeScript::steps([error()]));
    let failed = run(
        &world,
        ["start", "1", "hello", "--transport", "run", "--output", "json"],
    );
    let turn = kit::text(&failed.expect_status(1).json()["turn"]);
    for more in [&[][..], &["-f"], &["--turn", &turn]] {
        let (stdout, stderr) = logs(more);
        assert_eq!(stdout, "");
        assert!(
            stderr.contains("kugetsu#1 failed\n") && stderr.contains("no key"),
            "{stderr}"
        );
    }
    for more in ["--json", "--raw"] {
        let (stdout, stderr) = logs(&[more]);
        assert!(stdout.contains("no key") && stderr.is_empty(), "{stdout}{stderr}");
    }

    world.fake(&FakeScript::default());
    run(&world, ["continue", "1", "again", "--transport", "run"]).expect_status(0);
    assert_eq!(logs(&[]), ("done\n".to_owned(), String::new()));
    assert!(logs(&["--turn", &turn]).1.contains("failed"));

    world.fake(&FakeScript::steps([Step::Hang]));
    let mut hanging = world.spawn(["continue", "1", "hang", "--transport", "run"]);
    world.wait_until("the turn is in opencode", SOON, || {
        let calls = world.fake_calls();
        calls.iter().any(|call| call.prompt.as_deref() == Some("hang"))
    });
    assert!(hanging.is_alive());
    assert_eq!(logs(&[]).1, "", "it has not ended");
    hanging.signal(kugetsu_testing::Signal::Interrupt);
    hanging.wait(SOON).expect_status(130);
    assert!(logs(&[]).1.contains("kugetsu#1 aborted"));
}

#[test]
fn a_list_names_what_it_cannot_read_once_and_lists_the_rest() {
    let world = fake_world();
    for issue in ["1", "2", "3"] {
        start(&world, issue, "hello");
    }
    let folder = record_path(&world, "1").parent().expect("a folder").to_owned();
    // A record of a newer schema is read if it has all fields of this one, and rejected otherwise.
    let mut newer = kit::record(&world, "2").expect("a record");
    newer["schema"] = 9.into();
    newer["something"] = "new".into();
    std::fs::write(folder.join("2.json"), newer.to_string()).expect("a file");
    std::fs::write(folder.join("4.json"), r#"{"schema": 9}"#).expect("a file");
    std::fs::rename(folder.join("3.json"), world.root().join("3.json")).expect("the same disk");
    std::os::unix::fs::symlink(world.root().join("3.json"), folder.join("3.json")).expect("a link");
    std::fs::write(folder.join("5.json"), "{").expect("a file");
    std::fs::write(folder.join("06.json"), "{}").expect("a file");
    std::fs::create_dir(folder.join("7.json")).expect("a folder");
    let other = folder.with_file_name("other");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("base.json"), "").expect("a file");
    std::os::unix::fs::symlink(&other, folder.with_file_name("link")).expect("a link");
    let mut wanted: Vec<String> = ["06.json", "3.json", "4.json", "5.json", "7.json"]
        .map(|name| folder.join(name))
        .into_iter()
        .chain([other.join("base.json"), folder.with_file_name("link")])
        .map(|path| path.display().to_string())
        .collect();
    wanted.sort();

    let listed = run(&world, ["list", "--json"]);
    listed.expect_status(0);
    let value = listed.json();
    let texts = |list: &str, field: &str| -> Vec<String> {
        let rows = value[list].as_array().expect("a list").iter();
        rows.map(|row| kit::text(&row[field])).collect()
    };
    assert_eq!(
        texts("sessions", "ref"),
        ["github.com/shoko/kugetsu#1", "github.com/shoko/kugetsu#2"],
        "{listed}"
    );
    assert_eq!(texts("bases", "repo"), [kit::REPO], "{listed}");
    let mut broken = texts("broken", "path");
    broken.sort();
    assert_eq!(broken, wanted, "{listed}");

    let table = run(&world, ["list"]);
    table.expect_status(0);
    assert!(
        table.stdout().contains("kugetsu#1 ") && table.stdout().contains("kugetsu#2 "),
        "{table}"
    );
    for path in &wanted {
        let reported = table.stderr().matches(&format!("{path} is left out")).count();
        assert_eq!(reported, 1, "{path}\n{table}");
    }
}

#[test]
fn list_reads_only_the_fields_it_needs_and_doctor_reads_all() {
    let world = fake_world();
    for issue in ["1", "2"] {
        start(&world, issue, "hello");
    }
    let path = record_path(&world, "1");
    let sound = kit::record(&world, "1").expect("a record");
    let write = |record: &Value| std::fs::write(&path, record.to_string()).expect("a file");
    let listed = || {
        let listed = run(&world, ["list", "--json"]);
        listed.expect_status(0);
        let rows = listed.json()["sessions"].as_array().expect("a list").clone();
        let broken = listed.json()["broken"].as_array().expect("a list").clone();
        assert_eq!(rows.len() + broken.len(), 2, "{listed}");
        let named = path.display().to_string();
        assert!(broken.iter().all(|file| file["path"] == named), "{listed}");
        assert_eq!(
            run(&world, ["list"]).stderr().contains(&named),
            !broken.is_empty()
        );
        (broken.is_empty()).then(|| rows[0].clone())
    };

    let mut record = sound.clone();
    record["policy"] = 5.into();
    write(&record);
    let row = listed().expect("a row");
    assert_eq!((&row["policy"], &row["state"]), (&json!(5), &json!("completed")));
    let named = path.display().to_string();
    for (command, status) in [("show 1", 73), ("doctor", 1)] {
        let reported = run(&world, command.split(' '));
        assert_eq!(reported.code(), status, "{reported}");
        assert!(format!("{reported}").contains(&named), "{reported}");
    }
    // A newer kugetsu's record is read, and its own fields are passed on, even when large.
    for large in ["", &"x".repeat(100_000)] {
        let mut newer = record.clone();
        newer["schema"] = 9.into();
        newer["note"] = large.into();
        write(&newer);
        let row = listed().expect("a row");
        newer["state"] = "completed".into();
        assert_eq!(row, newer);
    }

    // Values that would break the listing for its readers.
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for text in ["\"half a \\ud83d pair\"", &deep, "\"\u{1}\"", "nonsense"] {
        for schema in [1, 9] {
            record["schema"] = schema.into();
            let policy = format!("\"policy\":{text}");
            let text = record.to_string().replace("\"policy\":5", &policy);
            std::fs::write(&path, text).expect("a file");
            assert_eq!(listed(), None, "{schema}: {policy}");
        }
    }
    std::fs::write(
        &path,
        [b"{\"title\": \"\xff\",", &sound.to_string().as_bytes()[1..]].concat(),
    )
    .expect("a file");
    assert_eq!(listed(), None);
    record["schema"] = 1.into();
    record["policy"] = "\u{1f600}".into();
    let escaped = record.to_string().replace('\u{1f600}', "\\ud83d\\ude00");
    std::fs::write(&path, escaped).expect("a file");
    assert_eq!(listed().expect("a row")["policy"], record["policy"]);

    for (field, wrong) in [
        ("ref", json!("github.com/shoko/kugetsu#2")),
        ("session", json!(7)),
        ("updated", json!("yesterday")),
        ("totals", json!({"turns": "many"})),
        ("last", json!({"verdict": "splendid"})),
        ("live", json!([])),
        ("worktree", json!("here")),
    ] {
        let mut record = sound.clone();
        record[field] = wrong;
        write(&record);
        assert_eq!(listed(), None, "{field}");
    }
    // In the order of the record's fields, and for all of them.
    for fields in [
        "schema ref session updated totals live last worktree",
        "schema ref typed session fork base base_session directory worktree title policy opencode created updated \
         live last totals days",
    ] {
        let values: Vec<_> = fields
            .split(' ')
            .map(|field| sound.get(field).unwrap_or(&Value::Null))
            .collect();
        write(&json!(values));
        assert_eq!(listed(), None, "{fields}");
        refused(&world, &["show", "1"], 73, &["not a JSON object"]);
    }
    write(&sound);
    assert!(listed().is_some());
}

#[test]
fn a_record_that_somebody_edited_is_listed_as_it_is() {
    let world = fake_world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    let plain = run(&world, ["list", "--json"]).json();
    let path = record_path(&world, "1");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["note"] = json!("  two  \n lines \u{2028} {\"state\": \"x\"}  ");
    for edited in [
        format!("\n{}  \n\n", text.replace('\n', "\r\n\t ")),
        text.replace('\n', "\r"),
        serde_json::to_string(&record).unwrap(),
        serde_json::to_string_pretty(&record).unwrap(),
    ] {
        std::fs::write(&path, &edited).unwrap();
        let output = run(&world, ["list", "--json"]);
        let mut listed = output.json();
        let note = listed["sessions"][0].as_object_mut().unwrap().remove("note");
        assert_eq!(note.is_some(), edited.contains("note"), "{output}");
        assert!(note.is_none_or(|note| note == record["note"]), "{output}");
        assert_eq!(listed, plain);
        let text = output.stdout();
        assert_eq!(text.trim_end().find(['\n', '\r']), None, "{text:?}");
    }
    // A newer kugetsu may have additional states.
    record["state"] = json!("theirs");
    for schema in [1, 2] {
        record["schema"] = json!(schema);
        std::fs::write(&path, record.to_string()).unwrap();
        let output = run(&world, ["list", "--json"]);
        assert_eq!(output.json()["sessions"][0]["state"], "completed", "{output}");
        assert!(!output.stdout().contains("theirs"), "{output}");
    }
}

#[test]
fn people_see_short_turn_ids_and_commands_take_any_part_that_is_unique() {
    let world = fake_world();
    start(&world, "1", "hello");
    for _ in 0..2 {
        run(&world, ["continue", "1", "again", "--transport", "run"]).expect_status(0);
    }
    let turns = run(&world, ["show", "1", "--turns", "--json"]).json();
    let ids = turns["turn_list"].as_array().expect("a list").iter();
    let ids: Vec<_> = ids.map(|turn| kit::text(&turn["turn"])).collect();
    let table = run(&world, ["show", "1", "--turns"]).stdout();
    for id in &ids {
        let short = &id[id.len() - 8..];
        assert!(table.contains(short) && !table.contains(id.as_str()), "{table}");
        for part in [short, &short[4..], &id[..id.len() - 1], &short.to_uppercase()] {
            let logs = run(&world, ["logs", "1", "--turn", part, "--json"]);
            assert_eq!(
                logs.expect_status(0).json_lines()[0]["turn"],
                id.as_str(),
                "{part}"
            );
            let waited = run(&world, ["wait", "1", "--turn", part, "--output", "json"]);
            assert_eq!(waited.expect_status(0).json()["turn"], id.as_str(), "{part}");
        }
    }
    // They began within the same minutes, so their first characters are the same.
    let common = &ids[0][..6];
    refused(
        &world,
        &["logs", "1", "--turn", common],
        64,
        &[&ids[0], &ids[2], "more characters"],
    );
    refused(
        &world,
        &["wait", "1", "--turn", "ffffffff"],
        66,
        &["show github.com/shoko/kugetsu#1 --turns"],
    );
    refused(&world, &["wait", "1", "--turn", "fff"], 64, &["at least 4"]);
}
