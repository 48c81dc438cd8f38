//! Many tasks of many clients on one daemon, with or without a fault that strikes meanwhile.
//!
//! Each client submits its tasks one after the other, each with an idempotency key, and repeats a submission until the
//! daemon has confirmed it. At the end, the queue, the records and opencode's own database tell what became of the
//! tasks: each has ended, its prompt is in its session once, the prompts of one client are in the order of their
//! submission, no more turns ran at once than may, and no process is left. Each violation is reported as a problem.

mod check;
mod fault;
mod submit;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{FakeScript, Opencode, Reply, Step, World};
pub use fault::Fault;
use fault::Setting;

/// How long the queue may take without any task ending.
const STUCK: Duration = Duration::from_mins(5);
/// How long the model takes for the half of an answer while a fault strikes.
const ANSWER: Duration = Duration::from_millis(300);
/// How often the daemon is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long processes may remain after the daemon.
const GONE: Duration = Duration::from_mins(1);

/// The parameters of a load.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// The number of tasks.
    pub tasks: usize,
    /// The number of issues that they are for.
    pub issues: usize,
    /// The number of clients that submit at the same time.
    pub clients: usize,
    /// How many turns may run at once.
    pub max_concurrent: u32,
    /// How long a client pauses after each submission, so that a fault meets some of them.
    pub pause: Duration,
    /// What strikes meanwhile.
    pub fault: Option<Fault>,
}

/// The memory of the daemon at a point of the load.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPoint {
    /// The number of tasks that had ended.
    pub ended: u64,
    /// Resident memory of the daemon, in bytes.
    pub resident: u64,
}

/// The results of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadTally {
    /// The tasks by verdict, or by state without one.
    pub by_end: BTreeMap<String, usize>,
    /// Tasks that needed more than one attempt.
    pub repeated: usize,
    /// Submissions that were sent again with the same key.
    pub resent: usize,
    /// How often the fault struck.
    pub strikes: usize,
    /// The most turns that ran at once; `None` if the clock moved meanwhile, so that the records cannot tell.
    pub most_at_once: Option<usize>,
    /// From the first submission until the last task ended.
    pub took: Duration,
    /// The memory of the daemon, in ten steps.
    pub memory: Vec<MemoryPoint>,
    /// Every violation.
    pub problems: Vec<String>,
}

impl LoadTally {
    /// The head of a Markdown table of tallies.
    pub const HEAD: &str = "\
        | opencode | fault | struck | tasks | completed | other ends | more than one attempt | submissions repeated \
        | most turns at once (limit) | lost, doubled, out of order, left running | time |\n\
        |---|---|---|---|---|---|---|---|---|---|---|";

    /// Its row.
    pub fn row(&self, opencode: &str, plan: &LoadPlan) -> String {
        let completed = self.by_end.get("completed").copied().unwrap_or_default();
        let others: Vec<String> = self
            .by_end
            .iter()
            .filter(|(end, _)| *end != "completed")
            .map(|(end, count)| format!("{count} {end}"))
            .collect();
        let others = if others.is_empty() {
            "0".to_owned()
        } else {
            others.join(", ")
        };
        format!(
            "| {opencode} | {} | {} | {} | {completed} | {others} | {} | {} | {} ({}) | {} | {:.0} s |",
            plan.fault.map_or("none", Fault::describe),
            self.strikes,
            plan.tasks,
            self.repeated,
            self.resent,
            self.most_at_once.map_or("-".to_owned(), |most| most.to_string()),
            plan.max_concurrent,
            self.problems.len(),
            self.took.as_secs_f64()
        )
    }
}

/// What all threads of a load share.
struct Shared<'a> {
    world: &'a World,
    plan: LoadPlan,
    tally: Mutex<LoadTally>,
    /// The number of tasks that were confirmed.
    confirmed: AtomicUsize,
    /// The number of tasks that have ended.
    ended: AtomicUsize,
    /// Whether the queue is done, so that nothing strikes any more.
    over: AtomicBool,
}

impl Shared<'_> {
    fn tally(&self) -> MutexGuard<'_, LoadTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(
        clippy::disallowed_macros,
        reason = "a load takes long: problems are printed at once"
    )]
    fn problem(&self, text: String) {
        eprintln!("{text}");
        self.tally().problems.push(text);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The issue of a task, from 1.
    fn issue(&self, number: usize) -> usize {
        number % self.plan.issues + 1
    }

    /// The tasks of a client, in the order in which it submits them. All tasks of an issue are of one client, so that
    /// their order is known.
    fn tasks_of(&self, client: usize) -> impl Iterator<Item = usize> {
        (0..self.plan.tasks).filter(move |number| self.issue(*number) % self.plan.clients == client)
    }
}

/// The prompt of a task.
fn prompt(number: usize) -> String {
    format!("load task {number:06}.")
}

/// The number in the prompt of a task.
fn number_in(prompt: &str) -> Option<usize> {
    prompt.strip_prefix("load task ")?.strip_suffix('.')?.parse().ok()
}

/// Makes a base, starts a daemon, has it run the tasks of a plan, ends it, and checks what is left.
pub fn load(world: &World, plan: &LoadPlan) -> LoadTally {
    prepare(world, plan);
    let shared = Shared {
        world,
        plan: *plan,
        tally: Mutex::default(),
        confirmed: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let setting = Setting::of(world, plan);
    setting.start_daemon(world);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..plan.clients {
            let shared = &shared;
            scope.spawn(move || submit::client(shared, client));
        }
        let (shared, setting) = (&shared, &setting);
        scope.spawn(move || fault::strike(shared, setting));
        watch(shared);
        shared.over.store(true, Ordering::SeqCst);
    });
    shared.tally().took = begun.elapsed();
    check::tasks(&shared);
    setting.restore(world);
    let stopped = world.spawn(["daemon", "stop"]).wait(GONE);
    if stopped.code() != 0 {
        shared.problem(format!("the daemon cannot be stopped\n{stopped}"));
    }
    check::processes(&shared, GONE);
    shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the world a base, and its opencode what it answers.
fn prepare(world: &World, plan: &LoadPlan) {
    if world.opencode() == Opencode::Fake {
        world.fake(&FakeScript::serving());
        world.make_base();
        world.fake(&FakeScript::steps([Step::Answer("done".to_owned())]));
        return;
    }
    world.model.otherwise(Reply::text("done"));
    world.make_base();
    if plan.fault.is_some() {
        // A fault is to meet turns in their middle.
        world.model.otherwise(Reply::chunks(["do", "ne"], ANSWER));
    }
}

/// Looks at the daemon until all tasks are confirmed and none is left in the queue.
fn watch(shared: &Shared<'_>) {
    let mut connection = None;
    let (mut last, mut moved) = (None, Instant::now());
    loop {
        std::thread::sleep(LOOK);
        let confirmed = shared.confirmed.load(Ordering::SeqCst);
        if let Some(status) = status(shared.world, &mut connection) {
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            let waiting = number(&status["queue"]["queued"]) + number(&status["queue"]["running"]);
            let ended = (confirmed as u64).saturating_sub(waiting);
            if number(&status["running"]) > u64::from(shared.plan.max_concurrent) {
                shared.problem(format!("{} turns run at once", status["running"]));
            }
            shared.ended.store(ended as usize, Ordering::SeqCst);
            note_memory(shared, ended, number(&status["pid"]));
            if confirmed == shared.plan.tasks && waiting == 0 {
                return;
            }
            if last != Some((confirmed, waiting)) {
                (last, moved) = (Some((confirmed, waiting)), Instant::now());
            }
        }
        if moved.elapsed() > STUCK {
            shared.problem(format!(
                "no task has ended for {STUCK:?}: {last:?} confirmed and waiting"
            ));
            return;
        }
    }
}

fn status(world: &World, connection: &mut Option<crate::DaemonConnection>) -> Option<Value> {
    if connection.is_none() {
        *connection = world.connect_daemon().ok();
    }
    let status = connection.as_mut()?.json("/v1/status");
    if status.is_err() {
        *connection = None;
    }
    status.ok()
}

fn note_memory(shared: &Shared<'_>, ended: u64, pid: u64) {
    let Some(resident) = resident(pid) else {
        return;
    };
    let mut tally = shared.tally();
    let step = (shared.plan.tasks as u64).div_ceil(10);
    if ended >= tally.memory.len() as u64 * step {
        tally.memory.push(MemoryPoint { ended, resident });
    }
}

/// The resident memory of a process, in bytes.
fn resident(pid: u64) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}
