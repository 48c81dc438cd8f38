//! `kugetsu config`.

use clap::{Args, Subcommand};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use super::context::Context;
use super::editor::Draft;
use super::output::{Output, can_ask, confirm};
use super::table::Column;
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{ConfigOutput, ForgeView, HostView, OneSettingOutput, SettingView};
use kugetsu_engine::operations::EngineError;
use kugetsu_engine::settings::{Origin, SETTINGS, SettingKey, Settings, check_key, template};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the value of one setting
    Get {
        /// The setting, or hosts.NAME, forges.HOST or a field of one of them
        #[arg(value_name = "SETTING", add = ArgValueCandidates::new(names))]
        key: String,
    },
    /// Change a setting in config.toml; its comments and its order stay
    Set {
        /// The setting, or hosts.NAME.FIELD
        #[arg(value_name = "SETTING", add = ArgValueCandidates::new(names))]
        key: String,

        /// The value; for a list, each item is an argument of its own
        #[arg(value_name = "VALUE", required = true)]
        value: Vec<String>,
    },
    /// Remove a setting from config.toml, so that it has its default again
    Unset {
        /// The setting, or hosts.NAME.FIELD
        #[arg(value_name = "SETTING", add = ArgValueCandidates::new(names))]
        key: String,
    },
    /// Open config.toml in your editor (VISUAL, EDITOR); a text that is not valid is refused
    Edit,
}

impl ConfigArgs {
    /// Whether the command is for mending settings, and so must work with invalid ones.
    pub(super) fn mends(&self) -> bool {
        !matches!(self.action, None | Some(Action::Get { .. }))
    }
}

/// The names of all settings, for completion.
fn names() -> Vec<CompletionCandidate> {
    let candidate = |key: &SettingKey| CompletionCandidate::new(key.name).help(Some(key.help.into()));
    SETTINGS.iter().map(candidate).collect()
}

pub(super) fn run(args: &ConfigArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    match &args.action {
        None => show(context, output),
        Some(Action::Get { key }) => get(key, engine.settings(), output),
        Some(Action::Set { key, value }) => {
            engine.set_setting(key, value)?;
            changed(key, context, output)
        }
        Some(Action::Unset { key }) => {
            engine.unset_setting(key)?;
            changed(key, context, output)
        }
        Some(Action::Edit) => edit(context, output),
    }
}

fn get(key: &str, settings: &Settings, output: Output) -> Outcome {
    let entry = settings.entries().find(|(known, _, _)| known.name == key);
    let (value, from) = match entry {
        Some((_, value, origin)) => (value.to_owned(), origin.to_string()),
        None => in_tables(key, settings)?,
    };
    if output.json {
        output.object(OneSettingOutput {
            setting: key.to_owned(),
            value,
            from,
        });
    } else {
        output.text(value);
    }
    Ok(ExitStatus::Ok)
}

/// The value and the origin of a field of a host or a forge, which has no variable, or of all fields of a table.
fn in_tables(key: &str, settings: &Settings) -> Result<(String, String), CommandError> {
    let plain = |name: &str| name.replace(['"', '\''], "");
    let wanted = plain(key);
    let is_group = TABLES.contains(&wanted.as_str());
    let mut lines = Vec::new();
    for field in fields(settings) {
        let name = plain(&field.name());
        if name == wanted {
            return Ok((field.value, "config.toml".to_owned()));
        }
        let below = name.strip_prefix(&wanted).and_then(|rest| rest.strip_prefix('.'));
        if below.is_some() && (is_group || wanted == plain(&field.table)) {
            let name = if is_group {
                field.name()
            } else {
                field.key.to_owned()
            };
            lines.push(format!("{name} = {}", field.value.replace('\n', " ")));
        }
    }
    if !lines.is_empty() {
        return Ok((lines.join("\n"), "config.toml".to_owned()));
    }
    let is_forge_field = wanted.starts_with("forges.")
        && [".kind", ".api_url", ".token"]
            .iter()
            .any(|end| wanted.ends_with(end));
    let is_below = TABLES
        .iter()
        .any(|table| wanted.starts_with(&format!("{table}.")));
    match check_key(key) {
        _ if is_group || is_forge_field => {}
        Err(_) if is_below => {
            return Err(CommandError::usage(
                format!("config.toml has nothing under `{key}`"),
                "see all settings: kugetsu config",
            ));
        }
        known => known.map_err(EngineError::from)?,
    }
    Ok((String::new(), "default".to_owned()))
}

/// The settings that have a table for each host.
const TABLES: [&str; 2] = ["hosts", "forges"];

/// A field in the table of a host or a forge.
struct Field {
    /// Its table, as in the file.
    table: String,
    key: &'static str,
    value: String,
    help: &'static str,
}

impl Field {
    fn name(&self) -> String {
        format!("{}.{}", self.table, self.key)
    }
}

/// The fields of hosts and forges in the file. The items of a list are on lines of their own.
fn fields(settings: &Settings) -> Vec<Field> {
    let mut found = Vec::new();
    let mut add = |table: &str, key, value: Option<String>, help| {
        found.extend(value.map(|value| Field {
            table: table.to_owned(),
            key,
            value,
            help,
        }));
    };
    for (name, host) in &settings.hosts {
        let table = format!("hosts.{name}");
        let ssh = (!host.ssh.is_empty()).then(|| host.ssh.join("\n"));
        add(&table, "address", host.address.clone(), "its ssh destination");
        add(
            &table,
            "kugetsu",
            host.kugetsu.clone(),
            "the kugetsu program on the host",
        );
        add(&table, "home", host.home.clone(), "KUGETSU_HOME on the host");
        add(&table, "ssh", ssh, "additional arguments for ssh");
    }
    for (host, forge) in &settings.forges {
        let table = format!("forges.\"{host}\"");
        let token = forge.token.as_ref().map(|_| "***".to_owned());
        add(
            &table,
            "kind",
            forge.kind.map(|kind| kind.to_string()),
            "which API the forge has",
        );
        add(&table, "api_url", forge.api_url.clone(), "the address of its API");
        add(&table, "token", token, "a secret");
    }
    found
}

/// Reports a setting after a change, as the next command will read it.
fn changed(key: &str, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let settings =
        Settings::load(&engine.settings_path(), engine.environment()).map_err(EngineError::from)?;
    let set_elsewhere = settings.entries().find_map(|(known, _, origin)| match origin {
        Origin::Environment(name) if known.name == key => Some(name.clone()),
        _ => None,
    });
    if let Some(name) = set_elsewhere {
        output.note(format!("kugetsu: {name} in the environment overrides {key}"));
    }
    get(key, &settings, output)
}

fn edit(context: &Context, output: Output) -> Outcome {
    if !can_ask() {
        return Err(CommandError::usage(
            "an editor needs a terminal on stdin and stderr",
            "change one setting: kugetsu config set SETTING VALUE",
        ));
    }
    let engine = &context.engine;
    let before = engine.settings_text()?;
    let begun = before.clone().unwrap_or_else(template);
    let draft = Draft::new(&begun, ".toml")?;
    loop {
        let text = match draft.edit() {
            Ok(text) => text,
            Err(error) if draft.text().is_ok_and(|text| text == begun) => return Err(error),
            Err(error) => return Err(draft.keep_after(error)),
        };
        if text == begun {
            output.note("kugetsu: nothing was changed");
            return Ok(ExitStatus::Ok);
        }
        let invalid = match engine.check_settings(&text) {
            Ok(()) => {
                let written = engine.replace_settings(before.as_deref(), &text);
                return match written {
                    Ok(()) => Ok(ExitStatus::Ok),
                    Err(error) => Err(kept(draft, error.into())?),
                };
            }
            Err(error) => CommandError::from(error),
        };
        output.note(invalid.for_people());
        if !confirm("Edit it again?") {
            return Err(kept(draft, invalid)?);
        }
    }
}

/// The error with the path of the text that was not written.
fn kept(draft: Draft, error: CommandError) -> Result<CommandError, CommandError> {
    let path = draft.keep()?;
    Ok(error.hint(format!(
        "config.toml is unchanged; your text is in {}",
        path.display()
    )))
}

fn show(context: &Context, output: Output) -> Outcome {
    let file = context.engine.settings_path();
    let entries = context.engine.settings().entries();
    if output.json {
        let settings = entries.map(|(key, value, origin)| {
            let view = SettingView {
                value: value.to_owned(),
                from: origin.to_string(),
                default: key.default.to_owned(),
                help: key.help.to_owned(),
            };
            (key.name.to_owned(), view)
        });
        let hosts = context.engine.settings().hosts.iter().map(|(name, host)| {
            let view = HostView {
                address: host.address.clone(),
                kugetsu: host.kugetsu.clone(),
                home: host.home.clone(),
                ssh: host.ssh.clone(),
            };
            (name.clone(), view)
        });
        let forges = context.engine.settings().forges.iter().map(|(host, forge)| {
            let view = ForgeView {
                kind: forge.kind.map(|kind| kind.to_string()),
                api_url: forge.api_url.clone(),
                has_token: forge.token.is_some(),
            };
            (host.clone(), view)
        });
        output.object(ConfigOutput {
            file,
            settings: settings.collect(),
            hosts: hosts.collect(),
            forges: forges.collect(),
        });
        return Ok(ExitStatus::Ok);
    }
    let mut rows: Vec<_> = entries
        .map(|(key, value, origin)| {
            vec![
                key.name.to_owned(),
                if value.is_empty() {
                    "-".to_owned()
                } else {
                    value.replace('\n', ", ")
                },
                origin.to_string(),
                key.help.to_owned(),
            ]
        })
        .collect();
    rows.extend(fields(context.engine.settings()).into_iter().map(|field| {
        let value = field.value.replace('\n', " ");
        vec![
            field.name(),
            value,
            "config.toml".to_owned(),
            field.help.to_owned(),
        ]
    }));
    let columns = [
        Column::new("SETTING"),
        Column::prose("VALUE"),
        Column::new("FROM").spare(1),
        Column::prose("MEANING").spare(2),
    ];
    output.table(&columns, rows);
    output.note(format!(
        "settings are read from {}; KUGETSU_<SETTING> in the environment overrides them",
        file.display()
    ));
    Ok(ExitStatus::Ok)
}
