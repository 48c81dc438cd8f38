//! The output of `daemon`, `submit` and `task`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `daemon start --detach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStartOutput {
    /// The process id of the daemon.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
    /// Where it listens for HTTP, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}

/// `daemon stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DaemonEndOutput {
    /// Whether it finished what ran first.
    pub drained: bool,
}

/// `daemon open`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PageLinkOutput {
    /// The link, which opens the page once.
    pub url: String,
    /// Until when it does.
    pub expires: jiff::Timestamp,
}

/// `daemon token create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenOutput {
    /// The token.
    pub token: String,
}

/// `daemon token list` and `daemon token revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenListOutput {
    /// The tokens, without their secrets.
    pub tokens: Vec<crate::TokenView>,
}
