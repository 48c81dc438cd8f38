//! `permit`: shows, changes and explains the permissions of a session.

use std::path::Path;

use super::trust::no_trust;
use super::{Engine, EngineError};
use crate::opencode::{SessionPatch, agent_rules_args, parse_agent_rules};
use crate::permission::{Action, Explained, Policy, Preset, Rule, explain};
use crate::store::this_process;
use kugetsu_api::{Address, ErrorCode, RepoRef, RepoTrust};

/// A session with an address, or a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The session of an address.
    Session(Address),
    /// A base, and so its future forks.
    Base(RepoRef),
}

impl Subject {
    /// The address, or the base's repository.
    pub fn reference(&self) -> String {
        match self {
            Self::Session(address) => address.to_string(),
            Self::Base(repo) => repo.to_string(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session(address) => write!(f, "{address}"),
            Self::Base(repo) => write!(f, "the base of {repo}"),
        }
    }
}

/// A change of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The preset to use instead; the rules stay.
    pub preset: Option<Preset>,
    /// Rules to add at the end. An added rule replaces an earlier rule with the same permission and pattern.
    pub add: Vec<Rule>,
    /// Rules to remove, by permission and pattern.
    pub remove: Vec<(String, String)>,
    /// Trust what the repository brings for opencode now, or nothing of it.
    pub trust_repo: Option<bool>,
}

impl Permit {
    /// Whether the change is empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn apply(&self, policy: &mut Policy) -> Result<(), EngineError> {
        if let Some(preset) = self.preset {
            policy.preset = preset;
        }
        for (permission, pattern) in &self.remove {
            let before = policy.rules.len();
            policy
                .rules
                .retain(|rule| !(rule.permission == *permission && rule.pattern == *pattern));
            if policy.rules.len() == before {
                return Err(EngineError::NotFound {
                    code: ErrorCode::NotFound,
                    problem: format!("there is no rule for {permission}:{pattern} apart from the preset's"),
                    hint: "to override a rule of the preset, add another rule".to_owned(),
                });
            }
        }
        for rule in &self.add {
            policy
                .rules
                .retain(|old| !(old.permission == rule.permission && old.pattern == rule.pattern));
            policy.rules.push(rule.clone());
        }
        Ok(())
    }
}

impl Engine {
    /// Applies the part of a change that is about trust. Blocks.
    fn change_trust(
        &self,
        change: &Permit,
        preset: Preset,
        directory: &Path,
        trust: &mut Option<RepoTrust>,
    ) -> Result<(), EngineError> {
        match change.trust_repo {
            None => {}
            Some(false) => *trust = Some(RepoTrust::default()),
            Some(true) if !preset.may_trust_repo() => return Err(no_trust(preset)),
            Some(true) => trust.get_or_insert_default().add(self.digest_of(directory)?),
        }
        Ok(())
    }

    /// The policy of a session or a base.
    pub fn policy(&self, subject: &Subject) -> Result<Policy, EngineError> {
        match subject {
            Subject::Session(address) => Ok(self.record(address)?.policy),
            Subject::Base(repo) => Ok(self.own_base(repo)?.policy),
        }
    }

    /// Changes a policy in the record. For a policy that is in use, also writes it to opencode's database and reads it
    /// back.
    pub fn permit(&self, subject: &Subject, change: &Permit) -> Result<Policy, EngineError> {
        let holder = this_process("permit");
        match subject {
            Subject::Session(address) => {
                self.refuse_own_turn(address)?;
                let lease = self.store.lease_session(address, holder, None)?;
                let mut record = self.record(address)?;
                self.adopt(&lease, &mut record, None)?;
                change.apply(&mut record.policy)?;
                let preset = record.policy.preset;
                self.change_trust(change, preset, &record.directory, &mut record.trust)?;
                record.updated = jiff::Timestamp::now();
                self.store.save_session(&lease, &record)?;
                if record.session.is_some() {
                    self.opencode()
                        .and_then(|opencode| self.apply_policy(&opencode, &record))
                        .map_err(|error| not_applied(error, "the next turn uses it"))?;
                }
                Ok(record.policy)
            }
            Subject::Base(repo) => {
                let lease = self.store.lease_base(repo, holder, None)?;
                let mut base = self.own_base(repo)?;
                change.apply(&mut base.policy)?;
                self.change_trust(change, base.policy.preset, &base.directory, &mut base.trust)?;
                base.updated = jiff::Timestamp::now();
                self.store.save_base(&lease, &base)?;
                if !base.adopted {
                    let rules = base.policy.rules();
                    let patch = SessionPatch {
                        permission: Some(&rules),
                        ..SessionPatch::default()
                    };
                    self.opencode()
                        .and_then(|opencode| {
                            self.write_database(&opencode)?.patch(&base.session, &patch)?;
                            Ok(())
                        })
                        .map_err(|error| not_applied(error, "new sessions use it"))?;
                }
                Ok(base.policy)
            }
        }
    }

    /// Explains for every permission class which action applies, which rule decides, and which patterns could still
    /// ask. Starts opencode once, without a model, to read the rules of its agent and its configuration.
    pub fn explain(&self, subject: &Subject) -> Result<Explanation, EngineError> {
        let (policy, trust, directory, sandbox) = match subject {
            Subject::Session(address) => {
                let record = self.record(address)?;
                (record.policy, record.trust, record.directory, record.sandbox)
            }
            Subject::Base(repo) => {
                let base = self.own_base(repo)?;
                let sandbox = self.sandbox_of_next(&base);
                (base.policy, base.trust, base.directory, sandbox)
            }
        };
        let project = self.project_trust(trust.as_ref(), policy.preset, &directory);
        let opencode = self.opencode()?;
        let args = agent_rules_args();
        let mut launch = self.short_launch(&opencode, directory);
        launch.ignore_project = !project.loaded;
        let output = self.command_of(&launch, &args, None)?;
        let rules = parse_agent_rules(&output.stdout).map_err(|error| EngineError::Command {
            command: args.join(" "),
            problem: error.to_string(),
        })?;
        let permissions = explain(&policy, Some(&rules));
        let runs_commands = permissions
            .iter()
            .any(|row| row.permission == "bash" && row.action == Action::Allow);
        Ok(Explanation {
            permissions,
            reach: self.reach(sandbox.as_ref(), runs_commands),
            note: project.status(subject),
            brings: project.parts.parts.into_iter().collect(),
            loaded: project.loaded,
        })
    }
}

/// What a session may do, and what its repository brings for opencode.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The permissions, class by class.
    pub permissions: Vec<Explained>,
    /// What the repository brings: plugins, tools, configuration files and others, with their paths.
    pub brings: Vec<String>,
    /// Whether opencode loads it.
    pub loaded: bool,
    /// Both in one line for people, if the repository brings anything.
    pub note: Option<String>,
    /// What the permissions cannot limit, and what the sandbox does about it, in one line for people.
    pub reach: String,
}

fn not_applied(error: EngineError, then: &'static str) -> EngineError {
    match error {
        // A session that is gone has no next turn.
        EngineError::SessionGone { .. } => error,
        error => EngineError::NotApplied {
            error: error.into(),
            then,
        },
    }
}
