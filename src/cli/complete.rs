//! Completion of references, turns and hosts in the user's shell, while the user types.
//!
//! The shell runs kugetsu for each Tab key, with the shell's name in [`VARIABLE`]. Completion reads names of files and
//! writes nothing. Whatever cannot be read offers nothing, because an error would destroy the line that the user types.

use std::ffi::{OsStr, OsString};

use clap::CommandFactory as _;
use clap_complete::engine::{CompletionCandidate, ValueCompleter};
use clap_complete::env::CompleteEnv;
use kugetsu_api::{Address, RepoRef};

use super::context::Context;
use super::turn_id::short;
use super::{Cli, man};
use crate::terminal::one_line;

/// The variable with which a shell asks for completion.
pub(super) const VARIABLE: &str = "KUGETSU_COMPLETE";

/// Answers a shell that asks for completion. Returns false if none asks.
pub(super) fn answer() -> bool {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(|| man::with_pages(Cli::command()))
        .var(VARIABLE)
        .try_complete(std::env::args_os(), here.as_deref())
        // The name of an unknown shell. Nobody would see a message.
        .unwrap_or(true)
}

/// Completes the references of sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct References;

impl ValueCompleter for References {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let (Some(typed), Ok(context)) = (current.to_str(), Context::from_environment(true)) else {
            return Vec::new();
        };
        let addresses = context.engine.addresses();
        let here = context.clone_repo().ok().flatten().map(|clone| clone.repo);
        let short = addresses
            .iter()
            .filter_map(|address| within(address, here.as_ref()?, typed.starts_with('#')));
        let mut names: Vec<String> = short.filter(|name| name.starts_with(typed)).collect();
        if names.is_empty() || !typed.is_empty() {
            let lower = typed.to_lowercase();
            let whole = addresses.iter().map(Address::to_string);
            names.extend(whole.filter(|name| name.starts_with(&lower)));
        }
        names.iter().map(CompletionCandidate::new).collect()
    }
}

/// The address as it is written in a clone of its repository: `14`, `#14`, `~nightly`.
fn within(address: &Address, here: &RepoRef, hash: bool) -> Option<String> {
    if address.repo() != here {
        return None;
    }
    let whole = address.to_string();
    let rest = whole.strip_prefix(&here.to_string())?;
    let rest = if hash { rest } else { rest.trim_start_matches('#') };
    Some(rest.to_owned())
}

/// Completes the ids of the turns of the session that the command line names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns;

impl ValueCompleter for Turns {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let (Some(typed), Ok(context)) = (current.to_str(), Context::from_environment(true)) else {
            return Vec::new();
        };
        let words = typed_words();
        let named = words
            .iter()
            .filter_map(|word| context.address(word.to_str()?).ok())
            .find(|address| context.engine.find(address).is_ok_and(|record| record.is_some()));
        let Some(address) = named else {
            return Vec::new();
        };
        let ended = context.engine.turns(&address).unwrap_or_default();
        let ids = context.engine.turn_ids(&address).unwrap_or_default();
        let candidate = |id: &uuid::Uuid| {
            let (whole, short) = (id.to_string(), short(*id));
            let value = [short, whole].into_iter().find(|name| name.starts_with(typed))?;
            let ended = ended.iter().find(|turn| turn.turn == *id);
            let help = ended.map_or_else(
                || "running".to_owned(),
                |turn| {
                    one_line(&format!(
                        "{} {}",
                        turn.started.strftime("%F %T UTC"),
                        turn.verdict
                    ))
                },
            );
            Some(CompletionCandidate::new(value).help(Some(help.into())))
        };
        ids.iter().rev().filter_map(candidate).collect()
    }
}

/// Completes the names of hosts in `config.toml`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hosts;

impl ValueCompleter for Hosts {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let (Some(typed), Ok(context)) = (current.to_str(), Context::from_environment(true)) else {
            return Vec::new();
        };
        let hosts = context.engine.settings().hosts.keys();
        hosts
            .filter(|name| name.starts_with(typed))
            .map(CompletionCandidate::new)
            .collect()
    }
}

/// The words after the verb that the user has typed so far.
fn typed_words() -> Vec<OsString> {
    let words = std::env::args_os().skip_while(|word| word != "--");
    words.skip(3).collect()
}
