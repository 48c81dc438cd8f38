//! Changes to the text of `config.toml` that keep its comments and its order.

use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, Value};

use super::declare::SHAPES;
use super::load::{instead_of, place_of};
use super::values::Shape;
use super::{SETTINGS, SettingsError};

/// A setting by the name that a person types: `timeout`, or `hosts.NAME.FIELD`.
enum Key<'a> {
    Setting(&'static str, Shape),
    Host(&'a str, &'static str, Shape),
}

/// The fields of a host.
const HOST_FIELDS: [(&str, Shape); 4] = [
    ("address", Shape::Text),
    ("kugetsu", Shape::Text),
    ("home", Shape::Text),
    ("ssh", Shape::List),
];

impl<'a> Key<'a> {
    fn parse(name: &'a str) -> Result<Self, SettingsError> {
        let unknown = || SettingsError::NoSuchKey {
            name: name.to_owned(),
            instead: instead_of(name),
        };
        if let Some(place) = SETTINGS.iter().position(|key| key.name == name) {
            return Ok(Self::Setting(SETTINGS[place].name, SHAPES[place]));
        }
        let (host, field) = name
            .strip_prefix("hosts.")
            .and_then(|rest| rest.rsplit_once('.'))
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(unknown)?;
        let field = HOST_FIELDS.iter().find(|(known, _)| *known == field);
        let (field, shape) = field.ok_or_else(|| SettingsError::NoSuchKey {
            name: name.to_owned(),
            instead: "a host has address, kugetsu, home and ssh".to_owned(),
        })?;
        Ok(Self::Host(host, field, *shape))
    }
}

/// Whether a setting or a field of a host can have this name.
pub fn check_key(name: &str) -> Result<(), SettingsError> {
    Key::parse(name).map(drop)
}

/// The text with another value for this setting. The result is not checked.
pub(crate) fn set(text: &str, file: &Path, name: &str, values: &[String]) -> Result<String, SettingsError> {
    let key = Key::parse(name)?;
    let mut document = parse(text, file)?;
    let (Key::Setting(_, shape) | Key::Host(_, _, shape)) = key;
    let mut value = value_of(name, values, shape)?;
    if let Key::Setting(name, _) = key
        && !document.iter().any(|(_, item)| item.is_value())
    {
        return Ok(before_tables(text, &format!("{name} = {value}\n")));
    }
    let item = match key {
        Key::Setting(name, _) => document.entry(name).or_insert(Item::None),
        Key::Host(host, field, _) => {
            let hosts = document.entry("hosts").or_insert_with(|| {
                let mut hosts = Table::new();
                hosts.set_implicit(true);
                Item::Table(hosts)
            });
            let table = hosts
                .as_table_like_mut()
                .map(|hosts| hosts.entry(host).or_insert_with(|| Item::Table(Table::new())));
            table
                .and_then(Item::as_table_like_mut)
                .map(|table| table.entry(field).or_insert(Item::None))
                .ok_or_else(|| SettingsError::NoSuchKey {
                    name: name.to_owned(),
                    instead: "`hosts` is not a table in the file".to_owned(),
                })?
        }
    };
    // The blanks and the comment around the old value.
    if let Some(old) = item.as_value() {
        *value.decor_mut() = old.decor().clone();
    }
    *item = Item::Value(value);
    Ok(document.to_string())
}

/// The text with this line before the first table and the comment above that table. The comment at the beginning of the
/// file stays there, which the parser takes for a part of the first table.
fn before_tables(text: &str, line: &str) -> String {
    let mut at = 0;
    let mut end = 0;
    for piece in text.split_inclusive('\n') {
        if piece.trim_start().starts_with('[') {
            let gap = if text[at..].starts_with(['\n', '\r']) {
                ""
            } else {
                "\n"
            };
            return format!("{}{line}{gap}{}", &text[..at], &text[at..]);
        }
        end += piece.len();
        if piece.trim().is_empty() {
            at = end;
        }
    }
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{text}{gap}{line}")
}

/// The text without this setting, which then has its default.
pub(crate) fn unset(text: &str, file: &Path, name: &str) -> Result<String, SettingsError> {
    let key = Key::parse(name)?;
    let mut document = parse(text, file)?;
    match key {
        Key::Setting(name, _) => {
            document.remove(name);
        }
        Key::Host(host, field, _) => {
            let hosts = document.get_mut("hosts").and_then(Item::as_table_like_mut);
            if let Some(hosts) = hosts
                && let Some(table) = hosts.get_mut(host).and_then(Item::as_table_like_mut)
            {
                table.remove(field);
                if table.is_empty() {
                    hosts.remove(host);
                }
            }
        }
    }
    Ok(document.to_string())
}

/// A file that sets nothing and names every setting with its default and its meaning.
pub fn template() -> String {
    let mut text = String::from(
        "# The settings of kugetsu. A line without # in front of it sets one; the values here are the defaults.\n",
    );
    for (key, shape) in SETTINGS.iter().zip(SHAPES) {
        let quoted = match shape {
            Shape::Number => key.default.is_empty(),
            // `auto` is not a value of TOML.
            Shape::Boolean => key.default.parse::<bool>().is_err(),
            _ => true,
        };
        let value = match (shape, quoted) {
            (Shape::List, _) => "[]".to_owned(),
            (_, true) => format!("\"{}\"", key.default),
            (_, false) => key.default.to_owned(),
        };
        text.push_str(&format!("\n# {}\n# {} = {value}\n", key.help, key.name));
    }
    text
}

fn parse(text: &str, file: &Path) -> Result<DocumentMut, SettingsError> {
    text.parse()
        .map_err(|error: toml_edit::TomlError| SettingsError::Syntax {
            path: file.to_owned(),
            place: place_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().trim().replace('\n', " "),
        })
}

/// The value in TOML. What does not have the setting's shape is written as text, which the check of the file refuses.
fn value_of(name: &str, values: &[String], shape: Shape) -> Result<Value, SettingsError> {
    if shape == Shape::List {
        if let [one] = values
            && let Ok(Value::Array(list)) = one.parse()
        {
            return Ok(Value::Array(list));
        }
        let items = values.iter().filter(|value| !value.is_empty());
        return Ok(Value::Array(items.map(String::as_str).collect::<Array>()));
    }
    let [one] = values else {
        return Err(SettingsError::OneValue {
            name: name.to_owned(),
        });
    };
    Ok(match shape {
        Shape::Boolean => one.parse::<bool>().map_or_else(|_| one.into(), Value::from),
        Shape::Number => match (one.parse::<i64>(), one.parse::<f64>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) if number.is_finite() => number.into(),
            _ => one.into(),
        },
        _ => one.into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::environment::Environment;
    use crate::settings::Settings;

    const FILE: &str = "# mine\n\n[hosts.box] # far away\naddress = 'me@box' # old\nssh = [\"-4\"]\n";

    fn changed(text: &str, name: &str, values: &[&str]) -> String {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        set(text, Path::new("config.toml"), name, &values).unwrap()
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# first\ntimeout = \"1h\"   # long\n\nmax_cost = 2 # dollars\n";
        assert_eq!(
            changed(text, "timeout", &["5m"]),
            "# first\ntimeout = \"5m\"   # long\n\nmax_cost = 2 # dollars\n"
        );
        assert_eq!(
            changed(text, "worktree_copy", &[".env", "a b"]),
            format!("{text}worktree_copy = [\".env\", \"a b\"]\n")
        );
        let with_host = changed(FILE, "worktree", &["true"]);
        assert!(
            with_host.find("worktree = true") < with_host.find("[hosts.box]"),
            "{with_host}"
        );
        assert_eq!(
            changed(FILE, "hosts.box.address", &["you@box"]),
            FILE.replace("'me@box'", "\"you@box\"")
        );
        assert_eq!(
            changed("", "hosts.a.home", &["/srv"]),
            "[hosts.a]\nhome = \"/srv\"\n"
        );
        let path = Path::new("config.toml");
        assert_eq!(
            unset(text, path, "timeout").unwrap(),
            "\nmax_cost = 2 # dollars\n"
        );
        let without = unset(FILE, path, "hosts.box.ssh").unwrap();
        assert_eq!(without, FILE.replace("ssh = [\"-4\"]\n", ""));
        assert!(
            !unset(&without, path, "hosts.box.address")
                .unwrap()
                .contains("box")
        );
    }

    #[test]
    fn the_template_sets_nothing_and_every_line_of_it_is_valid() {
        let file = tempfile::tempdir().unwrap();
        let file = file.path().join("config.toml");
        let load = |text: &str| Settings::parse(&file, text, &Environment::default()).unwrap();
        let texts = |settings: &Settings| -> Vec<String> {
            settings.entries().map(|(_, value, _)| value.to_owned()).collect()
        };
        let unset = load(&template());
        assert_eq!(texts(&unset), texts(&load("")));
        let lines = template();
        let lines = lines
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| {
                SETTINGS
                    .iter()
                    .any(|key| line.starts_with(&format!("{} = ", key.name)))
            });
        let all = lines.collect::<Vec<_>>().join("\n");
        assert_eq!(all.lines().count(), SETTINGS.len());
        assert_eq!(texts(&load(&all)), texts(&unset));
    }

    proptest! {
        /// Any value can be set without a panic, and what was set is what the parser reads.
        #[test]
        fn any_text_is_written_as_it_is(value in any::<String>(), name in 0..SETTINGS.len()) {
            let text = changed(FILE, SETTINGS[name].name, &[&value]);
            let parsed: toml::Table = text.parse().unwrap();
            if let Some(toml::Value::String(written)) = parsed.get(SETTINGS[name].name) {
                prop_assert_eq!(written, &value);
            }
            prop_assert!(text.starts_with("# mine"));
        }
    }
}
