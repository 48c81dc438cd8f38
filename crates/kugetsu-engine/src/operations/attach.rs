//! `attach`: a person takes the session over for a while, in opencode's own terminal interface.

use std::ffi::OsString;
use std::path::PathBuf;

use uuid::Uuid;

use super::deliver::check_session;
use super::{Engine, EngineError, Environment};
use crate::opencode::commands;
use crate::process::{self, TURN_ENV};
use crate::store::{Holder, Lease, this_process};
use kugetsu_api::{Address, SessionRecord};

/// What opens opencode's terminal interface on a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachCommand {
    /// opencode.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it runs.
    pub directory: PathBuf,
}

/// A session that is in a person's hands: nobody else runs a turn on it as long as this lives.
#[derive(Debug)]
pub struct Attachment {
    command: AttachCommand,
    /// The value of [`process::TURN_ENV`] by which [`Attachment::end`] finds what it started.
    mark: Uuid,
    lease: Lease,
    environment: Environment,
}

impl Attachment {
    /// Starts opencode on this terminal. It holds the lease as well, by its own name: should kugetsu be killed, nobody runs
    /// a turn beside the person who is still there. Its tools do not (measured on 1.3.2 and 1.18.33: it hands on no
    /// descriptor that it inherited), so what it leaves behind holds nothing.
    pub fn start(&mut self) -> std::io::Result<tokio::process::Child> {
        self.lease.inherit(true)?;
        let started = tokio::process::Command::new(&self.command.program)
            .args(&self.command.args)
            .current_dir(&self.command.directory)
            .env_clear()
            .envs(self.environment.variables())
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

    /// Ends what opencode's tools left behind, then gives the session back.
    pub fn end(self) -> Result<(), EngineError> {
        process::sweep_marked(self.mark)?;
        Ok(())
    }
}

impl Engine {
    /// The command that [`Engine::attach`] is for. Takes no lease and changes nothing.
    pub fn attach_command(&self, address: &Address) -> Result<AttachCommand, EngineError> {
        let opencode = self.opencode()?;
        let record = check_session(self.record(address)?, &opencode)?;
        command(&record, opencode.program)
    }

    /// Takes the lease, brings the record in order and writes the policy, as before every turn.
    pub fn attach(&self, address: &Address) -> Result<Attachment, EngineError> {
        self.record(address)?;
        let lease = self.store.lease_session(address, this_process("attach"), None)?;
        let opencode = self.opencode()?;
        let mut record = self.record(address)?;
        self.adopt(&lease, &mut record, Some(&opencode))?;
        let record = check_session(record, &opencode)?;
        let command = command(&record, opencode.program.clone())?;
        self.apply_policy(&opencode, &record)?;
        Ok(Attachment {
            command,
            mark: Uuid::now_v7(),
            lease,
            environment: self.environment.clone(),
        })
    }
}

fn command(record: &SessionRecord, program: PathBuf) -> Result<AttachCommand, EngineError> {
    let session = record
        .session
        .as_ref()
        .ok_or_else(|| EngineError::NoSession(record.address.clone()))?;
    Ok(AttachCommand {
        program,
        args: commands::attach_args(session),
        directory: record.directory.clone(),
    })
}
