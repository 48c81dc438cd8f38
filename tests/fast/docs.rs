//! The documents agree with the program: commands, settings, exit statuses, dependencies, links.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory as _;
use kugetsu::cli::Cli;
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;
use kugetsu_engine::settings::SETTINGS;
use kugetsu_testing::{MANUAL, all_documents, blocks, document};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The cells of every table row.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

#[test]
fn every_command_has_its_place_in_the_manual() {
    let manual = document("docs/commands.md");
    let headings: Vec<_> = manual.lines().filter(|line| line.starts_with("### ")).collect();
    for command in Cli::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let name = format!("`kugetsu {}`", command.get_name());
        assert!(
            headings.iter().any(|line| line.contains(&name)),
            "docs/commands.md has no heading for {name}"
        );
    }
}

#[test]
fn every_flag_in_the_documents_for_users_exists() {
    let mut known = BTreeSet::new();
    let mut root = Cli::command();
    root.build();
    let hidden = ["continue", "session", "fork"].map(str::to_owned);
    let mut commands: Vec<_> = root.get_subcommands().collect();
    while let Some(command) = commands.pop() {
        known.extend(
            command
                .get_arguments()
                .filter_map(|one| one.get_long())
                .map(str::to_owned),
        );
        commands.extend(command.get_subcommands());
    }
    known.extend(
        root.get_arguments()
            .filter_map(|one| one.get_long())
            .map(str::to_owned),
    );
    // Flags of opencode, cargo and git that the documents mention.
    known.extend(
        hidden
            .into_iter()
            .chain(["help", "quick", "quiet", "path", "format", "local", "global"].map(str::to_owned)),
    );
    let walks = all_documents()
        .into_iter()
        .filter(|name| name.starts_with("docs/walks/"));
    for name in MANUAL
        .into_iter()
        .chain(["skills/kugetsu/SKILL.md"])
        .map(str::to_owned)
        .chain(walks)
    {
        for word in document(&name).split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
            let Some(flag) = word
                .strip_prefix("--")
                .filter(|flag| flag.starts_with(|c: char| c.is_ascii_lowercase()))
            else {
                continue;
            };
            assert!(
                known.contains(flag),
                "{name} tells of --{flag}, which no command has"
            );
        }
    }
}

#[test]
fn the_settings_in_the_manual_are_those_of_the_program() {
    let manual = document("docs/configuration.md");
    let reported: BTreeSet<_> = rows(&manual)
        .filter(|cells| cells.len() == 3)
        .map(|cells| {
            (
                cells[0].replace('`', ""),
                cells[1].replace('`', ""),
                cells[2].replace('`', ""),
            )
        })
        .collect();
    for key in SETTINGS {
        let row = (
            key.name.to_owned(),
            key.default.to_owned(),
            key.help.replace('`', ""),
        );
        assert!(
            reported.contains(&row),
            "docs/configuration.md has no row {row:?}"
        );
    }
}

#[test]
fn the_exit_statuses_in_the_manual_are_those_of_the_program() {
    let manual = document("docs/automation.md");
    let reported: Vec<u8> = rows(&manual).filter_map(|cells| cells[0].parse().ok()).collect();
    let known = [
        ExitStatus::Ok,
        ExitStatus::Failed,
        ExitStatus::Blocked,
        ExitStatus::Usage,
        ExitStatus::NotFound,
        ExitStatus::Unavailable,
        ExitStatus::CannotWrite,
        ExitStatus::TryAgain,
        ExitStatus::Interrupted,
        ExitStatus::Terminated,
    ];
    assert_eq!(reported, known.map(ExitStatus::code));
}

#[test]
fn the_error_codes_in_the_manual_are_those_of_the_program() {
    let manual = document("docs/automation.md");
    let reported: Vec<Vec<_>> = rows(&manual)
        .filter(|cells| cells.len() == 4 && cells[1].parse::<u8>().is_ok())
        .map(|cells| cells.iter().map(|cell| (*cell).to_owned()).collect())
        .collect();
    let known: Vec<Vec<_>> = ErrorCode::ALL
        .iter()
        .map(|code| {
            vec![
                format!("`{code}`"),
                code.exit_status().code().to_string(),
                if code.retryable() { "yes" } else { "no" }.to_owned(),
                code.meaning().to_owned(),
            ]
        })
        .collect();
    assert_eq!(reported, known);
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .flat_map(char::to_lowercase)
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut count = 0;
        while !found.insert(anchor) {
            count += 1;
            anchor = format!("{slug}-{count}");
        }
    }
    found
}

/// The targets of a document's links within the project.
pub(crate) fn links(text: &str) -> impl Iterator<Item = &str> {
    let all = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    all.filter(|link| !link.starts_with("https://"))
}

#[test]
fn every_link_leads_somewhere() {
    for name in all_documents() {
        let text = document(&name);
        let folder = root().join(&name).parent().unwrap().to_owned();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                root().join(&name)
            } else {
                folder.join(file)
            };
            assert!(target.exists(), "{name}: {link} does not exist");
            if !anchor.is_empty() {
                let headings = anchors(&std::fs::read_to_string(target).unwrap());
                assert!(headings.contains(anchor), "{name}: no heading for {link}");
            }
        }
    }
}

#[test]
fn every_document_can_be_reached_from_the_front_page() {
    let all: BTreeSet<_> = all_documents().into_iter().collect();
    let mut reached = BTreeSet::from(["README.md".to_owned()]);
    let mut waiting = vec!["README.md".to_owned()];
    let root = root().canonicalize().unwrap();
    while let Some(name) = waiting.pop() {
        let folder = root.join(&name).parent().unwrap().to_owned();
        for link in links(&document(&name)) {
            let file = folder
                .join(link.split('#').next().unwrap())
                .canonicalize()
                .unwrap();
            let file = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if all.contains(&file) && reached.insert(file.clone()) {
                waiting.push(file);
            }
        }
    }
    assert_eq!(
        all.difference(&reached).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}

#[test]
fn the_files_and_points_that_the_documents_name_exist() {
    for name in all_documents() {
        for word in document(&name)
            .split('`')
            .filter(|word| ["src/", "crates/"].iter().any(|top| word.starts_with(top)))
            .filter(|word| !word.contains("VERB"))
        {
            assert!(root().join(word).exists(), "{name}: {word} does not exist");
        }
    }
    for block in ["README.md", "CONTRIBUTING.md"]
        .iter()
        .flat_map(|name| blocks(name, "sh"))
    {
        for line in block
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("cargo xtask "))
        {
            let command = line.split_whitespace().next().unwrap();
            let file = root().join("xtask/src").join(command).with_extension("rs");
            assert!(
                file.exists(),
                "line {}: cargo xtask {command} does not exist",
                block.line
            );
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let architecture = document("ARCHITECTURE.md");
    let reasons: BTreeSet<_> = rows(&architecture)
        .flat_map(|cells| cells[0].split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for manifest in [
        "Cargo.toml",
        "crates/kugetsu-api/Cargo.toml",
        "crates/kugetsu-client/Cargo.toml",
        "crates/kugetsu-daemon/Cargo.toml",
        "crates/kugetsu-engine/Cargo.toml",
        "crates/kugetsu-forge/Cargo.toml",
        "testing/Cargo.toml",
        "xtask/Cargo.toml",
    ] {
        let table: toml::Table = document(manifest).parse().unwrap();
        for kind in ["dependencies", "dev-dependencies"] {
            for name in table
                .get(kind)
                .and_then(|list| list.as_table())
                .into_iter()
                .flat_map(toml::Table::keys)
            {
                assert!(
                    reasons.contains(name),
                    "ARCHITECTURE.md does not say why {name} ({manifest})"
                );
            }
        }
    }
}

#[test]
fn the_recording_plays_alone_and_shows_nothing_of_the_machine_that_made_it() {
    let picture = document("docs/recording.svg");
    for foreign in ["<script", "<image", "url(", "kugetsu-world", "/tmp"] {
        assert!(!picture.contains(foreign), "{foreign}");
    }
    assert_eq!(picture.matches("http").count(), 1, "the namespace alone");
    for shown in [
        "$ kugetsu start 14 \"fix the crash\"</text>",
        ">completed</text>",
        "next: kugetsu",
        "@keyframes",
    ] {
        assert!(picture.contains(shown), "{shown}");
    }
}

/// The names of the tests in these files, as `MODULE::NAME`. Those of both versions are indented, in a macro.
fn attacks() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in ["tests/fast/attack", "tests/real/attack"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let module = path.file_stem().unwrap().to_str().unwrap();
            let mut is_test = false;
            for line in text.lines() {
                let named = line.strip_prefix(if is_test { "fn " } else { "    fn " });
                if let Some((name, _)) = named.and_then(|rest| rest.split_once('(')) {
                    found.insert(format!("{module}::{name}"));
                }
                is_test = line == "#[test]" || (is_test && line.starts_with("#["));
            }
        }
    }
    found
}

#[test]
fn every_attack_is_in_the_document_about_security_and_the_other_way_round() {
    let text = document("docs/security.md");
    let named: BTreeSet<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.contains("::") && !code.ends_with("::") && !code.contains(['/', ' ']))
        .map(str::to_owned)
        .collect();
    assert_eq!(attacks(), named);
}
