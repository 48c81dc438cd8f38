//! `attach`: lets a person work in the session for a while, in opencode's own terminal interface.

use std::ffi::OsString;
use std::path::PathBuf;

use uuid::Uuid;

use super::deliver::{check_session, disorder_of};
use super::error::Disorder;
use super::trust::trust_command;
use super::{Engine, EngineError, Environment, Subject, read_database};
use crate::opencode::{Opencode, commands};
use crate::process::{self, TURN_ENV};
use crate::store::{Holder, Lease, this_process};
use kugetsu_api::{Address, SessionRecord};

/// The command that opens opencode's terminal interface on a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachCommand {
    /// The opencode binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The directory that the command runs in.
    pub directory: PathBuf,
    /// Variables that the command needs besides those of the caller.
    pub environment: Vec<(OsString, OsString)>,
}

/// A session that a person works in. No other process can run a turn on the session while this value lives.
#[derive(Debug)]
pub struct Attachment {
    command: AttachCommand,
    /// The value of [`process::TURN_ENV`] that lets [`Attachment::end`] find the started processes.
    mark: Uuid,
    lease: Lease,
    environment: Environment,
}

impl Attachment {
    /// Starts opencode on this terminal. opencode inherits the lease and is recorded as its holder: if kugetsu is
    /// killed, the lease still protects the person from a second turn. opencode's tools do not inherit the lease
    /// (measured on 1.3.2 and 1.18.33: opencode passes on no inherited descriptor), so processes that opencode leaves
    /// behind hold nothing.
    pub fn start(&mut self) -> std::io::Result<tokio::process::Child> {
        self.lease.inherit(true)?;
        let started = tokio::process::Command::new(&self.command.program)
            .args(&self.command.args)
            .current_dir(&self.command.directory)
            .env_clear()
            .envs(self.environment.variables())
            .envs(self.command.environment.iter().map(|(name, value)| (name, value)))
            .env(TURN_ENV, self.mark.to_string())
            .spawn();
        self.lease.inherit(false)?;
        let child = started?;
        if let Some(pid) = child.id() {
            let holder = Holder {
                pid,
                ..self.lease.holder().clone()
            };
            self.lease.name(holder);
        }
        Ok(child)
    }

    /// Ends the processes that opencode's tools left behind, then releases the session.
    pub fn end(self) -> Result<(), EngineError> {
        process::sweep_marked(self.mark)?;
        Ok(())
    }
}

impl Engine {
    /// The command that [`Engine::attach`] prepares. Takes no lease and changes nothing.
    pub fn attach_command(&self, address: &Address) -> Result<AttachCommand, EngineError> {
        let opencode = self.opencode()?;
        let record = self.record(address)?;
        refuse_sandboxed(&record)?;
        let record = check_session(record, &opencode)?;
        self.command_to_attach(&record, &opencode)
    }

    /// Takes the lease, adopts an interrupted turn and writes the policy, as before every turn.
    pub fn attach(&self, address: &Address) -> Result<Attachment, EngineError> {
        self.refuse_own_turn(address)?;
        refuse_sandboxed(&self.record(address)?)?;
        let lease = self.store.lease_session(address, this_process("attach"), None)?;
        let opencode = self.opencode()?;
        let mut record = self.record(address)?;
        self.adopt(&lease, &mut record, Some(&opencode))?;
        let record = check_session(record, &opencode)?;
        refuse_disorder(&record, &opencode)?;
        let command = self.command_to_attach(&record, &opencode)?;
        self.apply_policy(&opencode, &record)?;
        Ok(Attachment {
            command,
            mark: Uuid::now_v7(),
            lease,
            environment: self.environment.clone(),
        })
    }

    fn command_to_attach(
        &self,
        record: &SessionRecord,
        opencode: &Opencode,
    ) -> Result<AttachCommand, EngineError> {
        let session = record
            .session
            .as_ref()
            .ok_or_else(|| EngineError::NoSession(record.address.clone()))?;
        let project = self.project_trust(record.trust.as_ref(), record.policy.preset, &record.directory);
        let subject = Subject::Session(record.address.clone());
        project.refuse_unusable(opencode, &subject, &trust_command(&subject))?;
        let mut launch = self.short_launch(opencode, record.directory.clone());
        launch.ignore_project = !project.loaded;
        if launch.ignore_project {
            self.ignore_project(&mut launch.context, &record.directory)?;
        }
        Ok(AttachCommand {
            program: opencode.program.clone(),
            args: commands::attach_args(session),
            directory: record.directory.clone(),
            environment: launch.project_variables(),
        })
    }
}

/// Refuses a session whose messages are newer than the clock: opencode would not see what the person types, or would answer
/// it without end. Blocks.
fn refuse_disorder(record: &SessionRecord, opencode: &Opencode) -> Result<(), EngineError> {
    let Some(session) = &record.session else {
        return Ok(());
    };
    let found = disorder_of(&read_database(opencode)?, opencode, session, false)?;
    match found.filter(Disorder::lasts) {
        Some(disorder) => Err(EngineError::ClockBehind {
            subject: Subject::Session(record.address.clone()),
            session: session.clone(),
            disorder,
        }),
        None => Ok(()),
    }
}

/// opencode's terminal interface would run outside the sandbox.
fn refuse_sandboxed(record: &SessionRecord) -> Result<(), EngineError> {
    if record.sandbox.is_none() {
        return Ok(());
    }
    Err(EngineError::Usage {
        problem: format!(
            "the session of {} is sandboxed, so nobody can attach to it",
            record.address
        ),
        hint: format!("send it a message instead: kugetsu continue {}", record.address),
    })
}
