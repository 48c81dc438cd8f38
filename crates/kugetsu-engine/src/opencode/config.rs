//! The effective permission rules of opencode's agent, obtained without a model call.
//!
//! `opencode debug agent build` prints the agent as one JSON object on stdout 1 to 2 s after its start, without reading
//! stdin (measured on 1.3.2 and 1.18.33). The object's `permission` is the list that opencode evaluates before the
//! rules of the session: built-in defaults, then the configuration of the user and the project with
//! `OPENCODE_PERMISSION` merged into it, then the agent's own configuration. The list depends on the working directory.

use serde::Deserialize;

use crate::permission::Rule;

/// Why the agent's rules could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// opencode's output contains no JSON object.
    #[error("`opencode debug agent build` printed no agent, but: {0}")]
    NoAgent(String),
    /// The object does not have the known form of an agent.
    #[error("`opencode debug agent build` printed an agent that cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
}

/// The arguments that make opencode print its default agent. Run the command in the session's directory, and without
/// `OPENCODE_PERMISSION` if only the user's own configuration matters.
pub fn agent_rules_args() -> [&'static str; 3] {
    ["debug", "agent", "build"]
}

/// Reads the rules from the output of a command with [`agent_rules_args`]. Ignores text before the object.
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
