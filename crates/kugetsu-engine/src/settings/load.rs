//! Reads `config.toml` and the environment over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::declare::COUNT;
use super::{HostSettings, Origin, SETTINGS, Settings};
use crate::environment::Environment;

/// The one name in the file that is not a setting: the tables of the hosts, `[hosts.NAME]`.
const HOSTS: &str = "hosts";

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        message: String,
    },
    /// A name that no setting has.
    #[error("{path}, line {line}: there is no setting `{name}`; {}", instead_of(.name))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The name.
        name: String,
    },
    /// A value that the setting cannot have.
    #[error("{origin}: `{name}` cannot be `{value}`: {problem}")]
    Value {
        /// The file with the line, or the variable.
        origin: String,
        /// The setting.
        name: String,
        /// What was given.
        value: String,
        /// Why not.
        problem: String,
    },
}

impl Settings {
    /// Reads the file, if there is one, and the environment over it.
    pub fn load(file: &Path, environment: &Environment) -> Result<Self, SettingsError> {
        let text = read(file)?;
        let table = DeTable::parse(&text).map_err(|error| SettingsError::Syntax {
            path: file.to_owned(),
            line: error.span().map_or(1, |span| line_of(&text, span.start)),
            message: error.message().trim().replace('\n', " "),
        })?;
        let mut values: [(String, Origin); COUNT] =
            std::array::from_fn(|place| (SETTINGS[place].default.to_owned(), Origin::Default));
        let mut lines = [0; COUNT];
        let mut hosts = BTreeMap::new();
        for (name, value) in table.get_ref() {
            let line = line_of(&text, name.span().start);
            if name.get_ref() == HOSTS {
                hosts = read_hosts(file, &text, value)?;
                continue;
            }
            let Some(place) = SETTINGS.iter().position(|key| key.name == name.get_ref()) else {
                return Err(SettingsError::Unknown {
                    path: file.to_owned(),
                    line,
                    name: name.get_ref().clone().into_owned(),
                });
            };
            values[place] = (plain(value.get_ref()), Origin::File);
            lines[place] = line;
        }
        for (key, value) in SETTINGS.iter().zip(&mut values) {
            let variable = format!("KUGETSU_{}", key.name.to_uppercase());
            if let Some(text) = environment.get(&variable) {
                *value = (text.to_string_lossy().into_owned(), Origin::Environment(variable));
            }
        }
        let texts = values.each_ref().map(|(text, _)| text.clone());
        let origins = values.each_ref().map(|(_, origin)| origin.clone());
        Self::typed(texts, origins, hosts).map_err(|(place, problem)| {
            let (value, origin) = &values[place];
            SettingsError::Value {
                origin: match origin {
                    Origin::File => at(file, lines[place]),
                    other => other.to_string(),
                },
                name: SETTINGS[place].name.to_owned(),
                value: value.clone(),
                problem,
            }
        })
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(SettingsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.matches('\n').count() + 1
}

fn at(file: &Path, line: usize) -> String {
    format!("{}, line {line}", file.display())
}

/// What the author of this name may have meant. Every command fails as long as the name is there, so none is named.
fn instead_of(name: &str) -> String {
    let known = || SETTINGS.iter().map(|key| key.name).chain([HOSTS]);
    let near = known()
        .map(|known| (strsim::osa_distance(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 4).max(1))
        .min();
    match near {
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    }
}

fn read_hosts(
    file: &Path,
    text: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<BTreeMap<String, HostSettings>, SettingsError> {
    let wrong = |offset: usize, name: String, value: String, problem: String| SettingsError::Value {
        origin: at(file, line_of(text, offset)),
        name,
        value,
        problem,
    };
    let DeValue::Table(table) = value.get_ref() else {
        let problem = "it is a table for each host: [hosts.NAME]".to_owned();
        let shown = plain(value.get_ref());
        return Err(wrong(value.span().start, HOSTS.to_owned(), shown, problem));
    };
    let mut hosts = BTreeMap::new();
    for (name, value) in table {
        let full = format!("{HOSTS}.{}", name.get_ref());
        let offset = name.span().start;
        let settings: HostSettings = serde::Deserialize::deserialize(toml::de::ValueDeserializer::from(
            value.clone(),
        ))
        .map_err(|error: toml::de::Error| {
            let offset = error.span().map_or(offset, |span| span.start);
            let problem = error.message().replace('\n', " ");
            wrong(offset, full.clone(), plain(value.get_ref()), problem)
        })?;
        settings
            .destination(name.get_ref())
            .map_err(|error| wrong(offset, full, plain(value.get_ref()), error.to_string()))?;
        hosts.insert(name.get_ref().clone().into_owned(), settings);
    }
    Ok(hosts)
}

/// A value as a person would type it; the items of a list are lines.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => items
            .iter()
            .map(|item| plain(item.get_ref()))
            .collect::<Vec<_>>()
            .join("\n"),
        DeValue::Table(table) => table
            .iter()
            .map(|(name, value)| format!("{} = {}", name.get_ref(), plain(value.get_ref())))
            .collect::<Vec<_>>()
            .join(", "),
    }
}
