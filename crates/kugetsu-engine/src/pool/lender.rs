//! The border between a turn and a pool, which may be in another process.

use async_trait::async_trait;
use uuid::Uuid;

use super::{Loan, Pool, ServerWish};
use crate::process::Exit;
use kugetsu_api::GiveBack;

/// Lends warm servers.
#[async_trait]
pub trait Lender: Send + Sync {
    /// Lends a server. The error says why there is none; the turn then starts a server of its own.
    async fn lend(&self, wish: ServerWish) -> Result<Lent, String>;
}

/// A lent server.
pub struct Lent {
    /// Its id, which marks its processes.
    pub server: Uuid,
    /// Where it listens.
    pub url: String,
    /// Its password.
    pub password: String,
    /// What the turn holds of it.
    pub hold: Box<dyn Hold>,
}

/// A turn's hold on a lent server. If it is dropped without [`Hold::give_back`], the server is ended within a second.
#[async_trait]
pub trait Hold: Send {
    /// Waits until the server has ended. Cancel-safe.
    async fn ended(&mut self) -> Exit;

    /// The server's last lines on standard error in this turn.
    fn stderr_lines(&self) -> Vec<String>;

    /// Gives the server back. When this returns true, nothing that the turn started is alive; false if nobody confirmed
    /// that.
    async fn give_back(&mut self, how: GiveBack) -> bool;
}

#[async_trait]
impl Lender for Pool {
    async fn lend(&self, wish: ServerWish) -> Result<Lent, String> {
        let loan = Pool::lend(self, wish).await.map_err(|error| error.to_string())?;
        Ok(Lent {
            server: loan.server(),
            url: loan.url().to_owned(),
            password: loan.password().to_owned(),
            hold: Box::new(loan),
        })
    }
}

#[async_trait]
impl Hold for Loan {
    async fn ended(&mut self) -> Exit {
        Loan::ended(self).await
    }

    fn stderr_lines(&self) -> Vec<String> {
        Loan::stderr_lines(self)
    }

    async fn give_back(&mut self, how: GiveBack) -> bool {
        Loan::give_back(self, how).await;
        true
    }
}
