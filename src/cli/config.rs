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
        /// The setting, or hosts.NAME.FIELD
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
    check_key(key).map_err(EngineError::from)?;
    let view = match settings.entries().find(|(known, _, _)| known.name == key) {
        Some((_, value, origin)) => OneSettingOutput {
            setting: key.to_owned(),
            value: value.to_owned(),
            from: origin.to_string(),
        },
        None => of_host(key, settings),
    };
    if output.json {
        output.object(view);
    } else {
        output.text(view.value);
    }
    Ok(ExitStatus::Ok)
}

/// A field of a host, which has no default and no variable.
fn of_host(key: &str, settings: &Settings) -> OneSettingOutput {
    let field = key
        .strip_prefix("hosts.")
        .and_then(|rest| rest.rsplit_once('.'))
        .and_then(|(name, field)| {
            let host = settings.hosts.get(name)?;
            match field {
                "address" => host.address.clone(),
                "kugetsu" => host.kugetsu.clone(),
                "home" => host.home.clone(),
                _ => (!host.ssh.is_empty()).then(|| host.ssh.join("\n")),
            }
        });
    OneSettingOutput {
        setting: key.to_owned(),
        from: if field.is_some() { "config.toml" } else { "default" }.to_owned(),
        value: field.unwrap_or_default(),
    }
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
        let text = draft.edit()?;
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
    for (name, host) in &context.engine.settings().hosts {
        let fields = [
            ("address", host.address.clone(), "its ssh destination"),
            ("kugetsu", host.kugetsu.clone(), "the kugetsu program on the host"),
            ("home", host.home.clone(), "KUGETSU_HOME on the host"),
            (
                "ssh",
                (!host.ssh.is_empty()).then(|| host.ssh.join(" ")),
                "additional arguments for ssh",
            ),
        ];
        rows.extend(fields.into_iter().filter_map(|(field, value, help)| {
            let setting = format!("hosts.{name}.{field}");
            Some(vec![setting, value?, "config.toml".to_owned(), help.to_owned()])
        }));
    }
    for (host, forge) in &context.engine.settings().forges {
        let fields = [
            (
                "kind",
                forge.kind.map(|kind| kind.to_string()),
                "which API the forge has",
            ),
            ("api_url", forge.api_url.clone(), "the address of its API"),
            (
                "token",
                forge.token.as_ref().map(|_| "***".to_owned()),
                "a secret",
            ),
        ];
        rows.extend(fields.into_iter().filter_map(|(field, value, help)| {
            let setting = format!("forges.\"{host}\".{field}");
            Some(vec![setting, value?, "config.toml".to_owned(), help.to_owned()])
        }));
    }
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
