//! What commands print about permissions, settings and the installation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Check;
use crate::permission::{Explained, Preset, Rule};

/// `permit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PermitOutput {
    /// Where the policy begins.
    pub preset: Preset,
    /// What was added, in order.
    pub rules: Vec<Rule>,
    /// All rules in order: those of the preset, then the policy's own. The last match wins.
    pub effective: Vec<Rule>,
}

/// `permit --explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainOutput {
    /// What will apply, class by class.
    pub permissions: Vec<Explained>,
}

/// `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorOutput {
    /// What was looked at.
    pub checks: Vec<Check>,
    /// The exit status of the command.
    pub exit_status: u8,
}

/// `config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigOutput {
    /// The file that settings are read from.
    pub file: PathBuf,
    /// Every setting by its name.
    pub settings: BTreeMap<String, SettingView>,
    /// The hosts of `config.toml` by their names.
    pub hosts: BTreeMap<String, HostView>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingView {
    /// Its value as it would be written in the environment; empty where it has none.
    pub value: String,
    /// Where the value comes from.
    pub from: String,
    /// Its default.
    pub default: String,
    /// What it means.
    pub help: String,
}

/// A host of `config.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostView {
    /// What `ssh` is given as the destination; without it, the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The kugetsu program there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kugetsu: Option<String>,
    /// `KUGETSU_HOME` there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Further arguments of `ssh`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<String>,
}

/// `completions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionsOutput {
    /// The script for the shell.
    pub script: String,
}

/// `man`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManOutput {
    /// The page, in roff.
    pub page: String,
}
