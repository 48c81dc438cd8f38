//! Reads `config.toml` and the environment over it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use kugetsu_api::RepoRef;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::declare::{COUNT, SHAPES};
use super::values::Shape;
use super::{ForgeSettings, HostSettings, Origin, SETTINGS, Settings};
use crate::environment::Environment;

/// Not a setting: the tables of the hosts, `[hosts.NAME]`.
const HOSTS: &str = "hosts";
/// Not a setting: the tables of the forges, `[forges."HOST"]`.
const FORGES: &str = "forges";

/// A place in the file. Both numbers count from 1; the column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file exists and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// The file is not TOML.
    #[error("{path}, {place}: not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// Why.
        message: String,
    },
    /// A name that no setting has.
    #[error("{path}, {place}: there is no setting `{name}`; {}", instead_of(.name))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// The name.
        name: String,
    },
    /// A kind of value that the setting cannot have, such as a table or a list.
    #[error("{path}, {place}: `{name}` must be {must}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// The setting, `hosts` or `forges`.
        name: String,
        /// What it must be, and what it is instead.
        must: String,
    },
    /// A name on the command line that no setting has.
    #[error("there is no setting `{name}`; {instead}")]
    NoSuchKey {
        /// The name.
        name: String,
        /// What may be meant.
        instead: String,
    },
    /// Several values for a setting that is not a list.
    #[error("`{name}` takes one value; put quotes around it")]
    OneValue {
        /// The setting.
        name: String,
    },
    /// A value on the command line that the setting cannot have.
    #[error("`{name}` cannot be `{value}`: {problem}")]
    Given {
        /// The setting.
        name: String,
        /// What was typed.
        value: String,
        /// Why not.
        problem: String,
    },
    /// A host or a forge that cannot be used as it is described.
    #[error("{path}, {place}: `{name}` is not a valid {what}: {problem}")]
    Table {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// The name of its table.
        name: String,
        /// What the table describes: `host` or `forge`.
        what: &'static str,
        /// Why not.
        problem: String,
    },
    /// A value of the right kind that the setting cannot have.
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

impl SettingsError {
    /// Whether the mistake is in the text of the file.
    pub fn is_in_file(&self) -> bool {
        match self {
            Self::Syntax { .. } | Self::Unknown { .. } | Self::Kind { .. } | Self::Table { .. } => true,
            Self::Value { origin, .. } => !origin.starts_with("KUGETSU_"),
            Self::Read { .. } | Self::NoSuchKey { .. } | Self::OneValue { .. } | Self::Given { .. } => false,
        }
    }
}

impl SettingsError {
    /// The error about this value, which a command would have written for this setting, without a place in a file that
    /// has not changed. An error that the file has without the value stays as it is.
    pub(crate) fn about_given(self, name: &str, values: &[String], was_valid: bool) -> Self {
        let problem = match self {
            Self::Value {
                name: ref wrong,
                ref problem,
                ..
            } if wrong == name => problem.clone(),
            Self::Kind {
                name: ref wrong,
                ref must,
                ..
            } if wrong == name => format!("it must be {must}"),
            Self::Table { problem, .. } if was_valid => problem,
            other => return other,
        };
        Self::Given {
            name: name.to_owned(),
            value: values.join(" "),
            problem,
        }
    }
}

impl Settings {
    /// Reads the file, if there is one, and the environment over it.
    pub fn load(file: &Path, environment: &Environment) -> Result<Self, SettingsError> {
        Self::parse(file, &read(file)?, environment)
    }

    /// Reads the text of the file, and the environment over it.
    pub fn parse(file: &Path, text: &str, environment: &Environment) -> Result<Self, SettingsError> {
        let table = DeTable::parse(text).map_err(|error| SettingsError::Syntax {
            path: file.to_owned(),
            place: place_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().trim().replace('\n', " "),
        })?;
        let mut values: [(String, Origin); COUNT] =
            std::array::from_fn(|place| (SETTINGS[place].default.to_owned(), Origin::Default));
        let mut places = [Place::default(); COUNT];
        let mut hosts = BTreeMap::new();
        let mut forges = BTreeMap::new();
        for (name, value) in table.get_ref() {
            let at_name = place_of(text, name.span().start);
            if name.get_ref() == HOSTS {
                hosts = read_tables(file, text, value, &OF_HOSTS, name_of_host)?;
                continue;
            }
            if name.get_ref() == FORGES {
                forges = read_tables(file, text, value, &OF_FORGES, host_of_forge)?;
                continue;
            }
            let Some(place) = SETTINGS.iter().position(|key| key.name == name.get_ref()) else {
                return Err(SettingsError::Unknown {
                    path: file.to_owned(),
                    place: at_name,
                    name: name.get_ref().clone().into_owned(),
                });
            };
            let written = text_of(value, SHAPES[place]).map_err(|(offset, instead)| SettingsError::Kind {
                path: file.to_owned(),
                place: place_of(text, offset),
                name: SETTINGS[place].name.to_owned(),
                must: format!("{}{instead}", SHAPES[place]),
            })?;
            values[place] = (written, Origin::File);
            places[place] = at_name;
        }
        let typed = |values: &[(String, Origin); COUNT]| {
            let texts = values.each_ref().map(|(text, _)| text.clone());
            let origins = values.each_ref().map(|(_, origin)| origin.clone());
            Self::typed(texts, origins, hosts.clone(), forges.clone()).map_err(|(place, problem)| {
                let (value, origin) = &values[place];
                SettingsError::Value {
                    origin: match origin {
                        Origin::File => at(file, places[place]),
                        other => other.to_string(),
                    },
                    name: SETTINGS[place].name.to_owned(),
                    value: value.replace('\n', ", "),
                    problem,
                }
            })
        };
        // A bad value of the file is an error even where a variable overrides it.
        let of_file = typed(&values)?;
        let mut is_overridden = false;
        for (key, value) in SETTINGS.iter().zip(&mut values) {
            let variable = format!("KUGETSU_{}", key.name.to_uppercase());
            let Some(given) = environment.get(&variable) else {
                continue;
            };
            let Some(text) = given.to_str() else {
                return Err(SettingsError::Value {
                    origin: variable,
                    name: key.name.to_owned(),
                    value: given.to_string_lossy().into_owned(),
                    problem: "it is not valid UTF-8".to_owned(),
                });
            };
            *value = (text.to_owned(), Origin::Environment(variable));
            is_overridden = true;
        }
        if is_overridden {
            typed(&values)
        } else {
            Ok(of_file)
        }
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    match read_text(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(SettingsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The largest `config.toml`, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads `config.toml`, which is UTF-8 text of at most [`MAX_FILE`] bytes.
pub(crate) fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    let invalid = |problem| Error::new(ErrorKind::InvalidData, problem);
    if bytes.len() as u64 > MAX_FILE {
        return Err(invalid("it has more than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))
}

pub(super) fn place_of(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before[start..].chars().count() + 1,
    }
}

fn at(file: &Path, place: Place) -> String {
    format!("{}, {place}", file.display())
}

/// Suggests the settings that an unknown name may stand for.
pub(super) fn instead_of(name: &str) -> String {
    match name {
        HOSTS => return "it is a table: name a field, such as hosts.NAME.address".to_owned(),
        FORGES => return "its tables are changed with: kugetsu config edit".to_owned(),
        _ => {}
    }
    let known = || SETTINGS.iter().map(|key| key.name).chain([HOSTS, FORGES]);
    let near = known()
        .map(|known| (strsim::osa_distance(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 4).max(1))
        .min();
    match near {
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => format!("the settings are: {}", known().collect::<Vec<_>>().join(", ")),
    }
}

/// What a setting with a table for each host is called in errors.
struct TablesOf {
    setting: &'static str,
    /// What one table describes.
    what: &'static str,
    /// How one table begins.
    header: &'static str,
    /// The name of a table, with the part that the user chose.
    name: fn(&str) -> String,
}

const OF_HOSTS: TablesOf = TablesOf {
    setting: HOSTS,
    what: "host",
    header: "[hosts.NAME]",
    name: |host| format!("{HOSTS}.{host}"),
};

const OF_FORGES: TablesOf = TablesOf {
    setting: FORGES,
    what: "forge",
    header: "[forges.\"HOST\"]",
    name: |host| format!("{FORGES}.\"{host}\""),
};

/// Reads a table for each host. `key_of` checks one of them, and gives the key to find it by.
fn read_tables<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    value: &Spanned<DeValue<'_>>,
    of: &TablesOf,
    key_of: impl Fn(&str, &T) -> Result<String, String>,
) -> Result<BTreeMap<String, T>, SettingsError> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(SettingsError::Kind {
            path: file.to_owned(),
            place: place_of(text, value.span().start),
            name: of.setting.to_owned(),
            must: format!(
                "a table for each host, {}, not {}",
                of.header,
                kind(value.get_ref())
            ),
        });
    };
    let mut tables = BTreeMap::new();
    for (name, value) in table {
        let wrong = |offset: usize, problem: String| SettingsError::Table {
            path: file.to_owned(),
            place: place_of(text, offset),
            name: (of.name)(name.get_ref()),
            what: of.what,
            problem,
        };
        let start = name.span().start;
        // An error about another kind of value would show the value, which may be a token.
        if !matches!(value.get_ref(), DeValue::Table(_)) {
            return Err(wrong(
                start,
                format!("it must be a table, not {}", kind(value.get_ref())),
            ));
        }
        let settings = T::deserialize(toml::de::ValueDeserializer::from(value.clone())).map_err(
            |error: toml::de::Error| {
                let offset = error.span().map_or(start, |span| span.start);
                wrong(offset, error.message().replace('\n', " "))
            },
        )?;
        let key = key_of(name.get_ref(), &settings).map_err(|problem| wrong(start, problem))?;
        tables.insert(key, settings);
    }
    Ok(tables)
}

fn name_of_host(name: &str, settings: &HostSettings) -> Result<String, String> {
    settings.destination(name).map_err(|error| error.to_string())?;
    Ok(name.to_owned())
}

fn host_of_forge(name: &str, _: &ForgeSettings) -> Result<String, String> {
    let repo = RepoRef::try_from(format!("{name}/owner/repo"))
        .map_err(|_| "its name must be a host in quotes, such as [forges.\"git.example.org\"]".to_owned())?;
    Ok(repo.instance().to_owned())
}

/// The text that the setting's reader gets: what a person would write into the environment. The error has the place in
/// the file and says what stands there instead.
fn text_of(value: &Spanned<DeValue<'_>>, shape: Shape) -> Result<String, (usize, String)> {
    let DeValue::Array(items) = value.get_ref() else {
        return match (value.get_ref(), shape) {
            (DeValue::String(text), _) => Ok(text.clone().into_owned()),
            (DeValue::Integer(number), Shape::Number | Shape::Duration) => Ok(number.to_string()),
            (DeValue::Float(number), Shape::Number | Shape::Duration) => Ok(number.to_string()),
            (DeValue::Boolean(yes), Shape::Boolean) => Ok(yes.to_string()),
            (other, _) => Err((value.span().start, format!(", not {}", kind(other)))),
        };
    };
    if shape != Shape::List {
        return Err((value.span().start, ", not a list".to_owned()));
    }
    let mut lines = Vec::new();
    for item in items {
        let wrong = match item.get_ref() {
            DeValue::String(text) if text.contains('\n') => " without line breaks".to_owned(),
            DeValue::String(text) => {
                lines.push(text.as_ref());
                continue;
            }
            other => format!(", but an item is {}", kind(other)),
        };
        return Err((item.span().start, wrong));
    }
    Ok(lines.join("\n"))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
