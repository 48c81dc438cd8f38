//! Turn ids on the command line: short for people, whole for programs.
//!
//! The first characters of a turn's id are the time at which it began, so the turns of an afternoon share them. The last
//! ones are random. People therefore see the last eight, which distinguish the turns of any session.

use std::str::FromStr;

use uuid::Uuid;

use super::CommandError;
use super::context::Context;
use kugetsu_api::{Address, ErrorCode};

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

/// A turn of a session that a person names: its id, or the beginning or the end of its id.
#[derive(Clone, Debug)]
pub(super) struct TurnName(String);

impl FromStr for TurnName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_part = text.len() >= FEWEST
            && text.len() <= 36
            && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if !is_part {
            return Err(format!(
                "write the turn's id, or at least {FEWEST} of its first or last characters"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TurnName {
    /// The whole id. That of a whole id needs no look at the session.
    pub(super) fn resolve(&self, address: &Address, context: &Context) -> Result<Uuid, CommandError> {
        if let Ok(turn) = self.0.parse() {
            return Ok(turn);
        }
        let typed = self.0.as_str();
        let mut found = context.engine.turn_ids(address)?;
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
