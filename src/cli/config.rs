//! `kugetsu config`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{ConfigOutput, ForgeView, HostView, SettingView};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {}

pub(super) fn run(_args: &ConfigArgs, context: &Context, output: Output) -> Outcome {
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
    output.table(&["SETTING", "VALUE", "FROM", "MEANING"], rows);
    output.note(format!(
        "settings are read from {}; KUGETSU_<SETTING> in the environment overrides them",
        file.display()
    ));
    Ok(ExitStatus::Ok)
}
