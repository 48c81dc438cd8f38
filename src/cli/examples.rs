//! Examples for the long help and the manual page of each command.

use clap::Command;

/// A command line, and what it does.
type Example = (&'static str, &'static str);

/// The examples of a command.
pub(super) fn of(verb: &str) -> &'static [Example] {
    match verb {
        "kugetsu" => &[
            ("kugetsu init", "prepare the repository of this clone"),
            ("kugetsu start 14 'fix the crash'", "start a session for issue 14"),
            (
                "kugetsu continue 14 'now add a test'",
                "give the session its next task",
            ),
            ("kugetsu list", "see all sessions"),
            ("kugetsu doctor", "find out what is wrong"),
        ],
        "init" => &[
            ("kugetsu init", "make the base of this clone's repository"),
            (
                "kugetsu init --prompt 'Read CONTRIBUTING.md.'",
                "let every session know it",
            ),
            ("kugetsu init --force", "replace the base"),
        ],
        "start" => &[
            ("kugetsu start 14 'fix the crash'", "in a clone of the repository"),
            (
                "kugetsu start shoko/kugetsu#14 --edit",
                "write the message in an editor",
            ),
            (
                "kugetsu start 15 - --timeout 30m --max-cost 2.50",
                "read the message from stdin, with limits",
            ),
            (
                "kugetsu start 16 --detach 'try it'",
                "in the background; `kugetsu wait 16` waits for its end",
            ),
        ],
        "continue" => &[
            ("kugetsu continue 14 'now add a test'", "run one more turn"),
            (
                "kugetsu continue 14",
                "on a terminal, write the message in an editor",
            ),
            (
                "kugetsu continue 14 --wait=10m 'and a changelog line'",
                "wait until the session is free",
            ),
            (
                "kugetsu continue 17 --or-start --turn-id nightly-7 'check the links'",
                "safe to repeat",
            ),
        ],
        "list" => &[
            ("kugetsu list", "the newest first"),
            (
                "kugetsu list --state failed,lost --newer 24h",
                "what went wrong today",
            ),
            (
                "kugetsu list --sort cost --limit 5",
                "the five most expensive ones",
            ),
            ("kugetsu list --json --fields ref,state,cost_usd", "for a program"),
        ],
        "show" => &[
            ("kugetsu show 14", "one session"),
            ("kugetsu show 14 --turns", "with all its turns"),
        ],
        "attach" => &[
            ("kugetsu attach 14", "open the session in opencode"),
            ("kugetsu attach 14 --print", "print the command for that"),
        ],
        "logs" => &[
            ("kugetsu logs 14", "the newest turn"),
            ("kugetsu logs 14 -f", "follow the turn that runs"),
            ("kugetsu logs 14 --turn aecfe937", "an older turn"),
        ],
        "wait" => &[
            ("kugetsu wait 14", "until its turn has ended"),
            (
                "kugetsu wait 14 15 --timeout 10m --output json",
                "for two sessions, at most ten minutes",
            ),
        ],
        "stop" => &[
            ("kugetsu stop 14", "end its turn"),
            ("kugetsu stop 14 15 16", "end three turns"),
            ("kugetsu stop 14 --with-delegates", "and the turns that it began"),
        ],
        "signal" => &[
            ("kugetsu signal 14 pause", "interrupt the model"),
            ("kugetsu signal 14 resume", "go on"),
            ("kugetsu signal 19 rebase", "rebase the worktree's branch"),
        ],
        "query" => &[("kugetsu query", "everything at once, for a program")],
        "permit" => &[
            ("kugetsu permit 14", "what the session may do"),
            ("kugetsu permit 14 --explain", "and why"),
            ("kugetsu permit 14 'bash:git push *=deny'", "add a rule"),
            ("kugetsu permit --base --preset read-only", "for future sessions"),
        ],
        "pending" => &[("kugetsu pending", "what waits for an answer")],
        "answer" => &[
            ("kugetsu answer 14 allow", "allow what was asked"),
            ("kugetsu answer 14 'the second option'", "answer a question"),
        ],
        "prune" => &[
            ("kugetsu prune", "list what opencode no longer has, and ask"),
            ("kugetsu prune --force", "without asking"),
        ],
        "destroy" => &[
            ("kugetsu destroy 14", "ask, then remove the session"),
            ("kugetsu destroy 14 15 -y", "without asking"),
        ],
        "restore" => &[("kugetsu restore 14", "bring a session back")],
        "doctor" => &[
            ("kugetsu doctor", "check everything"),
            ("kugetsu doctor --fix", "repair what can be repaired"),
            ("kugetsu doctor --model-check", "also ask the model"),
        ],
        "config" => &[
            ("kugetsu config", "all settings"),
            ("kugetsu config set timeout 45m", "change one"),
            ("kugetsu config edit", "change many"),
        ],
        "daemon" => &[
            ("kugetsu daemon start --detach", "keep opencode warm from now on"),
            (
                "kugetsu daemon start --listen 127.0.0.1:7878 --budget-daily 50",
                "with the page and the API, and a limit on what turns cost",
            ),
            ("kugetsu daemon status", "see turns, queue and servers"),
            ("kugetsu daemon stop --drain", "finish what runs, then end"),
        ],
        "submit" => &[
            (
                "kugetsu submit 14 'fix the crash'",
                "a turn when its time has come",
            ),
            (
                "kugetsu submit 'write the weekly report' --repo shoko/kugetsu",
                "in a session of its own",
            ),
            (
                "kugetsu submit 14 'fix it' --idempotency-key nightly-7",
                "safe to repeat",
            ),
        ],
        "tail" => &[
            (
                "kugetsu tail 8f2c91aa -f",
                "follow a task, and exit with its status",
            ),
            (
                "kugetsu tail 8f2c91aa --json",
                "what has come so far, for programs",
            ),
        ],
        "task" => &[
            ("kugetsu task list --state queued,running", "what is to be done"),
            ("kugetsu task show 8f2c91aa", "one task"),
            ("kugetsu task cancel 8f2c91aa", "cancel it, or stop it"),
            ("kugetsu task retry 8f2c91aa", "try a parked task again"),
        ],
        "completions" => &[
            (
                "kugetsu completions bash",
                "for ~/.bashrc: source <(kugetsu completions bash)",
            ),
            (
                "kugetsu completions fish",
                "for config.fish: kugetsu completions fish | source",
            ),
        ],
        "diff" => &[
            ("kugetsu diff 14", "all changes of the session"),
            ("kugetsu diff 14 --stat", "the number of lines in each file"),
        ],
        "issue" => &[("kugetsu issue 14", "title, text and newest comments")],
        "watch" => &[
            ("kugetsu watch", "all running turns"),
            ("kugetsu watch -f", "also those that begin later"),
        ],
        "trash" => &[
            ("kugetsu trash list", "what can be restored"),
            ("kugetsu trash empty --older 30d", "ask, then remove it for good"),
        ],
        "move" => &[(
            "kugetsu move --repo shoko/kugetsu --dir .",
            "the clone is here now",
        )],
        "backup" => &[
            (
                "kugetsu backup ~/kugetsu.backup",
                "everything, also while a daemon runs",
            ),
            ("kugetsu backup -", "to stdout, such as into ssh"),
        ],
        "restore-backup" => &[
            ("kugetsu restore-backup ~/kugetsu.backup", "into an empty home"),
            (
                "kugetsu restore-backup ~/kugetsu.backup --force",
                "in place of the home, which is moved aside",
            ),
        ],
        "gc" => &[("kugetsu gc --dry-run", "what it would do")],
        "man" => &[("kugetsu man start", "the page of one command")],
        _ => &[],
    }
}

/// Adds the examples of a command to its long help, and `rest` after them.
pub(super) fn add(command: Command, rest: &str) -> Command {
    let examples = of(command.get_name());
    if examples.is_empty() {
        return command;
    }
    let mut text = String::from("Examples:");
    let width = examples.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    for (line, what) in examples {
        // Beside each other only if that fits into 80 columns.
        if width + what.len() + 6 <= 80 {
            text.push_str(&format!("\n  {line:<width$}  {what}"));
        } else {
            text.push_str(&format!("\n  {line}\n      {what}"));
        }
    }
    if !rest.is_empty() {
        text.push_str("\n\n");
        text.push_str(rest);
    }
    command.after_long_help(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The words of a line, without its quotes.
    fn words(line: &str) -> Vec<String> {
        let pieces = line.split('\'').enumerate();
        pieces
            .flat_map(|(place, piece)| match place % 2 {
                0 => piece.split_whitespace().map(str::to_owned).collect(),
                _ => vec![piece.to_owned()],
            })
            .collect()
    }

    #[test]
    fn every_command_has_examples_that_are_valid() {
        let command = Cli::command();
        let verbs = command
            .get_subcommands()
            .map(Command::get_name)
            .filter(|verb| *verb != "help");
        for verb in verbs.chain(["kugetsu"]) {
            assert!(!of(verb).is_empty(), "{verb} has no example");
            for (line, _) in of(verb) {
                let parsed = Cli::command().try_get_matches_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
                assert!(
                    verb == "kugetsu" || line.split(' ').nth(1) == Some(verb),
                    "{line}"
                );
            }
        }
    }
}
