//! The walks in docs/walks on the real opencode: the output matches the text.

use std::path::PathBuf;
use std::time::Duration;

use kugetsu_testing::{Block, Opencode, Stdin, Version, World, blocks, kugetsu_binary, script_tour};

/// Each command of a terminal session, with its output.
fn commands(session: &str) -> Vec<(&str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in session.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command, String::new()));
        } else if let Some((_, output)) = commands.last_mut() {
            output.push_str(line);
            output.push('\n');
        }
    }
    commands
}

/// Replaces the parts of a text that differ between runs: ids, times, durations.
fn redacted(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.trim_end().lines() {
        let mut words: Vec<String> = line.split_whitespace().map(word).collect();
        // The number of pieces of an answer depends on the machine.
        if let Some(at) = words
            .iter()
            .position(|word| word == "events,")
            .filter(|at| *at > 0)
        {
            "SOME".clone_into(&mut words[at - 1]);
        }
        let units = ["B", "kB", "MB"];
        if let Some(at) = words
            .iter()
            .position(|word| units.contains(&word.as_str()))
            .filter(|at| *at > 0)
        {
            "SOME".clone_into(&mut words[at - 1]);
            "BYTES".clone_into(&mut words[at]);
        }
        lines.push(words.join(" "));
    }
    lines.join("\n")
}

fn word(word: &str) -> String {
    let plain = word.trim_matches(|c: char| "(),:".contains(c));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = |separator: char, lengths: &[usize]| {
        plain.split(separator).map(str::len).eq(lengths.iter().copied())
            && plain
                .split(separator)
                .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let kind = if plain.starts_with("ses_") {
        "SESSION"
    } else if parts('-', &[8, 4, 4, 4, 12]) {
        "TURN"
    } else if parts('-', &[10]) {
        "COMMIT"
    } else if parts('-', &[8]) {
        "SHORT"
    } else if parts('-', &[4, 2, 2]) || parts(':', &[2, 2, 2]) {
        "TIME"
    } else if plain.starts_with(|c: char| c.is_ascii_digit())
        && plain.ends_with(['d', 'h', 'm', 's'])
        && digits(&plain.replace(['d', 'h', 'm', 's', '.'], ""))
    {
        "DURATION"
    } else {
        return word.to_owned();
    };
    word.replace(plain, kind)
}

/// A person's machine: a home, and the folder that commands are typed in.
struct Machine<'a> {
    world: &'a World,
    /// How the walk names the home.
    shown_home: &'static str,
    home: PathBuf,
    folder: PathBuf,
    /// What else the walk names differently.
    renamed: Vec<(PathBuf, &'static str)>,
}

impl Machine<'_> {
    /// Types every command and compares what comes out.
    #[track_caller]
    fn walk(&mut self, block: &Block) {
        assert!(block.runs, "line {}: the walk is run", block.line);
        let (mut printed, mut same) = (String::new(), true);
        for (command, expected) in commands(&block.text) {
            let output = self.type_in(command);
            same &= matches(&redacted(&output), &redacted(&expected));
            printed.push_str(&format!("$ {command}\n{output}\n"));
        }
        let (document, line) = (&block.document, block.line);
        assert!(
            same,
            "{document}, line {line}: it printed something else:\n{printed}"
        );
    }

    fn type_in(&mut self, command: &str) -> String {
        if let Some(folder) = command.strip_prefix("cd ") {
            self.folder.push(folder);
            return String::new();
        }
        let bin = kugetsu_binary();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = self.world.command("/bin/sh");
        shell
            .args(["-c", &format!("{{ {command}; }} 2>&1")])
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{path}", bin.parent().unwrap().display()))
            .env("HOME", &self.home)
            .env_remove("KUGETSU_HOME");
        // A typed git reaches the repository on the forge, and so does the push of a turn.
        let remote = self.world.root().join("remote.git");
        let kind = if command.starts_with("git ") {
            "insteadOf"
        } else {
            "pushInsteadOf"
        };
        shell
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", format!("url.{}.{kind}", remote.display()))
            .env("GIT_CONFIG_VALUE_0", "https://github.com/shoko/kugetsu.git");
        let output = self.world.start(shell, Stdin::Null).wait(Duration::from_mins(5));
        let mut text = output.stdout();
        for (path, name) in &self.renamed {
            text = text.replace(path.to_str().unwrap(), name);
        }
        text.replace(self.home.to_str().unwrap(), self.shown_home)
    }
}

/// Whether a text is as expected, where the line `…` stands for any lines.
fn matches(text: &str, expected: &str) -> bool {
    let mut rest: Vec<&str> = text.lines().collect();
    let mut skip = false;
    for line in expected.lines() {
        if line == "…" {
            skip = true;
            continue;
        }
        let Some(at) = rest.iter().position(|one| *one == line) else {
            return false;
        };
        if at > 0 && !skip {
            return false;
        }
        skip = false;
        rest.drain(..=at);
    }
    skip || rest.is_empty()
}

mod what_the_walks_show_comes_out {
    use super::*;

    fn world() -> World {
        let world = World::before_first_use(Opencode::Real(Version::V1_18_33));
        script_tour(&world, Duration::from_millis(5));
        world
    }

    fn machine(world: &World) -> Machine<'_> {
        Machine {
            world,
            shown_home: "/home/ada",
            home: world.home(),
            folder: world.repo(),
            renamed: vec![(world.repo(), "/home/ada/kugetsu")],
        }
    }

    #[test]
    fn from_install_to_the_first_answer() {
        let world = world();
        let walk = &blocks("docs/walks/first-answer.md", "console")[0];
        machine(&world).walk(walk);
        world.wait_nothing_left(Duration::from_mins(1));
    }

    #[test]
    fn a_week_and_then_another_machine() {
        let world = world();
        let forge = world.root().join("remote.git");
        let forge = forge.to_str().unwrap();
        world.git(
            world.root(),
            ["init", "--quiet", "--bare", "--initial-branch=main", forge],
        );
        world.git(&world.repo(), ["push", "--quiet", forge, "main"]);
        let mut old = machine(&world);
        old.type_in("kugetsu init");
        for block in blocks("docs/walks/week.md", "console") {
            old.walk(&block);
        }
        let mut steps = blocks("docs/walks/move.md", "console").into_iter();
        old.walk(&steps.next().unwrap());
        world.wait_nothing_left(Duration::from_mins(1));

        let home = world.root().join("another-home");
        std::fs::create_dir(&home).unwrap();
        for archive in ["kugetsu.backup", "opencode-config.tgz"] {
            std::fs::rename(world.home().join(archive), home.join(archive)).unwrap();
        }
        // Nothing of the old machine is reachable.
        for folder in [world.home(), world.repo()] {
            std::fs::rename(&folder, folder.with_extension("gone")).unwrap();
        }
        let mut new = Machine {
            shown_home: "/srv/ada",
            folder: home.clone(),
            home,
            ..machine(&world)
        };
        for block in steps {
            new.walk(&block);
        }
        world.wait_nothing_left(Duration::from_mins(1));
    }
}

#[test]
fn a_line_of_dots_stands_for_any_lines() {
    for (text, expected, same) in [
        ("a\nb\nc", "a\nb\nc", true),
        ("a\nb\nc", "a\n…\nc", true),
        ("a\nb\nc", "…\nb\n…", true),
        ("a", "a\n…", true),
        ("a\nb\nc", "a\nc", false),
        ("a\nb\nc", "a\nb", false),
        ("a\nb", "a\n…\nc", false),
        ("", "a", false),
    ] {
        assert_eq!(matches(text, expected), same, "{text:?} and {expected:?}");
    }
}

#[test]
fn only_what_differs_is_taken_out() {
    let line = "  kugetsu: a/b#14 in 1m7s, 7.9s 1m 2 steps, (ses_e04 01a1fbd1-ba87-7208-96a8-c044aecfe937 2026-11-21 01:56:14 $0.000208 steps";
    let expected =
        "kugetsu: a/b#14 in DURATION, DURATION DURATION 2 steps, (SESSION TURN TIME TIME $0.000208 steps";
    assert_eq!(redacted(line), expected);
}
