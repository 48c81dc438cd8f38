//! The choice between the ways to reach opencode.

use std::sync::Arc;

use super::{Connector, OpencodeRun, PrivateServer, TransportError, TurnLink, TurnSpec};
use kugetsu_api::{TransportChoice, TransportKind};

/// Chooses a connector for each turn: the one that is asked for, or a server with `opencode run` as its fallback.
#[derive(Clone)]
pub struct AutoConnector {
    /// For [`TransportKind::Serve`].
    pub serve: Arc<dyn Connector>,
    /// For [`TransportKind::Run`].
    pub run: Arc<dyn Connector>,
}

/// A link, and how it was chosen.
pub struct Connected {
    /// The connector that made the link. It makes the turn's further links as well, so that a turn keeps its way.
    pub connector: Arc<dyn Connector>,
    /// The link.
    pub link: Box<dyn TurnLink>,
    /// For people: why the turn does not go through a server, if a server was tried first.
    pub fallback: Option<String>,
}

impl AutoConnector {
    /// The connector that is tried first.
    pub fn first(&self, choice: TransportChoice) -> &Arc<dyn Connector> {
        match choice {
            TransportChoice::Only(TransportKind::Serve) | TransportChoice::Auto => &self.serve,
            TransportChoice::Only(TransportKind::Run) => &self.run,
        }
    }

    /// Connects a turn. With [`TransportChoice::Auto`], a server that does not become ready is replaced by
    /// `opencode run`; any other error would affect both transports.
    pub async fn connect(
        &self,
        spec: &TurnSpec,
        choice: TransportChoice,
    ) -> Result<Connected, TransportError> {
        let first = self.first(choice);
        match first.connect(spec).await {
            Ok(link) => Ok(Connected {
                connector: Arc::clone(first),
                link,
                fallback: None,
            }),
            Err(TransportError::NotReady(reason)) if choice == TransportChoice::Auto => {
                let fallback =
                    format!("opencode serve is not usable, so this turn goes through opencode run: {reason}");
                tracing::warn!("{fallback}");
                Ok(Connected {
                    connector: Arc::clone(&self.run),
                    link: self.run.connect(spec).await?,
                    fallback: Some(fallback),
                })
            }
            Err(error) => Err(error),
        }
    }
}

/// Private servers, and `opencode run`.
impl Default for AutoConnector {
    fn default() -> Self {
        Self {
            serve: Arc::new(PrivateServer),
            run: Arc::new(OpencodeRun),
        }
    }
}

impl std::fmt::Debug for AutoConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AutoConnector")
            .field("serve", &self.serve.kind())
            .field("run", &self.run.kind())
            .finish()
    }
}
