//! Every setting, once: name, type, default, how it is read, meaning.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::values::{
    DaemonSetting, HostPort, OnAskSetting, RepoWeight, Shape, Shaped, WorktreeSetting, absolute_paths,
    boolean, choice, count, duration, hosts, names, optional, optional_count, optional_model, optional_usd,
    paths, patterns, positive, repo_weights as weights_of_repos, rules as rule_list, time_limit, time_zone,
};
use super::{ForgeSettings, HostSettings, Origin, SettingKey};
use crate::turn::answers::Strategy;
use kugetsu_api::permission::{Preset, Rule};
use kugetsu_api::{SandboxMode, TransportChoice};

/// Makes the struct of typed values, the struct of their origins, the lists of keys and shapes, and the function that
/// parses the texts.
macro_rules! settings {
    ($($name:ident: $type:ty = $default:literal, $read:expr, $help:literal;)*) => {
        /// Every setting with its typed value. A request works with one snapshot from its beginning to its end.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(#[doc = $help] pub $name: $type,)*
            /// The hosts by their names: the tables `[hosts.NAME]`.
            pub hosts: BTreeMap<String, HostSettings>,
            /// The forges by their hosts: the tables `[forges."HOST"]`.
            pub forges: BTreeMap<String, ForgeSettings>,
            /// Where the values came from.
            pub origins: Origins,
            texts: [String; COUNT],
        }

        /// Where the value of each setting came from.
        #[derive(Clone, Debug, Default)]
        pub struct Origins {
            $(#[doc = concat!("Where `", stringify!($name), "` came from.")] pub $name: Origin,)*
        }

        /// How many settings there are.
        pub(super) const COUNT: usize = SETTINGS.len();

        /// Every setting, in the order in which documents list them.
        pub const SETTINGS: &[SettingKey] = &[
            $(SettingKey { name: stringify!($name), default: $default, help: $help },)*
        ];

        /// What TOML value each setting takes, in the order of [`SETTINGS`].
        pub(super) const SHAPES: [Shape; COUNT] = [$(<$type as Shaped>::SHAPE),*];

        impl Settings {
            /// Parses the text of each setting, in the order of [`SETTINGS`]. The error carries the setting's index.
            pub(super) fn typed(
                texts: [String; COUNT],
                origins: [Origin; COUNT],
                hosts: BTreeMap<String, HostSettings>,
                forges: BTreeMap<String, ForgeSettings>,
            ) -> Result<Self, (usize, String)> {
                // The patterns make the compiler check that each name has one text and one origin.
                let places: [usize; COUNT] = std::array::from_fn(|place| place);
                let [$($name),*] = places;
                $(let $name = {
                    let read: fn(&str) -> Result<$type, String> = $read;
                    read(&texts[$name]).map_err(|problem| ($name, problem))?
                };)*
                let origins = {
                    let [$($name),*] = origins;
                    Origins { $($name),* }
                };
                Ok(Self { $($name,)* hosts, forges, origins, texts })
            }

            /// Every setting: its key, its value as a person would write it, and the origin of the value.
            pub fn entries(&self) -> impl Iterator<Item = (&'static SettingKey, &str, &Origin)> {
                let origins = [$(&self.origins.$name,)*];
                let texts = self.texts.iter().map(String::as_str);
                SETTINGS.iter().zip(texts).zip(origins).map(|((key, text), origin)| (key, text, origin))
            }
        }
    };
}

settings! {
    opencode: Option<PathBuf> = "", optional,
        "the opencode program; empty: the one on PATH";
    transport: TransportChoice = "auto", choice,
        "how turns reach opencode: auto, run or serve";
    instance: Option<String> = "github.com", optional,
        "the forge of a reference that names none, such as owner/repo#14";
    timeout: Duration = "1h", time_limit,
        "how long a turn may take";
    stall_timeout: Duration = "10m", time_limit,
        "how long a turn may go without any progress";
    max_quota_wait: Duration = "10m", duration,
        "how long a turn waits when the provider asks it to retry later";
    max_steps_without_progress: NonZeroU32 = "5", positive,
        "consecutive steps without a finish reason that end a turn as looping";
    max_restarts: u32 = "3", count,
        "how often opencode is restarted after a crash during a turn";
    max_cost: Option<f64> = "", optional_usd,
        "cost in US dollars above which a turn is ended; empty: no limit";
    max_tokens: Option<u64> = "", optional_count,
        "number of tokens above which a turn is ended; empty: no limit";
    max_depth: u32 = "3", count,
        "how many turns deep tools of turns may begin further turns; 0: they begin none";
    max_delegates: NonZeroU32 = "8", positive,
        "how many turns that tools began, and that tools of these began, may run at once below one turn";
    max_steps: Option<u64> = "", optional_count,
        "number of steps (requests to the model) above which a turn is ended; empty: no limit";
    model: Option<String> = "", optional_model,
        "the model of every turn, as provider/model; empty: the session's own";
    agent: Option<String> = "", optional,
        "the agent of every turn; empty: the session's own";
    context: Option<String> = "", optional,
        "what each session is told about itself, as a template; empty: the built-in text; none: nothing";
    keep_prompt: bool = "true", boolean,
        "whether the record of a turn keeps the message: true or false; opencode keeps it in any case";
    on_ask: OnAskSetting = "answer", choice,
        "what to do with a request that nobody answers: answer (use the default) or block (end the turn)";
    response_timeout: Duration = "30s", duration,
        "how long to wait for a reply with --supervised before the default applies";
    on_question: Strategy = "first_option", choice,
        "the default answer to a question: first_option or cancel";
    grace: Duration = "10s", duration,
        "how long opencode may take to end before it is killed";
    ready_timeout: Duration = "30s", time_limit,
        "how long opencode's server may take to become ready";
    database_timeout: Duration = "10s", duration,
        "how long to wait while opencode's database is locked";
    lock_timeout: Duration = "10s", duration,
        "how long to wait for a lock of the store";
    preset: Preset = "headless", choice,
        "the permission preset of new bases: headless, read-only, stranger or full";
    rules: Vec<Rule> = "", rule_list,
        "permission rules of new bases, added after the preset, as a list: [\"bash:git push *=deny\"]";
    sandbox: SandboxMode = "off", choice,
        "whether sessions of new bases are sandboxed: off, auto (as well as the machine allows) or required";
    sandbox_read: Vec<PathBuf> = "", absolute_paths,
        "further files and folders that a sandboxed session may read, as a list: [\"~/.cargo\", \"~/.rustup\"]";
    sandbox_write: Vec<PathBuf> = "", absolute_paths,
        "further folders that a sandboxed session may write, as a list: [\"~/.cargo/registry\"]";
    sandbox_hosts: Vec<HostPort> = "", hosts,
        "further hosts that a sandboxed session may connect to, as a list: [\"static.crates.io\", \"localhost:5432\"]";
    sandbox_env: Vec<String> = "", names,
        "further variables of the environment that a sandboxed session gets, as a list: [\"CARGO_HOME\"]";
    sandbox_memory: Option<u64> = "8000000000", optional_count,
        "bytes of memory that a sandboxed session may use; empty: no limit";
    sandbox_processes: Option<u64> = "2048", optional_count,
        "processes and threads that a sandboxed session may have; empty: no limit";
    trust_repo: bool = "false", boolean,
        "whether opencode loads what the repository of a new base brings for it (plugins, tools, MCP servers): true or false";
    worktree: WorktreeSetting = "auto", choice,
        "whether each new session gets its own git worktree: auto (if the base is in a git clone), true or false";
    worktree_root: Option<PathBuf> = "", optional,
        "the folder of all worktrees; empty: .worktrees in each clone";
    worktree_copy: Vec<PathBuf> = "", paths,
        "untracked files to copy into a new worktree, as a list: [\".env\"]";
    worktree_link: Vec<PathBuf> = "", paths,
        "untracked files to link into a new worktree, as a list: [\"opencode.json\"]";
    hook_after_create: Option<String> = "", optional,
        "shell command to run in a new worktree before its first turn; a failure stops the turn";
    hook_before_turn: Option<String> = "", optional,
        "shell command to run in the session's directory before every turn; a failure stops the turn";
    hook_after_turn: Option<String> = "", optional,
        "shell command to run in the session's directory after every turn; a failure is only a warning";
    hook_before_remove: Option<String> = "", optional,
        "shell command to run in a worktree before its removal; a failure stops the removal unless it is forced";
    hook_timeout: Duration = "60s", time_limit,
        "how long a hook may take";
    log_keep: Duration = "2160h", duration,
        "how long the logs of a turn are kept; those of a session's newest turn always are";
    log_max_bytes: Option<u64> = "100000000", optional_count,
        "size of a session's logs above which those of its oldest turns are removed; empty: no limit";
    log_max_total_bytes: Option<u64> = "2000000000", optional_count,
        "size of all logs above which those of the oldest turns are removed; empty: no limit";
    daemon: DaemonSetting = "auto", choice,
        "whether start and continue use a daemon: auto (if one runs), never, or spawn (start one if none runs)";
    daemon_idle: Duration = "10m", time_limit,
        "how long a daemon that was started on need stays without work";
    max_concurrent: NonZeroU32 = "4", positive,
        "how many turns may run at once through the daemon";
    warm_servers: u32 = "1", count,
        "how many idle servers the daemon starts ahead of need";
    budget_daily: Option<f64> = "", optional_usd,
        "what all turns through the daemon may cost in a day, in US dollars; empty: no limit";
    budget_daily_per_repo: Option<f64> = "", optional_usd,
        "what the turns of one repository may cost in a day, in US dollars; empty: no limit";
    budget_daily_per_session: Option<f64> = "", optional_usd,
        "what the turns of one session may cost in a day, in US dollars; empty: no limit";
    budget_timezone: TimeZone = "UTC", time_zone,
        "the time zone whose midnight begins the day of the budgets, such as Europe/Berlin";
    repo_weights: Vec<RepoWeight> = "", weights_of_repos,
        "how many turns of tasks a repository gets where others get one, as \"github.com/owner/repo 3\"";
    task_keep: Duration = "720h", duration,
        "how long the daemon keeps tasks that have ended or are parked";
    task_models: Vec<String> = "", patterns,
        "models that a task may ask for, as a list: [\"anthropic/*\", \"openai/gpt-5\"]; empty: all";
    task_agents: Vec<String> = "", patterns,
        "agents that a task may ask for, as a list: [\"build\", \"review-*\"]; empty: all";
    notify: Option<String> = "", optional,
        "what to do when a turn ends: bell (on a terminal), or a shell command to run in the session's directory; a failure is only a warning";
    forge_timeout: Duration = "30s", duration,
        "how long a forge may take to give an issue with its comments";
    trash_keep: Duration = "720h", duration,
        "how long the trash keeps what destroy and prune removed";
}
