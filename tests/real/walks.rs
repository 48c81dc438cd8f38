//! The walks in docs/walks on the real opencode: the output matches the text.

use std::time::Duration;

use kugetsu_testing::blocks;
use kugetsu_testing::{Opencode, Stdin, Version, World, kugetsu_binary, script_tour};

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
    } else if plain.ends_with('s') && digits(&plain.replace(['d', 'h', 'm', 's', '.'], "")) {
        "DURATION"
    } else {
        return word.to_owned();
    };
    word.replace(plain, kind)
}

mod the_tour_is_what_comes_out {
    use super::*;

    #[test]
    fn v1_18_33() {
        let world = World::before_first_use(Opencode::Real(Version::V1_18_33));
        script_tour(&world, Duration::from_millis(5));
        let bin = world.root().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(kugetsu_binary(), bin.join("kugetsu")).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let shown = |text: &str| {
            text.replace(world.kugetsu_home().to_str().unwrap(), "/home/ada/.kugetsu")
                .replace(world.repo().to_str().unwrap(), "/home/ada/kugetsu")
        };
        let tour = &blocks("docs/walks/first-answer.md", "console")[0];
        assert!(tour.runs, "line {}: the walk is run", tour.line);
        for (command, expected) in commands(&tour.text) {
            let mut shell = world.command("/bin/sh");
            shell.args(["-c", &format!("{command} 2>&1")]).env("PATH", &path);
            let output = world.start(shell, Stdin::Null).wait(Duration::from_mins(5));
            assert_eq!(
                redacted(&shown(&output.stdout())),
                redacted(&expected),
                "{output}"
            );
        }
        world.wait_nothing_left(Duration::from_mins(1));
    }
}

#[test]
fn only_what_differs_is_taken_out() {
    let line = "  kugetsu: a/b#14 in 1m7s, 7.9s 2 steps, (ses_e04 01a1fbd1-ba87-7208-96a8-c044aecfe937 2026-11-21 01:56:14 $0.000208 steps";
    let expected = "kugetsu: a/b#14 in DURATION, DURATION 2 steps, (SESSION TURN TIME TIME $0.000208 steps";
    assert_eq!(redacted(line), expected);
}
