//! Hooks: commands that the user sets for four moments. Each runs in the shell with a time limit, and leaves no process
//! behind.
//!
//! The output of hooks goes into `hooks.log` in the session's folder.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::interrupts::Interrupts;
use super::{Engine, EngineError, LastingLog, TurnReport};
use crate::opencode::TRACEPARENT;
use crate::process::{self, GuardSpec, Output, ProcessError, Sink};
use crate::settings::Settings;
use crate::store::{Lease, RecordKey};
use kugetsu_api::SessionRecord;

/// The log of all hooks of a session, in its folder.
const LOG: &str = LastingLog::Hooks.file_name();

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HookPoint {
    AfterCreate,
    BeforeTurn,
    AfterTurn,
    BeforeRemove,
    Notify,
}

impl HookPoint {
    pub(super) const ALL: [Self; 5] = [
        Self::AfterCreate,
        Self::BeforeTurn,
        Self::AfterTurn,
        Self::BeforeRemove,
        Self::Notify,
    ];

    /// Those that run at the end of a turn.
    pub(super) const AFTER_TURN: [Self; 2] = [Self::AfterTurn, Self::Notify];

    pub(super) fn command(self, settings: &Settings) -> Option<&str> {
        match self {
            Self::AfterCreate => settings.hook_after_create.as_deref(),
            Self::BeforeTurn => settings.hook_before_turn.as_deref(),
            Self::AfterTurn => settings.hook_after_turn.as_deref(),
            Self::BeforeRemove => settings.hook_before_remove.as_deref(),
            Self::Notify if settings.notify_by_bell() => None,
            Self::Notify => settings.notify.as_deref(),
        }
    }

    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::AfterCreate => "hook_after_create",
            Self::BeforeTurn => "hook_before_turn",
            Self::AfterTurn => "hook_after_turn",
            Self::BeforeRemove => "hook_before_remove",
            Self::Notify => "notify",
        }
    }

    /// The consequence of a failure, for the error message.
    fn stopped(self) -> &'static str {
        match self {
            Self::AfterCreate | Self::BeforeTurn => "nothing was sent to opencode",
            Self::AfterTurn => "its work may be incomplete",
            Self::BeforeRemove => "nothing was removed",
            Self::Notify => "nobody may have been notified",
        }
    }
}

impl Engine {
    /// Runs the command of the setting `notify` at the end of a turn, unless the turn may have changed the
    /// command, which a warning of the turn says. Returns a note if it failed.
    pub fn notify(&self, report: &TurnReport) -> Option<String> {
        if report.skipped_hooks.contains(&HookPoint::Notify) {
            return None;
        }
        let notified = self.hook(HookPoint::Notify, &report.record, Some(report.turn.turn));
        notified.err().map(|error| error.to_string())
    }

    /// Runs a hook and waits for it. A hook that is not set succeeds.
    pub(super) fn hook(
        &self,
        point: HookPoint,
        record: &SessionRecord,
        turn: Option<Uuid>,
    ) -> Result<(), EngineError> {
        let Some(spec) = self.hook_spec(point, record, turn)? else {
            return Ok(());
        };
        let ended = process::run_until_cancelled(spec, self.settings.hook_timeout, &self.cancel);
        self.hook_ended(point, record, ended)
    }

    /// [`Engine::hook`] for the event loop: an interrupt ends the hook. The lease is held until the hook has ended.
    pub(super) async fn interruptible_hook(
        &self,
        point: HookPoint,
        record: &SessionRecord,
        turn: Option<Uuid>,
        lease: &Arc<Lease>,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        if point.command(&self.settings).is_none() {
            return Ok(());
        }
        let (record, lease) = (record.clone(), Arc::clone(lease));
        self.interruptible(interrupts, move |engine| {
            let ended = engine.hook(point, &record, turn);
            drop(lease);
            ended
        })
        .await
    }

    fn hook_spec(
        &self,
        point: HookPoint,
        record: &SessionRecord,
        turn: Option<Uuid>,
    ) -> Result<Option<GuardSpec>, EngineError> {
        let command = point.command(&self.settings);
        let Some(command) = command.filter(|command| !command.trim().is_empty()) else {
            return Ok(None);
        };
        let key = RecordKey::from(&record.address);
        let mut log = self.store.open_lasting_log(&key, LastingLog::Hooks)?;
        let at = Timestamp::now().strftime("%FT%TZ");
        let _ = writeln!(
            log,
            "== {at} {}: {}",
            point.setting(),
            command.replace('\n', "; ")
        );
        let text = |text: Option<String>| text.unwrap_or_default().into();
        let mut set_env = vec![
            ("KUGETSU_REF".into(), record.address.to_string().into()),
            (
                "KUGETSU_SESSION".into(),
                text(record.session.as_ref().map(ToString::to_string)),
            ),
            ("KUGETSU_TURN_ID".into(), text(turn.map(|turn| turn.to_string()))),
        ];
        let traceparent = self.traceparent.as_ref();
        set_env.extend(traceparent.map(|span| (TRACEPARENT.into(), span.into())));
        let ended = record.last.as_ref().filter(|last| Some(last.turn) == turn);
        if let Some(ended) = ended {
            set_env.push(("KUGETSU_VERDICT".into(), ended.verdict.as_str().into()));
        }
        if let Some(worktree) = &record.worktree {
            // The name KUGETSU_WORKTREE is taken: in the environment it sets the setting `worktree` for a kugetsu in
            // the hook.
            set_env.push(("KUGETSU_WORKTREE_PATH".into(), worktree.path.clone().into()));
            set_env.push(("KUGETSU_BRANCH".into(), worktree.branch.clone().into()));
        }
        let copy = log.try_clone().map_err(|source| ProcessError::System {
            what: "cannot open the hooks' log twice",
            source,
        })?;
        Ok(Some(GuardSpec {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), command.into()],
            cwd: record.directory.clone(),
            set_env,
            remove_env: Vec::new(),
            stdin: Arc::from([]),
            // A mark of its own, because ending a hook must not end the other processes of the turn.
            sandbox: None,
            containment: self.containment(Uuid::now_v7()),
            stdout: Sink::File(log),
            stderr: Sink::File(copy),
        }))
    }

    fn hook_ended(
        &self,
        point: HookPoint,
        record: &SessionRecord,
        ended: Result<Output, ProcessError>,
    ) -> Result<(), EngineError> {
        let problem = match ended {
            Ok(output) if output.exit.success() => return Ok(()),
            Ok(output) => format!("failed ({})", output.exit),
            Err(ProcessError::Deadline { after, .. }) => {
                format!("did not end within {}", crate::duration::print_duration(after))
            }
            Err(error) => format!("could not be run: {error}"),
        };
        Err(self.hook_error(point, record, problem))
    }

    fn hook_error(&self, point: HookPoint, record: &SessionRecord, problem: String) -> EngineError {
        let key = RecordKey::from(&record.address);
        if let Ok(mut log) = self.store.open_log(&key, LOG) {
            let _ = writeln!(log, "== {}: it {problem}", point.setting());
        }
        EngineError::Hook {
            address: record.address.clone(),
            name: point.setting(),
            problem,
            stopped: point.stopped(),
            log: self.hooks_log(record),
        }
    }

    fn hooks_log(&self, record: &SessionRecord) -> PathBuf {
        self.store.folder(&RecordKey::from(&record.address)).join(LOG)
    }
}
