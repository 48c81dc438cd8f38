//! Places for commands, whose turns run in their own processes, and the servers that are lent to them.
//!
//! A place belongs to a connection: the command reads the answer to its request as long as it has the place. When the
//! connection ends, the place is free, and a server that was lent to the command and not given back is ended.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use kugetsu_api::{
    Address, ErrorCode, GiveBack, LentServer, ServerExit, SlotEvent, SlotRequest, SpendingAnswer,
    SpendingReport, TurnEnd,
};
use kugetsu_engine::pool::{Loan, PoolError, ServerWish};
use kugetsu_engine::transport::Exit;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Shared;
use super::problem::{Answer, Problem};
use crate::app::{App, Ending};

/// How often a connection without news gets a line.
const ALIVE: Duration = Duration::from_secs(15);

/// What a command does with its place.
pub(crate) enum SlotCommand {
    Lend(Box<ServerWish>, oneshot::Sender<Result<LentServer, PoolError>>),
    GiveBack(GiveBack, oneshot::Sender<()>),
    End(TurnEnd, oneshot::Sender<()>),
}

/// Asks for a place.
pub(super) async fn ask(
    State(app): Shared,
    request: Result<Json<SlotRequest>, JsonRejection>,
) -> Answer<Response> {
    let Json(request) = request?;
    if request.version != app.version {
        return Err(Problem::new(
            ErrorCode::DaemonVersion,
            format!(
                "the daemon is kugetsu {}, and not {}",
                app.version, request.version
            ),
        )
        .hint("restart the daemon: kugetsu daemon stop --drain, then kugetsu daemon start"));
    }
    if app.is_ending() {
        return Err(Problem::draining());
    }
    app.ledger.left(&request.address, Timestamp::now())?;
    let (lines, receiver) = mpsc::channel(8);
    let address = request.address;
    tokio::spawn(Holder { app, address, lines }.hold());
    let stream = ReceiverStream::new(receiver).map(|event| line(&event));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(stream)).into_response())
}

fn line(event: &SlotEvent) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line.into())
}

/// Holds a place for a command that reads the lines.
struct Holder {
    app: Arc<App>,
    address: Address,
    lines: mpsc::Sender<SlotEvent>,
}

/// The command has gone.
struct Gone;

impl Holder {
    async fn hold(self) {
        // Whoever goes leaves nothing behind: everything here is dropped.
        let _: Result<(), Gone> = self.held().await;
    }

    async fn say(&self, event: SlotEvent) -> Result<(), Gone> {
        self.lines.send(event).await.map_err(|_| Gone)
    }

    async fn held(&self) -> Result<(), Gone> {
        let _place = self.place().await?;
        let slot = Uuid::now_v7();
        let (commands, mut received) = mpsc::channel(4);
        self.app.commands().insert(slot, commands);
        let _registered = Registered { app: &self.app, slot };
        // Who comes after all others were sent away leaves as well.
        if *self.app.ending().borrow() == Ending::Now {
            return Err(Gone);
        }
        // A budget that was used up meanwhile ends the turn with its first step.
        let left = self.app.ledger.left(&self.address, Timestamp::now());
        let max_cost_usd = left.unwrap_or(Some(0.0));
        self.say(SlotEvent::Granted { slot, max_cost_usd }).await?;
        let mut loan: Option<Loan> = None;
        let mut is_over_budget = false;
        let mut alive = tokio::time::interval(ALIVE);
        alive.reset();
        loop {
            tokio::select! {
                () = self.lines.closed() => return Err(Gone),
                command = received.recv() => match command {
                    // The daemon ends, and the connection with it.
                    None => return Err(Gone),
                    Some(SlotCommand::Lend(wish, reply)) => {
                        // A server that was not given back is not clean.
                        drop(loan.take());
                        let lent = tokio::select! {
                            () = self.lines.closed() => return Err(Gone),
                            lent = self.app.pool.lend(*wish) => lent,
                        };
                        let _ = reply.send(lent.map(|lent| {
                            let server = LentServer {
                                server: lent.server(),
                                url: lent.url().to_owned(),
                                password: lent.password().to_owned(),
                            };
                            loan = Some(lent);
                            server
                        }));
                    }
                    Some(SlotCommand::GiveBack(how, done)) => {
                        if let Some(mut loan) = loan.take() {
                            loan.give_back(how).await;
                        }
                        let _ = done.send(());
                    }
                    Some(SlotCommand::End(end, done)) => {
                        self.app.count(&self.address, &end).await;
                        let _ = done.send(());
                    }
                },
                exit = ended(loan.as_mut()) => {
                    if let Some(mut loan) = loan.take() {
                        let event = SlotEvent::ServerEnded {
                            server: loan.server(),
                            exit: exit_of(exit),
                            stderr: loan.stderr_lines(),
                        };
                        loan.give_back(GiveBack::End).await;
                        self.say(event).await?;
                    }
                }
                used_up = self.app.ledger.crossed(&self.address), if !is_over_budget => {
                    is_over_budget = true;
                    let reason = used_up.to_string();
                    self.say(SlotEvent::OverBudget { reason }).await?;
                }
                _ = alive.tick() => self.say(SlotEvent::Alive).await?,
            }
        }
    }

    /// Waits for a place. Says so if there is none at once.
    async fn place(&self) -> Result<crate::slots::Place, Gone> {
        let mut asked = self.app.slots.ask();
        let mut alive = tokio::time::interval(ALIVE);
        alive.reset();
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                place = &mut asked => return place.map_err(|_| Gone),
                () = self.lines.closed() => return Err(Gone),
                () = tokio::time::sleep(SAID_AFTER), if !told => {
                    told = true;
                    let (most, running, _) = self.app.slots.counts();
                    self.say(SlotEvent::Waiting { running, most }).await?;
                }
                _ = alive.tick() => self.say(SlotEvent::Alive).await?,
            }
        }
    }
}

/// How long a command waits before it hears that it waits.
const SAID_AFTER: Duration = Duration::from_millis(50);

async fn ended(loan: Option<&mut Loan>) -> Exit {
    match loan {
        Some(loan) => loan.ended().await,
        None => std::future::pending().await,
    }
}

fn exit_of(exit: Exit) -> ServerExit {
    match exit {
        Exit::Code(code) => ServerExit::Code(code),
        Exit::Signal(signal) => ServerExit::Signal(signal),
        Exit::GuardLost => ServerExit::Unknown,
    }
}

/// A place that commands can name, until this is dropped.
struct Registered<'a> {
    app: &'a App,
    slot: Uuid,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.app.commands().remove(&self.slot);
    }
}

fn command_of(app: &App, slot: Uuid) -> Answer<mpsc::Sender<SlotCommand>> {
    let found = app.commands().get(&slot).cloned();
    found.ok_or_else(no_such_slot)
}

fn no_such_slot() -> Problem {
    Problem::new(ErrorCode::NotFound, "no command holds this place")
}

/// Lends a server to the command that holds the place.
pub(super) async fn lend(
    State(app): Shared,
    slot: Result<Path<Uuid>, PathRejection>,
    wish: Result<Json<ServerWish>, JsonRejection>,
) -> Answer<Json<LentServer>> {
    let Path(slot) = slot?;
    let Json(wish) = wish?;
    let (reply, replied) = oneshot::channel();
    let command = SlotCommand::Lend(Box::new(wish), reply);
    command_of(&app, slot)?
        .send(command)
        .await
        .map_err(|_| no_such_slot())?;
    match replied.await {
        Ok(Ok(lent)) => Ok(Json(lent)),
        Ok(Err(error)) => Err(Problem::new(ErrorCode::OpencodeFailed, error.to_string())),
        Err(_) => Err(no_such_slot()),
    }
}

#[derive(Deserialize)]
pub(super) struct HowToGiveBack {
    #[serde(default)]
    how: GiveBack,
}

/// Takes a server back. Answers when nothing of the turn is alive.
pub(super) async fn give_back(
    State(app): Shared,
    slot: Result<Path<Uuid>, PathRejection>,
    how: Result<Query<HowToGiveBack>, QueryRejection>,
) -> Answer<StatusCode> {
    let Path(slot) = slot?;
    let Query(HowToGiveBack { how }) = how?;
    let (done, is_done) = oneshot::channel();
    let command = SlotCommand::GiveBack(how, done);
    command_of(&app, slot)?
        .send(command)
        .await
        .map_err(|_| no_such_slot())?;
    is_done.await.map_err(|_| no_such_slot())?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes note of how the turn of a command has ended.
pub(super) async fn end(
    State(app): Shared,
    slot: Result<Path<Uuid>, PathRejection>,
    end: Result<Json<TurnEnd>, JsonRejection>,
) -> Answer<StatusCode> {
    let Path(slot) = slot?;
    let Json(end) = end?;
    let (done, is_done) = oneshot::channel();
    command_of(&app, slot)?
        .send(SlotCommand::End(end, done))
        .await
        .map_err(|_| no_such_slot())?;
    is_done.await.map_err(|_| no_such_slot())?;
    Ok(StatusCode::NO_CONTENT)
}

/// Counts what the turn of a command has cost so far. It needs no place: the command may have got it from a daemon that
/// has ended since.
pub(super) async fn spent(
    State(app): Shared,
    report: Result<Json<SpendingReport>, JsonRejection>,
) -> Answer<Json<SpendingAnswer>> {
    let Json(report) = report?;
    let over_budget = app.spent(report).await;
    Ok(Json(SpendingAnswer { over_budget }))
}
