//! The commands of docs/automation.md for CI, cron, a webhook and ssh, each run as its caller runs it: with nothing in its environment

//! but what that caller sets.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::sshd::{HOST, Sshd, other_home};
use kugetsu_testing::{Block, blocks, document};
use kugetsu_testing::{
    FakeScript, Opencode, Output, Running, Stdin, Step, World, fake_binary, kugetsu_binary,
};
use serde_json::Value;

const SOON: Duration = Duration::from_mins(2);
const MANUAL: &str = "docs/automation.md";
const HEADING: &str = "## CI, cron and ssh";
/// The languages of the section's blocks, one block each.
const LANGUAGES: [&str; 4] = ["yaml", "crontab", "bash", "sh"];

/// The section's block in this language.
fn block(language: &str) -> Block {
    let text = document(MANUAL);
    let heading = text.lines().position(|line| line == HEADING).unwrap() + 1;
    let end = text
        .lines()
        .skip(heading)
        .position(|line| line.starts_with("## "))
        .unwrap();
    let all = blocks(MANUAL, language).into_iter();
    let mut found = all.filter(|block| (heading..heading + end).contains(&block.line));
    let block = found.next().expect("a block in this language");
    assert!(
        block.runs && found.next().is_none(),
        "{language}: one block, and it runs"
    );
    block
}

/// A machine on which kugetsu is installed as the manual describes, with a base of the repository.
struct Machine {
    world: World,
    /// The folder in PATH that contains kugetsu.
    bin: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let world = World::new(Opencode::Fake);
        let bin = world.home().join(".cargo/bin");
        std::fs::create_dir_all(&bin).unwrap();
        symlink(kugetsu_binary(), bin.join("kugetsu")).unwrap();
        let machine = Self { world, bin };
        machine
            .world
            .fake(&FakeScript::serving().on("hold", [Step::Stderr("x".into()), Step::Hang]));
        // The fake finds its script through a variable, which no real caller sets.
        let script = machine.world.command("true");
        let script = script
            .get_envs()
            .find(|(name, _)| *name == kugetsu_testing::fake::SCRIPT_VARIABLE);
        let script = script.unwrap().1.unwrap().to_str().unwrap();
        let opencode = machine.world.root().join("opencode");
        executable(
            &opencode,
            &format!(
                "#!/bin/sh\n{}='{script}' exec '{}' \"$@\"\n",
                kugetsu_testing::fake::SCRIPT_VARIABLE,
                fake_binary().display()
            ),
        );
        let home = machine.world.home().join(".kugetsu");
        std::fs::create_dir(&home).unwrap();
        // The fake opencode's server runs no turns.
        let config = format!("opencode = \"{}\"\ntransport = \"run\"\n", opencode.display());
        std::fs::write(home.join("config.toml"), config).unwrap();
        let base = machine.world.opencode_command(["run", "--format", "json"]);
        machine
            .world
            .finish(base, Stdin::text("the base"))
            .expect_status(0);
        let base = machine.world.sessions()[0].id.clone();
        machine.kugetsu(&["init", "--adopt", &base]).expect_status(0);
        machine
    }

    /// A program in an environment with only these variables, HOME, and the world's marker.
    fn bare(&self, program: &str, environment: &[(&str, &str)]) -> Command {
        let mark = self.world.command("true");
        let mark = mark
            .get_envs()
            .find(|(name, _)| *name == "KUGETSU_TEST_WORLD")
            .unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(self.world.repo())
            .env_clear()
            .env("HOME", self.world.home())
            .env(mark.0, mark.1.unwrap())
            .envs(environment.iter().copied());
        command
    }

    /// A PATH with kugetsu in it, preceded by this folder.
    fn path(&self, first: &Path) -> String {
        format!(
            "{}:{}:/usr/local/bin:/usr/bin:/bin",
            first.display(),
            self.bin.display()
        )
    }

    fn spawn(&self, words: &[&str]) -> Running {
        let mut command = self.bare("kugetsu", &[("PATH", &self.path(&self.bin))]);
        command.args(words);
        self.world.start(command, Stdin::Null)
    }

    #[track_caller]
    fn kugetsu(&self, words: &[&str]) -> Output {
        self.spawn(words).wait(SOON)
    }

    /// Starts a turn on this issue that runs until it is stopped.
    fn hold(&self, issue: &str) -> Running {
        let prompt = format!("hold {issue}");
        let held = self.spawn(&["continue", issue, "--or-start", &prompt]);
        self.world.wait_until("the turn is in opencode", SOON, || {
            self.prompts_with(&prompt) == 1
        });
        held
    }

    fn prompts(&self) -> Vec<String> {
        let calls = self.world.fake_calls().into_iter();
        calls.filter_map(|call| call.prompt).collect()
    }

    fn prompts_with(&self, words: &str) -> usize {
        self.prompts()
            .iter()
            .filter(|prompt| prompt.contains(words))
            .count()
    }
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_block_of_the_section_is_run_by_a_test_here() {
    let text = document(MANUAL);
    let (_, section) = text.split_once(HEADING).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let fences: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("```"))
        .collect();
    let languages: Vec<_> = fences.iter().filter(|word| !word.is_empty()).copied().collect();
    assert_eq!(languages, LANGUAGES);
}

#[test]
fn the_step_of_ci_runs_as_a_runner_runs_it() {
    let machine = Machine::new();
    let yaml = block("yaml").text;
    // The command that the keyword `shell: bash` runs; a runner does not set -u.
    assert!(yaml.contains("\n  shell: bash\n"), "{yaml}");
    let (_, script) = yaml.split_once("  run: |\n").unwrap();
    let lines = script.lines().map(|line| line.strip_prefix("    ").unwrap());
    let script = lines.collect::<Vec<_>>().join("\n");
    let step = |run: &str, script: &str| {
        let file = machine.world.root().join("step.sh");
        std::fs::write(&file, script).unwrap();
        let environment = [
            ("PATH", machine.path(&machine.bin)),
            ("GITHUB_SERVER_URL", "https://github.com".into()),
            ("GITHUB_REPOSITORY", "shoko/kugetsu".into()),
            ("GITHUB_RUN_ID", run.into()),
        ];
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let mut command = machine.bare("/bin/bash", &environment);
        command
            .args(["--noprofile", "--norc", "-euo", "pipefail"])
            .arg(&file);
        machine.world.start(command, Stdin::Null).wait(SOON)
    };
    let result = || -> Value {
        let text = std::fs::read(machine.world.repo().join("result.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let first = step("1001", &script);
    assert_eq!(first.expect_status(0).stdout(), "completed \ndone\n", "{first}");
    assert_eq!(result()["ref"], "github.com/shoko/kugetsu#17");
    let turn = result()["turn"].clone();
    // Running the job again reports the result without paying again.
    let again = step("1001", &script);
    assert_eq!(again.expect_status(0).stdout(), first.stdout(), "{again}");
    assert_eq!((machine.prompts_with("changelog"), &result()["turn"]), (1, &turn));
    // Another job means another turn.
    step("1002", &script).expect_status(0);
    assert_eq!(machine.prompts_with("changelog"), 2);
    assert_ne!(result()["turn"], turn);

    let held = machine.hold("17");
    let impatient = script.replace("--wait=20m", "--wait=10ms");
    assert_ne!(impatient, script);
    let busy = step("1003", &impatient);
    let said = busy.expect_status(75).stdout();
    assert!(
        said.contains("is in use by") && said.contains("::warning::"),
        "{busy}"
    );
    machine.kugetsu(&["stop", "17"]).expect_status(0);
    held.wait(SOON).expect_status(143);
    machine.world.wait_nothing_left(SOON);
}

/// Splits the part after the five fields as cron does: the first `%` ends the command and starts stdin, where every
/// further `%` is a line feed; `\%` is a percent sign.
fn cron_command(text: &str) -> (String, Stdin) {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'%') => parts.last_mut().unwrap().extend(characters.next()),
            '%' => parts.push(String::new()),
            other => parts.last_mut().unwrap().push(other),
        }
    }
    let command = parts.remove(0);
    let stdin = if parts.is_empty() {
        Stdin::Null
    } else {
        Stdin::text(format!("{}\n", parts.join("\n")))
    };
    (command, stdin)
}

#[test]
fn the_lines_of_the_crontab_run_as_cron_runs_them() {
    let machine = Machine::new();
    let crontab = block("crontab").text;
    let lines: Vec<&str> = crontab.lines().filter(|line| !line.starts_with('#')).collect();
    let job = |line: &str| {
        let mut rest = line;
        for _ in 0..5 {
            let (field, after) = rest.trim_start().split_once(' ').unwrap();
            assert!(
                field.chars().all(|c| "0123456789*/,-".contains(c)),
                "{field} in {line}"
            );
            rest = after;
        }
        let (command, stdin) = cron_command(rest.trim_start());
        let environment = [
            ("LOGNAME", "ada"),
            ("SHELL", "/bin/sh"),
            ("PATH", "/usr/bin:/bin"),
        ];
        let mut shell = machine.bare("/bin/sh", &environment);
        shell.args(["-c", &command]).current_dir(machine.world.home());
        machine.world.start(shell, stdin)
    };
    let [nightly, watch] = lines[..] else {
        panic!("two lines: {lines:?}")
    };
    let held = ["21", "22"].map(|issue| machine.hold(issue));

    let mut waiting = job(nightly);
    let skipped = job(watch).wait(SOON);
    assert_eq!(skipped.expect_status(75).stdout(), "", "{skipped}");
    assert!(waiting.is_alive(), "it waits for the turn before");
    for (issue, turn) in ["21", "22"].into_iter().zip(held) {
        machine.kugetsu(&["stop", issue]).expect_status(0);
        turn.wait(SOON).expect_status(143);
    }
    assert_eq!(waiting.wait(SOON).expect_status(0).stdout(), "done\n");
    job(watch).wait(SOON).expect_status(0);

    let prompts = machine.prompts();
    let dated = prompts
        .iter()
        .find(|prompt| prompt.contains("changelog"))
        .unwrap();
    let date = dated
        .strip_prefix("It is ")
        .and_then(|rest| rest.get(..10))
        .unwrap();
    assert!(
        date.starts_with("20") && date.matches('-').count() == 2,
        "{dated}"
    );
    assert!(
        prompts.contains(&"Read the issue.\nSay what is new.\n".to_owned()),
        "{prompts:?}"
    );
    let watched = std::fs::read_to_string(machine.world.home().join("watch.jsonl")).unwrap();
    let ends: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let statuses: Vec<_> = ends.iter().map(|end| end["exit_status"].as_i64()).collect();
    assert_eq!(statuses, [Some(75), Some(0)], "{watched}");
    let log = std::fs::read_to_string(machine.world.home().join("watch.log")).unwrap();
    assert!(log.contains("is in use by"), "{log}");
    machine.world.wait_nothing_left(SOON);
}

#[test]
fn a_delivery_of_a_webhook_begins_one_turn() {
    let machine = Machine::new();
    let script = machine.world.root().join("on-delivery");
    executable(&script, &block("bash").text);
    let deliver = |delivery: &str, reference: &str, prompt: &str| {
        let mut command = machine.bare(script.to_str().unwrap(), &[("PATH", &machine.path(&machine.bin))]);
        command.args([delivery, reference]);
        machine.world.start(command, Stdin::text(prompt)).wait(SOON)
    };
    let issue = "github.com/shoko/kugetsu#24";
    let delivery = "01900000-0000-4000-8000-000000000061";
    for _ in 0..2 {
        let answer = deliver(delivery, issue, "look at the comment");
        assert_eq!(answer.expect_status(0).stdout(), "202\n", "{answer}");
        machine.kugetsu(&["wait", "24"]).expect_status(0);
    }
    assert_eq!(machine.prompts_with("look at the comment"), 1);

    let another = "01900000-0000-4000-8000-000000000062";
    let held = machine.hold("24");
    let busy = deliver(another, issue, "and at this one");
    assert_eq!(busy.expect_status(0).stdout(), "503\n", "{busy}");
    machine.kugetsu(&["stop", "24"]).expect_status(0);
    held.wait(SOON).expect_status(143);
    let answer = deliver(another, issue, "and at this one");
    assert_eq!(answer.expect_status(0).stdout(), "202\n", "{answer}");
    machine.kugetsu(&["wait", "24"]).expect_status(0);
    assert_eq!(machine.prompts_with("and at this one"), 1);
    let wrong = deliver(another, "nonsense/", "x");
    assert_eq!(wrong.expect_status(0).stdout(), "500\n", "{wrong}");
    machine.world.wait_nothing_left(SOON);
}

#[test]
fn the_lines_for_ssh_reach_a_real_sshd() {
    let machine = Machine::new();
    let world = &machine.world;
    // On that host, a login shell finds kugetsu in its PATH.
    let sshd = Sshd::start_with(world, |folder| format!("PATH={}:/usr/bin:/bin", folder.display()));
    std::fs::create_dir_all(other_home(world)).unwrap();
    std::fs::write(other_home(world).join("config.toml"), "transport = \"run\"\n").unwrap();
    // ssh reads its settings from the home in /etc/passwd, regardless of HOME.
    let config = world.root().join("ssh_config");
    std::fs::write(&config, sshd.client_config()).unwrap();
    let bin = world.root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    executable(
        &bin.join("ssh"),
        &format!(
            "#!/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin exec ssh -F '{}' \"$@\"\n",
            config.display()
        ),
    );
    let shell = |script: &str| {
        let path = machine.path(&bin);
        let mut command = machine.bare("/bin/sh", &[("PATH", &path)]);
        command.args(["-euc", script]);
        world.start(command, Stdin::Null).wait(SOON)
    };
    let base = world.sessions()[0].id.clone();
    let (repo, init) = (
        world.repo(),
        format!("kugetsu --host {HOST} init --repo github.com/shoko/kugetsu --adopt {base}"),
    );
    shell(&format!("{init} --dir '{}'", repo.display())).expect_status(0);

    let output = shell(&block("sh").text);
    output.expect_status(0);
    assert!(
        output.stdout().contains("github.com/shoko/kugetsu#23"),
        "the list\n{output}"
    );
    let log = shell("git log -1 --format=%B").stdout();
    assert_eq!(
        machine.prompts()[1..],
        ["measure, then make it faster".to_owned(), log]
    );
    assert!(
        !world
            .home()
            .join(".kugetsu/sessions/github.com/shoko/kugetsu/23.json")
            .exists()
    );
    world.wait_nothing_left(SOON);
}
