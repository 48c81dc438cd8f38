//! A place among the turns that a daemon lets run at once, and the servers that it lends to the turn.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kugetsu_api::{Address, GiveBack, ServerExit, SlotEvent, SlotRequest, SpendingReport, TurnEnd};
use kugetsu_client::{Client, ClientError, Lines};
use kugetsu_engine::pool::{Hold, Lender, Lent, ServerWish};
use kugetsu_engine::transport::Exit;
use kugetsu_engine::turn::SharedBudget;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long the daemon may take to answer at first. It answers at once, unless it hangs.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long a connection may be silent. The daemon sends a sign of life every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the daemon may take to clean or end a server.
const GIVE_BACK: Duration = Duration::from_secs(60);
/// How long the daemon may take to hear of a turn's end.
const END: Duration = Duration::from_secs(1);

/// How long the daemon may take to hear what a turn has cost. It writes that to the disk.
const SPENT: Duration = Duration::from_secs(2);

/// A place. It is free again when this is dropped.
pub(crate) struct Slot {
    client: Client,
    id: Uuid,
    address: Address,
    /// What the turn may cost, if budgets limit that.
    pub(crate) max_cost_usd: Option<f64>,
    news: watch::Receiver<News>,
    reader: JoinHandle<()>,
}

/// What the daemon has said since it gave the place.
#[derive(Clone, Debug, Default)]
struct News {
    /// The server that has ended last, how it ended, and its last lines on standard error.
    ended: Option<(Uuid, ServerExit, Vec<String>)>,
    /// Why the turn must end, if the turns of the daemon have spent more than a budget allows.
    over_budget: Option<String>,
    /// Whether the connection has ended.
    is_over: bool,
}

impl Slot {
    /// Asks for a place, and waits for it. `waiting` is called if there is none at once, with the number of turns that
    /// run, and of those that may.
    pub(crate) async fn ask(
        client: Client,
        request: &SlotRequest,
        mut waiting: impl FnMut(u32, u32),
    ) -> Result<Self, ClientError> {
        let silent = || ClientError::Unreachable("it does not answer".to_owned());
        let asked = tokio::time::timeout(FIRST_ANSWER, client.slot(request)).await;
        let mut lines = asked.map_err(|_| silent())??;
        loop {
            let event = tokio::time::timeout(SILENCE, lines.next()).await;
            match event.map_err(|_| silent())?? {
                Some(SlotEvent::Granted { slot, max_cost_usd }) => {
                    let (sender, news) = watch::channel(News::default());
                    return Ok(Self {
                        client,
                        id: slot,
                        address: request.address.clone(),
                        max_cost_usd,
                        news,
                        reader: tokio::spawn(read(lines, sender)),
                    });
                }
                Some(SlotEvent::Waiting { running, most }) => waiting(running, most),
                Some(_) => {}
                None => return Err(ClientError::Unreachable("it has ended".to_owned())),
            }
        }
    }

    /// Lends servers of the daemon to the turn that has the place.
    pub(crate) fn lender(&self) -> Arc<dyn Lender> {
        Arc::new(SlotLender {
            client: self.client.clone(),
            slot: self.id,
            news: self.news.clone(),
        })
    }

    /// The daemon's budgets, which the turn shares with others.
    pub(crate) fn budget(&self) -> Arc<dyn SharedBudget> {
        Arc::new(SlotBudget {
            client: self.client.clone(),
            address: self.address.clone(),
            news: self.news.clone(),
        })
    }

    /// Tells the daemon how the turn has ended.
    pub(crate) async fn end(&self, end: &TurnEnd) {
        // The daemon may have ended meanwhile; the record of the turn has the same.
        let _ = tokio::time::timeout(END, self.client.end_slot(self.id, end)).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads what the daemon says, until the connection ends.
async fn read(mut lines: Lines<SlotEvent>, news: watch::Sender<News>) {
    while let Ok(Ok(Some(event))) = tokio::time::timeout(SILENCE, lines.next()).await {
        match event {
            SlotEvent::ServerEnded { server, exit, stderr } => {
                news.send_modify(|news| news.ended = Some((server, exit, stderr)));
            }
            SlotEvent::OverBudget { reason } => news.send_modify(|news| news.over_budget = Some(reason)),
            _ => {}
        }
    }
    news.send_modify(|news| news.is_over = true);
}

/// The budgets of the daemon that gave the place. The turn goes on if the daemon has ended, and tells the next one, if
/// one listens.
#[derive(Debug)]
struct SlotBudget {
    client: Client,
    address: Address,
    news: watch::Receiver<News>,
}

impl SlotBudget {
    async fn report(&self, turn: Uuid, cost_usd: f64, recovered: bool) -> Option<String> {
        let report = SpendingReport {
            turn,
            address: self.address.clone(),
            cost_usd,
            recovered,
        };
        let answer = tokio::time::timeout(SPENT, self.client.spent(&report)).await;
        answer.ok()?.ok()?.over_budget
    }
}

#[async_trait]
impl SharedBudget for SlotBudget {
    async fn spent(&self, turn: Uuid, cost_usd: f64) -> Option<String> {
        self.report(turn, cost_usd, false).await
    }

    async fn recovered(&self, turn: Uuid, cost_usd: f64) {
        self.report(turn, cost_usd, true).await;
    }

    async fn used_up(&self) -> String {
        let mut news = self.news.clone();
        let told = news.wait_for(|news| news.over_budget.is_some()).await;
        match told.ok().and_then(|news| news.over_budget.clone()) {
            Some(reason) => reason,
            // The connection has ended, and nothing more comes.
            None => std::future::pending().await,
        }
    }
}

struct SlotLender {
    client: Client,
    slot: Uuid,
    news: watch::Receiver<News>,
}

#[async_trait]
impl Lender for SlotLender {
    async fn lend(&self, wish: ServerWish) -> Result<Lent, String> {
        let lent = self.client.lend(self.slot, &wish).await;
        let lent = lent.map_err(|error| error.to_string())?;
        Ok(Lent {
            server: lent.server,
            url: lent.url,
            password: lent.password,
            hold: Box::new(RemoteHold {
                client: self.client.clone(),
                slot: self.slot,
                server: lent.server,
                news: self.news.clone(),
                is_held: true,
            }),
        })
    }
}

/// The hold on a server of the daemon.
struct RemoteHold {
    client: Client,
    slot: Uuid,
    server: Uuid,
    news: watch::Receiver<News>,
    is_held: bool,
}

#[async_trait]
impl Hold for RemoteHold {
    async fn ended(&mut self) -> Exit {
        let server = self.server;
        let ended = |news: &News| news.ended.as_ref().is_some_and(|(ended, ..)| *ended == server);
        let news = self.news.wait_for(|news| news.is_over || ended(news)).await;
        match news.as_ref().map(|news| &news.ended) {
            Ok(Some((ended, exit, _))) if *ended == server => match exit {
                ServerExit::Code(code) => Exit::Code(*code),
                ServerExit::Signal(signal) => Exit::Signal(*signal),
                ServerExit::Unknown => Exit::GuardLost,
            },
            // The daemon has died, and its guards end its servers.
            _ => Exit::GuardLost,
        }
    }

    fn stderr_lines(&self) -> Vec<String> {
        match &self.news.borrow().ended {
            Some((ended, _, stderr)) if *ended == self.server => stderr.clone(),
            _ => Vec::new(),
        }
    }

    async fn give_back(&mut self, how: GiveBack) -> bool {
        self.is_held = false;
        let given = tokio::time::timeout(GIVE_BACK, self.client.give_back(self.slot, how)).await;
        matches!(given, Ok(Ok(())))
    }
}

impl Drop for RemoteHold {
    fn drop(&mut self) {
        if !self.is_held {
            return;
        }
        let (client, slot) = (self.client.clone(), self.slot);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.give_back(slot, GiveBack::End).await });
        }
    }
}
