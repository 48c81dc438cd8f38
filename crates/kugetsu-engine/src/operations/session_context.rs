//! What a session is told about itself: a text in its system prompt, and variables for its tools.
//!
//! The text is no part of the message, which reaches the model byte for byte. It reaches subagents as well, and it stays
//! when opencode compacts a long session.

use std::path::Path;

use serde::Deserialize;

use super::{Engine, EngineError};
use crate::fsx;
use crate::opencode::{SessionContext, config_with_instructions};
use crate::permission::{Action, Rule};
use crate::settings::Origin;
use crate::store::RecordKey;
use kugetsu_api::SessionRecord;

/// The text where nobody has chosen another one. A line is left out if a placeholder in it has no value.
const BUILT_IN: &str = "\
You work on the issue {issue}: {url}
Your session is {ref}.
Your git worktree is {worktree}, on the branch {branch}. Commit there, and leave all other branches as they are.
You work unattended: nobody reads along, and nobody answers questions while you work. Decide what is left open, and name \
your decisions in your last message.
These actions are refused: {refused}.
";

/// The file of the text, below `run/`.
pub(super) const CONTEXT_FILE: &str = ".context.md";

/// The setting that stands for no text.
const NOTHING: &str = "none";

/// The file of settings that a repository may have.
const REPOSITORY_FILE: &str = ".kugetsu.toml";
const MAX_REPOSITORY_FILE: u64 = 64 << 10;

/// The settings of a repository.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RepositorySettings {
    context: Option<String>,
}

impl Engine {
    /// Writes the text for a session's next turn. Adds a note if something prevents that the session gets it. Blocks.
    pub(super) fn session_context(
        &self,
        record: &SessionRecord,
        rules: &[Rule],
        notes: &mut Vec<String>,
    ) -> Result<SessionContext, EngineError> {
        let mut context = SessionContext::of(&record.address.to_string());
        if let Some(worktree) = &record.worktree {
            context
                .variables
                .push(("KUGETSU_BRANCH", worktree.branch.clone()));
        }
        let template = self.template(&record.directory, notes);
        let text = render(&template, |name| value(record, rules, name));
        if text.trim().is_empty() {
            return Ok(context);
        }
        let key = RecordKey::from(&record.address);
        self.store
            .write_run_volatile(&key, CONTEXT_FILE, text.as_bytes())?;
        let file = self.store.run_path(&key, CONTEXT_FILE);
        match config_with_instructions(&self.environment, &file) {
            Ok(config) => context.config = Some(config),
            Err(problem) => notes.push(format!("the model is not told about its session: {problem}")),
        }
        Ok(context)
    }

    /// The template: that of the environment, of the repository, of `config.toml`, or the built-in one.
    fn template(&self, directory: &Path, notes: &mut Vec<String>) -> String {
        let own = self.settings.context.clone();
        let of_repository = match self.settings.origins.context {
            Origin::Environment(_) => None,
            _ => {
                repository_settings(&directory.join(REPOSITORY_FILE))
                    .unwrap_or_else(|problem| {
                        notes.push(problem);
                        RepositorySettings::default()
                    })
                    .context
            }
        };
        match of_repository.or(own) {
            Some(template) if template.trim() == NOTHING => String::new(),
            Some(template) => template,
            None => BUILT_IN.to_owned(),
        }
    }
}

fn repository_settings(file: &Path) -> Result<RepositorySettings, String> {
    // A link could lead to any file of the user, whose lines an error would show.
    if !file.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(RepositorySettings::default());
    }
    let problem = |what: String| format!("{} is not used: {what}", file.display());
    let bytes = fsx::read_bounded(file, MAX_REPOSITORY_FILE).map_err(|error| problem(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| problem("it is not valid UTF-8".to_owned()))?;
    toml::from_str(&text).map_err(|error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        problem(format!("line {line}: {}", error.message().replace('\n', " ")))
    })
}

/// The value of a placeholder; `None` if there is no such placeholder, and empty if it has no value here.
fn value(record: &SessionRecord, rules: &[Rule], name: &str) -> Option<String> {
    let issue = record.address.issue();
    let worktree = record.worktree.as_ref();
    Some(match name {
        "ref" => record.address.to_string(),
        "issue" => issue.map(ToString::to_string).unwrap_or_default(),
        "url" => issue.map(kugetsu_api::IssueRef::url).unwrap_or_default(),
        "branch" => worktree
            .map(|worktree| worktree.branch.clone())
            .unwrap_or_default(),
        "worktree" => worktree
            .map(|worktree| worktree.path.display().to_string())
            .unwrap_or_default(),
        "directory" => record.directory.display().to_string(),
        "refused" => refused(rules),
        _ => return None,
    })
}

fn refused(rules: &[Rule]) -> String {
    let denied = rules.iter().filter(|rule| rule.action == Action::Deny);
    let mut names: Vec<String> = denied
        .map(|rule| match rule.pattern.as_str() {
            "*" => rule.permission.clone(),
            pattern => format!("{} {pattern}", rule.permission),
        })
        .collect();
    names.dedup();
    names.join(", ")
}

/// Replaces the placeholders of a template. Leaves out each line with a placeholder that has no value.
fn render(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    'lines: for line in template.lines() {
        let mut rest = line;
        let mut rendered = String::new();
        while let Some((before, after)) = rest.split_once('{') {
            rendered.push_str(before);
            rest = after;
            let known = after
                .split_once('}')
                .and_then(|(name, after)| Some((value(name)?, after)));
            match known {
                Some((value, _)) if value.is_empty() => continue 'lines,
                Some((value, after)) => {
                    rendered.push_str(&value);
                    rest = after;
                }
                None => rendered.push('{'),
            }
        }
        text.push_str(&rendered);
        text.push_str(rest);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_rendered_line_by_line() {
        let value = |name: &str| match name {
            "ref" => Some("a.b/c/d#1".to_owned()),
            "branch" => Some(String::new()),
            _ => None,
        };
        for (template, expected) in [
            ("on {ref}!", "on a.b/c/d#1!\n"),
            ("{ref}{ref}\non {branch}\nlast", "a.b/c/d#1a.b/c/d#1\nlast\n"),
            (
                "{\"json\": {ref}} {unknown} {",
                "{\"json\": a.b/c/d#1} {unknown} {\n",
            ),
            ("", ""),
        ] {
            assert_eq!(render(template, value), expected, "{template}");
        }
    }
}
