//! What TOML value a setting takes, and how its text is read. An error says what the value must be; the caller names the
//! setting.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::duration::{parse_duration, parse_time_limit};
use crate::money::parse_usd;
use crate::permission::matches;
use crate::turn::answers::{OnAsk, Strategy};
use crate::worktree::parse_extra;
use kugetsu_api::permission::{Preset, Rule};
use kugetsu_api::{RepoRef, SandboxMode, TransportChoice};

/// What to do with a request of opencode that nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAskSetting {
    /// Answer with the default.
    Answer,
    /// End the turn as blocked.
    Block,
}

impl OnAskSetting {
    /// What it means for a turn that answers questions with this strategy.
    pub fn with(self, strategy: Strategy) -> OnAsk {
        match self {
            Self::Answer => OnAsk::Answer(strategy),
            Self::Block => OnAsk::Block,
        }
    }
}

/// Whether a new session gets a git worktree of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorktreeSetting {
    /// If the base's folder is in a git clone that has a commit.
    Auto,
    /// Always; a session without a worktree is an error.
    Always,
    /// Never.
    Never,
}

/// Whether commands that run a turn use a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonSetting {
    /// If one runs.
    Auto,
    /// Never.
    Never,
    /// Always: one is started if none runs.
    Spawn,
}

impl FromStr for DaemonSetting {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            "spawn" => Ok(Self::Spawn),
            _ => Err("expected one of auto, never, spawn".to_owned()),
        }
    }
}

impl FromStr for WorktreeSetting {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::Always),
            "false" => Ok(Self::Never),
            _ => Err("expected one of auto, true, false".to_owned()),
        }
    }
}

impl FromStr for OnAskSetting {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "answer" => Ok(Self::Answer),
            "block" => Ok(Self::Block),
            _ => Err("expected one of answer, block".to_owned()),
        }
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "first_option" => Ok(Self::FirstOption),
            "cancel" => Ok(Self::Cancel),
            _ => Err("expected one of first_option, cancel".to_owned()),
        }
    }
}

/// What kind of TOML value a setting takes. Whether a value of the right kind is valid is for the setting's reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    /// Text with a unit, or a number of seconds.
    Duration,
    /// May also be in quotes: `max_cost = ""` is documented.
    Number,
    /// May also be in quotes.
    Boolean,
    /// Strings of one line each. A single string may stand for a list, with one item on each line, as in the environment.
    List,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "a string in quotes",
            Self::Duration => "a duration in quotes, such as \"10m\"",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::List => "a list of strings",
        })
    }
}

/// A type of a setting. Its shape follows from the type, so no declaration can leave the shape out.
pub(super) trait Shaped {
    const SHAPE: Shape;
}

macro_rules! shapes {
    ($($type:ty: $shape:ident),* $(,)?) => {
        $(impl Shaped for $type {
            const SHAPE: Shape = Shape::$shape;
        })*
    };
}

shapes! {
    String: Text,
    PathBuf: Text,
    TransportChoice: Text,
    SandboxMode: Text,
    DaemonSetting: Text,
    OnAskSetting: Text,
    Strategy: Text,
    Preset: Text,
    TimeZone: Text,
    Duration: Duration,
    u32: Number,
    NonZeroU32: Number,
    u64: Number,
    f64: Number,
    bool: Boolean,
    WorktreeSetting: Boolean,
}

impl<T: Shaped> Shaped for Option<T> {
    const SHAPE: Shape = T::SHAPE;
}

impl<T> Shaped for Vec<T> {
    const SHAPE: Shape = Shape::List;
}

/// One of several words.
pub(super) fn choice<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|problem: T::Err| problem.to_string())
}

/// Any text; empty means none.
pub(super) fn optional<T: From<String>>(text: &str) -> Result<Option<T>, String> {
    Ok((!text.is_empty()).then(|| T::from(text.to_owned())))
}

pub(super) fn optional_model(text: &str) -> Result<Option<String>, String> {
    unless_empty(text, parse_model)
}

pub(super) fn optional_usd(text: &str) -> Result<Option<f64>, String> {
    unless_empty(text, parse_usd)
}

pub(super) fn optional_count(text: &str) -> Result<Option<u64>, String> {
    unless_empty(text, whole)
}

fn unless_empty<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    read(text).map(Some)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

pub(super) fn time_limit(text: &str) -> Result<Duration, String> {
    parse_time_limit(text)
}

pub(super) fn time_zone(text: &str) -> Result<TimeZone, String> {
    // The default. jiff would look through all zones of the system for it, in every command.
    if text == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(text)
        .map_err(|_| "expected the name of a time zone, such as Europe/Berlin or UTC".to_owned())
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    whole(text)
}

pub(super) fn positive(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| "expected a whole number of at least 1".to_owned())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected true or false".to_owned())
}

/// Permission rules, one on each line.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>, String> {
    lines(text, |line| {
        line.parse::<Rule>().map_err(|error| error.to_string())
    })
}

/// Paths below the top of a clone, one on each line.
pub(super) fn paths(text: &str) -> Result<Vec<PathBuf>, String> {
    lines(text, parse_extra)
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The name or the address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Hosts, one on each line; without a port, that of HTTPS.
pub(super) fn hosts(text: &str) -> Result<Vec<HostPort>, String> {
    lines(text, |line| {
        let wrong = || format!("`{line}` is not a host: write HOST or HOST:PORT");
        let (host, port) = match line.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (line, 443),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(wrong());
        }
        let host = host.to_ascii_lowercase();
        Ok(HostPort { host, port })
    })
}

/// The share of a repository in the turns of tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoWeight {
    /// The repository.
    pub repo: RepoRef,
    /// How many turns it gets where a repository without a weight gets one.
    pub weight: u32,
}

/// The highest weight: the others wait for that many turns.
const MAX_WEIGHT: u32 = 100;

/// Repositories with their weights, one on each line.
pub(super) fn repo_weights(text: &str) -> Result<Vec<RepoWeight>, String> {
    lines(text, |line| {
        let wrong = |problem: String| format!("`{line}` is not a weight: {problem}");
        let (repo, weight) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| wrong("write INSTANCE/OWNER/REPO and a number".to_owned()))?;
        let repo = RepoRef::try_from(repo.to_owned()).map_err(|error| wrong(error.to_string()))?;
        let weight = weight.trim().parse().ok();
        let weight = weight
            .filter(|weight| (1..=MAX_WEIGHT).contains(weight))
            .ok_or_else(|| wrong(format!("its number must be from 1 to {MAX_WEIGHT}")))?;
        Ok(RepoWeight { repo, weight })
    })
}

/// Absolute paths, or paths in the home folder that begin with `~/`, one on each line.
pub(super) fn absolute_paths(text: &str) -> Result<Vec<PathBuf>, String> {
    lines(text, |line| {
        let path = PathBuf::from(line);
        let up = path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if up || !(path.is_absolute() || line.starts_with("~/")) {
            return Err(format!(
                "`{line}` is not an absolute path and does not begin with `~/`"
            ));
        }
        Ok(path)
    })
}

/// Names with `*` for any characters, one on each line.
pub(super) fn patterns(text: &str) -> Result<Vec<String>, String> {
    lines(text, |line| {
        if line.contains(char::is_whitespace) {
            return Err(format!("`{line}` has a space"));
        }
        Ok(line.to_owned())
    })
}

/// Whether one of these patterns matches a name, or there is none.
pub fn is_allowed(patterns: &[String], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(name, pattern))
}

/// Names of variables, one on each line.
pub(super) fn names(text: &str) -> Result<Vec<String>, String> {
    lines(text, |line| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !line.chars().all(plain) {
            return Err(format!("`{line}` is not the name of a variable"));
        }
        Ok(line.to_owned())
    })
}

fn lines<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(read)
        .collect()
}

fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

/// Reads a model in opencode's form. If the provider were missing, `opencode serve` would use the session's own model.
pub fn parse_model(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((provider, model)) if !provider.is_empty() && !model.is_empty() => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is not a model: write PROVIDER/MODEL, as `opencode models` lists them"
        )),
    }
}
