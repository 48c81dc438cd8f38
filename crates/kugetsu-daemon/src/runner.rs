//! Gives places to tasks and commands, and runs the turns of tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{ErrorCode, TurnEnd, TurnRecord, Verdict};
use kugetsu_engine::operations::{
    Engine, EngineError, Mode, TurnOptions, TurnReport, TurnRequest, WorktreeRequest,
};
use kugetsu_engine::turn::Responder;
use kugetsu_engine::turn::answers::Answers;

use crate::app::{App, Ending, RunningTask, TaskBudget};
use crate::ledger::UsedUp;
use crate::queue::{Claim, QueueError, Settlement, turn_of};
use crate::slots::Place;

/// How soon a task is tried again whose session or database somebody else uses.
const BUSY_PAUSE: SignedDuration = SignedDuration::from_secs(2);
/// How soon a task is tried again after an error that may pass.
const ERROR_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// How soon a task is tried again after a quota without a time.
const QUOTA_PAUSE: SignedDuration = SignedDuration::from_mins(5);
/// How soon a write to the queue is tried again.
const QUEUE_PAUSE: Duration = Duration::from_secs(1);

/// Gives out places until the daemon ends. Returns if the queue can be used no more.
pub(crate) async fn dispatch(app: Arc<App>) {
    let mut changes = app.queue.changes();
    let mut ending = app.ending();
    // Tasks and commands take turns if both wait, so neither keeps the other out.
    let mut command_is_next = true;
    loop {
        changes.mark_unchanged();
        let pause = fill(&app, &mut command_is_next).await;
        // Without a free place nothing is claimed, whatever is due.
        let may_claim = app.slots.has_free() && !app.is_ending();
        let due = app.queue.next_due().filter(|_| may_claim);
        let due = due.map(|due| until(due).min(Duration::from_secs(60)));
        let wake = pause.into_iter().chain(due).min();
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = app.slots.changed() => {}
            _ = ending.changed() => {}
            () = async {
                match wake {
                    Some(wake) => tokio::time::sleep(wake).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

/// Gives away every free place. Returns when to try again, if the queue cannot be read now.
async fn fill(app: &Arc<App>, command_is_next: &mut bool) -> Option<Duration> {
    if *app.ending().borrow() == Ending::Now {
        return None;
    }
    while app.slots.has_free() {
        let awaited = app.slots.is_awaited();
        // Commands are people's: they may still begin while the daemon finishes what runs.
        if awaited && *command_is_next {
            app.slots.grant();
            *command_is_next = false;
            continue;
        }
        *command_is_next = true;
        let claimed = if app.is_ending() {
            Ok(None)
        } else {
            app.queue.claim(Timestamp::now()).await
        };
        match claimed {
            Ok(Some(claim)) => {
                tokio::spawn(run(Arc::clone(app), app.slots.take(), claim));
            }
            Ok(None) if awaited => app.slots.grant(),
            Ok(None) => return None,
            Err(error) => {
                tracing::error!(%error, "no task can be claimed");
                // The commands need no queue.
                while app.slots.has_free() && app.slots.is_awaited() {
                    app.slots.grant();
                }
                return Some(QUEUE_PAUSE);
            }
        }
    }
    None
}

fn until(due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default()
}

/// Runs the turn of a claimed task, and records how it ended.
async fn run(app: Arc<App>, place: Place, claim: Claim) {
    let (task, turn) = (claim.task.task, claim.turn);
    if claim.cancelled {
        app.cancel(task);
    }
    tracing::info!(
        %task,
        %turn,
        "ref" = %claim.task.spec.address,
        attempt = claim.task.attempts,
        "the turn of a task begins"
    );
    let traceparent = app.tracer.parent_of_tools(&claim.task, turn);
    let budget = TaskBudget {
        app: Arc::clone(&app),
        address: claim.task.spec.address.clone(),
    };
    let engine = app
        .engine()
        .with_traceparent(traceparent)
        .with_shared_budget(Arc::new(budget));
    let before = Instant::now();
    let address = &claim.task.spec.address;
    let left = app.ledger.left(address, Timestamp::now());
    let put_off = left.as_ref().err().map(put_off);
    if let Some(again) = put_off.clone().filter(|_| !claim.resumed) {
        settle(&app, &claim, again).await;
        app.forget_cancelled(task);
        drop(place);
        return;
    }
    if !claim.resumed && claim.task.attempts <= 1 {
        let since = claim.task.not_before.unwrap_or(claim.task.submitted);
        app.metrics
            .waited(since.max(claim.task.submitted), Timestamp::now());
    }
    let result = match left {
        Ok(left) if !claim.cancelled => run_turn(&app, &engine, &claim, left).await,
        // Only how far an earlier daemon has come is of interest.
        _ => Err(EngineError::Recorded(turn)),
    };
    app.turns().remove(&task);
    let ran_before = matches!(result, Err(EngineError::Recorded(_)));
    let mut result = match result {
        // It ran before the daemon's last end, or its end could not be recorded on a full disk.
        Err(EngineError::Recorded(recorded)) => {
            let address = claim.task.spec.address.clone();
            let engine = engine.clone();
            let recorded = move || engine.wait_turn(&address, recorded, before, None);
            match tokio::task::spawn_blocking(recorded).await {
                Ok(recorded) => recorded,
                Err(_) => Err(EngineError::Internal("the record of a turn could not be read")),
            }
        }
        result => result,
    };
    if let Ok(report) = &mut result {
        let ended = &mut report.turn;
        if ended.verdict == Verdict::Lost {
            // The record of a turn that was found dead may not have all that it told.
            ended.cost_usd = ended.cost_usd.max(app.ledger.counted(ended.turn));
        }
        let end = TurnEnd::of(&report.turn, report.took);
        app.count(&claim.task.spec.address, &end).await;
        let log = engine.stream_path(&claim.task.spec.address, report.turn.turn);
        app.tracer.turn(&claim.task, &report.turn, log);
    }
    let stopping = *app.ending().borrow() == Ending::Now;
    let is_cancelled = app.is_cancelled(task);
    let end = match (&result, put_off) {
        // The turn had not begun when the earlier daemon died.
        (Err(_), Some(again)) if !is_cancelled => again,
        _ => settlement(result, is_cancelled, stopping || ran_before),
    };
    // A place is free again only when the end is on record, so the daemon does not end before.
    settle(&app, &claim, end).await;
    app.forget_cancelled(task);
    drop(place);
}

/// A task whose budget is used up waits until it is full again.
fn put_off(used_up: &UsedUp) -> Settlement {
    Settlement::Again {
        not_before: after(SignedDuration::try_from(used_up.full_in).unwrap_or(QUOTA_PAUSE)),
        reason: used_up.to_string(),
        cost_usd: 0.0,
        counts: false,
    }
}

/// Records how an attempt ended. Until that is on record, the turn counts as running, and its id keeps it from running
/// twice.
async fn settle(app: &App, claim: &Claim, end: Settlement) {
    let (task, turn) = (claim.task.task, claim.turn);
    match &end {
        Settlement::Ended { verdict, .. } => {
            tracing::info!(%task, %turn, verdict = verdict.as_str(), "a task has ended");
        }
        Settlement::Again { not_before, .. } => {
            tracing::info!(%task, %turn, %not_before, "a task is tried again");
        }
        Settlement::Parked { .. } => tracing::warn!(%task, %turn, "a task is parked"),
        Settlement::Cancelled { .. } => tracing::info!(%task, %turn, "a task was cancelled"),
    }
    loop {
        match app.queue.settle(task, turn, end.clone(), Timestamp::now()).await {
            Ok(task) => return app.tracer.task(&task),
            Err(error @ QueueError::Unavailable { .. }) => {
                tracing::error!(%task, %error, "the end of a task cannot be recorded");
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(%task, %error, "the end of a task is not recorded");
                return;
            }
        }
    }
}

async fn run_turn(
    app: &App,
    engine: &Engine,
    claim: &Claim,
    left: Option<f64>,
) -> Result<TurnReport, EngineError> {
    let task = &claim.task;
    let mut request = turn_request(app, engine, claim);
    let limits = &mut request.options.limits;
    limits.cost_usd = narrower(limits.cost_usd, left);
    let settings = engine.settings();
    let answers = task.spec.answers.as_ref().map(|answers| {
        let questions = serde_json::json!({"questions": answers.questions});
        serde_json::from_value::<Answers>(questions).unwrap_or_default()
    });
    let responder = Responder {
        answers,
        supervisor: None,
        on_ask: settings.on_ask.with(settings.on_question),
    };
    let mut handle = engine.spawn(request, responder);
    let running = RunningTask {
        turn: claim.turn,
        control: handle.control.clone(),
    };
    app.turns().insert(task.task, running);
    if *app.ending().borrow() == Ending::Now || app.is_cancelled(task.task) {
        handle
            .control
            .interrupt(kugetsu_engine::turn::Interrupt::Terminated);
    }
    handle.done.wait().await
}

/// The lower of two limits.
fn narrower<T: PartialOrd>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) if other < one => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}

fn turn_request(app: &App, engine: &Engine, claim: &Claim) -> TurnRequest {
    let spec = &claim.task.spec;
    let settings = engine.settings();
    let mut limits = settings.limits();
    if let Some(seconds) = spec.limits.timeout_seconds {
        limits.timeout = limits.timeout.min(Duration::from_secs(seconds));
    }
    if let Some(most) = app.task_timeout {
        limits.timeout = limits.timeout.min(most);
    }
    limits.cost_usd = narrower(limits.cost_usd, spec.limits.max_cost_usd);
    limits.tokens = narrower(limits.tokens, spec.limits.max_tokens);
    limits.steps = narrower(limits.steps, spec.limits.max_steps);
    TurnRequest {
        address: spec.address.clone(),
        typed: spec.address.to_string(),
        turn: Some(claim.turn),
        prompt: spec.prompt.clone(),
        earlier: (1..claim.task.attempts)
            .map(|attempt| turn_of(claim.task.task, attempt))
            .collect(),
        issue_title: None,
        mode: Mode::ContinueOrStart,
        wait: None,
        worktree: WorktreeRequest {
            requested: spec.worktree,
            ..WorktreeRequest::default()
        },
        sandbox: None,
        narrowing: spec.policy.iter().map(kugetsu_api::NarrowingRule::rule).collect(),
        options: TurnOptions {
            transport: settings.transport,
            limits,
            model: spec.model.clone().or_else(|| settings.model.clone()),
            agent: spec.agent.clone().or_else(|| settings.agent.clone()),
            keep_prompt: settings.keep_prompt,
            debug: false,
        },
    }
}

/// A time from now on.
fn after(pause: SignedDuration) -> Timestamp {
    let now = Timestamp::now();
    now.checked_add(pause).unwrap_or(now)
}

/// What the end of an attempt means for its task. `stopping`: the daemon is ended, or was while the turn ran.
fn settlement(result: Result<TurnReport, EngineError>, cancelled: bool, stopping: bool) -> Settlement {
    let now = Timestamp::now();
    match result {
        Ok(report) => of_turn(&report.turn, cancelled, stopping, now, after(QUOTA_PAUSE)),
        // Whatever comes of it, it is not run again.
        Err(_) if cancelled => Settlement::Cancelled { cost_usd: 0.0 },
        Err(error) if stopping => Settlement::Again {
            not_before: now,
            reason: format!("the daemon was stopped: {error}"),
            cost_usd: 0.0,
            counts: false,
        },
        Err(error) => match retry_of(&error) {
            Some((pause, counts)) => Settlement::Again {
                not_before: after(pause),
                reason: error.to_string(),
                cost_usd: 0.0,
                counts,
            },
            None => Settlement::Parked {
                reason: error.to_string(),
            },
        },
    }
}

/// How soon to try again after an error, and whether it counts against the limit of tries; `None` if it does not pass.
fn retry_of(error: &EngineError) -> Option<(SignedDuration, bool)> {
    let code = error.code();
    if code.retryable() {
        // Somebody else uses what the turn needs: that is not a fault of the task.
        let is_busy = code.exit_status() == ExitStatus::TryAgain;
        return Some(if is_busy {
            (BUSY_PAUSE, false)
        } else {
            (ERROR_PAUSE, true)
        });
    }
    // It may be in the middle of an upgrade. An opencode that stays so parks the task.
    if code == ErrorCode::OpencodeUnusable {
        return Some((ERROR_PAUSE, true));
    }
    // A full disk is not a fault of the task either.
    error.is_full_disk().then_some((ERROR_PAUSE, false))
}

fn of_turn(
    turn: &TurnRecord,
    cancelled: bool,
    stopping: bool,
    now: Timestamp,
    later: Timestamp,
) -> Settlement {
    let cost_usd = turn.cost_usd;
    let (not_before, reason, counts) = match turn.verdict {
        Verdict::Aborted | Verdict::Lost | Verdict::Quota if cancelled => {
            return Settlement::Cancelled { cost_usd };
        }
        Verdict::Aborted if stopping => (now, "the daemon was stopped while the turn ran", false),
        Verdict::Lost => (now, "the daemon died while the turn ran", true),
        Verdict::Quota => (
            turn.retry_at.unwrap_or(later),
            turn.reason.as_str(),
            turn.retry_at.is_none(),
        ),
        verdict => {
            return Settlement::Ended {
                turn: turn.turn,
                verdict,
                reason: (!turn.reason.is_empty()).then(|| turn.reason.clone()),
                cost_usd,
            };
        }
    };
    Settlement::Again {
        not_before,
        reason: reason.to_owned(),
        cost_usd,
        counts,
    }
}
