//! What a session is told about itself: a text in its system prompt, and variables for its tools.
//!
//! The text is no part of the message, which reaches the model byte for byte. It reaches subagents as well, and it stays
//! when opencode compacts a long session.

use std::path::Path;

use serde::Deserialize;

use super::{Engine, EngineError};
use crate::fsx;
use crate::opencode::SessionContext;
use crate::permission::{Action, Rule};
use crate::settings::Origin;
use crate::store::RecordKey;
use kugetsu_api::SessionRecord;

/// The text where nobody has chosen another one. A line is left out if a placeholder in it has no value.
const BUILT_IN: &str = "\
You work on the issue {issue}: {url}
The address of your session is {ref}.
Your git worktree is {worktree}, on the branch {branch}. Commit there, and leave all other branches as they are.
These actions are refused: {refused}.
";

/// The line of the built-in text for a turn in which nobody can answer.
const UNATTENDED: &str = "You work unattended: nobody is watching, and nobody answers questions. Make open decisions \
yourself, and list them in your last message.\n";

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
    /// Writes the text for a session's next turn. `unattended` is false if somebody answers questions. Adds a note if
    /// the session cannot be told. Blocks.
    pub(super) fn session_context(
        &self,
        record: &SessionRecord,
        rules: &[Rule],
        unattended: bool,
        ignore_project: bool,
        notes: &mut Vec<String>,
    ) -> Result<SessionContext, EngineError> {
        let branch = record.worktree.as_ref().map(|worktree| worktree.branch.as_str());
        let mut context =
            SessionContext::of(&record.address.to_string(), branch, self.traceparent.as_deref());
        if ignore_project {
            self.ignore_project(&mut context, &record.directory)?;
        }
        let template = self.template(&record.directory, unattended, notes);
        let text = render(&template, |name| value(record, rules, name));
        if text.trim().is_empty() {
            return Ok(context);
        }
        let key = RecordKey::from(&record.address);
        self.store
            .write_run_volatile(&key, CONTEXT_FILE, text.as_bytes())?;
        let file = self.store.run_path(&key, CONTEXT_FILE);
        if let Err(problem) = context.instruct(&self.environment, &file) {
            notes.push(format!("the model is not told about its session: {problem}"));
        }
        Ok(context)
    }

    /// Adds to the context what a session that ignores its repository's configuration of opencode needs.
    pub(super) fn ignore_project(
        &self,
        context: &mut SessionContext,
        directory: &Path,
    ) -> Result<(), EngineError> {
        context
            .ignore_project(&self.environment, directory)
            .map_err(|problem| EngineError::Usage {
                problem: format!("language servers and formatters of a repository that is not trusted cannot be turned off: {problem}"),
                hint: "correct the variable, or unset it".to_owned(),
            })
    }

    /// The template: that of the environment, of the repository, of `config.toml`, or the built-in one.
    fn template(&self, directory: &Path, unattended: bool, notes: &mut Vec<String>) -> String {
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
        match of_repository.filter(|template| !template.is_empty()).or(own) {
            Some(template) if template.trim() == NOTHING => String::new(),
            Some(template) => template,
            None if unattended => format!("{BUILT_IN}{UNATTENDED}"),
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

/// The refused actions, with the exceptions that later rules make: the last matching rule decides.
fn refused(rules: &[Rule]) -> String {
    let mut names = Vec::new();
    for (place, rule) in rules.iter().enumerate() {
        if rule.action != Action::Deny {
            continue;
        }
        let later = || {
            let same = |later: &&Rule| later.permission == rule.permission || later.permission == "*";
            rules[place + 1..].iter().filter(same)
        };
        // A later rule for all that this rule covers decides instead of it.
        if later().any(|later| later.pattern == rule.pattern || later.pattern == "*") {
            continue;
        }
        let mut name = rule.permission.clone();
        if rule.pattern != "*" {
            name.push(' ');
            name.push_str(&rule.pattern);
        }
        let allowed = later().filter(|later| later.action == Action::Allow);
        let allowed: Vec<_> = allowed.map(|later| later.pattern.as_str()).collect();
        if !allowed.is_empty() {
            name.push_str(" except ");
            name.push_str(&allowed.join(" and "));
        }
        names.push(name);
    }
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
    fn refused_actions_are_those_of_the_last_matching_rules() {
        let rules =
            |texts: &[&str]| -> Vec<Rule> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        for (texts, expected) in [
            (
                &["question=deny", "bash:git push *=deny"][..],
                "question, bash git push *",
            ),
            (&["edit=deny", "edit=allow"], ""),
            (&["edit=deny", "edit=deny"], "edit"),
            (&["edit=deny", "*=allow"], ""),
            (
                &["read=deny", "read:/tmp/*=allow", "read:/srv/*=allow"],
                "read except /tmp/* and /srv/*",
            ),
        ] {
            assert_eq!(refused(&rules(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_file_of_the_repository_that_cannot_be_used_is_reported_on_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(REPOSITORY_FILE);
        let read = || repository_settings(&file).map(|settings| settings.context);
        assert_eq!(read(), Ok(None));
        let write = |text: &str| fsx::write_atomic(&file, text.as_bytes()).unwrap();
        write("context = \"a {ref}\"\n");
        assert_eq!(read(), Ok(Some("a {ref}".to_owned())));
        write("\n\ncontext = 1\n");
        assert!(read().unwrap_err().contains("line 3"), "{:?}", read());
        write("other = 1\n");
        assert!(read().unwrap_err().contains("other"), "{:?}", read());
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert_eq!(read(), Ok(None), "a link is not followed");
    }

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
