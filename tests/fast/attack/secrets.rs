//! Tokens and passwords: written nowhere, in no list of processes, and known to no program that does not need them.

use std::fs;

use kugetsu_testing::{FakeScript, ForgeServer, Output, ScriptedIssue, Stdin, Step, World};
use serde_json::json;

use crate::support::kit::{
    SOON, fake_world, files_with, run_in, run_sandboxed, sandbox_of_fake, start_sandboxed,
};
use crate::support::witness::Witness;

/// The token of a forge in the settings.
const OF_SETTINGS: &str = "canary-of-the-settings-1d4c";
/// The token of a forge in a variable.
const OF_VARIABLE: &str = "canary-of-a-variable-93ab";
/// The password in the address of the clone's remote.
const OF_REMOTE: &str = "canary-of-the-remote-5d0e";
/// The password of the proxy.
const OF_PROXY: &str = "canary-of-the-proxy-1f44";

const ALL: [&str; 4] = [OF_SETTINGS, OF_VARIABLE, OF_REMOTE, OF_PROXY];

/// A turn whose tool, errors and answer show the tokens, in every way that opencode has.
fn showing(world: &World, witness: &Witness) -> FakeScript {
    let tokens = format!("{OF_SETTINGS} and \"{OF_VARIABLE}\"");
    let shown = |text: &str| format!("{text}: {tokens}");
    let call = |status: &str, call: &str| Step::Event {
        kind: "tool_use".to_owned(),
        part: json!({"type": "tool", "tool": "bash", "callID": call, "state": {
            "status": status, "title": shown("title"), "input": {"command": shown("command")},
            "output": shown("output"), "error": shown("error"),
        }}),
    };
    let gate = [world.root().join("there"), world.root().join("on")];
    FakeScript::serving()
        .on(
            "show it",
            [
                Step::step_start(),
                Step::Shell(witness.command("tool")),
                call("completed", "call_1"),
                call("error", "call_2"),
                Step::refused_tool(&shown("refused")),
                Step::Stderr(shown("stderr\n")),
                Step::Raw(shown("not an event\n") + "\n"),
                call("running", "call_3"),
                Step::Meet(gate[0].clone(), gate[1].clone()),
                call("completed", "call_3"),
                Step::step_finish("tool-calls", 0.0),
                // The rest of it is taken from the database.
                Step::TornAnswer(shown("the answer"), 300),
            ],
        )
        .on(
            "fail",
            [Step::Error {
                name: "APIError".to_owned(),
                message: shown("the key was refused"),
            }],
        )
        .on(
            "detached",
            [Step::Stderr(shown("stderr\n")), Step::Answer(shown("detached"))],
        )
}

#[test]
fn tokens_are_written_nowhere_and_seen_by_nobody() {
    let world = fake_world();
    let forge = ForgeServer::start();
    forge.github(
        "shoko/kugetsu",
        14,
        &ScriptedIssue::new("A title", "A body", &["A comment"]),
    );
    let witness = Witness::of(&world);
    witness.git();
    witness.program("gh", "exit 1");
    let opencode = world.opencode_command([""; 0]);
    let opencode = witness.program(
        "opencode",
        &format!("exec '{}' \"$@\"", opencode.get_program().display()),
    );
    let hooks: String = [
        "hook_after_create",
        "hook_before_turn",
        "hook_after_turn",
        "hook_before_remove",
        "notify",
    ]
    .map(|hook| format!("{hook} = \"{}\"\n", witness.command(&hook.replace('_', "-"))))
    .concat();
    let config = world.kugetsu_home().join("config.toml");
    fs::write(
        &config,
        format!(
            "{hooks}[forges.\"github.com\"]\napi_url = \"{}\"\ntoken = \"{OF_SETTINGS}\"\n\
             [forges.\"other.example\"]\nkind = \"github\"\napi_url = \"http://other.example\"\n",
            forge.url()
        ),
    )
    .unwrap();
    let remote = format!("https://me:{OF_REMOTE}@github.com/shoko/kugetsu.git");
    world
        .git(&world.repo(), ["config", "remote.origin.url", &remote])
        .expect_status(0);
    world.fake(&showing(&world, &witness));

    let path = witness.path();
    let proxy = format!("http://me:{OF_PROXY}@127.0.0.1:9");
    let environment = [
        ("PATH", path.as_str()),
        ("KUGETSU_OPENCODE", opencode.to_str().unwrap()),
        ("KUGETSU_TRANSPORT", "run"),
        ("GITHUB_TOKEN", OF_VARIABLE),
        ("http_proxy", &proxy),
        ("https_proxy", &proxy),
        ("no_proxy", "127.0.0.1"),
    ];
    let unseen = |output: &Output| {
        for canary in ALL {
            let text = output.stdout() + &output.stderr();
            assert!(!text.contains(canary), "{canary}\n{output}");
        }
    };
    // A prompt may hold a token as well.
    let mut start = world.kugetsu([
        "start",
        "14",
        "-",
        "--with-issue",
        "--worktree",
        "--debug",
        "--output=json",
    ]);
    start.envs(environment);
    let turn = world.start(start, Stdin::text(format!("show it, the token is {OF_SETTINGS}")));
    world.wait_until("the tool has run", SOON, || world.root().join("there").exists());
    let found = files_with(&world.kugetsu_home(), &ALL);
    assert_eq!(found, std::slice::from_ref(&config));
    fs::write(world.root().join("on"), "").unwrap();
    let ended = turn.wait(SOON);
    unseen(&ended);
    let answer = ended.expect_status(0).json()["answer"].clone();
    assert_eq!(answer, "the answer: *** and \"***\"", "{ended}");

    let commands: [(&[&str], i32); 12] = [
        (&["continue", "14", "fail", "--debug"], 1),
        (&["continue", "14", "detached", "--detach"], 0),
        (&["wait", "14"], 0),
        (&["show", "14", "--json"], 0),
        (&["show", "14", "--turns"], 0),
        (&["logs", "14", "--json"], 0),
        (&["logs", "14", "--raw"], 0),
        (&["query"], 0),
        (&["doctor"], 0),
        (&["signal", "14", "rebase"], 0),
        // The proxy does not answer.
        (&["issue", "other.example/o/r#1"], 75),
        (&["destroy", "14", "--yes", "--force"], 0),
    ];
    for (words, status) in commands {
        let output = run_in(&world, &environment, words);
        unseen(&output);
        if words != ["doctor"] {
            output.expect_status(status);
        }
    }
    // What opencode itself has stored is kept as it is.
    let found = files_with(&world.kugetsu_home(), &ALL);
    let found: Vec<_> = found
        .iter()
        .filter(|file| !file.ends_with("export.json"))
        .collect();
    assert_eq!(found, [&config]);

    for list in witness.lists() {
        let seen: Vec<_> = ALL.iter().filter(|canary| list.contains(**canary)).collect();
        assert!(seen.is_empty(), "{seen:?}: {list}");
    }
    for canary in [OF_SETTINGS, OF_REMOTE] {
        assert_eq!(witness.told(canary), Vec::<String>::new(), "{canary}");
    }
    // A variable of the user is in the environment of what the user starts, but `gh` would give it to any host.
    let told = witness.told(OF_VARIABLE);
    let expected = [
        "git",
        "hook-after-create",
        "hook-after-turn",
        "hook-before-remove",
        "hook-before-turn",
        "notify",
        "opencode",
        "tool",
    ];
    assert_eq!(told, expected);
    assert!(!witness.environments("gh").is_empty(), "gh was not asked");
}

/// opencode reads the keys of its providers from a file, so a sandboxed one needs a file with the one key that it uses.
#[test]
fn the_key_of_a_provider_is_in_a_sandbox_only_while_a_turn_runs() {
    let world = fake_world();
    let keys = world.home().join(".local/share/opencode/auth.json");
    let key = |secret: &str| json!({"type": "api", "key": secret});
    let (used, other) = ("canary-of-the-provider-3e90", "canary-of-another-provider-88d1");
    fs::write(
        keys,
        json!({"scripted": key(used), "other": key(other)}).to_string(),
    )
    .unwrap();
    let look = Step::Shell("cat \"$XDG_DATA_HOME/opencode/auth.json\" > got".to_owned());
    world.fake(
        &FakeScript::default()
            .on("work", [look.clone(), Step::Answer("done".to_owned())])
            .on("fail", [look, Step::Exit(1)]),
    );
    for (words, status) in [
        (&["start", "1", "work", "--sandbox"][..], 0),
        (&["continue", "1", "fail", "--max-restarts", "0"], 1),
    ] {
        run_sandboxed(&world, words).expect_status(status);
        let got = fs::read_to_string(world.repo().join("got")).unwrap();
        assert!(got.contains(used) && !got.contains(other), "{got}");
        fs::remove_file(world.repo().join("got")).unwrap();
        assert_eq!(
            files_with(&world.kugetsu_home(), &[used, other]),
            Vec::<String>::new()
        );
    }
    // A supervisor dies while the turn runs.
    let (there, on) = (world.repo().join("there"), world.repo().join("on"));
    world.fake(&FakeScript::default().on("wait", [Step::Meet(there.clone(), on)]));
    let turn = start_sandboxed(&world, &["continue", "1", "wait"]);
    world.wait_until("the turn runs", SOON, || there.exists());
    assert_eq!(files_with(&world.kugetsu_home(), &[used]).len(), 1);
    turn.kill9();
    world.wait_until("opencode has ended", SOON, || world.processes().is_empty());
    run_in(&world, &[], &["doctor", "--fix"]);
    assert_eq!(files_with(&world.kugetsu_home(), &[used]), Vec::<String>::new());
}

#[test]
fn a_sandbox_and_its_key_do_not_outlive_a_start_that_is_refused() {
    let world = fake_world();
    let secret = "canary-of-the-provider-5c1f";
    let keys = world.home().join(".local/share/opencode/auth.json");
    let key = json!({"scripted": {"type": "api", "key": secret}});
    fs::write(keys, key.to_string()).unwrap();
    let sandboxes = || {
        let entries = fs::read_dir(world.kugetsu_home().join("sandboxes"));
        entries.map_or(0, Iterator::count)
    };

    let wide = world.home().display().to_string();
    let mut environment = sandbox_of_fake(&world);
    for (name, value) in &mut environment {
        if *name == "KUGETSU_SANDBOX_READ" {
            value.push('\n');
            value.push_str(&wide);
        }
    }
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let words = ["start", "1", "hello", "--sandbox", "--transport", "run"];
    let refused = run_in(&world, &environment, &words);
    refused.expect_status(64);
    assert!(refused.stderr().contains("holds a home folder"), "{refused}");
    assert_eq!(sandboxes(), 0);
    assert_eq!(files_with(&world.kugetsu_home(), &[secret]), Vec::<String>::new());

    // Below a link, no part of the path is one that a turn has planted.
    let real = world.root().join("elsewhere");
    fs::rename(world.kugetsu_home(), &real).unwrap();
    std::os::unix::fs::symlink(&real, world.kugetsu_home()).unwrap();
    run_sandboxed(&world, &["start", "1", "hello", "--sandbox"]).expect_status(0);
    assert_eq!(files_with(&real, &[secret]), Vec::<String>::new());

    // A process that is killed in between leaves a sandbox without a record.
    let (left, new) = (
        real.join("sandboxes/018f6b0e-0000-4000-8000-000000000001"),
        real.join("sandboxes/018f6b0e-0000-4000-8000-000000000002"),
    );
    fs::create_dir_all(left.join("home")).unwrap();
    fs::create_dir(&new).unwrap();
    for entry in fs::read_dir(real.join("sandboxes")).unwrap() {
        let path = entry.unwrap().path();
        if path != new {
            let long_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(48);
            fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
    }
    let found = run_in(&world, &[], &["doctor"]).stdout();
    assert!(found.contains("no session has the sandbox"), "{found}");
    assert_eq!(sandboxes(), 3);
    let fixed = run_in(&world, &[], &["doctor", "--fix"]);
    let kept = (left.exists(), new.exists(), sandboxes());
    assert_eq!(kept, (false, true, 2), "{fixed}");
    run_sandboxed(&world, &["continue", "1", "hello"]).expect_status(0);
}
