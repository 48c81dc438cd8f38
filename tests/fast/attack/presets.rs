//! The preset for the text of strangers.

use crate::support::kit::{
    SOON, fake_prompts, fake_world, record, record_path, run, run_sandboxed, sandbox_of_fake,
};
use kugetsu_testing::{FakeScript, Output, Stdin, Step, World, kugetsu_binary};
use serde_json::{Value, json};

#[test]
fn the_preset_for_strangers_sets_limits_that_may_be_set_otherwise() {
    let world = fake_world();
    run(&world, ["permit", "--base", "--preset", "stranger"]).expect_status(0);
    let step = |cost| [Step::step_start(), Step::step_finish("tool-calls", cost)];
    let steps: Vec<_> = (0..101).flat_map(|_| step(0.001)).collect();
    world.fake(&FakeScript::default().on("dear", step(3.0)).on("long", steps));
    for (arguments, reason) in [
        (&["start", "1", "dear"][..], "budget: 3.0000 USD of at most 2 USD"),
        (&["start", "2", "long"], "budget: 101 steps of at most 100"),
        (
            &["start", "3", "long", "--max-steps", "4"],
            "budget: 5 steps of at most 4",
        ),
        (
            &["start", "4", "dear", "--max-cost", "2.5"],
            "budget: 3.0000 USD of at most 2.5 USD",
        ),
    ] {
        let output = run_sandboxed(&world, &[arguments, &["--output", "json"]].concat());
        let result: Value = output.json();
        assert_eq!(
            (&result["verdict"], &result["reason"]),
            (&"failed".into(), &reason.into()),
            "{output}"
        );
    }
    // A setting of the user's own, even of no limit, decides.
    run(&world, ["config", "set", "max_cost", ""]).expect_status(0);
    let output = run_sandboxed(&world, &["start", "5", "dear", "--output", "json"]);
    assert!(
        !output.json()["reason"].to_string().contains("budget"),
        "{output}"
    );
}

#[test]
fn a_repository_is_never_trusted_for_strangers() {
    let world = fake_world();
    let repo = world.repo();
    std::fs::create_dir_all(repo.join(".opencode/tool")).unwrap();
    std::fs::write(repo.join(".opencode/tool/t.js"), "export default {}\n").unwrap();
    run(&world, ["permit", "--base", "--trust-repo"]).expect_status(0);
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    run(&world, ["permit", "--base", "--preset", "stranger"]).expect_status(0);
    run_sandboxed(&world, &["start", "2", "hello"]).expect_status(0);
    assert_eq!(
        run(&world, ["show", "2", "--json"]).json()["last"]["sandbox"],
        "bubblewrap"
    );
    // A session from before the preset has no sandbox.
    run(&world, ["permit", "1", "--preset", "stranger"]).expect_status(0);
    run_sandboxed(&world, &["continue", "1", "hello"]).expect_status(64);
    run_sandboxed(&world, &["start", "3", "hello", "--sandbox=off"]).expect_status(64);
    let runs: Vec<_> = world
        .fake_calls()
        .into_iter()
        .filter(|call| call.prompt.as_deref() == Some("hello"))
        .collect();
    assert_eq!(
        runs.iter().map(|call| call.ignores_project).collect::<Vec<_>>(),
        [false, true]
    );
    // The prompt of a base would run outside the sandbox.
    let prompted = ["init", "--force", "--preset", "stranger", "--prompt", "learn"];
    run(&world, prompted).expect_status(64);
    let refused = run(&world, ["permit", "--base", "--trust-repo"]);
    refused.expect_status(64);
    assert!(
        refused.stderr().contains("the preset stranger never loads"),
        "{refused}"
    );
    let permission = runs[1].permission.as_deref().unwrap();
    assert!(permission.starts_with("{\"*\":\"deny\""), "{permission}");
}

/// A program that runs another one as if the kernel had no Landlock: `landlock_create_ruleset` has number 444 on every
/// architecture.
const WITHOUT_LANDLOCK: &str = r"
#include <errno.h>
#include <stddef.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

int main(int argc, char **argv) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 444, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (argc < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 99;
    execv(argv[1], argv + 1);
    return 98;
}
";

/// Runs kugetsu as on a kernel without Landlock.
fn run_without_landlock(world: &World, arguments: &[&str]) -> Output {
    let (source, program) = (
        world.tmp().join("without.c"),
        world.tmp().join("without-landlock"),
    );
    if !program.exists() {
        let has_compiler = std::process::Command::new("cc").arg("--version").output().is_ok();
        assert!(has_compiler, "cc is needed: apt-get install gcc libc6-dev");
        std::fs::write(&source, WITHOUT_LANDLOCK).unwrap();
        let mut compile = world.command("cc");
        compile.arg("-o").arg(&program).arg(&source);
        world.start(compile, Stdin::Null).wait(SOON).expect_status(0);
    }
    let mut command = world.command(&program);
    command
        .arg(kugetsu_binary())
        .args(arguments)
        .envs(sandbox_of_fake(world));
    world.start(command, Stdin::Null).wait(SOON)
}

#[test]
fn a_required_sandbox_needs_landlock_as_well() {
    let world = fake_world();
    let start = |issue: &str, flag: &str| {
        let arguments = [
            "start",
            issue,
            "hello",
            "--transport",
            "run",
            flag,
            "--output",
            "json",
        ];
        run_without_landlock(&world, &arguments)
    };
    for flag in ["--sandbox", "--sandbox=required"] {
        let refused = start("1", flag);
        refused.expect_status(69);
        assert_eq!(refused.json()["error"]["code"], "no-sandbox", "{refused}");
        assert!(
            refused.stderr().contains("the kernel has no Landlock"),
            "{refused}"
        );
    }
    let noted = start("1", "--sandbox=auto");
    noted.expect_status(0);
    assert!(
        noted.stderr().contains("bubblewrap alone, which leaves gaps"),
        "{noted}"
    );
    // A session that began with Landlock does not go on without it.
    run_sandboxed(&world, &["start", "2", "hello", "--sandbox"]).expect_status(0);
    run_without_landlock(&world, &["continue", "2", "hello", "--transport", "run"]).expect_status(69);

    run(&world, ["permit", "--base", "--preset", "stranger"]).expect_status(0);
    run_without_landlock(&world, &["start", "3", "hello", "--transport", "run"]).expect_status(69);
    let doctor = run_without_landlock(&world, &["doctor"]);
    assert!(doctor.stdout().contains("the kernel has no Landlock"), "{doctor}");
    assert_ne!(doctor.code(), 0, "{doctor}");
}

#[test]
fn what_no_rule_can_limit_is_explained() {
    let world = fake_world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    let sandboxed = ["start", "2", "hello", "--sandbox"];
    run_sandboxed(&world, &sandboxed).expect_status(0);
    run(&world, ["config", "set", "sandbox_hosts", "docs.example.org"]).expect_status(0);
    let explained = |words: &[&str]| {
        let output = run(&world, [&["permit"], words, &["--explain"]].concat());
        output.expect_status(0).stderr().replace('\n', " ")
    };
    let open = "without a sandbox, a command reaches any host and all of your files, and a symbolic link";
    let closed = "in the sandbox, tools and commands reach no host but the model's provider, docs.example.org, and a symbolic link";
    for (words, says) in [
        (&["1"][..], open),
        (&["--base"], open),
        (
            &["1", "--preset", "read-only"],
            "without a sandbox, a symbolic link",
        ),
        (&["2"], closed),
        (&["--base", "--preset", "stranger"], closed),
    ] {
        let said = explained(words);
        assert!(said.contains(says), "{words:?}: {said}");
    }
}

/// A stranger may have written the question, so its words are not put into a prompt.
#[test]
fn no_answer_to_a_request_reaches_a_prompt_for_strangers() {
    let world = fake_world();
    for (issue, preset) in [("1", "headless"), ("2", "stranger")] {
        run_sandboxed(&world, &["start", issue, "hello", "--sandbox"]).expect_status(0);
        // The turn ended with a request, which the fake does not have.
        let path = record_path(&world, issue);
        let mut changed = record(&world, issue).unwrap();
        changed["pending"] = json!([{
            "request": "que_1", "turn": changed["last"]["turn"], "asked": "2026-01-01T00:00:00Z", "kind": "question",
            "detail": [{"header": "Colour", "question": "Which colour?", "options": ["red", "green"], "multiple": false}],
        }]);
        std::fs::write(&path, changed.to_string()).unwrap();
        run(&world, ["permit", issue, "--preset", preset]).expect_status(0);
        run(&world, ["answer", issue, "green"]).expect_status(0);
        let continued = run_sandboxed(&world, &["continue", issue, "go on"]);
        continued.expect_status(0);
        let prompt = fake_prompts(&world).pop().unwrap();
        if preset == "stranger" {
            assert_eq!(prompt, "go on");
            let said = continued.stderr().replace('\n', " ");
            assert!(
                said.contains("the preset stranger delivers no answers"),
                "{continued}"
            );
        } else {
            assert_eq!(prompt, "You asked: Which colour? The answer: green.\n\ngo on");
        }
        assert_eq!(record(&world, issue).unwrap()["pending"], Value::Null);
    }
}
