//! `kugetsu permit`.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap_complete::engine::ArgValueCompleter;

use super::complete::References;
use super::context::Context;
use super::output::Output;
use super::table::{Cell, Column};
use super::tone::Tone;
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{ExplainOutput, PermitOutput};
use kugetsu_api::permission::{Action, Preset, Rule};
use kugetsu_engine::CLASSES;
use kugetsu_engine::operations::{EngineError, Permit, Subject};

#[derive(Debug, Args)]
pub(super) struct PermitArgs {
    /// The session; not with --base
    #[arg(value_name = "REF", required_unless_present = "base", add = ArgValueCompleter::new(References))]
    reference: Option<String>,

    /// Rules to add, as permission[:pattern]=allow|deny|ask; without a rule, show the policy
    #[arg(value_name = "RULE")]
    rules: Vec<String>,

    /// The base of the clone's repository, and thereby future forks
    #[arg(long)]
    base: bool,

    /// The base of this repository
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO", requires = "base")]
    repo: Option<String>,

    /// Remove a rule, as permission[:pattern]; repeatable
    #[arg(long, value_name = "PERMISSION[:PATTERN]")]
    remove: Vec<String>,

    /// Replace the preset
    #[arg(long, value_name = "PRESET", value_parser = presets())]
    preset: Option<Preset>,

    /// Let opencode load what the repository brings for it now: plugins, tools, MCP servers and others
    #[arg(long, overrides_with = "no_trust_repo")]
    trust_repo: bool,

    /// Let opencode load nothing of what the repository brings
    #[arg(long)]
    no_trust_repo: bool,

    /// Explain for every permission what applies, why, and what could still ask
    #[arg(long)]
    explain: bool,
}

/// The choice of two flags that exclude each other.
pub(super) fn trust(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

/// A parser of preset names for the command line.
pub(super) fn presets() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::as_str)).try_map(|argument| argument.parse())
}

pub(super) fn run(args: PermitArgs, context: &Context, output: Output) -> Outcome {
    // With --base there is no REF, so the first argument is a rule too.
    let (subject, arguments) = if args.base {
        let repo = context.repo(args.repo.as_deref())?;
        let arguments = args.reference.into_iter().chain(args.rules).collect();
        (Subject::Base(repo), arguments)
    } else {
        let reference = args.reference.unwrap_or_default();
        (Subject::Session(context.address(&reference)?), args.rules)
    };
    let mut change = change(&arguments, &args.remove, args.preset)?;
    change.trust_repo = trust(args.trust_repo, args.no_trust_repo);
    let engine = &context.engine;
    let policy = if change.is_empty() {
        engine.policy(&subject)?
    } else {
        let policy = engine.permit(&subject, &change);
        if matches!(policy, Ok(_) | Err(EngineError::NotApplied { .. })) {
            warn_of_unknown(&change.add, output);
        }
        policy?
    };
    if args.explain {
        let explained = engine.explain(&subject)?;
        if output.json {
            output.object(ExplainOutput {
                permissions: explained.permissions,
                repository: explained.brings,
                repository_loaded: explained.loaded,
            });
        } else {
            let rows = explained
                .permissions
                .iter()
                .map(|row| {
                    vec![
                        Cell::from(row.permission.as_str()),
                        row.pattern.as_str().into(),
                        Cell::new(row.action.as_str(), tone(row.action)),
                        row.source.to_string().into(),
                        if row.could_ask {
                            "could ask; refused in a headless turn"
                        } else {
                            ""
                        }
                        .into(),
                    ]
                })
                .collect();
            let columns = [
                Column::new("PERMISSION"),
                Column::prose("PATTERN"),
                Column::new("ACTION"),
                Column::prose("FROM").spare(1),
                Column::prose("").spare(2),
            ];
            output.table(&columns, rows);
            output.note(format!("kugetsu: {}", explained.reach));
            if let Some(note) = explained.note {
                output.note(format!("kugetsu: {note}"));
            }
        }
        return Ok(ExitStatus::Ok);
    }
    if output.json {
        let effective = policy.rules();
        output.object(PermitOutput {
            preset: policy.preset,
            rules: policy.rules,
            effective,
        });
    } else {
        output.text(format!("preset {}", policy.preset));
        for rule in policy.rules() {
            let own = if policy.rules.contains(&rule) {
                "own"
            } else {
                "preset"
            };
            output.text(format!("  {own:<6}  {rule}"));
        }
    }
    Ok(ExitStatus::Ok)
}

fn tone(action: Action) -> Tone {
    match action {
        Action::Allow => Tone::Good,
        Action::Deny => Tone::Bad,
        Action::Ask => Tone::Warn,
    }
}

/// Warns of unknown classes, because a typing error would look like protection. They cannot be refused: MCP servers and
/// plugins add tools with their own classes.
fn warn_of_unknown(added: &[Rule], output: Output) {
    let unknown: BTreeSet<_> = added
        .iter()
        .map(|rule| rule.permission.as_str())
        .filter(|class| !class.contains(['*', '?']) && !CLASSES.contains(class))
        .collect();
    if unknown.is_empty() {
        return;
    }
    let names = Vec::from_iter(unknown).join("` or `");
    output.note(format!(
        "kugetsu: opencode 1.x has no permission `{names}` of its own; a tool of an MCP server or plugin may have it"
    ));
    output.note(format!("  the known ones: {}", CLASSES.join(", ")));
}

fn change(arguments: &[String], remove: &[String], preset: Option<Preset>) -> Result<Permit, CommandError> {
    let example = "such as `bash:git push *=deny` or `external_directory:/data/*=allow`";
    Ok(Permit {
        preset,
        add: arguments
            .iter()
            .map(|argument| {
                Rule::from_str(argument).map_err(|error| CommandError::usage(error.to_string(), example))
            })
            .collect::<Result<_, _>>()?,
        remove: remove
            .iter()
            .map(|argument| {
                let (permission, pattern) = argument.split_once(':').unwrap_or((argument, "*"));
                (permission.to_owned(), pattern.to_owned())
            })
            .collect(),
        trust_repo: None,
    })
}
