//! The files that the manual and `sessions-example/` show are what the engine reads and writes. When they have changed:
//! `cargo xtask example` writes the example anew.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test writes its own files and may panic"
)]

use std::collections::BTreeSet;

use kugetsu_api::{BaseRecord, SessionRecord, TurnRecord};
use kugetsu_testing::example::{self, SESSIONS};
use kugetsu_testing::manual_blocks;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::environment::Environment;
use crate::settings::Settings;
use crate::store::{Index, Store, record_text};
use crate::turn::stream::StreamLine;

#[test]
fn the_answers_file_in_the_manual_can_be_read() {
    let text = &manual_blocks("answers")[0].text;
    let answers: crate::turn::answers::Answers = serde_json::from_str(text).unwrap();
    assert_eq!(
        (
            answers.questions.len(),
            answers.permissions.len(),
            answers.secrets.len()
        ),
        (1, 1, 1)
    );
}

#[test]
fn the_settings_files_in_the_manual_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let mut hosts = 0;
    for block in manual_blocks("toml") {
        std::fs::write(&file, &block.text).unwrap();
        let config = Settings::load(&file, &Environment::default());
        hosts += config
            .unwrap_or_else(|error| panic!("{}, line {}: {error}", block.document, block.line))
            .hosts
            .len();
    }
    assert_eq!(hosts, 1);
}

#[test]
fn every_file_is_read_and_written_again_as_it_was() {
    fn file<T: DeserializeOwned>(name: &str, write: impl Fn(&T) -> serde_json::Result<Vec<u8>>) -> T {
        let text = example::text(&example::folder(), name);
        let value: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = String::from_utf8(write(&value).unwrap()).unwrap();
        assert_eq!(again.trim_end(), text.trim_end(), "{name}");
        value
    }
    fn lines<T: Serialize + DeserializeOwned>(name: &str) -> usize {
        let text = example::text(&example::folder(), name);
        for line in text.lines() {
            let value: T = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(serde_json::to_string(&value).unwrap(), line, "{name}");
        }
        text.lines().count()
    }

    let index: Index = file("index.json", serde_json::to_vec_pretty);
    let base = index.bases.values().next().unwrap();
    let base: BaseRecord = file(&format!("sessions/{base}"), record_text);
    let mut known: BTreeSet<String> = ["config.toml", "index.json"].map(str::to_owned).into();
    known.insert(format!("{SESSIONS}/base.json"));
    for (reference, path) in index.issues {
        let record: SessionRecord = file(&format!("sessions/{path}"), record_text);
        assert_eq!(record.address.to_string(), reference);
        assert_eq!(record.base_session, base.session);
        let turns = format!(
            "{SESSIONS}/{}/turns.jsonl",
            record.address.issue().unwrap().number()
        );
        assert_eq!(lines::<TurnRecord>(&turns) as u64, record.totals.turns);
        known.extend([format!("sessions/{path}"), turns]);
    }
    let stream = example::stream(&example::folder());
    assert!(lines::<StreamLine>(&stream) > 5);
    known.insert(stream);
    assert_eq!(
        example::files(&example::folder()),
        known,
        "a file that nothing checks"
    );

    let config = Settings::load(&example::folder().join("config.toml"), &Environment::default()).unwrap();
    assert_eq!(config.policy(), base.policy);
}

#[test]
fn the_store_finds_nothing_wrong_with_it() {
    let home = tempfile::tempdir().unwrap();
    for name in example::files(&example::folder()) {
        let to = home.path().join(&name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(example::folder().join(name), to).unwrap();
    }
    let store = Store::open(home.path().to_owned());
    assert_eq!(store.check(), []);
    assert_eq!(store.session_records().unwrap().found.len(), 2);
    let report = store.rebuild_index().unwrap();
    assert_eq!((report.bases, report.issues), (1, 2));
    assert_eq!(
        example::text(home.path(), "index.json"),
        example::text(&example::folder(), "index.json")
    );
}
