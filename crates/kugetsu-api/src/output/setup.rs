//! Output of commands about permissions, settings and the installation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::permission::{Explained, Preset, Rule};
use crate::{BrokenFile, Check, TrashId};

/// The output of `permit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PermitOutput {
    /// The preset that the policy starts with.
    pub preset: Preset,
    /// The additional rules, in order.
    pub rules: Vec<Rule>,
    /// All rules in order: those of the preset, then the policy's own. The last matching rule wins.
    pub effective: Vec<Rule>,
}

/// The output of `permit --explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainOutput {
    /// The effective permissions, class by class.
    pub permissions: Vec<Explained>,
    /// What the repository brings for opencode, with its paths: plugins, tools, configuration files and others.
    pub repository: Vec<String>,
    /// Whether opencode loads what the repository brings.
    pub repository_loaded: bool,
}

/// The output of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorOutput {
    /// The checks.
    pub checks: Vec<Check>,
    /// The sizes of the store's files.
    pub sizes: SizesView,
    /// The exit status of the command.
    pub exit_status: u8,
}

/// The sizes of the store's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SizesView {
    /// All sessions and bases, in bytes.
    pub sessions_bytes: u64,
    /// The part of it that is logs of turns, in bytes.
    pub logs_bytes: u64,
    /// The trash, in bytes.
    pub trash_bytes: u64,
}

/// The output of `backup`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupOutput {
    /// The archive.
    pub file: PathBuf,
    /// The size of the archive, in bytes.
    pub archive_bytes: u64,
    /// How many files it has.
    pub files: usize,
    /// The size of these files, in bytes.
    pub files_bytes: u64,
    /// Whether it has opencode's database.
    pub has_opencode: bool,
    /// What is in kugetsu's home and not in the archive, because it is a link, is not a file, or has a name that is not
    /// UTF-8.
    pub skipped: Vec<PathBuf>,
}

/// The output of `restore-backup`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreBackupOutput {
    /// kugetsu's home, which has been restored.
    pub home: PathBuf,
    /// When the backup was made.
    pub time: Timestamp,
    /// How many files the home has got.
    pub files: usize,
    /// The size of these files, in bytes.
    pub files_bytes: u64,
    /// Where the home of before is; null if there was none.
    pub moved_to: Option<PathBuf>,
    /// What became of opencode's database.
    pub opencode: RestoredDatabase,
    /// opencode's database, if the archive has one.
    pub opencode_database: Option<PathBuf>,
    /// How many sessions of the backup opencode's database does not have; null if it was left alone.
    pub sessions_missing: Option<usize>,
}

/// What became of opencode's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestoredDatabase {
    /// There was none; that of the backup is in its place.
    Restored,
    /// There is one, and it was left as it is.
    Kept,
    /// It was left alone, because the backup has none, or because of `--without-opencode`.
    LeftOut,
}

/// The output of `gc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GcOutput {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The logs that were compressed, or would be.
    pub compressed: Vec<PathBuf>,
    /// The logs that were removed, or would be.
    pub removed: Vec<PathBuf>,
    /// The logs to which every turn appends, such as `hooks.log`, of which only the newest part was kept, or would be.
    pub shortened: Vec<PathBuf>,
    /// The entries of the trash that were removed, or would be.
    pub trash: Vec<TrashId>,
    /// The size of all logs of turns before, and of those that were shortened, in bytes.
    pub logs_bytes: u64,
    /// How many bytes of logs that made free. With `--dry-run`, without those of logs that would be compressed or
    /// shortened.
    pub freed_bytes: u64,
    /// The files that could not be read or written.
    pub broken: Vec<BrokenFile>,
    /// The exit status of the command.
    pub exit_status: u8,
}

/// The output of `config get`, `config set` and `config unset`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OneSettingOutput {
    /// The name of the setting.
    pub setting: String,
    /// Its value as a person would write it; the items of a list are on lines of their own.
    pub value: String,
    /// Where the value came from: `default`, `config.toml` or the name of the variable.
    pub from: String,
}

/// The output of `config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigOutput {
    /// The settings file.
    pub file: PathBuf,
    /// Every setting, by name.
    pub settings: BTreeMap<String, SettingView>,
    /// The hosts in `config.toml`, by name.
    pub hosts: BTreeMap<String, HostView>,
    /// The forges in `config.toml`, by host.
    pub forges: BTreeMap<String, ForgeView>,
}

/// A forge in `config.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForgeView {
    /// Which API the host has: github, gitlab or forgejo. If absent, the host is known or is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The address of its API, if it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// Whether there is a token. Its text is never printed.
    pub has_token: bool,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingView {
    /// The value as it would be written in the environment; empty if there is none.
    pub value: String,
    /// The source of the value.
    pub from: String,
    /// The default value.
    pub default: String,
    /// The meaning of the setting.
    pub help: String,
}

/// A host in `config.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// The destination for `ssh`; if absent, the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The kugetsu program on that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kugetsu: Option<String>,
    /// `KUGETSU_HOME` on that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Further arguments of `ssh`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<String>,
}

/// The output of `completions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionsOutput {
    /// The script for the shell.
    pub script: String,
}

/// The output of `man`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManOutput {
    /// The page, in roff.
    pub page: String,
}
