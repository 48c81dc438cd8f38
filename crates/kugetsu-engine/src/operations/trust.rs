//! Whether opencode loads what a repository brings for it: plugins, tools, MCP servers and a configuration of its own.
//!
//! Trust is in the record, as the digest of what was there when somebody trusted it. So what a later branch or a turn's
//! tool adds is not loaded before a person has looked at it.

use std::path::Path;

use super::{Engine, EngineError, Subject};
use crate::opencode::{Opencode, ProjectParts, ServerError, list_parts};
use crate::settings::Origin;
use crate::turn::Limits;
use kugetsu_api::permission::Preset;
use kugetsu_api::{BaseRecord, RepoTrust};

/// What a repository brings, and whether opencode loads it.
#[derive(Clone, Debug)]
pub(super) struct ProjectTrust {
    /// What is there now.
    pub(super) parts: ProjectParts,
    /// Whether opencode loads it.
    pub(super) loaded: bool,
    /// Whether something else was trusted before.
    changed: bool,
    /// Whether the record is of a version that loaded everything.
    old: bool,
    /// Whether the preset allows trust.
    may_trust: bool,
}

impl Engine {
    /// Reads what the folder brings, and decides whether opencode loads it. Blocks.
    pub(super) fn project_trust(
        &self,
        trust: Option<&RepoTrust>,
        preset: Preset,
        directory: &Path,
    ) -> ProjectTrust {
        let parts = ProjectParts::of(directory, self.environment.home());
        let known = match trust {
            None => true,
            Some(trust) => parts
                .digest
                .as_deref()
                .is_some_and(|digest| trust.includes(digest)),
        };
        ProjectTrust {
            parts,
            loaded: known && preset.may_trust_repo(),
            changed: !known && trust.is_some_and(|trust| !trust.digests.is_empty()),
            old: trust.is_none() && preset.may_trust_repo(),
            may_trust: preset.may_trust_repo(),
        }
    }

    /// The trust of a new base: what the repository brings now, if it is trusted. Blocks.
    pub(super) fn new_trust(
        &self,
        trusted: Option<bool>,
        preset: Preset,
        directory: &Path,
    ) -> Result<RepoTrust, EngineError> {
        if !preset.may_trust_repo() {
            if trusted == Some(true) {
                return Err(no_trust(preset));
            }
            return Ok(RepoTrust::default());
        }
        let mut trust = RepoTrust::default();
        if trusted.unwrap_or(self.settings.trust_repo) {
            trust.add(self.digest_of(directory)?);
        }
        Ok(trust)
    }

    /// The digest of what the folder brings. Blocks.
    pub(super) fn digest_of(&self, directory: &Path) -> Result<String, EngineError> {
        let parts = ProjectParts::of(directory, self.environment.home());
        parts.digest.ok_or_else(|| EngineError::Usage {
            problem: format!(
                "what {} brings for opencode cannot be read whole, so it cannot be trusted",
                directory.display()
            ),
            hint: "look for links that lead nowhere, and for files that are many or large, in .opencode"
                .to_owned(),
        })
    }

    /// What the repository of a base brings and whether it is loaded, in one line; `None` if it brings nothing. Blocks.
    pub(super) fn brings_of_base(&self, base: &BaseRecord) -> Option<String> {
        self.project_trust(base.trust.as_ref(), base.policy.preset, &base.directory)
            .status(&Subject::Base(base.repo.clone()))
    }

    /// Adds the limits of a preset for which neither a setting nor an option gives another one.
    pub(super) fn preset_limits(&self, preset: Preset, limits: &mut Limits) {
        let Some(of_preset) = preset.limits() else {
            return;
        };
        let unset = |origin: &Origin| matches!(origin, Origin::Default);
        let origins = &self.settings.origins;
        if unset(&origins.max_cost) {
            limits.cost_usd.get_or_insert(of_preset.cost_usd);
        }
        if unset(&origins.max_tokens) {
            limits.tokens.get_or_insert(of_preset.tokens);
        }
        if unset(&origins.max_steps) {
            limits.steps.get_or_insert(of_preset.steps);
        }
    }

    /// What `init` should ask about on a terminal: what the folder brings, unless the settings decide it. Blocks.
    pub fn brings(&self, directory: &Path) -> Option<String> {
        let undecided = matches!(self.settings.origins.trust_repo, Origin::Default);
        let parts = ProjectParts::of(directory, self.environment.home());
        (undecided && !parts.parts.is_empty()).then(|| parts.summary())
    }
}

/// The error for trust together with a preset that allows none.
pub(super) fn no_trust(preset: Preset) -> EngineError {
    EngineError::Usage {
        problem: format!("the preset {preset} never loads what a repository brings for opencode"),
        hint: "choose another preset, or leave --trust-repo out".to_owned(),
    }
}

impl ProjectTrust {
    /// Refuses a prompt to an opencode that cannot parse a configuration that it loads, or that would run parts of the
    /// repository although it is told not to load them. `command` trusts the repository.
    pub(super) fn refuse_unusable(
        &self,
        opencode: &Opencode,
        subject: &Subject,
        command: &str,
    ) -> Result<(), EngineError> {
        if let Some(problem) = self.parts.broken.as_ref().filter(|_| self.loaded) {
            return Err(ServerError::Config(problem.clone()).into());
        }
        if self.loaded || !opencode.runs_ignored_plugins() || self.parts.unstoppable.is_empty() {
            return Ok(());
        }
        Err(EngineError::UntrustedRepo {
            subject: subject.clone(),
            version: opencode.version.to_string(),
            parts: list_parts(&self.parts.unstoppable),
            remedy: if self.may_trust {
                format!("look at them, then trust them: {command}; or remove them")
            } else {
                "remove them, or use another preset".to_owned()
            },
        })
    }

    /// A note for people at the beginning of a turn, if something is not loaded that was, or that is there at the first
    /// turn.
    pub(super) fn note(&self, subject: &Subject, first: bool) -> Option<String> {
        let worth = self.changed || (first && !self.parts.parts.is_empty());
        if self.loaded || !worth {
            return None;
        }
        let state = if self.changed {
            "has changed since it was trusted"
        } else {
            "is not trusted"
        };
        Some(format!(
            "what the repository brings for opencode {state}, so it is not loaded: {}{}",
            self.shown(),
            self.to_load(subject)
        ))
    }

    /// What is there, for people.
    fn shown(&self) -> String {
        if self.parts.parts.is_empty() {
            "nothing now".to_owned()
        } else {
            self.parts.summary()
        }
    }

    /// What is there and whether it is loaded, in one line; `None` if there is nothing.
    pub(super) fn status(&self, subject: &Subject) -> Option<String> {
        if self.parts.parts.is_empty() && !self.changed {
            return None;
        }
        let (shown, to_load) = (self.shown(), self.to_load(subject));
        Some(if self.old {
            let command = trust_command(subject);
            format!(
                "the repository brings {shown}, which opencode loads, because the record is older than trust; \
                 to decide: {command}, or --no-trust-repo"
            )
        } else if self.loaded {
            format!("the repository brings {shown}, which is trusted, so opencode loads it")
        } else if self.changed {
            format!(
                "the repository brings {shown}, which has changed since it was trusted, so it is not loaded{to_load}"
            )
        } else {
            format!("the repository brings {shown}, which is not trusted, so it is not loaded{to_load}")
        })
    }

    fn to_load(&self, subject: &Subject) -> String {
        if self.may_trust {
            format!("; to load it: {}", trust_command(subject))
        } else {
            String::new()
        }
    }
}

/// The command that trusts what is there.
pub(super) fn trust_command(subject: &Subject) -> String {
    match subject {
        Subject::Session(address) => format!("kugetsu permit {address} --trust-repo"),
        Subject::Base(repo) => format!("kugetsu permit --base --repo {repo} --trust-repo"),
    }
}
