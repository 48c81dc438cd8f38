//! Guarantees for a process with many requests: started programs see only the environment of their request, and a
//! request keeps the settings that it began with.

use kugetsu_api::{Address, ErrorCode, RefContext, TransportChoice, TransportKind, Verdict};
use kugetsu_testing::{FakeScript, Opencode, ServeMode, World, kugetsu_binary};

use super::{Engine, EngineError, Environment, Mode, TurnOptions, TurnRequest, WorktreeRequest};
use crate::settings::Settings;
use crate::turn::{Interrupt, Responder};

const SOON: std::time::Duration = std::time::Duration::from_secs(60);

fn environment(world: &World) -> Environment {
    let variables = world.environment().into_iter();
    let variables = variables.map(|(name, value)| (name.into(), value));
    Environment::new(variables, world.home(), kugetsu_binary())
}

fn settings(world: &World) -> Settings {
    Settings::load(&world.kugetsu_home().join("config.toml"), &environment(world)).unwrap()
}

fn configure(world: &World, text: &str) {
    #[expect(clippy::disallowed_methods, reason = "a file of the test's world")]
    std::fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
}

/// A world with a base and a scripted opencode.
fn world() -> World {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default()
    });
    world.run(["init"]).expect_status(0);
    world
}

fn request(engine: &Engine, number: u64) -> TurnRequest {
    let address = Address::parse(
        &format!("github.com/shoko/kugetsu#{number}"),
        &RefContext::default(),
    )
    .unwrap();
    TurnRequest {
        typed: address.to_string(),
        earlier: Vec::new(),
        issue_title: None,
        address,
        turn: None,
        prompt: "hello".to_owned(),
        mode: Mode::Start,
        wait: None,
        worktree: WorktreeRequest {
            requested: Some(true),
            ..WorktreeRequest::default()
        },
        sandbox: None,
        narrowing: Vec::new(),
        options: TurnOptions {
            transport: TransportChoice::Only(TransportKind::Run),
            limits: engine.settings().limits(),
            model: None,
            agent: None,
            keep_prompt: true,
            debug: false,
        },
    }
}

fn run(engine: &Engine, number: u64) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut turn = engine.spawn(request(engine, number), Responder::default());
        turn.done.wait().await.unwrap().turn.verdict
    })
}

/// The test's own process has variables that the world does not have, at least `CARGO_MANIFEST_DIR`, which cargo sets.
#[test]
fn started_programs_see_only_the_environment_of_the_request() {
    let world = world();
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let seen = world.root().join("seen");
    let bin = world.root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = |name: &str, text: String| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = bin.join(name);
        #[expect(clippy::disallowed_methods, reason = "a file of the test's world")]
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    program(
        "git",
        format!(
            "#!/bin/sh\nenv >> {0}.git\nPATH=\"${{PATH#*:}}\" exec git \"$@\"\n",
            seen.display()
        ),
    );
    program(
        "opencode",
        format!(
            "#!/bin/sh\nenv >> {0}.opencode\nexec \"$REAL_OPENCODE\" \"$@\"\n",
            seen.display()
        ),
    );
    configure(
        &world,
        &format!("hook_before_turn = \"env > {}.hook\"\n", seen.display()),
    );
    let mut variables: std::collections::BTreeMap<_, _> = world.environment().into_iter().collect();
    let real = variables
        .insert("KUGETSU_OPENCODE", bin.join("opencode").into())
        .unwrap();
    variables.insert("REAL_OPENCODE", real);
    let path = variables.remove("PATH").unwrap().into_string().unwrap();
    variables.insert("PATH", format!("{}:{path}", bin.display()).into());
    variables.insert("OF_THE_REQUEST", "yes".into());
    let variables = variables.into_iter().map(|(name, value)| (name.into(), value));
    let environment = Environment::new(variables, world.home(), kugetsu_binary());
    let settings = Settings::load(&world.kugetsu_home().join("config.toml"), &environment).unwrap();
    let engine = Engine::open(world.kugetsu_home(), settings, environment);

    assert_eq!(run(&engine, 1), Verdict::Completed);
    for what in ["git", "opencode", "hook"] {
        let seen = std::fs::read_to_string(seen.with_extension(what)).unwrap();
        assert!(seen.contains("OF_THE_REQUEST=yes"), "{what}: {seen}");
        assert!(!seen.contains("CARGO_MANIFEST_DIR"), "{what}: {seen}");
    }
}

#[test]
fn a_request_keeps_the_settings_that_it_began_with() {
    let world = world();
    configure(&world, "hook_before_turn = \"false\"\n");
    let before = Engine::open(world.kugetsu_home(), settings(&world), environment(&world));
    let handle = before.clone();
    configure(&world, "grace = \"3s\"\n");
    let after = before.clone().with_settings(settings(&world));

    assert_eq!(after.settings().grace.as_secs(), 3);
    assert_eq!(after.settings().hook_before_turn, None);
    assert_eq!(handle.settings().hook_before_turn.as_deref(), Some("false"));
    assert_eq!(run(&after, 1), Verdict::Completed);
    // Both engines share one registry of the process's turns.
    assert!(handle.running_here().is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(async {
        let mut turn = handle.spawn(request(&handle, 2), Responder::default());
        assert_eq!(after.running_here(), [turn.id]);
        turn.done.wait().await.unwrap_err()
    });
    assert!(error.to_string().contains("hook_before_turn"), "{error}");
}

/// A caller that does not know whether its request arrived spawns the turn again. The second handle must not hide the
/// running turn.
#[test]
fn a_turn_that_is_spawned_twice_can_still_be_ended() {
    let world = world();
    configure(
        &world,
        "hook_before_turn = \"touch hook; while :; do sleep 0.02; done\"\n",
    );
    let engine = Engine::open(world.kugetsu_home(), settings(&world), environment(&world));
    let id = uuid::Uuid::now_v7();
    let request = || TurnRequest {
        turn: Some(id),
        worktree: WorktreeRequest::default(),
        ..request(&engine, 1)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut first = engine.spawn(request(), Responder::default());
        let hook = world.repo().join("hook");
        let leased = async {
            while !hook.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, leased).await.expect("the hook runs");
        let mut second = engine.spawn(request(), Responder::default());
        assert_eq!(engine.running_here(), [id]);
        second.control.interrupt(Interrupt::Interrupted);
        let error = second.done.wait().await.unwrap_err();
        assert!(matches!(error, EngineError::Interrupted(_)), "{error}");

        assert_eq!(engine.running_here(), [id]);
        engine.turns.control(id).unwrap().interrupt(Interrupt::Terminated);
        let error = first.done.wait().await.unwrap_err();
        assert!(
            matches!(error, EngineError::Interrupted(Interrupt::Terminated)),
            "{error}"
        );
        assert!(engine.running_here().is_empty());
    });
    world.wait_nothing_left(SOON);
}

#[test]
fn no_turn_begins_below_one_that_was_stopped_or_is_forgotten() {
    let world = world();
    let engine = Engine::open(world.kugetsu_home(), settings(&world), environment(&world));
    let join = |engine: &Engine, number: u64| {
        let request = request(engine, number);
        let mut limits = engine.settings().limits();
        engine.register(uuid::Uuid::now_v7(), &request.address, &mut limits)
    };
    let first = join(&engine, 1).unwrap();
    let in_tool = engine.clone().within(Some(first.member().own.turn));
    let second = join(&in_tool, 2).unwrap();
    let deeper = engine.clone().within(Some(second.member().own.turn));
    engine.store.close_below(&request(&engine, 1).address).unwrap();
    for engine in [&in_tool, &deeper] {
        let refused = join(engine, 3).unwrap_err();
        assert!(matches!(&refused, EngineError::StoppedAbove { of, .. } if of.to_string().ends_with("#1")));
        assert_eq!(
            (refused.code(), refused.retryable()),
            (ErrorCode::ParentEnded, false)
        );
    }
    // The next turn of the session is another one.
    let next = join(&engine, 1).unwrap();
    join(&engine.clone().within(Some(next.member().own.turn)), 3).unwrap();
    drop((first, second));
    let refused = join(&in_tool, 3).unwrap_err();
    assert!(matches!(refused, EngineError::ParentEnded(_)), "{refused}");
    assert_eq!(
        (refused.code(), refused.retryable()),
        (ErrorCode::ParentEnded, false)
    );
}
