//! The choice between connectors, with connectors that the test makes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::{AutoConnector, Connector, ForkRequest, OpencodeRun, TransportError, TurnLink, TurnSpec};
use crate::environment::Environment;
use crate::process;
use crate::transport::run::tests::{SOON, id, spec};
use kugetsu_api::{SessionId, TransportChoice, TransportKind};
use kugetsu_testing::{FakeScript, Opencode, ServeMode, World, fake_binary, kugetsu_binary};

/// Servers that fail to start in one way, and how often one was asked for.
#[derive(Default)]
struct FailingServer {
    error: Option<TransportError>,
    starts: AtomicUsize,
}

impl FailingServer {
    fn with(error: TransportError) -> Arc<Self> {
        Arc::new(Self {
            error: Some(error),
            ..Self::default()
        })
    }
}

#[async_trait]
impl Connector for FailingServer {
    fn kind(&self) -> TransportKind {
        TransportKind::Serve
    }

    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        match &self.error {
            Some(error) => Err(error.clone()),
            None => OpencodeRun.connect(spec).await,
        }
    }
}

fn connectors(serve: &Arc<FailingServer>) -> AutoConnector {
    AutoConnector {
        serve: Arc::clone(serve) as Arc<dyn Connector>,
        ..AutoConnector::default()
    }
}

#[tokio::test]
async fn run_replaces_a_server_that_does_not_become_ready_for_the_whole_turn() {
    let serve = FailingServer::with(TransportError::NotReady("no health".to_owned()));
    let spec = spec(Path::new("/nonexistent/opencode.db"));
    let connected = connectors(&serve)
        .connect(&spec, TransportChoice::Auto)
        .await
        .unwrap();
    assert_eq!(connected.connector.kind(), TransportKind::Run);
    let fallback = connected.fallback.unwrap();
    assert!(
        fallback.contains("opencode serve is not usable") && fallback.contains("no health"),
        "{fallback}"
    );
    // After a crash, the turn asks this connector, and not the server again.
    connected.connector.connect(&spec).await.unwrap();
    assert_eq!(serve.starts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_server_that_is_ready_is_used() {
    let serve = Arc::new(FailingServer::default());
    let spec = spec(Path::new("/nonexistent/opencode.db"));
    for choice in [TransportChoice::Auto, TransportChoice::Only(TransportKind::Serve)] {
        let connected = connectors(&serve).connect(&spec, choice).await.unwrap();
        assert_eq!(connected.connector.kind(), TransportKind::Serve);
        assert_eq!(connected.fallback, None);
    }
    let only_run = TransportChoice::Only(TransportKind::Run);
    let connected = connectors(&serve).connect(&spec, only_run).await.unwrap();
    assert_eq!(connected.connector.kind(), TransportKind::Run);
    assert_eq!(serve.starts.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn nothing_replaces_a_server_that_was_asked_for_or_fails_otherwise() {
    let not_ready = TransportError::NotReady("no health".to_owned());
    let refused = TransportError::Request {
        request: "GET /global/health".to_owned(),
        message: "500".to_owned(),
    };
    let spec = spec(Path::new("/nonexistent/opencode.db"));
    for (error, choice) in [
        (not_ready, TransportChoice::Only(TransportKind::Serve)),
        (refused, TransportChoice::Auto),
    ] {
        let expected = error.to_string();
        let serve = FailingServer::with(error);
        let failed = connectors(&serve).connect(&spec, choice).await.err().unwrap();
        assert_eq!(failed.to_string(), expected);
    }
}

#[tokio::test]
async fn run_forks_ahead_in_another_directory_than_the_bases_alone() {
    let spec = spec(Path::new("/nonexistent/opencode.db"));
    let link = OpencodeRun.connect(&spec).await.unwrap();
    let request = |other_directory| ForkRequest {
        base: id("ses_base"),
        other_directory,
    };
    assert!(link.forks_ahead(&request(true)));
    assert!(!link.forks_ahead(&request(false)));
}

#[tokio::test]
async fn run_forks_into_another_directory_by_a_server_that_ends_at_once() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default()
    });
    world.run(["init"]).expect_status(0);
    let base = id(&world.sessions()[0].id);
    let before = world.fake_calls().len();

    let mut spec = spec(&world.opencode_db());
    let variables = world.environment().into_iter();
    spec.launch.containment.environment = Environment::new(
        variables.map(|(name, value)| (name.into(), value)),
        world.home(),
        kugetsu_binary(),
    );
    spec.launch.containment.guard_program = kugetsu_binary();
    spec.launch.opencode.program = fake_binary();
    spec.launch.directory = world.tmp();
    spec.launch.rules = Some(vec!["edit=deny".parse().unwrap()]);
    let mut link = OpencodeRun.connect(&spec).await.unwrap();
    let request = |base: &SessionId| ForkRequest {
        base: base.clone(),
        other_directory: true,
    };
    let fork = link.fork(&request(&base)).await.unwrap();
    assert_ne!(fork, base);
    assert!(world.sessions().iter().any(|session| session.id == fork.as_str()));

    // The server also ends if it does not make the fork.
    link.fork(&request(&id("ses_gone"))).await.unwrap_err();
    for call in &world.fake_calls()[before..] {
        assert_eq!((call.arguments[0].as_str(), &call.permission), ("serve", &None));
        assert_eq!(call.directory, world.tmp());
    }
    world.wait_nothing_left(SOON);
}

#[tokio::test]
async fn what_a_dropped_connect_left_is_ended_by_its_mark() {
    let spec = spec(Path::new("/nonexistent/opencode.db"));
    let mut left = std::process::Command::new("sleep")
        .arg("3600")
        .env(process::TURN_ENV, spec.turn().to_string())
        .spawn()
        .unwrap();
    OpencodeRun.abandon(&spec).await;
    let ended = left.try_wait().unwrap();
    left.kill().unwrap();
    assert!(ended.is_some_and(|status| status.signal().is_some()), "{ended:?}");
}
