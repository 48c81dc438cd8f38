//! The part of `doctor` about the model: whether opencode has one, and whether it answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::doctor::{check, check_of_opencode};
use crate::opencode::{ConfigProblem, Launch, Opencode, RunEventKind, RunLine, commands, parse_line};
use crate::permission::{Action, Rule};
use crate::process::{self, GuardSpec};
use kugetsu_api::{Check, Health, SessionId};

/// How long opencode may take to list its models. Without a network, it may never end.
const LIST_LIMIT: Duration = Duration::from_secs(30);
/// How long the model may take to answer.
const ASK_LIMIT: Duration = Duration::from_mins(2);

/// What `doctor` checks about the model.
#[derive(Clone, Debug, Default)]
pub struct ModelCheck {
    /// The model, if it is not that of the settings.
    pub model: Option<String>,
    /// Whether the model is asked.
    pub ask: bool,
}

impl Engine {
    /// Checks the model that opencode would use in this folder.
    pub(super) fn check_model(
        &self,
        opencode: &Opencode,
        here: &Path,
        request: &ModelCheck,
        checks: &mut Vec<Check>,
    ) {
        let wanted = request.model.as_deref().or(self.settings.model.as_deref());
        checks.push(match (self.models(opencode, here), wanted) {
            (Err(problem), _) => {
                let text = format!("`opencode models` {problem}");
                check_of_opencode("model", Health::Unknown, text)
            }
            (Ok(models), _) if models.is_empty() => check_of_opencode(
                "model",
                Health::Bad,
                "opencode has no model: log in with `opencode auth login`, or configure a provider in opencode.json",
            ),
            (Ok(models), Some(model)) if models.iter().any(|known| known == model) => {
                check("model", Health::Good, model)
            }
            (Ok(_), Some(model)) => check_of_opencode(
                "model",
                Health::Bad,
                format!("opencode does not know {model}; `opencode models` lists those that it knows"),
            ),
            (Ok(models), None) => check(
                "model",
                Health::Good,
                format!("opencode's own choice of {}", models.len()),
            ),
        });
        if request.ask {
            checks.push(self.ask_model(opencode, here, wanted));
        }
    }

    /// A launch in the folder that `doctor` is called in, with what a turn of a base there would load.
    fn launch_here(&self, opencode: &Opencode, here: &Path) -> Launch {
        let mut launch = self.short_launch(opencode, here.to_owned());
        let bases = self.store.bases().map(|bases| bases.found).unwrap_or_default();
        let base = bases.into_iter().find(|base| here.starts_with(&base.directory));
        launch.ignore_project = base.is_none_or(|base| {
            !self
                .project_trust(base.trust.as_ref(), base.policy.preset, here)
                .loaded
        });
        launch
    }

    fn models(&self, opencode: &Opencode, here: &Path) -> Result<Vec<String>, String> {
        let launch = self.launch_here(opencode, here);
        let spec = launch.guard_spec(vec!["models".into()]);
        let output = process::run_until_cancelled(spec, LIST_LIMIT, &self.cancel)
            .map_err(|error| format!("failed: {error}"))?;
        if let Some(problem) = ConfigProblem::from_output(&output.stderr) {
            return Err(format!("failed: {problem}"));
        }
        if !output.exit.success() {
            return Err(format!("failed ({})", output.exit));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_model = |line: &&str| line.contains('/') && !line.contains(char::is_whitespace);
        Ok(text
            .lines()
            .map(str::trim)
            .filter(is_model)
            .map(str::to_owned)
            .collect())
    }

    /// Asks the model for one word, in a session of its own that is deleted afterwards.
    fn ask_model(&self, opencode: &Opencode, here: &Path, model: Option<&str>) -> Check {
        let mut launch = self.launch_here(opencode, here);
        // The model has nothing to do here.
        launch.rules = Some(vec![Rule {
            permission: "*".to_owned(),
            pattern: "*".to_owned(),
            action: Action::Deny,
        }]);
        let spec: GuardSpec = GuardSpec {
            stdin: Arc::from(&b"Reply with the one word: ok"[..]),
            ..launch.guard_spec(commands::ask_args(model))
        };
        let output = match process::run_until_cancelled(spec, ASK_LIMIT, &self.cancel) {
            Ok(output) => output,
            Err(error) => {
                let text =
                    format!("it did not answer: {error}; opencode may keep the session of this question");
                return check_of_opencode("model answers", Health::Bad, text);
            }
        };
        let answer = Answer::read(&output.stdout);
        let left = answer.session.and_then(|session| {
            let deleted = self.command(opencode, here.to_owned(), &commands::delete_args(&session), None);
            deleted
                .err()
                .map(|error| format!("; its session {session} is left in opencode: {error}"))
        });
        let left = left.unwrap_or_default();
        match (answer.error, answer.spoke) {
            (Some(error), _) => check_of_opencode("model answers", Health::Bad, format!("{error}{left}")),
            (None, true) => check("model answers", Health::Good, format!("yes{left}")),
            (None, false) => check_of_opencode(
                "model answers",
                Health::Bad,
                format!("opencode ended without an answer ({}){left}", output.exit),
            ),
        }
    }
}

/// What came back.
#[derive(Default)]
struct Answer {
    session: Option<SessionId>,
    spoke: bool,
    error: Option<String>,
}

impl Answer {
    fn read(stdout: &[u8]) -> Self {
        let mut answer = Self::default();
        for line in stdout.split(|byte| *byte == b'\n') {
            let RunLine::Event(event) = parse_line(line) else {
                continue;
            };
            answer.session = answer.session.or(event.session);
            match event.kind {
                RunEventKind::Text { .. } => answer.spoke = true,
                RunEventKind::Error(error) => {
                    answer
                        .error
                        .get_or_insert(format!("{}: {}", error.name, error.message));
                }
                _ => {}
            }
        }
        answer
    }
}
