//! `kugetsu config`.

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {}

pub(super) fn run(_args: &ConfigArgs, context: &Context, output: Output) -> Outcome {
    let file = context.engine.settings_path();
    let entries = context.engine.settings().entries();
    if output.json {
        let settings: serde_json::Map<_, _> = entries
            .map(|(key, value, origin)| {
                let fields = json!({
                    "value": value,
                    "from": origin.to_string(),
                    "default": key.default,
                    "help": key.help,
                });
                (key.name.to_owned(), fields)
            })
            .collect();
        let hosts = &context.engine.settings().hosts;
        output.object(&json!({"file": file, "settings": settings, "hosts": hosts}));
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
            ("address", host.address.clone(), "where it is, for ssh"),
            ("kugetsu", host.kugetsu.clone(), "the kugetsu program there"),
            ("home", host.home.clone(), "KUGETSU_HOME there"),
            (
                "ssh",
                (!host.ssh.is_empty()).then(|| host.ssh.join(" ")),
                "further arguments of ssh",
            ),
        ];
        rows.extend(fields.into_iter().filter_map(|(field, value, help)| {
            let setting = format!("hosts.{name}.{field}");
            Some(vec![setting, value?, "config.toml".to_owned(), help.to_owned()])
        }));
    }
    output.table(&["SETTING", "VALUE", "FROM", "MEANING"], rows);
    output.note(format!(
        "settings are read from {}; KUGETSU_<SETTING> in the environment overrules it",
        file.display()
    ));
    Ok(ExitStatus::Ok)
}
