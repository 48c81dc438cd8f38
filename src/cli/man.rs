//! `kugetsu man`.

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Command};
use clap_mangen::roff::{Roff, bold, roman};

use super::output::Output;
use super::{CommandError, Outcome, examples};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::ManOutput;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The command [default: the main page]
    command: Option<String>,
}

/// Sets the possible page names, which only the complete command tree knows.
pub(super) fn with_pages(command: Command) -> Command {
    let pages: Vec<_> = command
        .get_subcommands()
        .filter(|one| !one.is_hide_set())
        .map(|one| {
            PossibleValue::new(one.get_name().to_owned()).aliases(one.get_all_aliases().map(str::to_owned))
        })
        .collect();
    command.mut_subcommand("man", |man| {
        let man = examples::add(man, "");
        man.mut_arg("command", |arg| {
            arg.value_parser(PossibleValuesParser::new(pages))
        })
    })
}

pub(super) fn run(args: &ManArgs, command: Command, output: Output) -> Outcome {
    // Once built, a command knows its parent and its global options.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let command = match &args.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            CommandError::usage(format!("there is no command `{name}`"), "see: kugetsu --help")
        })?,
    };
    let mut page = Vec::new();
    write(command, args.command.is_none(), &mut page).map_err(|error| {
        CommandError::usage(format!("the page cannot be made: {error}"), "see: kugetsu --help")
    })?;
    output.file(&page, |page| ManOutput { page });
    Ok(ExitStatus::Ok)
}

fn write(command: Command, is_main: bool, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = command.get_name().to_owned();
    let has_commands = command.has_subcommands();
    let verbs: Vec<_> = command
        .get_subcommands()
        .map(|verb| format!("kugetsu-{}(1)", verb.get_name()))
        .collect();
    let source = format!("kugetsu {}", command.get_version().unwrap_or_default());
    let man = clap_mangen::Man::new(command)
        // With an empty date, `man` would show the source in the place of the date.
        .date("\"\"")
        .source(source)
        .manual("kugetsu");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if has_commands {
        man.render_subcommands_section(page)?;
    }
    let mut roff = Roff::new();
    let of = if is_main { "kugetsu" } else { &name };
    section(&mut roff, "EXAMPLES", examples::of(of));
    section(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    section(&mut roff, "FILES", FILES);
    section(&mut roff, "EXIT STATUS", EXIT_STATUS);
    roff.control("SH", ["SEE ALSO"]);
    let mut others = if is_main {
        verbs
    } else {
        vec!["kugetsu(1)".to_owned()]
    };
    others.extend(["git-worktree(1)", "ssh(1)"].map(str::to_owned));
    roff.text([roman(others.join(", "))]);
    roff.to_writer(page)
}

/// A section of names, each with its meaning.
fn section(roff: &mut Roff, title: &str, rows: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (name, meaning) in rows {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*meaning)]);
    }
}

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "KUGETSU_HOME",
        "the folder of settings and sessions; default: ~/.kugetsu",
    ),
    (
        "KUGETSU_<SETTING>",
        "overrides a setting of config.toml, such as KUGETSU_TIMEOUT=5m; kugetsu config lists them",
    ),
    (
        "VISUAL, EDITOR",
        "the editor for messages and settings; default: vi",
    ),
    (
        "NO_COLOR, CLICOLOR, CLICOLOR_FORCE, TERM",
        "whether output is coloured; a pipe only with CLICOLOR_FORCE",
    ),
    (
        "XDG_DATA_HOME, OPENCODE_DB",
        "where opencode keeps its sessions; opencode reads them",
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        "~/.kugetsu/config.toml",
        "the settings; kugetsu config edit opens it",
    ),
    (
        "~/.kugetsu/sessions/",
        "a record of each session, and the logs of its turns",
    ),
    ("~/.kugetsu/run/", "leases, and the status of turns that run"),
    (
        "~/.kugetsu/trash/",
        "what destroy, prune and init --force removed",
    ),
    (
        ".kugetsu.toml",
        "in a session's folder: what the model is told about itself",
    ),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "completed"),
    ("1", "failed"),
    ("2", "a person is needed"),
    ("64", "wrong usage"),
    ("66", "no such session, base or issue"),
    ("69", "opencode or forge unusable"),
    ("73", "store or output unwritable"),
    ("75", "try again later"),
    ("130", "interrupted"),
    ("143", "terminated"),
];
