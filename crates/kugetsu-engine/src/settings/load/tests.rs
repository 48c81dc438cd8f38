//! What the settings refuse, and with which words.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::Environment;
use crate::settings::{SETTINGS, Settings, SettingsError, WorktreeSetting};

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn load(text: &str, variables: Vec<(OsString, OsString)>) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    Settings::load(&file, &Environment::new(variables, "/".into(), "kugetsu".into()))
}

/// What is wrong with this file, without the path of its folder.
#[track_caller]
fn refusal(text: &str) -> String {
    let error = match load(text, Vec::new()) {
        Ok(settings) => panic!("{text}: accepted as {settings:?}"),
        Err(error) => error.to_string(),
    };
    let (_, rest) = error.split_once("/config.toml, ").expect("the path of the file");
    let (line, rest) = rest.split_once(", column ").expect("the column");
    let (column, says) = rest.split_once(": ").expect("the problem");
    let number: usize = line.trim_start_matches("line ").parse().expect("the line");
    let column: usize = column.parse().expect("the column");
    let length = text.lines().nth(number - 1).expect("a line of the file").len();
    assert!((1..=length).contains(&column), "{error}");
    format!("{line}: {says}")
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
    for (text, says) in [
        (
            "agent = { a = 1 }",
            "line 1: `agent` must be a string in quotes, not a table",
        ),
        (
            "timeout = \"5m\"\n[agent]\na = 1",
            "line 2: `agent` must be a string in quotes, not a table",
        ),
        (
            "\nagent.a = 1",
            "line 2: `agent` must be a string in quotes, not a table",
        ),
        (
            "[[agent]]\na = 1",
            "line 1: `agent` must be a string in quotes, not a list",
        ),
        (
            "# two\nmodel = [\"x/y\", \"x/z\"]",
            "line 2: `model` must be a string in quotes, not a list",
        ),
        (
            "model = []",
            "line 1: `model` must be a string in quotes, not a list",
        ),
        (
            "opencode = 5",
            "line 1: `opencode` must be a string in quotes, not a number",
        ),
        (
            "worktree_root = true",
            "line 1: `worktree_root` must be a string in quotes, not a boolean",
        ),
        (
            "hook_before_turn = 1979-05-27",
            "line 1: `hook_before_turn` must be a string in quotes, not a date or time",
        ),
        (
            "transport = 1.5",
            "line 1: `transport` must be a string in quotes, not a number",
        ),
        (
            "timeout = 07:32:00",
            "line 1: `timeout` must be a duration in quotes, such as \"10m\", not a date or time",
        ),
        (
            "timeout = [\"5m\"]",
            "line 1: `timeout` must be a duration in quotes, such as \"10m\", not a list",
        ),
        (
            "max_cost = [1]",
            "line 1: `max_cost` must be a number, not a list",
        ),
        (
            "max_restarts = true",
            "line 1: `max_restarts` must be a number, not a boolean",
        ),
        (
            "worktree = 1",
            "line 1: `worktree` must be true or false, not a number",
        ),
        (
            "worktree = {}",
            "line 1: `worktree` must be true or false, not a table",
        ),
        (
            "rules = { bash = \"deny\" }",
            "line 1: `rules` must be a list of strings, not a table",
        ),
        (
            "worktree_copy = true",
            "line 1: `worktree_copy` must be a list of strings, not a boolean",
        ),
        (
            "worktree_copy = [\n\".env\",\n7,\n]",
            "line 3: `worktree_copy` must be a list of strings, but an item is a number",
        ),
        (
            "rules = [[\"bash=deny\"]]",
            "line 1: `rules` must be a list of strings, but an item is a list",
        ),
        (
            "[[worktree_link]]\na = 1",
            "line 1: `worktree_link` must be a list of strings, but an item is a table",
        ),
        (
            "worktree_link = [\n\"a\\nb\"]",
            "line 2: `worktree_link` must be a list of strings without line breaks",
        ),
        (
            "hosts = \"box\"",
            "line 1: `hosts` must be a table for each host, [hosts.NAME], not a string",
        ),
    ] {
        assert_eq!(refusal(text), says, "{text}");
    }
}

#[test]
fn no_setting_takes_a_table_a_date_or_a_list_that_holds_a_number() {
    for key in SETTINGS {
        for value in ["{}", "1979-05-27", "[1]"] {
            let says = refusal(&format!("\n{} = {value}", key.name));
            let start = format!("line 2: `{}` must be ", key.name);
            assert!(says.starts_with(&start), "{says}");
        }
    }
}

#[test]
fn a_bad_value_in_the_file_is_refused_even_if_a_variable_overrides_it() {
    let variables = vec![("KUGETSU_AGENT".into(), "build".into())];
    let error = load("agent = 5", variables).unwrap_err().to_string();
    assert!(
        error.ends_with("line 1, column 9: `agent` must be a string in quotes, not a number"),
        "{error}"
    );
    let variables = vec![("KUGETSU_TIMEOUT".into(), "5m".into())];
    let error = load("\ntimeout = \"abc\"", variables.clone())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("config.toml, line 2, column 1: `timeout`"),
        "{error}"
    );
    let settings = load("\ntimeout = \"7m\"", variables).unwrap();
    assert_eq!(settings.timeout, Duration::from_mins(5));
}

#[test]
fn a_host_that_cannot_be_used_is_refused_with_its_line() {
    for (text, says) in [
        (
            "[hosts.box]\naddress = \"box\"\nssh = [\"-p\", 22]",
            "line 3: `hosts.box` is not a valid host: invalid type: integer `22`, expected a string",
        ),
        (
            "hosts.box = 3",
            "line 1: `hosts.box` is not a valid host: it must be a table, not a number",
        ),
        (
            "\n[hosts.box]\naddress = \"-oProxyCommand=x\"",
            "line 2: `hosts.box` is not a valid host: `-oProxyCommand=x` is not a destination for ssh; it is a name of \
             ~/.ssh/config, host, user@host or ssh://user@host:port",
        ),
    ] {
        assert_eq!(refusal(text), says, "{text}");
    }
}

#[test]
fn a_list_with_a_bad_item_is_named_on_one_line() {
    let says = refusal("rules = [\"bash=deny\", \"bash\"]");
    assert!(
        says.starts_with("line 1: `rules` cannot be `bash=deny, bash`: "),
        "{says}"
    );
}

#[test]
fn a_variable_that_is_not_utf8_is_refused_by_its_name() {
    for key in SETTINGS {
        let variable = format!("KUGETSU_{}", key.name.to_uppercase());
        let value = OsString::from_vec(b"a\xff".to_vec());
        let error = load("", vec![(variable.clone().into(), value)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{variable}: `{}` cannot be `a\u{fffd}`: it is not valid UTF-8",
                key.name
            )
        );
    }
}

#[test]
fn every_kind_of_value_that_a_setting_takes_is_read() {
    let settings = load(
        "timeout = \"5m\"\nstall_timeout = 90\ngrace = 1.5\nmax_cost = 0.5\nmax_tokens = 1_000\nmax_restarts = \"2\"\n\
         max_steps_without_progress = 5\nworktree = true\nopencode = \"/bin/opencode\"\nmodel = \"\"\n\
         worktree_copy = [\".env\", \"conf\"]\nworktree_link = \"a\\nb\"\nhook_after_create = \"\"\"\na\nb\"\"\"\n",
        vec![("KUGETSU_RULES".into(), "bash=deny\nedit=ask".into())],
    )
    .unwrap();
    assert_eq!(settings.timeout, Duration::from_mins(5));
    assert_eq!(settings.stall_timeout, Duration::from_secs(90));
    assert_eq!(settings.grace, Duration::from_millis(1500));
    assert_eq!(settings.max_cost, Some(0.5));
    assert_eq!(settings.max_tokens, Some(1000));
    assert_eq!(settings.max_restarts, 2);
    assert_eq!(settings.max_steps_without_progress.get(), 5);
    assert_eq!(settings.worktree, WorktreeSetting::Always);
    assert_eq!(settings.opencode, Some(PathBuf::from("/bin/opencode")));
    assert_eq!(settings.model, None);
    assert_eq!(settings.worktree_copy, [".env", "conf"].map(PathBuf::from));
    assert_eq!(settings.worktree_link, ["a", "b"].map(PathBuf::from));
    assert_eq!(settings.hook_after_create.as_deref(), Some("a\nb"));
    assert_eq!(settings.rules.len(), 2);
    assert!(
        load("max_cost = \"\"\nmax_tokens = \"\"", Vec::new())
            .unwrap()
            .max_cost
            .is_none()
    );
}
