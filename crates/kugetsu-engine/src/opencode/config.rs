//! The effective permission rules of opencode's agent, obtained without a model call.
//!
//! `opencode debug agent build` prints the agent as one JSON object on stdout, 1 to 2 s after it was started, without
//! reading stdin (measured on 1.3.2 and 1.18.33). Its `permission` is the list that opencode evaluates before the
//! rules of the session: built-in defaults, then the user's and the project's configuration with
//! `OPENCODE_PERMISSION` merged into it, then the agent's own configuration. It depends on the working directory.

use serde::Deserialize;

use crate::permission::Rule;

/// Why the agent's rules cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// What opencode printed holds no JSON object.
    #[error("`opencode debug agent build` printed no agent but: {0}")]
    NoAgent(String),
    /// The object is not an agent as known.
    #[error("`opencode debug agent build` printed an agent that cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
}

/// The arguments that make opencode print its default agent. To be run in the session's directory, without
/// `OPENCODE_PERMISSION` where the user's own configuration is what matters.
pub fn agent_rules_args() -> [&'static str; 3] {
    ["debug", "agent", "build"]
}

/// Reads the rules out of what [`agent_rules_args`] made opencode print. Text before the object is passed over.
pub fn parse_agent_rules(stdout: &[u8]) -> Result<Vec<Rule>, ConfigError> {
    #[derive(Deserialize)]
    struct Agent {
        permission: Vec<Rule>,
    }

    let begins = |at: &usize| stdout[*at] == b'{' && (*at == 0 || stdout[at - 1] == b'\n');
    let Some(start) = (0..stdout.len()).find(begins) else {
        let shown: String = String::from_utf8_lossy(stdout).trim().chars().take(200).collect();
        return Err(ConfigError::NoAgent(if shown.is_empty() {
            "nothing".to_owned()
        } else {
            shown
        }));
    };
    let agent: Agent = serde_json::from_slice(&stdout[start..])?;
    Ok(agent.permission)
}
