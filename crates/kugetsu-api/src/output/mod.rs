//! Types with a JSON Schema for everything that `--json` and `--output json` print, and for the files that other
//! programs read or write.

mod control;
mod daemon;
mod session;
mod setup;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

pub use control::{
    AttachOutput, DetachedOutput, RebaseOutput, RebaseResult, SignalOutput, StopOutput, TurnOutput,
};
pub use daemon::{DaemonEndOutput, DaemonStartOutput, PageLinkOutput, TokenListOutput, TokenOutput};
pub use session::{
    DestroyOutput, DiffOutput, KeptView, LeftView, ListFieldsOutput, ListOutput, ListRest, ListedFields,
    ListedSession, ListedTurn, ListedWorktree, MoveOutput, MovedView, OrphanView, PendingOutput,
    PendingSession, PruneOutput, RemovedWorktreeView, SessionWithState, ShowOutput, TrashEmptyOutput,
    TrashEntryView, TrashListOutput,
};
pub use setup::{
    BackupOutput, CompletionsOutput, ConfigOutput, DoctorOutput, ExplainOutput, ForgeView, GcOutput,
    HostView, ManOutput, OneSettingOutput, PermitOutput, RestoreBackupOutput, RestoredDatabase, SettingView,
    SizesView,
};

use crate::{
    BackupManifest, BaseRecord, DaemonStatus, ErrorOutput, EventsSchema, Issue, Query, SignalFile,
    StreamLine, SubmittedTask, Task, TaskList, TrashEntry, TurnRecord, TurnStatus,
};

/// The schema of all `--json` output except records and lines of the stream.
pub const OUTPUT_SCHEMA: u32 = 1;

/// An object with its schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Document<T> {
    /// The schema of the object, 1.
    pub schema: u32,
    /// The object's other fields.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Document<T> {
    /// Wraps the object with the schema that this version writes.
    pub fn new(body: T) -> Self {
        Self {
            schema: OUTPUT_SCHEMA,
            body,
        }
    }
}

/// A JSON Schema, checked in as `docs/schema/NAME.schema.json`.
#[derive(Clone, Copy, Debug)]
pub struct NamedSchema {
    /// The name of the file, without its ending.
    pub name: &'static str,
    /// The command or the file that the schema describes.
    pub of: &'static str,
    /// Generates the schema.
    pub make: fn() -> Schema,
}

/// Every schema.
pub const SCHEMAS: &[NamedSchema] = &[
    readable::<StreamLine>(
        "event",
        "a line of `start`, `continue`, `wait`, `logs` and `watch` with `--json`, and of `TURN.events.jsonl`",
    ),
    NamedSchema {
        name: "event-1",
        of: "the same lines with `--events-schema 1`, and in a file of an older version",
        make: || EventsSchema::One.of((readable::<StreamLine>("", "").make)()),
    },
    of::<Document<TurnOutput>>("turn", "`start`, `continue` and `wait` with `--output json`"),
    of::<Document<DetachedOutput>>("detached", "`start` and `continue` with `--detach`"),
    of::<BaseRecord>("base", "`init`, `restore --base`, and `base.json`"),
    of::<SessionWithState>("session", "`restore`; without `state` the record of an issue"),
    readable::<Document<ListOutput>>("list", "`list`"),
    readable::<Document<ListFieldsOutput>>("list-fields", "`list --fields`"),
    of::<ShowOutput>("show", "`show`"),
    of::<Document<DiffOutput>>("diff", "`diff`"),
    readable::<TurnRecord>("turn-record", "a line of `turns.jsonl`"),
    of::<Document<AttachOutput>>("attach", "`attach --print`"),
    of::<Document<StopOutput>>("stop", "`stop`"),
    of::<Document<SignalOutput>>("signal", "`signal`"),
    of::<Document<RebaseOutput>>("rebase", "`signal REF rebase`"),
    of::<Document<Query>>("query", "`query`"),
    of::<Document<Issue>>("issue", "`issue`"),
    of::<Document<PermitOutput>>("permit", "`permit`"),
    of::<Document<ExplainOutput>>("explain", "`permit --explain`"),
    of::<Document<PendingOutput>>("pending", "`pending`"),
    of::<Document<PendingSession>>("answer", "`answer`"),
    of::<Document<PruneOutput>>("prune", "`prune`"),
    of::<Document<DestroyOutput>>("destroy", "`destroy`"),
    of::<Document<MoveOutput>>("move", "`move`"),
    of::<Document<TrashListOutput>>("trash-list", "`trash list`"),
    of::<Document<TrashEmptyOutput>>("trash-empty", "`trash empty`"),
    of::<Document<GcOutput>>("gc", "`gc`"),
    of::<Document<BackupOutput>>("backup", "`backup`"),
    of::<Document<RestoreBackupOutput>>("restore-backup", "`restore-backup`"),
    of::<Document<DoctorOutput>>("doctor", "`doctor`"),
    of::<Document<ConfigOutput>>("config", "`config`"),
    of::<Document<OneSettingOutput>>("setting", "`config get`, `config set` and `config unset`"),
    of::<Document<CompletionsOutput>>("completions", "`completions`"),
    of::<Document<ManOutput>>("man", "`man`"),
    of::<Document<DaemonStartOutput>>("daemon-start", "`daemon start --detach`"),
    of::<Document<DaemonStatus>>("daemon-status", "`daemon status`"),
    of::<Document<DaemonEndOutput>>("daemon-stop", "`daemon stop`"),
    of::<Document<PageLinkOutput>>("page-link", "`daemon open`"),
    of::<Document<TokenOutput>>("token", "`daemon token create`"),
    of::<Document<TokenListOutput>>("token-list", "`daemon token list` and `daemon token revoke`"),
    of::<Document<SubmittedTask>>("submitted-task", "`submit`"),
    of::<Document<Task>>("task", "`task show` and `task cancel`"),
    of::<Document<TaskList>>("task-list", "`task list`"),
    of::<Document<ErrorOutput>>("error", "every command that fails"),
    readable::<TurnStatus>("status-file", "`14.status.json`"),
    readable::<BackupManifest>("backup-manifest", "`manifest.json` in the archive of `backup`"),
    readable::<TrashEntry>("trash-entry", "`entry.json` in the trash"),
    readable::<SignalFile>("signal-file", "`14.signal.json`"),
];

impl NamedSchema {
    /// The text of the schema file. Its title and description name the command or file.
    pub fn text(&self) -> String {
        let mut schema = (self.make)();
        schema.insert("title".to_owned(), format!("kugetsu {}", self.name).into());
        schema.insert("description".to_owned(), self.of.into());
        let mut text = format!("{:#}", schema.to_value());
        text.push('\n');
        text
    }
}

/// The schema of output that this version writes: every field that it always writes is required.
const fn of<T: JsonSchema>(name: &'static str, of: &'static str) -> NamedSchema {
    NamedSchema {
        name,
        of,
        make: || {
            let settings = SchemaSettings::draft2020_12().for_serialize();
            settings.into_generator().into_root_schema_for::<T>()
        },
    }
}

/// The schema of a file that this version reads, including one that an older version wrote: a field with a default may
/// be absent.
const fn readable<T: JsonSchema>(name: &'static str, of: &'static str) -> NamedSchema {
    NamedSchema {
        name,
        of,
        make: || {
            let settings = SchemaSettings::draft2020_12();
            settings.into_generator().into_root_schema_for::<T>()
        },
    }
}
