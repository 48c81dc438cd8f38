//! A warm server in the hands of a turn.

use std::time::Duration;

use uuid::Uuid;

use super::clean::clean;
use super::{Pool, Warm};
use crate::opencode::{Api, Server};
use crate::process::Exit;

/// A server that is lent to one turn. A loan that is dropped without [`Loan::give_back`] ends its server, within a
/// second and in the background, because nothing is known of what the turn has left.
pub struct Loan {
    pool: Pool,
    warm: Option<Warm>,
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

    /// Gives the server back. When this returns, nothing that the turn started is alive. The server is lent again if it
    /// is clean; with `now`, it is ended in any case, and at once.
    pub async fn give_back(&mut self, now: bool) {
        let Some(warm) = self.warm.take() else {
            return;
        };
        // From here on the work goes on if this future is dropped.
        let (pool, api, grace) = (self.pool.clone(), self.api.clone(), self.grace);
        let done = tokio::spawn(async move {
            let problem = if now {
                Err("its turn was ended by force".to_owned())
            } else {
                clean(&warm, &api).await
            };
            match problem {
                Ok(()) => pool.put(warm).await,
                Err(problem) => {
                    tracing::info!(server = %warm.id, problem, "a server is ended");
                    pool.end(warm, now || grace.is_zero()).await;
                    pool.keep_warm();
                }
            }
        });
        let _ = done.await;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(warm) = self.warm.take() {
            let pool = self.pool.clone();
            let end = async move {
                pool.end(warm, true).await;
                pool.keep_warm();
            };
            // Without a runtime, the guard ends the server.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(end);
            }
        }
    }
}
