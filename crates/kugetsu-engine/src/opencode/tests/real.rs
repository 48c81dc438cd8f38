//! Tests of kugetsu's knowledge about opencode against both real versions: binary, database, events, permissions.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::environment::Environment;
use crate::opencode::{
    DatabaseFile, Finish, OpencodeError, Role, RunEvent, RunEventKind, RunLine, Search, SessionPatch,
    ToolStatus, agent_rules_args, parse_agent_rules, parse_line, probe,
};
use crate::permission::{Action, Explained, Policy, Preset, Rule, Source, env_json, evaluate, explain};
use kugetsu_api::{SessionId, TokenCount};
use kugetsu_testing::{
    Opencode, Output, Reply, Stdin, ToolCall, Version, World, kugetsu_binary, on_both_versions, usage,
};
use serde_json::json;

fn version(world: &World) -> Version {
    match world.opencode() {
        Opencode::Real(version) => version,
        Opencode::Fake => unreachable!("these worlds have a real one"),
    }
}

fn file_of(world: &World) -> DatabaseFile {
    DatabaseFile {
        path: world.opencode_db(),
        confined: false,
    }
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn policy(preset: Preset, texts: &[&str]) -> Policy {
    Policy {
        preset,
        rules: rules(texts),
    }
}

/// Runs a turn with `opencode run`, with the policy in the environment.
fn turn(world: &World, session: Option<&str>, env: Option<&Policy>, prompt: &str) -> Turn {
    let mut command = world.opencode_command(["run", "--format", "json"]);
    if let Some(session) = session {
        command.args(["--session", session]);
    }
    if let Some(policy) = env {
        command.env("OPENCODE_PERMISSION", env_json(&policy.rules()));
    }
    Turn::new(world.finish(command, Stdin::text(prompt)))
}

struct Turn {
    events: Vec<RunEvent>,
    output: Output,
}

impl Turn {
    /// Checks that every line on stdout is a known event.
    fn new(output: Output) -> Self {
        let lines = output.stdout();
        let events = lines.lines().map(|line| match parse_line(line.as_bytes()) {
            RunLine::Event(event) => event,
            other => panic!("{other:?} in {output}"),
        });
        Self {
            events: events.collect(),
            output,
        }
    }

    fn session(&self) -> SessionId {
        let first = self
            .events
            .first()
            .unwrap_or_else(|| panic!("no event in {}", self.output));
        first.session.clone().unwrap()
    }

    /// The status and the output or error of each tool call, by its first argument.
    fn tools(&self) -> BTreeMap<String, (ToolStatus, String)> {
        let tool = |event: &RunEvent| match &event.kind {
            RunEventKind::Tool(call) => {
                let input = ["command", "filePath", "description"]
                    .iter()
                    .find_map(|name| call.input[name].as_str());
                let output = call
                    .error
                    .clone()
                    .or_else(|| call.output.clone())
                    .unwrap_or_default();
                Some((input.unwrap_or_default().to_owned(), (call.status, output)))
            }
            _ => None,
        };
        self.events.iter().filter_map(tool).collect()
    }

    fn last_reason(&self) -> Option<Finish> {
        let reason = |event: &RunEvent| match &event.kind {
            RunEventKind::StepFinish { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.events.iter().rev().find_map(reason)
    }
}

fn bash(command: &str) -> ToolCall {
    ToolCall {
        name: "bash".into(),
        arguments: json!({ "command": command, "description": "scripted" }),
    }
}

fn effective_rules(world: &World, env: Option<&Policy>) -> Vec<Rule> {
    let mut command = world.opencode_command(agent_rules_args());
    if let Some(policy) = env {
        command.env("OPENCODE_PERMISSION", env_json(&policy.rules()));
    }
    let output = world.finish(command, Stdin::Null);
    parse_agent_rules(output.expect_status(0).stdout_bytes()).unwrap()
}

fn configure(world: &World, permission: &serde_json::Value) {
    let path = world.repo().join("opencode.json");
    let mut config = world.opencode_config();
    config["permission"] = permission.clone();
    // The order of keys matters, so the permissions are appended as text.
    let text = serde_json::to_string(&config).unwrap();
    #[allow(clippy::disallowed_methods, reason = "a file of the test's world")]
    std::fs::write(path, text).unwrap();
}

on_both_versions! {
    fn the_binary_is_found_probed_and_cached(world: &World) {
        let modules = version(world).folder().join("node_modules");
        let path = std::env::join_paths([modules.join(".bin"), "/usr/bin".into(), "/bin".into()]).unwrap();
        let home = world.home();
        let cache = world.kugetsu_home().join("cache/opencode.json");
        let environment = Environment::new([], home.clone(), kugetsu_binary());
        let cancel = Cancel::default();
        let search = Search {
            configured: None,
            env_override: None,
            path: Some(&path),
            home: &home,
            xdg_data_home: None,
            opencode_db: None,
            environment: &environment,
            cache_file: &cache,
            cancel: &cancel,
        };
        let found = probe(&search).unwrap();
        assert_eq!(found.version.to_string(), version(world).as_str());
        assert_eq!(found.database, world.opencode_db());
        // On 1.3.2, npm's entry is a node script, and the binary behind it runs.
        assert!(!found.shim, "{}", found.program.display());
        let mut command = world.command(&found.program);
        command.arg("--version");
        assert_eq!(world.finish(command, Stdin::Null).expect_status(0).stdout().trim(), version(world).as_str());

        // The answer comes from the cache, because nothing on this PATH could give it.
        let remembered = probe(&Search { env_override: Some(found.program.as_os_str()), path: None, ..search }).unwrap();
        assert_eq!(remembered, found);
        let other = Search { opencode_db: Some("other.db".as_ref()), ..search };
        assert_eq!(probe(&other).unwrap().database, world.opencode_db().with_file_name("other.db"));
        let nowhere = Search { path: None, ..search };
        assert!(matches!(probe(&nowhere), Err(OpencodeError::NotFound)));
    }

    fn the_default_agent_is_as_known_and_no_preset_leaves_a_question_open(world: &World) {
        let agent = effective_rules(world, None);
        let action = |class: &str, input: &str| evaluate(&agent, class, input).unwrap().action;
        assert_eq!(action("doom_loop", "x"), Action::Ask);
        assert_eq!(action("external_directory", "/etc/*"), Action::Ask);
        assert_eq!(action("read", "a/.env"), Action::Ask);
        assert_eq!(action("question", "*"), Action::Allow);
        assert_eq!(action("bash", "x"), Action::Allow);

        // The explanation without opencode's rules equals the one with them, apart from the paths of opencode's own
        // folders.
        let nothing = Policy { preset: Preset::Full, rules: Vec::new() };
        for policy in [Policy::default(), nothing, policy(Preset::ReadOnly, &["bash:git *=ask"])] {
            let explained = |rules: Option<&[Rule]>| -> Vec<Explained> {
                let lines = explain(&policy, rules);
                lines.into_iter().filter(|line| line.source != Source::Agent).collect()
            };
            assert_eq!(explained(Some(&agent)), explained(None));
        }
        for preset in Preset::ALL {
            let lines = explain(&policy(preset, &[]), Some(&agent));
            let open: Vec<_> = lines.iter().filter(|line| line.could_ask).collect();
            assert!(open.is_empty(), "{preset}: {open:?}");
        }
    }

    fn the_environment_overrules_the_users_configuration(world: &World) {
        configure(world, &json!({
            "question": "allow",
            "bash": { "*": "ask", "rm *": "allow" },
            "external_directory": { "/etc/*": "ask" },
            "zzz": "allow",
            "doom_loop": "ask",
        }));
        let policy = policy(Preset::Headless, &["bash=allow", "bash:rm *=deny", "edit:7=deny", "edit:*.md=deny"]);
        let effective = effective_rules(world, Some(&policy));
        for (class, input) in [
            ("question", "*"), ("plan_enter", "*"), ("doom_loop", "x"), ("bash", "rm x"), ("bash", "rm"), ("bash", "ls"),
            ("external_directory", "/etc/*"), ("external_directory", "/tmp/x/*"), ("read", ".env"), ("edit", "7"),
            ("edit", "a.md"),
        ] {
            let expected = evaluate(&policy.rules(), class, input).unwrap().action;
            assert_eq!(evaluate(&effective, class, input).unwrap().action, expected, "{class} {input}");
        }
    }

    fn rules_of_a_session_work_as_evaluated(world: &World) {
        let commands = ["printf", "printf a", "printfx || true", "test a = a", "echo 7", "echo \\a"];
        let mut calls: Vec<ToolCall> = commands.iter().map(|command| bash(command)).collect();
        for path in ["/etc/hostname", ".env", "seen.txt"] {
            let path = world.repo().join(path);
            calls.push(ToolCall { name: "read".into(), arguments: json!({ "filePath": path }) });
        }
        world.model.on("use the tools", vec![Reply::Tools(calls), Reply::text("used")]);
        let session = turn(world, None, None, "first").session();

        let policy = policy(Preset::Headless, &[
            "bash:printf *=deny", "bash:test ? *=deny", "bash:echo ?=deny", "bash:echo /a=deny",
        ]);
        let mut database = file_of(world).open_write(Duration::from_secs(10)).unwrap();
        let rules = policy.rules();
        let patch = SessionPatch { permission: Some(&rules), ..SessionPatch::default() };
        database.patch(&session, &patch).unwrap();
        drop(database);

        let turn = turn(world, Some(session.as_str()), None, "use the tools");
        let tools = turn.tools();
        for command in commands {
            // opencode evaluates each command of a line separately.
            let command_checked = command.split(" ||").next().unwrap();
            let denied = evaluate(&rules, "bash", command_checked).is_some_and(|rule| rule.action == Action::Deny);
            let (status, output) = &tools[command];
            assert_eq!(output.contains("rule which prevents"), denied, "{command}: {status:?} {output}");
        }
        assert!(tools["printf"].1.contains("rule which prevents"), "a trailing ` *` matches nothing as well");
        assert!(!tools["printfx || true"].1.contains("rule which prevents"));
        let reads: Vec<_> = tools.iter().filter(|(path, _)| path.starts_with('/')).collect();
        assert_eq!(reads.len(), 3);
        for (path, (_, output)) in reads {
            assert_eq!(output.contains("rule which prevents"), !path.ends_with("seen.txt"), "{path}: {output}");
        }
        // A denial does not end the turn; the model answers after it.
        assert_eq!(turn.last_reason(), Some(Finish::Stop), "{}", turn.output);
    }

    fn subagents_are_bound_by_the_environment(world: &World) {
        let target = world.repo().join("written-by-a-subagent.txt");
        let task = json!({ "description": "sub", "prompt": "please write", "subagent_type": "general" });
        let write = |path: &Path| Reply::tool("write", json!({ "filePath": path, "content": "x" }));
        world.model.on("delegate", vec![Reply::tool("task", task), Reply::text("delegated")]);
        // First outside the project, which would ask; then inside, which the policy denies.
        world.model.on("please write", vec![
            Reply::tool("read", json!({ "filePath": "/etc/hostname" })), write(&target), Reply::text("tried"),
        ]);
        let policy = policy(Preset::Headless, &["edit:*.txt=deny"]);
        let turn = turn(world, None, Some(&policy), "delegate");
        assert_eq!(turn.last_reason(), Some(Finish::Stop), "{}", turn.output);
        assert_eq!(turn.tools()["sub"].0, ToolStatus::Completed);
        assert_eq!(world.model.turn_requests_with("please write").len(), 3);
        assert!(!target.exists());
    }

    fn a_session_is_patched_forked_and_read_back(world: &World) {
        world.model.on("first", [Reply::text("answer")]);
        let prompt = "first \"quoted\"\n  line \u{1f980}\n";
        let first = turn(world, None, None, prompt);
        let id = first.session();
        let open = || file_of(world).open_read().unwrap();
        let before = open().session(&id).unwrap().unwrap();
        assert_eq!(before.directory, world.repo());
        assert_eq!(before.path.as_deref(), (version(world) == Version::V1_18_33).then_some(""));
        assert!(before.rules().unwrap().contains(&"question=deny".parse().unwrap()));

        // The evidence of a completed turn.
        let messages = open().messages_after(&id, &[]).unwrap();
        assert_eq!(open().prompt_with(&id, "quoted").unwrap(), Some((messages[0].id.clone(), None)));
        let roles: Vec<_> = messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant]);
        let answer = &messages[1];
        assert_eq!((answer.finish.as_ref(), &answer.error), (Some(&Finish::Stop), &None));
        assert!((answer.cost_usd - usage::COST).abs() < 1e-9, "{answer:?}");
        let finished = first.events.iter().find_map(|event| match &event.kind {
            RunEventKind::StepFinish { tokens, .. } => Some(*tokens),
            _ => None,
        });
        assert_eq!(finished, Some(answer.tokens));
        assert_ne!(answer.tokens, TokenCount::default());
        assert_eq!(answer.parent.as_deref(), Some(messages[0].id.as_str()));
        assert_eq!(first.events[0].message.as_deref(), Some(answer.id.as_str()));

        // The evidence of a failed turn.
        world.model.on("fail", [Reply::status(400, "bad things")]);
        let failed = turn(world, Some(id.as_str()), None, "fail");
        let error = failed.events.iter().find_map(|event| match &event.kind {
            RunEventKind::Error(error) => Some((error.name.clone(), error.message.clone())),
            _ => None,
        });
        assert_eq!(error, Some(("APIError".into(), "bad things".into())));
        let since = open().messages_after(&id, std::slice::from_ref(&answer.id)).unwrap();
        assert_eq!(since.len(), 2);
        assert_eq!(since[1].error.as_ref().unwrap().payload["data"]["message"], "bad things");
        assert_eq!(since[1].finish, None);

        // opencode sees a patch.
        let rules = Policy::default().rules();
        let title = "github.com/shoko/kugetsu#14";
        let patch = SessionPatch { permission: Some(&rules), title: Some(title), ..SessionPatch::default() };
        let mut database = file_of(world).open_write(Duration::from_secs(10)).unwrap();
        let patched = database.patch(&id, &patch).unwrap();
        drop(database);
        assert_eq!((patched.title.as_str(), patched.rules()), (title, Some(rules)));
        let exported = world.finish(world.opencode_command(["export", id.as_str()]), Stdin::Null);
        assert_eq!(exported.expect_status(0).json()["info"]["title"], title);

        // A fork is found without its id.
        let mut fork = world.opencode_command(["run", "--format", "json", "--fork", "--session", id.as_str()]);
        fork.env("OPENCODE_PERMISSION", env_json(&Policy::default().rules()));
        let forked = Turn::new(world.finish(fork, Stdin::text("first of the fork"))).session();
        assert_ne!(forked, id);
        let database = open();
        let forks = database.forks_of(&patched).unwrap();
        assert_eq!(forks.iter().map(|row| &row.id).collect::<Vec<_>>(), [&forked]);
        assert_eq!((forks[0].permission.as_deref(), forks[0].parent_id.as_deref()), (None, None));
        assert_eq!(forks[0].title, format!("{title} (fork #1)"));
        assert!(database.prompt_with(&forked, "first of the fork").unwrap().is_some());
        assert!(database.message_count(&forked).unwrap() >= database.message_count(&id).unwrap() + 2);
    }
}
