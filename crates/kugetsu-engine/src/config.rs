//! The settings, in `config.toml` or the environment: what holds for longer than one call. Most are a flag's default;
//! a flag that belongs to its call alone (`--wait`, `--output`, `--answers`) has none.
//!
//! One table says everything that is known of a setting; the command line's help, `kugetsu config` and the
//! checks all come from it.

mod hosts;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use hosts::{HostError, HostSettings};

use crate::permission::{Policy, Preset, Rule};
use crate::worktree::Extras;

/// One setting.
#[derive(Debug)]
pub struct SettingKey {
    /// Its name in `config.toml`; in the environment `KUGETSU_` and the name in capitals.
    pub name: &'static str,
    /// The value where none is given.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
    check: fn(&str) -> Result<(), String>,
}

/// Every setting.
pub const SETTINGS: &[SettingKey] = &[
    SettingKey {
        name: "opencode",
        default: "",
        help: "the opencode program; empty: the one in PATH",
        check: anything,
    },
    SettingKey {
        name: "transport",
        default: "auto",
        help: "how turns reach opencode: auto, run or serve",
        check: |text| one_of(text, &["auto", "run", "serve"]),
    },
    SettingKey {
        name: "instance",
        default: "github.com",
        help: "the forge that owner/repo#14 means",
        check: anything,
    },
    SettingKey {
        name: "timeout",
        default: "1h",
        help: "how long a turn may take",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "stall_timeout",
        default: "10m",
        help: "how long a turn may go without progress of any kind",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "max_quota_wait",
        default: "10m",
        help: "how long a turn waits for a provider that asks to come back later",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "max_steps_without_progress",
        default: "5",
        help: "steps in a row without a finish reason after which a turn is looping",
        check: |text| positive(text).map(drop),
    },
    SettingKey {
        name: "max_restarts",
        default: "3",
        help: "how often opencode is started again after it crashed during a turn",
        check: |text| whole::<u32>(text).map(drop),
    },
    SettingKey {
        name: "max_cost",
        default: "",
        help: "US dollars after which a turn is ended; empty: no limit",
        check: |text| or_empty(text, |text| parse_usd(text).map(drop)),
    },
    SettingKey {
        name: "max_tokens",
        default: "",
        help: "tokens after which a turn is ended; empty: no limit",
        check: |text| or_empty(text, |text| whole::<u64>(text).map(drop)),
    },
    SettingKey {
        name: "model",
        default: "",
        help: "the model of every turn, as provider/model; empty: the session's own",
        check: |text| or_empty(text, |text| parse_model(text).map(drop)),
    },
    SettingKey {
        name: "agent",
        default: "",
        help: "the agent of every turn; empty: the session's own",
        check: anything,
    },
    SettingKey {
        name: "on_ask",
        default: "answer",
        help: "what becomes of a request that nothing answers: answer (by the default) or block (the turn)",
        check: |text| one_of(text, &["answer", "block"]),
    },
    SettingKey {
        name: "response_timeout",
        default: "30s",
        help: "how long a supervisor's reply is waited for before the default answers",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "on_question",
        default: "first_option",
        help: "how a question is answered that nobody answers: first_option or cancel",
        check: |text| one_of(text, &["first_option", "cancel"]),
    },
    SettingKey {
        name: "grace",
        default: "10s",
        help: "between asking opencode to end and killing it",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "ready_timeout",
        default: "30s",
        help: "how long opencode's server may take to become ready",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "database_timeout",
        default: "10s",
        help: "how long to wait for opencode's database while it is locked",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "lock_timeout",
        default: "10s",
        help: "how long to wait for a lock of the store",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "preset",
        default: "headless",
        help: "the permission preset of new bases: headless, read-only or full",
        check: |text| {
            Preset::from_str(text)
                .map(drop)
                .map_err(|error| error.to_string())
        },
    },
    SettingKey {
        name: "rules",
        default: "",
        help: "permission rules of new bases after the preset, as a list: [\"bash:git push *=deny\"]",
        check: |text| parse_rules(text).map(drop),
    },
    SettingKey {
        name: "worktree",
        default: "false",
        help: "whether each new session gets a git worktree of its own: true or false",
        check: |text| one_of(text, &["true", "false"]),
    },
    SettingKey {
        name: "worktree_root",
        default: "",
        help: "the folder of all worktrees; empty: .worktrees in each clone",
        check: anything,
    },
    SettingKey {
        name: "worktree_copy",
        default: "",
        help: "files that git does not track and that are copied into a new worktree, as a list: [\".env\"]",
        check: |text| Extras::parse(text, "").map(drop),
    },
    SettingKey {
        name: "worktree_link",
        default: "",
        help: "files that git does not track and that a new worktree gets links to, as a list: [\"opencode.json\"]",
        check: |text| Extras::parse("", text).map(drop),
    },
    SettingKey {
        name: "hook_after_create",
        default: "",
        help: "shell command in a new worktree, before its first turn; a failure stops the turn",
        check: anything,
    },
    SettingKey {
        name: "hook_before_turn",
        default: "",
        help: "shell command in the session's directory before every turn; a failure stops the turn",
        check: anything,
    },
    SettingKey {
        name: "hook_after_turn",
        default: "",
        help: "shell command in the session's directory after every turn; a failure is a warning",
        check: anything,
    },
    SettingKey {
        name: "hook_before_remove",
        default: "",
        help: "shell command in a worktree before it is removed; a failure stops that, unless it is forced",
        check: anything,
    },
    SettingKey {
        name: "hook_timeout",
        default: "60s",
        help: "how long a hook may take",
        check: |text| parse_duration(text).map(drop),
    },
    SettingKey {
        name: "trash_keep",
        default: "720h",
        help: "how long the trash keeps what destroy and prune removed",
        check: |text| parse_duration(text).map(drop),
    },
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is the default.
    Default,
    /// From the file.
    File,
    /// From this environment variable.
    Environment(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("config.toml"),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// Every setting with its value.
#[derive(Clone, Debug)]
pub struct Config {
    values: BTreeMap<&'static str, (String, Origin)>,
    hosts: BTreeMap<String, HostSettings>,
}

/// The one name in the file that is no setting: the table of the hosts, `[hosts.NAME]`.
const HOSTS: &str = "hosts";

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path} is no TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A setting nobody knows.
    #[error("{path}: there is no setting `{name}`; {}", instead_of(.name))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A value that cannot be meant.
    #[error("{origin}: `{name}` cannot be `{value}`: {problem}")]
    Value {
        /// The file or the variable.
        origin: String,
        /// The setting.
        name: String,
        /// What was given.
        value: String,
        /// Why not.
        problem: String,
    },
}

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    pub fn load(file: &Path, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut values: BTreeMap<_, _> = SETTINGS
            .iter()
            .map(|key| (key.name, (key.default.to_owned(), Origin::Default)))
            .collect();
        let mut table = read_file(file)?;
        let hosts = table
            .remove(HOSTS)
            .map_or_else(|| Ok(BTreeMap::new()), |value| parse_hosts(file, value))?;
        for (name, value) in table {
            let Some(key) = SETTINGS.iter().find(|key| key.name == name) else {
                return Err(ConfigError::Unknown {
                    path: file.to_owned(),
                    name,
                });
            };
            values.insert(key.name, (plain(&value), Origin::File));
        }
        for key in SETTINGS {
            let variable = format!("KUGETSU_{}", key.name.to_uppercase());
            if let Some(value) = environment(&variable) {
                let value = value.to_string_lossy().into_owned();
                values.insert(key.name, (value, Origin::Environment(variable)));
            }
        }
        for key in SETTINGS {
            let (value, origin) = &values[key.name];
            (key.check)(value).map_err(|problem| ConfigError::Value {
                origin: match origin {
                    Origin::File => file.display().to_string(),
                    other => other.to_string(),
                },
                name: key.name.to_owned(),
                value: value.clone(),
                problem,
            })?;
        }
        Ok(Self { values, hosts })
    }

    /// A value as text. The name must be one of [`SETTINGS`]; any other has the empty value.
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or("", |(value, _)| value.as_str())
    }

    /// A value that may be missing, which is the empty one.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name).to_owned()).filter(|value| !value.is_empty())
    }

    /// The hosts that have a name here, by that name.
    pub fn hosts(&self) -> &BTreeMap<String, HostSettings> {
        &self.hosts
    }

    /// Where a value came from. The name must be one of [`SETTINGS`].
    pub fn origin(&self, name: &str) -> &Origin {
        self.values
            .get(name)
            .map_or(&Origin::Default, |(_, origin)| origin)
    }

    /// A value that is a length of time.
    pub fn duration(&self, name: &str) -> Duration {
        // `load` has checked every value.
        parse_duration(self.get(name)).unwrap_or_default()
    }

    /// A value that is a number of at least 1.
    pub fn number(&self, name: &str) -> u32 {
        positive(self.get(name)).unwrap_or(1)
    }

    /// A value that is `true` or `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == "true"
    }

    /// The untracked files of new worktrees.
    pub fn extras(&self) -> Extras {
        // `load` has checked both.
        Extras::parse(self.get("worktree_copy"), self.get("worktree_link")).unwrap_or_default()
    }

    /// The policy of new bases.
    pub fn policy(&self) -> Policy {
        Policy {
            preset: Preset::from_str(self.get("preset")).unwrap_or_default(),
            rules: parse_rules(self.get("rules")).unwrap_or_default(),
        }
    }

    /// Every setting: its key, its value, where that came from.
    pub fn entries(&self) -> impl Iterator<Item = (&'static SettingKey, &str, &Origin)> {
        SETTINGS.iter().filter_map(|key| {
            let (value, origin) = self.values.get(key.name)?;
            Some((key, value.as_str(), origin))
        })
    }
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(toml::Table::new()),
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    text.parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim().replace('\n', " "),
        })
}

/// What whoever wrote this name may have meant. Every command fails as long as it is there, so none is named.
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

fn parse_hosts(file: &Path, value: toml::Value) -> Result<BTreeMap<String, HostSettings>, ConfigError> {
    let wrong = |name: String, value: String, problem: String| ConfigError::Value {
        origin: file.display().to_string(),
        name,
        value,
        problem,
    };
    let toml::Value::Table(table) = value else {
        let problem = "it is a table for each host: [hosts.NAME]".to_owned();
        return Err(wrong(HOSTS.to_owned(), value.to_string(), problem));
    };
    let mut hosts = BTreeMap::new();
    for (name, value) in table {
        let shown = value.to_string();
        let full = format!("{HOSTS}.{name}");
        let settings: HostSettings = value.try_into().map_err(|error: toml::de::Error| {
            wrong(full.clone(), shown.clone(), error.message().replace('\n', " "))
        })?;
        settings
            .destination(&name)
            .map_err(|error| wrong(full, shown, error.to_string()))?;
        hosts.insert(name, settings);
    }
    Ok(hosts)
}

/// Lists become lines, everything else what a person would type.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("\n"),
        other => other.to_string(),
    }
}

fn anything(_: &str) -> Result<(), String> {
    Ok(())
}

fn one_of(text: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&text) {
        return Ok(());
    }
    Err(format!("it is one of {}", words.join(", ")))
}

fn or_empty(text: &str, check: impl FnOnce(&str) -> Result<(), String>) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { check(text) }
}

fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it is a whole number".to_owned())
}

/// An amount of US dollars.
pub fn parse_usd(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("it is an amount of US dollars such as 0.50".to_owned()),
    }
}

fn positive(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it is a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// A model as opencode takes it: without its provider, `serve` would take the session's own instead.
pub fn parse_model(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((provider, model)) if !provider.is_empty() && !model.is_empty() => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is no model: say PROVIDER/MODEL, as `opencode models` lists them"
        )),
    }
}

fn parse_rules(text: &str) -> Result<Vec<Rule>, String> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| Rule::from_str(line).map_err(|error| error.to_string()))
        .collect()
}

/// A length of time: `90s`, `10m`, `1h 30m`, `30d`, or a number of seconds. At most 10 years, so that sums of two
/// never overflow.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_hours(24 * 3660);
    let wrong = || "it is a length of time such as 90s, 10m, 1h30m or 7d".to_owned();
    let text = text.trim();
    // A day is 24 hours here, which jiff rightly does not take for granted.
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) if days.bytes().all(|byte| byte.is_ascii_digit()) => {
            (days.parse::<u32>().map_err(|_| wrong())?, rest.trim())
        }
        _ => (0, text),
    };
    let rest = match rest.parse::<f64>() {
        _ if rest.is_empty() && days > 0 => Duration::ZERO,
        Ok(seconds) if days == 0 => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        _ => {
            let signed: jiff::SignedDuration = rest.parse().map_err(|_| wrong())?;
            Duration::try_from(signed).map_err(|_| wrong())?
        }
    };
    let duration = Duration::from_hours(24 * u64::from(days)).saturating_add(rest);
    if duration > LONGEST {
        return Err("it is at most ten years".to_owned());
    }
    Ok(duration)
}

/// A length of time for people, to the second: `1h30m`, `45s`, `0.3s`.
pub fn print_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 10 {
        let text = format!("{:.1}", duration.as_secs_f64());
        return format!("{}s", text.strip_suffix(".0").unwrap_or(&text));
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
        let count = match unit {
            "d" => seconds / size,
            "h" => seconds % 86400 / size,
            "m" => seconds % 3600 / size,
            _ => seconds % 60,
        };
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}
