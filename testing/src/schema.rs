//! Validates kugetsu's output and files against the JSON Schemas in docs/schema.
//!
//! It uses the checked-in files, as other programs would. They permit unknown fields, so that a newer kugetsu may add
//! some. Here, an unknown field is an error, because no type has it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use crate::world::workspace_root;

static VALIDATORS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let folder = workspace_root().join("docs/schema");
    let files = std::fs::read_dir(&folder).expect("docs/schema is checked in");
    files
        .map(|file| {
            let path = file.expect("the folder can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.trim_end_matches(".schema.json").to_owned();
            let text = std::fs::read(&path).expect("a file of the repository");
            let mut schema: Value = serde_json::from_slice(&text).expect("a schema is JSON");
            close(&mut schema);
            (name, jsonschema::validator_for(&schema).expect("a valid schema"))
        })
        .collect()
});

/// Forbids unknown fields. Definitions are only referred to as the values of fields, so each can be closed separately.
fn close(schema: &mut Value) {
    if let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) {
        definitions.values_mut().for_each(close_one);
    }
    close_one(schema);
}

fn close_one(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut()
        && schema.contains_key("properties")
        && !schema.contains_key("additionalProperties")
    {
        schema.insert("unevaluatedProperties".to_owned(), false.into());
    }
}

/// The violations of the schema `docs/schema/NAME.schema.json` in a value; empty if it is valid.
pub fn problems(name: &str, value: &Value) -> Vec<String> {
    let validator = VALIDATORS
        .get(name)
        .unwrap_or_else(|| panic!("docs/schema has no {name}.schema.json"));
    validator
        .iter_errors(value)
        .map(|error| format!("{name}.schema.json: {}: {error}", error.instance_path()))
        .collect()
}

/// Panics unless the value is valid by the schema `docs/schema/NAME.schema.json`.
#[track_caller]
pub fn assert_valid(name: &str, value: &Value) {
    let problems = problems(name, value);
    assert!(problems.is_empty(), "{}\n{value:#}", problems.join("\n"));
}

/// The schema of the JSON that a command line of kugetsu prints on stdout; `None` if it prints something else.
pub(crate) fn of_command(arguments: &[String], value: &Value) -> Option<&'static str> {
    if value.get("error").is_some_and(Value::is_object) {
        return Some("error");
    }
    let mut words = arguments.iter().map(String::as_str);
    let verb = loop {
        match words.next()? {
            "--host" => {
                words.next();
            }
            option if option.starts_with('-') => {}
            verb => break verb,
        }
    };
    let has = |flag: &str| arguments.iter().any(|word| word == flag);
    let one_object = has("--output=json")
        || arguments
            .windows(2)
            .any(|pair| pair[0] == "--output" && pair[1] == "json");
    let old_events = has("--events-schema=1")
        || arguments
            .windows(2)
            .any(|pair| pair[0] == "--events-schema" && pair[1] == "1");
    let event = if old_events { "event-1" } else { "event" };
    Some(match verb {
        "start" | "continue" if has("--detach") => "detached",
        "start" | "continue" | "wait" if one_object => "turn",
        "start" | "continue" | "wait" => event,
        "logs" if has("--raw") => return None,
        "logs" | "watch" => event,
        "init" => "base",
        "restore" if has("--base") => "base",
        "restore" => "session",
        "list" | "ls" if arguments.iter().any(|word| word.starts_with("--fields")) => "list-fields",
        "list" | "ls" => "list",
        "show" => "show",
        "diff" => "diff",
        "issue" => "issue",
        "attach" => "attach",
        "stop" => "stop",
        "signal" if has("rebase") => "rebase",
        "signal" => "signal",
        "query" => "query",
        "permit" if has("--explain") => "explain",
        "permit" => "permit",
        "pending" => "pending",
        "answer" => "answer",
        "prune" => "prune",
        "destroy" => "destroy",
        "doctor" => "doctor",
        "move" => "move",
        "gc" => "gc",
        "backup" => "backup",
        "restore-backup" => "restore-backup",
        "trash" if has("empty") => "trash-empty",
        "trash" => "trash-list",
        "config" if has("get") || has("set") || has("unset") => "setting",
        "config" => "config",
        "completions" => "completions",
        "man" => "man",
        "daemon" if has("token") && has("create") => "token",
        "daemon" if has("token") => "token-list",
        "daemon" if has("open") => "page-link",
        "daemon" if has("start") => "daemon-start",
        "daemon" if has("stop") => "daemon-stop",
        "daemon" => "daemon-status",
        "submit" => "submitted-task",
        "task" if has("list") => "task-list",
        "task" => "task",
        "tail" => event,
        other => panic!("no schema is known for `kugetsu {other}`"),
    })
}
