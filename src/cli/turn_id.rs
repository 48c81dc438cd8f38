//! Turn ids on the command line: short for people, whole for programs.
//!
//! The first characters of a turn's id are the time at which it began, so the turns of an afternoon share them. The last
//! ones are random. People therefore see the last eight, which distinguish the turns of any session.

use std::str::FromStr;

use uuid::Uuid;

use super::CommandError;
use super::context::Context;
use kugetsu_api::{Address, ErrorCode};
use kugetsu_engine::operations::turn_id;

/// The number of characters that people see.
const SHORT: usize = 8;
/// Fewer characters are more likely a typing error than an id.
const FEWEST: usize = 4;
/// The number of turns that an error names.
const NAMED: usize = 5;

/// The id as people see it.
pub(super) fn short(turn: Uuid) -> String {
    let whole = turn.to_string();
    whole[whole.len() - SHORT..].to_owned()
}

/// The longest text that may stand for an id.
const LONGEST: usize = 200;

/// An id that the caller chooses for a turn.
#[derive(Clone, Debug)]
pub(super) struct ChosenId(String);

impl FromStr for ChosenId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.chars().count() > LONGEST {
            return Err(format!(
                "write an id of 1 to {LONGEST} characters, such as a UUID or nightly-7"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl ChosenId {
    pub(super) fn of(&self, address: &Address) -> Uuid {
        turn_id(address, &self.0)
    }
}

fn whole_or_part() -> String {
    format!("write the turn's id, or at least {FEWEST} of its first or last characters")
}

/// A turn of a session that a person names: its id, the beginning or the end of its id, or the text that the caller
/// chose for it.
#[derive(Clone, Debug)]
pub(super) struct TurnName(String);

impl FromStr for TurnName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A caller may have chosen a shorter text than the part of an id that a person must write.
        if text.trim().is_empty() || text.chars().count() > LONGEST {
            return Err(whole_or_part());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TurnName {
    /// The whole id. That of a whole id needs no look at the session.
    pub(super) fn resolve(&self, address: &Address, context: &Context) -> Result<Uuid, CommandError> {
        if let Ok(turn) = self.0.parse() {
            return Ok(turn);
        }
        let mut found = context.engine.turn_ids(address)?;
        let chosen = turn_id(address, &self.0);
        if found.contains(&chosen) {
            return Ok(chosen);
        }
        if self.0.chars().count() < FEWEST {
            let problem = format!("{address} has no turn with the id `{}`", self.0);
            return Err(CommandError::usage(problem, whole_or_part()));
        }
        let typed = self.0.to_ascii_lowercase();
        let typed = typed.as_str();
        found.retain(|turn| {
            let whole = turn.to_string();
            whole.starts_with(typed) || whole.ends_with(typed)
        });
        match found.as_slice() {
            [turn] => Ok(*turn),
            [] => Err(
                CommandError::new(ErrorCode::NoTurn, format!("{address} has no turn `{typed}`"))
                    .hint(format!("list them: kugetsu show {address} --turns")),
            ),
            several => {
                let newest: Vec<_> = several.iter().rev().take(NAMED).map(Uuid::to_string).collect();
                let more = several.len() - newest.len();
                let rest = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                Err(CommandError::usage(
                    format!(
                        "`{typed}` can be several turns of {address}: {}{rest}",
                        newest.join(", ")
                    ),
                    "write more characters of the one that is meant",
                ))
            }
        }
    }
}
