//! What a session is told about itself, and how opencode is configured for it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::jsonc;
use super::project::instructions;
use crate::environment::Environment;

/// What a session, and the tools that it runs, are told about the session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionContext {
    /// The configuration that the user has set, with what kugetsu adds to it; `None` as long as there is nothing to set.
    config: Option<Map<String, Value>>,
    /// The instructions of a project whose configuration is otherwise ignored.
    project_instructions: Vec<PathBuf>,
    /// The file with the text for the model.
    text: Option<PathBuf>,
    /// Variables for the environment of tools.
    variables: Vec<(&'static str, String)>,
}

/// The variable that names the file which kugetsu has added to the instructions.
const INSTRUCTED: &str = "KUGETSU_CONTEXT_FILE";

/// The variable that names the session.
const REFERENCE: &str = "KUGETSU_REF";

/// The variable that names the branch of the session's worktree.
const BRANCH: &str = "KUGETSU_BRANCH";
/// The variable with the span that a program's own spans belong to.
pub(crate) const TRACEPARENT: &str = "TRACEPARENT";

/// All variables that tell tools about their session.
pub(super) const TOLD: [&str; 3] = [REFERENCE, BRANCH, INSTRUCTED];

/// The variable with a configuration that opencode merges over the configuration files. opencode adds the files in its
/// `instructions` to those that other configurations name, and to `AGENTS.md`, over `serve` and `run` (measured on both
/// versions).
pub(super) const CONFIG: &str = "OPENCODE_CONFIG_CONTENT";

impl SessionContext {
    /// Tells tools which session they belong to, its branch, and the span of the turn.
    pub fn of(reference: &str, branch: Option<&str>, traceparent: Option<&str>) -> Self {
        let mut variables = vec![(REFERENCE, reference.to_owned())];
        variables.extend(branch.map(|branch| (BRANCH, branch.to_owned())));
        variables.extend(traceparent.map(|span| (TRACEPARENT, span.to_owned())));
        Self {
            variables,
            ..Self::default()
        }
    }

    /// Makes a session that ignores what the repository brings for opencode (`Launch::ignore_project`) start no language
    /// server and no formatter, which run programs of the repository, and read the repository's instructions
    /// nevertheless. The error says why that is not possible.
    pub fn ignore_project(&mut self, environment: &Environment, directory: &Path) -> Result<(), String> {
        let config = self.config(environment)?;
        for name in ["lsp", "formatter"] {
            config.insert(name.to_owned(), Value::Bool(false));
        }
        instructions_of(config)?;
        let files = instructions(directory, environment);
        self.project_instructions = files.into_iter().filter(|file| file.to_str().is_some()).collect();
        Ok(())
    }

    /// Makes opencode start no language server and no formatter, which would run in its own part of the sandbox, and use the
    /// tools' shell in any case. The error says why that is not possible.
    pub fn confine(&mut self, environment: &Environment, shell: Option<&Path>) -> Result<(), String> {
        let config = self.config(environment)?;
        for name in ["lsp", "formatter"] {
            config.insert(name.to_owned(), Value::Bool(false));
        }
        if let Some(shell) = shell {
            config.insert("shell".to_owned(), shell.display().to_string().into());
        }
        Ok(())
    }

    /// Adds a file to the system prompt. The error says why that is not possible.
    pub fn instruct(&mut self, environment: &Environment, file: &Path) -> Result<(), String> {
        if file.to_str().is_none() {
            return Err(format!("the path {} is not valid UTF-8", file.display()));
        }
        let list = instructions_of(self.config(environment)?)?;
        // A kugetsu that a tool started has the text of the tool's session in its environment.
        let outer = environment.get(INSTRUCTED).map(|outer| outer.to_string_lossy());
        list.retain(|entry| outer.is_none() || entry.as_str() != outer.as_deref());
        self.variables.push((INSTRUCTED, file.display().to_string()));
        self.text = Some(file.to_owned());
        Ok(())
    }

    /// The configuration so far, which begins with what the user has set.
    fn config(&mut self, environment: &Environment) -> Result<&mut Map<String, Value>, String> {
        if self.config.is_none() {
            let own = environment.get(CONFIG).map(|own| own.to_string_lossy());
            self.config = Some(match own.as_deref().map(jsonc::value) {
                None => Map::new(),
                Some(Some(Value::Object(config))) => config,
                Some(_) => return Err(format!("{CONFIG} is not a JSON object")),
            });
        }
        Ok(self.config.get_or_insert_default())
    }

    /// The variables for the environment of tools.
    pub(super) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// The variables for the environment of tools, without the one that names the file of the text.
    pub(crate) fn tool_variables(&self) -> Vec<(String, String)> {
        let own = self.variables.iter().filter(|(name, _)| *name != INSTRUCTED);
        own.map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    /// The configuration without the files that it adds to the instructions.
    pub(crate) fn configuration(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref()
    }

    /// The instructions of a project whose configuration is otherwise ignored.
    pub(crate) fn project_instructions(&self) -> &[PathBuf] {
        &self.project_instructions
    }

    /// What a warm server is configured with: this configuration, and a file for the text of each turn.
    pub(crate) fn of_warm_server(mut config: Map<String, Value>, text: &Path) -> Result<Self, String> {
        instructions_of(&mut config)?;
        Ok(Self {
            config: Some(config),
            text: Some(text.to_owned()),
            ..Self::default()
        })
    }

    /// The file with the text for the model.
    pub(crate) fn text(&self) -> Option<&Path> {
        self.text.as_deref()
    }

    /// The value of `OPENCODE_CONFIG_CONTENT`; `None` if it is not to be set.
    pub(super) fn config_content(&self) -> Option<String> {
        let mut config = self.config.clone()?;
        let files = self.project_instructions.iter().chain(&self.text);
        let files: Vec<_> = files.filter_map(|file| file.to_str()).map(Value::from).collect();
        if !files.is_empty() {
            instructions_of(&mut config).ok()?.extend(files);
        }
        Some(Value::Object(config).to_string())
    }
}

fn instructions_of(config: &mut Map<String, Value>) -> Result<&mut Vec<Value>, String> {
    let instructions = config.entry("instructions").or_insert_with(|| json!([]));
    instructions
        .as_array_mut()
        .ok_or_else(|| format!("`instructions` in {CONFIG} is not a list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_added_to_the_configuration_of_the_user() {
        let with = |own: Option<&str>| {
            let outer = (INSTRUCTED.into(), "/k/outer.md".into());
            let own = own.map(|own| (CONFIG.into(), own.into()));
            let variables = own.into_iter().chain([outer]);
            let environment = Environment::new(variables, "/".into(), "kugetsu".into());
            let mut context = SessionContext::default();
            let told = context.instruct(&environment, Path::new("/k/14.context.md"));
            told.map(|()| context.config_content().unwrap())
        };
        let parsed = |own| serde_json::from_str::<Value>(&with(own).unwrap()).unwrap();
        assert_eq!(parsed(None), json!({"instructions": ["/k/14.context.md"]}));
        assert_eq!(
            parsed(Some(
                r#"{"model": "a/b", "instructions": ["x.md", "/k/outer.md"]}"#
            )),
            json!({"model": "a/b", "instructions": ["x.md", "/k/14.context.md"]})
        );
        // opencode allows comments here as well.
        assert_eq!(parsed(Some("{ // comment\n}")), parsed(None));
        for own in ["{ \"a\" }", "[]", r#"{"instructions": "x.md"}"#] {
            assert!(with(Some(own)).unwrap_err().contains(CONFIG), "{own}");
        }
    }
}
