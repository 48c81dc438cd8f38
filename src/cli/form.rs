//! The form of a turn's output on stdout: `--output`, `--json`, `--events`.

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::CommandError;
use super::output::Output;
use super::printer::{Lines, Show};
use kugetsu_api::EventsSchema;

/// The form of a turn's output on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputForm {
    /// The answer's text as it arrives.
    Text,
    /// One object at the end.
    Json,
    /// Every event as a JSON line.
    StreamJson,
}

impl OutputForm {
    /// The requested form. `lines` is true if another option only makes sense with lines.
    pub(super) fn chosen(form: Option<Self>, lines: bool, output: Output) -> Self {
        form.unwrap_or(if lines || output.json {
            Self::StreamJson
        } else {
            Self::Text
        })
    }

    /// What is printed while the turn runs.
    pub(super) fn show(self, lines: Lines) -> Show {
        match self {
            Self::Text => Show::Text,
            Self::StreamJson => Show::Lines(lines),
            Self::Json => Show::Nothing,
        }
    }
}

/// The flag of commands that print events as JSON lines.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct EventsSchemaArg {
    /// The schema of events in JSON: 2, or 1 with older names of some types, which the next version no longer knows
    #[arg(long, value_name = "SCHEMA", default_value = "2", value_parser = events_schemas())]
    pub(super) events_schema: EventsSchema,
}

fn events_schemas() -> impl TypedValueParser<Value = EventsSchema> {
    PossibleValuesParser::new(EventsSchema::NAMES).try_map(|name| name.parse())
}

impl EventsSchemaArg {
    /// Refuses what is not an event type of the schema.
    pub(super) fn check_types(self, types: &[String]) -> Result<(), CommandError> {
        let schema = self.events_schema;
        let known = schema.types();
        let Some(unknown) = types.iter().find(|name| !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let name = schema.name(unknown);
        let error = CommandError::usage(
            format!("`{unknown}` is not an event type of schema {schema}"),
            if known.contains(&name) {
                format!("it is called `{name}`")
            } else {
                format!("the types are {}", known.join(", "))
            },
        );
        Err(match schema {
            EventsSchema::Two if known.contains(&name) => error.hint("or add --events-schema 1"),
            _ => error,
        })
    }
}
