//! A warm server in the hands of a turn.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::clean::{clean, until_nothing_is_left};
use super::{Pool, Warm};
use crate::opencode::{Api, Server};
use crate::process::Exit;
use kugetsu_api::GiveBack;

/// A server that is lent to one turn. A loan that is dropped without [`Loan::give_back`] ends its server, within a
/// second and in the background, because nothing is known of what the turn has left.
pub struct Loan {
    pool: Pool,
    warm: Option<Warm>,
    /// Takes the server back.
    taking_back: Option<JoinHandle<()>>,
    api: Api,
    grace: Duration,
    server: Uuid,
}

impl Loan {
    pub(super) fn new(pool: Pool, warm: Warm, api: Api, grace: Duration) -> Self {
        Self {
            server: warm.id,
            pool,
            warm: Some(warm),
            taking_back: None,
            api,
            grace,
        }
    }

    /// The server's id, which marks its processes.
    pub fn server(&self) -> Uuid {
        self.server
    }

    /// Where the server listens.
    pub fn url(&self) -> &str {
        self.api.url()
    }

    /// The server's password.
    pub fn password(&self) -> &str {
        self.api.password()
    }

    /// The server's last lines on standard error in this turn.
    pub fn stderr_lines(&self) -> Vec<String> {
        let server = self.warm.as_ref().map(|warm| &warm.server);
        server.map(Server::stderr_lines).unwrap_or_default()
    }

    /// Waits until the server has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Exit {
        match &mut self.warm {
            Some(warm) => warm.server.ended().await,
            None => Exit::GuardLost,
        }
    }

    /// Gives the server back. When this returns, nothing that the turn started is alive. The server is lent again once it
    /// is proven to be clean.
    pub async fn give_back(&mut self, how: GiveBack) {
        let Some(warm) = self.warm.take() else {
            // An earlier future of this method was dropped.
            if let Some(taking_back) = self.taking_back.take() {
                let _ = taking_back.await;
            }
            return;
        };
        // From here on the work goes on if this future is dropped.
        let (pool, api, grace) = (self.pool.clone(), self.api.clone(), self.grace);
        let returning = pool.returning(&warm);
        let (nothing_left, is_nothing_left) = oneshot::channel();
        let taking_back = self.taking_back.insert(tokio::spawn(async move {
            let problem = match how {
                GiveBack::End => Err("its turn was ended by force".to_owned()),
                GiveBack::Busy => clean(&warm, &api).await,
                GiveBack::Idle => {
                    let tell = async {
                        until_nothing_is_left(&warm).await;
                        let _ = nothing_left.send(());
                        std::future::pending().await
                    };
                    tokio::select! {
                        cleaned = clean(&warm, &api) => cleaned,
                        never = tell => never,
                    }
                }
            };
            match problem {
                Ok(()) => pool.put(warm).await,
                Err(problem) => {
                    tracing::info!(server = %warm.id, problem, "a server is ended");
                    pool.end(warm, how == GiveBack::End || grace.is_zero()).await;
                    pool.keep_warm();
                }
            }
            drop(returning);
        }));
        tokio::select! {
            Ok(()) = is_nothing_left => {}
            _ = taking_back => {}
        }
        self.taking_back = None;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(warm) = self.warm.take() {
            let pool = self.pool.clone();
            let returning = pool.returning(&warm);
            let end = async move {
                pool.end(warm, true).await;
                drop(returning);
                pool.keep_warm();
            };
            // Without a runtime, the guard ends the server.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(end);
            }
        }
    }
}
