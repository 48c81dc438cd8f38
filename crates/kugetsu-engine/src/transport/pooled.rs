//! A turn through a warm server, which a pool lends.
//!
//! The server has its rules and its configuration in its environment, as a private one has, because a pool lends only
//! servers that were started for the same rules and configuration. What belongs to the one turn is in files of the
//! server ([`ServerWish`]).

use std::sync::Arc;

use async_trait::async_trait;

use super::serve::{PrivateServer, ServerLink, TurnServer};
use super::{Connector, TransportError, TurnLink, TurnSpec};
use crate::aside::aside;
use crate::opencode::Api;
use crate::pool::{Hold, Lender, Lent, ServerWish};
use crate::process::Exit;
use kugetsu_api::TransportKind;

/// Reaches opencode through a server that a pool lends, or through a private one if the turn must have that, or the pool
/// lends none.
pub struct PooledServers {
    lender: Arc<dyn Lender>,
}

impl PooledServers {
    /// Servers of this pool.
    pub fn of(lender: Arc<dyn Lender>) -> Self {
        Self { lender }
    }
}

#[async_trait]
impl Connector for PooledServers {
    fn kind(&self) -> TransportKind {
        TransportKind::Serve
    }

    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError> {
        let launch = spec.launch.clone();
        let Some(wish) = aside(move || ServerWish::of(&launch)).await else {
            return PrivateServer.connect(spec).await;
        };
        match self.lender.lend(wish).await {
            Ok(lent) => Ok(ServerLink::boxed(spec, Box::new(LentServer::of(lent, spec)))),
            Err(why) => {
                tracing::info!("turn {} starts a server of its own: {why}", spec.turn());
                PrivateServer.connect(spec).await
            }
        }
    }
}

/// A lent server.
struct LentServer {
    hold: Box<dyn Hold>,
    api: Api,
}

impl LentServer {
    fn of(lent: Lent, spec: &TurnSpec) -> Self {
        Self {
            api: Api::new(lent.url, lent.password, &spec.launch.directory),
            hold: lent.hold,
        }
    }
}

#[async_trait]
impl TurnServer for LentServer {
    fn api(&self) -> &Api {
        &self.api
    }

    fn stderr_lines(&self) -> Vec<String> {
        self.hold.stderr_lines()
    }

    async fn ended(&mut self) -> Exit {
        self.hold.ended().await
    }

    async fn stop(&mut self, now: bool) {
        self.hold.give_back(now).await;
    }
}
