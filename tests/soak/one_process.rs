//! Many turns in one process, as a daemon runs them. One turn that panics and two that are stopped do not affect the
//! others.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use kugetsu_api::{Address, RefContext, SessionId, TransportChoice, TransportKind, Verdict};
use kugetsu_engine::operations::{
    Engine, EngineError, Environment, Mode, TurnOptions, TurnRequest, WorktreeRequest,
};
use kugetsu_engine::settings::Settings;
use kugetsu_engine::transport::{
    Answer, Connector, ForkRequest, PrivateServer, Request, Target, TransportError, TransportEvent, TurnLink,
    TurnSpec,
};
use kugetsu_engine::turn::Responder;
use kugetsu_testing::{Gate, Reply, World, kugetsu_binary, on_both_versions};
use uuid::Uuid;

use crate::support::kit::{SOON, run, state_of, with_base};

const TURNS: u64 = 16;
const PANICS: u64 = 2;
const STOPPED_FROM_OUTSIDE: u64 = 4;
const STOPPED_HERE: u64 = 5;

/// A connector of private servers whose link panics in the middle of one given turn.
struct Panicking(Uuid);

struct PanickingLink {
    link: Box<dyn TurnLink>,
    panics: bool,
}

#[async_trait]
impl Connector for Panicking {
    fn kind(&self) -> TransportKind {
        PrivateServer.kind()
    }

    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError> {
        Ok(Box::new(PanickingLink {
            link: PrivateServer.connect(spec).await?,
            panics: spec.turn() == self.0,
        }))
    }
}

#[async_trait]
impl TurnLink for PanickingLink {
    fn forks_ahead(&self, request: &ForkRequest) -> bool {
        self.link.forks_ahead(request)
    }

    async fn fork(&mut self, request: &ForkRequest) -> Result<SessionId, TransportError> {
        self.link.fork(request).await
    }

    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError> {
        self.link.prompt(target, text).await
    }

    async fn next(&mut self) -> TransportEvent {
        let event = self.link.next().await;
        assert!(!self.panics, "a defect in one turn");
        event
    }

    async fn answer(&mut self, request: &Request, answer: &Answer) -> Result<(), TransportError> {
        self.link.answer(request, answer).await
    }

    async fn abort(&mut self) {
        self.link.abort().await;
    }

    async fn close(&mut self, now: bool) {
        self.link.close(now).await;
    }
}

fn engine(world: &World) -> Engine {
    let variables = world.environment().into_iter();
    let environment = Environment::new(
        variables.map(|(name, value)| (name.into(), value)),
        world.home(),
        kugetsu_binary(),
    );
    let home: PathBuf = world.kugetsu_home();
    let settings = Settings::load(&home.join("config.toml"), &environment).unwrap();
    Engine::open(home, settings, environment)
}

fn request(engine: &Engine, number: u64, id: Uuid) -> TurnRequest {
    let address = Address::parse(
        &format!("github.com/shoko/kugetsu#{number}"),
        &RefContext::default(),
    )
    .unwrap();
    let word = if [STOPPED_FROM_OUTSIDE, STOPPED_HERE].contains(&number) {
        "held"
    } else {
        "quick"
    };
    TurnRequest {
        typed: address.to_string(),
        earlier: Vec::new(),
        issue_title: None,
        address,
        turn: Some(id),
        prompt: format!("{word} number {number}."),
        mode: Mode::Start,
        wait: None,
        worktree: WorktreeRequest::default(),
        sandbox: None,
        narrowing: Vec::new(),
        options: TurnOptions {
            // Turns use both transports; the one that panics uses the connector above.
            transport: TransportChoice::Only(if number.is_multiple_of(2) {
                TransportKind::Serve
            } else {
                TransportKind::Run
            }),
            limits: engine.settings().limits(),
            model: None,
            agent: None,
            keep_prompt: true,
            debug: false,
        },
    }
}

on_both_versions! {
    fn sixteen_turns_run_in_one_process(world: &World) {
        let _alone = crate::alone();
        with_base(world);
        std::fs::write(world.kugetsu_home().join("config.toml"), "timeout = \"10m\"\n").unwrap();
        let gate = Gate::new();
        world.model.on("held number", vec![Reply::text("late").behind(&gate)]);
        world.model.on("quick number", vec![Reply::text("done")]);
        let panicking = Uuid::now_v7();
        let engine = engine(world).with_server_connector(Arc::new(Panicking(panicking)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut turns: Vec<_> = (1..=TURNS)
                .map(|number| {
                    let id = if number == PANICS { panicking } else { Uuid::now_v7() };
                    (number, engine.spawn(request(&engine, number, id), Responder::default()))
                })
                .collect();
            assert_eq!(engine.running_here().len() as u64, TURNS);
            for (number, turn) in &mut turns {
                match *number {
                    PANICS => {
                        let error = turn.done.wait().await.unwrap_err();
                        assert!(matches!(&error, EngineError::Panicked { message, .. } if message.contains("a defect in one turn")), "{error}");
                    }
                    STOPPED_FROM_OUTSIDE => {
                        turn.feed.ready().await.expect("a stream");
                        let outside = world.spawn(["stop", "4"]);
                        let report = turn.done.wait().await.unwrap();
                        assert_eq!(report.turn.verdict, Verdict::Aborted);
                        tokio::task::spawn_blocking(move || outside.wait(SOON)).await.unwrap().expect_status(0);
                    }
                    STOPPED_HERE => {
                        turn.feed.ready().await.expect("a stream");
                        turn.control.interrupt(kugetsu_engine::turn::Interrupt::Terminated);
                        assert_eq!(turn.done.wait().await.unwrap().turn.verdict, Verdict::Aborted);
                    }
                    _ => {
                        let report = turn.done.wait().await.unwrap_or_else(|error| panic!("{number}: {error}"));
                        assert_eq!(report.turn.verdict, Verdict::Completed, "{number}: {:?}", report.turn);
                        assert_eq!(report.answer, "done", "{number}");
                    }
                }
            }
            assert!(engine.running_here().is_empty(), "none is left in the registry");
        });
        gate.open();
        // Its process is this one, which is alive, but its lease is free.
        assert_eq!(state_of(world, "2"), "lost");
        for number in (1..=TURNS).filter(|number| *number != PANICS) {
            assert_ne!(state_of(world, &number.to_string()), "running");
        }
        run(world, ["continue", "2", "quick number again."]).expect_status(0);
        assert_eq!(state_of(world, "2"), "completed");
        world.wait_nothing_left(SOON);
    }
}
