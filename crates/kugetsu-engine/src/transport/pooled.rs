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
use crate::process::{self, Exit};
use kugetsu_api::{GiveBack, TransportKind};
use uuid::Uuid;

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
    /// The marks of the server's processes and of the turn's tools.
    marks: [Uuid; 2],
}

impl LentServer {
    fn of(lent: Lent, spec: &TurnSpec) -> Self {
        Self {
            api: Api::new(lent.url, lent.password, &spec.launch.directory),
            hold: lent.hold,
            marks: [lent.server, spec.turn()],
        }
    }
}

/// Ends everything that carries one of these marks, because nobody else has.
async fn sweep(marks: [Uuid; 2]) {
    for mark in marks {
        if let Err(error) = aside(move || process::sweep_marked(mark)).await {
            tracing::warn!("what server or turn {mark} had started could not be ended: {error}");
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
        let exit = self.hold.ended().await;
        if exit == Exit::GuardLost {
            sweep(self.marks).await;
        }
        exit
    }

    async fn stop(&mut self, how: GiveBack) {
        if !self.hold.give_back(how).await {
            sweep(self.marks).await;
        }
    }
}
