//! `kugetsu permit`.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::context::Context;
use super::output::Output;
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{ExplainOutput, PermitOutput};
use kugetsu_api::permission::{Preset, Rule};
use kugetsu_engine::CLASSES;
use kugetsu_engine::operations::{EngineError, Permit, Subject};

#[derive(Debug, Args)]
pub(super) struct PermitArgs {
    /// The session; not with --base
    #[arg(value_name = "REF", required_unless_present = "base")]
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

    /// Explain for every permission what applies, why, and what could still ask
    #[arg(long)]
    explain: bool,
}

/// The presets, for a command line.
pub(super) fn presets() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::as_str)).try_map(|word| word.parse())
}

pub(super) fn run(args: PermitArgs, context: &Context, output: Output) -> Outcome {
    // With --base there is no REF, so the first word is a rule as well.
    let (subject, words) = if args.base {
        let repo = context.repo(args.repo.as_deref())?;
        let words = args.reference.into_iter().chain(args.rules).collect();
        (Subject::Base(repo), words)
    } else {
        let reference = args.reference.unwrap_or_default();
        (Subject::Issue(context.address(&reference)?), args.rules)
    };
    let change = change(&words, &args.remove, args.preset)?;
    let engine = &context.engine;
    let policy = if change.is_empty() {
        engine.policy(&subject)?
    } else {
        let policy = engine.permit(&subject, &change);
        if matches!(policy, Ok(_) | Err(EngineError::NotApplied { .. })) {
            tell_of_unknown(&change.add, output);
        }
        policy?
    };
    if args.explain {
        let explained = engine.explain(&subject)?;
        if output.json {
            output.object(ExplainOutput {
                permissions: explained,
            });
        } else {
            let rows = explained
                .iter()
                .map(|row| {
                    vec![
                        row.permission.clone(),
                        row.pattern.clone(),
                        row.action.as_str().to_owned(),
                        row.source.to_string(),
                        if row.could_ask {
                            "could ask; refused in a headless turn"
                        } else {
                            ""
                        }
                        .to_owned(),
                    ]
                })
                .collect();
            output.table(&["PERMISSION", "PATTERN", "ACTION", "FROM", ""], rows);
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

/// A slip of the pen would look like protection. It cannot be refused: MCP servers and plugins bring tools of their own.
fn tell_of_unknown(added: &[Rule], output: Output) {
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

fn change(words: &[String], remove: &[String], preset: Option<Preset>) -> Result<Permit, CommandError> {
    let example = "such as `bash:git push *=deny` or `external_directory:/data/*=allow`";
    Ok(Permit {
        preset,
        add: words
            .iter()
            .map(|word| Rule::from_str(word).map_err(|error| CommandError::usage(error.to_string(), example)))
            .collect::<Result<_, _>>()?,
        remove: remove
            .iter()
            .map(|word| {
                let (permission, pattern) = word.split_once(':').unwrap_or((word, "*"));
                (permission.to_owned(), pattern.to_owned())
            })
            .collect(),
    })
}
