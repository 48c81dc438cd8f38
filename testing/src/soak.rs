//! A soak test: many concurrent turns on a few issues, while supervisors and opencodes are killed at random.
//!
//! The seed alone determines the turns, but the machine's speed affects when a kill strikes. The test therefore makes
//! no claim about how many turns complete. It checks what must hold in every case: no session is lost or duplicated, no
//! prompt is in a session twice, no lease stays held, no process is left. Each violation is reported as a problem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Gate, Output, Reply, Running, Signal, World};

/// Concurrent callers: two for each issue.
const CALLERS: usize = 8;
/// Issues that they compete for.
const ISSUES: usize = 4;
/// The transports, used in a random order.
const TRANSPORTS: [&str; 2] = ["run", "serve"];
/// The time limit of one command, including its wait for the lease.
const LIMIT: Duration = Duration::from_mins(15);
/// How long processes may remain after the last turn.
const GONE: Duration = Duration::from_mins(1);
/// The longest delay of a timed kill: slightly longer than a turn takes.
const LATEST_KILL: u64 = 5000;

/// The parameters of a soak.
#[derive(Clone, Copy, Debug)]
pub struct SoakPlan {
    /// The number of turns.
    pub turns: usize,
    /// The seed of all randomness.
    pub seed: u64,
}

/// How turns ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoakCounts {
    /// Turns that were started.
    pub turns: usize,
    /// Turns that completed.
    pub completed: usize,
    /// Turns whose supervisor was killed.
    pub lost: usize,
    /// Turns that failed because their opencode died and no restart was left.
    pub failed: usize,
    /// Turns that were refused because another one was running.
    pub busy: usize,
    /// Supervisors killed.
    pub supervisors_killed: usize,
    /// opencodes killed.
    pub opencodes_killed: usize,
}

/// The results of a soak.
#[derive(Clone, Debug, Default)]
pub struct SoakTally {
    /// How the turns through each transport ended.
    pub by_transport: BTreeMap<&'static str, SoakCounts>,
    /// The number of sessions in opencode at the end.
    pub sessions: usize,
    /// The number of leases still held at the end.
    pub leases: usize,
    /// The number of processes still alive at the end.
    pub processes: usize,
    /// Every violation.
    pub problems: Vec<String>,
}

impl SoakTally {
    /// The number of sessions that opencode must have: the base, and one for each issue.
    pub const SESSIONS: usize = 1 + ISSUES;

    /// The head of a Markdown table of tallies.
    pub const HEAD: &str = "\
        | opencode | transport | turns | completed | lost | failed, no restart left | refused as busy (75) | supervisors killed \
        | opencodes killed | sessions (expected) | leases held | processes left | problems |\n\
        |---|---|---|---|---|---|---|---|---|---|---|---|---|";

    /// The turns through all transports.
    pub fn all(&self) -> SoakCounts {
        let mut sum = SoakCounts::default();
        for counts in self.by_transport.values() {
            sum.turns += counts.turns;
            sum.completed += counts.completed;
            sum.lost += counts.lost;
            sum.failed += counts.failed;
            sum.busy += counts.busy;
            sum.supervisors_killed += counts.supervisors_killed;
            sum.opencodes_killed += counts.opencodes_killed;
        }
        sum
    }

    /// The table rows: one for each transport, and one for the world that they share.
    pub fn rows(&self, opencode: &str) -> String {
        let row = |transport: &str, counts: &SoakCounts, end: &str| {
            format!(
                "| {opencode} | {transport} | {} | {} | {} | {} | {} | {} | {} | {end} |",
                counts.turns,
                counts.completed,
                counts.lost,
                counts.failed,
                counts.busy,
                counts.supervisors_killed,
                counts.opencodes_killed,
            )
        };
        let mut rows: Vec<String> = self
            .by_transport
            .iter()
            .map(|(transport, counts)| row(transport, counts, " | | |"))
            .collect();
        let end = format!(
            "{} ({}) | {} | {} | {}",
            self.sessions,
            Self::SESSIONS,
            self.leases,
            self.processes,
            self.problems.len()
        );
        rows.push(row("both", &self.all(), &end));
        rows.join("\n")
    }
}

/// SplitMix64, which is small and gives the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// The process to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Nobody,
    Supervisor,
    Opencode,
}

/// When to kill.
#[derive(Clone, Debug)]
enum Moment {
    /// This long after the command started, whatever its progress.
    After(Duration),
    /// After the model has received the prompt and before it answers.
    AtModel(Gate),
}

/// One turn as the seed determines it.
struct Planned {
    number: usize,
    issue: usize,
    prompt: String,
    transport: &'static str,
    waits: bool,
    restarts: &'static str,
    victim: Victim,
    moment: Moment,
    reply: Vec<Reply>,
}

impl Planned {
    fn new(plan: &SoakPlan, number: usize) -> Self {
        // Each turn has its own random numbers, so that no turn depends on the outcome of others.
        let mut random = Random(plan.seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        let prompt = format!("soak turn {number:04}.");
        let victim = random.pick(&[
            Victim::Nobody,
            Victim::Nobody,
            Victim::Supervisor,
            Victim::Opencode,
        ]);
        let answer = format!("answer {number:04}");
        let left_behind = "(setsid sleep 600 >/dev/null 2>&1 &); echo done";
        let mut reply = match random.below(4) {
            0 => vec![Reply::bash(left_behind), Reply::text(answer)],
            1 => vec![Reply::chunks([answer.as_str(), "."], Duration::from_millis(200))],
            _ => vec![Reply::text(answer)],
        };
        let moment = if random.below(2) == 0 {
            Moment::After(Duration::from_millis(random.below(LATEST_KILL)))
        } else {
            Moment::AtModel(Gate::new())
        };
        if let (Moment::AtModel(gate), true) = (&moment, victim != Victim::Nobody) {
            let first = reply.remove(0).behind(gate);
            reply.insert(0, first);
        }
        Self {
            number,
            issue: number % ISSUES + 1,
            prompt,
            transport: random.pick(&TRANSPORTS),
            // A turn that is to be killed at the model must get that far.
            waits: random.below(4) > 0 || matches!(moment, Moment::AtModel(_)) && victim != Victim::Nobody,
            // Only a turn that loses its opencode anyway runs without a restart: opencodes that start at the same
            // moment may find the database locked, and are restarted if a restart is left.
            restarts: if victim == Victim::Opencode {
                random.pick(&["0", "0", "1"])
            } else {
                "3"
            },
            victim,
            moment,
            reply,
        }
    }

    fn command(&self, world: &World) -> Running {
        let issue = format!("#{}", self.issue);
        let mut words = vec![
            "continue",
            &issue,
            "--or-start",
            "--output",
            "json",
            "--transport",
            self.transport,
            "--max-restarts",
            self.restarts,
            "--timeout",
            "10m",
            "--grace",
            "2s",
        ];
        if self.waits {
            words.push("--wait");
        }
        words.push(&self.prompt);
        world.spawn(words)
    }

    fn is_due(&self, begun: Instant) -> bool {
        match &self.moment {
            Moment::After(delay) => begun.elapsed() >= *delay,
            Moment::AtModel(gate) => gate.arrived() > 0,
        }
    }
}

/// Whether opencode exited before the kill because another opencode that started at the same moment held its database.
fn found_it_locked(output: &Output) -> bool {
    let printed = output.stdout() + &output.stderr();
    ["database is locked", "Failed to run the query", "Failed query"]
        .iter()
        .any(|words| printed.contains(words))
}

/// The state that all callers share.
struct Shared<'a> {
    world: &'a World,
    tally: Mutex<SoakTally>,
    /// The session of each issue, as its first completed turn reported it.
    sessions: Mutex<BTreeMap<usize, String>>,
    /// The prompts of turns that completed, with their issue.
    completed: Mutex<Vec<(usize, String)>>,
}

impl Shared<'_> {
    fn tally(&self) -> MutexGuard<'_, SoakTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, planned: &Planned, change: impl FnOnce(&mut SoakCounts)) {
        change(self.tally().by_transport.entry(planned.transport).or_default());
    }

    #[allow(
        clippy::disallowed_macros,
        reason = "a soak takes long: problems are printed at once"
    )]
    fn problem(&self, text: String) {
        eprintln!("{text}");
        self.tally().problems.push(text);
    }

    /// Runs one planned turn from its command to its end, including its planned kill.
    fn turn(&self, planned: &Planned) {
        let world = self.world;
        world.model.on(planned.prompt.as_str(), planned.reply.clone());
        let mut running = planned.command(world);
        let begun = Instant::now();
        let mut killed = planned.victim == Victim::Nobody;
        while running.is_alive() {
            if begun.elapsed() > LIMIT {
                return self.problem(format!(
                    "turn {} is not at its end after {LIMIT:?}",
                    planned.number
                ));
            }
            if !killed && planned.is_due(begun) {
                killed = match planned.victim {
                    Victim::Nobody => true,
                    Victim::Supervisor => {
                        running.signal(Signal::Kill);
                        true
                    }
                    Victim::Opencode => world
                        .opencode_of(running.pid())
                        .is_some_and(|pid| world.signal(pid, Signal::Kill)),
                };
                if let (true, Moment::AtModel(gate)) = (killed, &planned.moment) {
                    gate.open();
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let opencode_killed = killed && planned.victim == Victim::Opencode;
        self.judge(planned, opencode_killed, &running.wait(LIMIT));
    }

    fn judge(&self, planned: &Planned, opencode_killed: bool, output: &Output) {
        self.count(planned, |counts| {
            counts.turns += 1;
            counts.opencodes_killed += usize::from(opencode_killed);
        });
        if output.signal().is_some() && planned.victim == Victim::Supervisor {
            self.count(planned, |counts| {
                counts.supervisors_killed += 1;
                counts.lost += 1;
            });
        } else if output.code() == 0 {
            let result = output.json();
            if result["verdict"] != "completed" {
                self.problem(format!(
                    "turn {}: exit status 0, and not completed\n{output}",
                    planned.number
                ));
            }
            let session = result["session"].as_str().unwrap_or_default().to_owned();
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            let known = sessions.entry(planned.issue).or_insert_with(|| session.clone());
            if *known != session {
                self.problem(format!(
                    "turn {}: the session of #{} was {known}, and is {session}",
                    planned.number, planned.issue
                ));
            }
            let done = (planned.issue, planned.prompt.clone());
            self.completed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(done);
            self.count(planned, |counts| counts.completed += 1);
        } else if output.code() == 75 && !planned.waits && output.stderr().contains("is in use by") {
            self.count(planned, |counts| counts.busy += 1);
        } else if opencode_killed || planned.restarts == "0" && found_it_locked(output) {
            self.count(planned, |counts| counts.failed += 1);
        } else {
            self.problem(format!("turn {} ended so unasked:\n{output}", planned.number));
        }
    }
}

/// Runs `init` and the turns of a plan in a world with the real opencode, and checks what is left.
pub fn soak(world: &World, plan: &SoakPlan) -> SoakTally {
    world.make_base();
    let shared = Shared {
        world,
        tally: Mutex::default(),
        sessions: Mutex::default(),
        completed: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let shared = &shared;
            scope.spawn(move || {
                for number in (caller..plan.turns).step_by(CALLERS) {
                    shared.turn(&Planned::new(plan, number));
                }
            });
        }
    });
    finish(shared)
}

/// Checks everything that must hold after the last turn.
fn finish(shared: Shared<'_>) -> SoakTally {
    let world = shared.world;
    let mut tally = shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    let completed = shared
        .completed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut problems = std::mem::take(&mut tally.problems);

    let nothing_left = || {
        let end = Instant::now() + GONE;
        while !world.processes().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        world.processes()
    };
    let left = nothing_left();
    tally.processes = left.len();
    if !left.is_empty() {
        problems.push(format!("still alive: {left:#?}"));
    }
    tally.leases = held_leases(&world.kugetsu_home().join("run"));
    if tally.leases > 0 {
        problems.push(format!("{} leases are held by nobody alive", tally.leases));
    }

    let fixed = world.spawn(["doctor", "--fix", "--json"]).wait(LIMIT);
    let looked = world.spawn(["doctor", "--json"]).wait(LIMIT);
    let healthy = looked.code() == 0
        && looked.json()["checks"]
            .as_array()
            .is_some_and(|checks| checks.iter().all(|check| check["health"] == "ok"));
    if fixed.code() != 0 || !healthy {
        problems.push(format!("doctor is not content after --fix\n{fixed}\n{looked}"));
    }

    let issues = listed(world, &mut problems);
    let in_opencode: BTreeSet<String> = world.sessions().into_iter().map(|row| row.id).collect();
    tally.sessions = in_opencode.len();
    if tally.sessions != SoakTally::SESSIONS {
        problems.push(format!(
            "opencode has {} sessions instead of {}: {:#?}",
            tally.sessions,
            SoakTally::SESSIONS,
            world.sessions()
        ));
    }
    let distinct: BTreeSet<&String> = issues.values().collect();
    if issues.len() != ISSUES
        || distinct.len() != ISSUES
        || !distinct.iter().all(|id| in_opencode.contains(*id))
    {
        problems.push(format!("list has {issues:?}, and opencode has {in_opencode:?}"));
    }
    let known = shared
        .sessions
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if known
        .iter()
        .any(|(issue, session)| issues.get(issue) != Some(session))
    {
        problems.push(format!("turns ran in {known:?}, and list has {issues:?}"));
    }
    prompts(world, &issues, &completed, &mut problems);

    let again: Vec<Running> = (1..=ISSUES)
        .map(|issue| world.spawn(["continue", &format!("#{issue}"), "and once more"]))
        .collect();
    for running in again {
        let output = running.wait(LIMIT);
        if output.code() != 0 {
            problems.push(format!("it cannot be continued\n{output}"));
        }
    }
    let left = nothing_left();
    if !left.is_empty() || world.sessions().len() != tally.sessions {
        problems.push(format!(
            "after one more turn of each: {} sessions, alive {left:#?}",
            world.sessions().len()
        ));
    }
    tally.problems = problems;
    tally
}

/// Checks that no prompt is stored twice, and that the prompt of every completed turn is in its own session.
fn prompts(
    world: &World,
    issues: &BTreeMap<usize, String>,
    completed: &[(usize, String)],
    problems: &mut Vec<String>,
) {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in world.sessions() {
        for prompt in world.prompts(&row.id) {
            if prompt.starts_with("soak turn") {
                seen.entry(prompt).or_default().push(row.id.clone());
            }
        }
    }
    for (prompt, sessions) in &seen {
        if sessions.len() > 1 {
            problems.push(format!("{prompt:?} stands in {sessions:?}"));
        }
    }
    for (issue, prompt) in completed {
        let places = seen.get(prompt).map(Vec::as_slice).unwrap_or_default();
        if !issues.get(issue).is_some_and(|session| places.contains(session)) {
            problems.push(format!(
                "{prompt:?} of #{issue} completed, and stands in {places:?}"
            ));
        }
    }
}

/// The session of each issue according to `list`.
fn listed(world: &World, problems: &mut Vec<String>) -> BTreeMap<usize, String> {
    let output = world.spawn(["list", "--json"]).wait(LIMIT);
    if output.code() != 0 {
        problems.push(format!("list failed\n{output}"));
        return BTreeMap::new();
    }
    let value = output.json();
    let rows = value["sessions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    rows.iter()
        .filter_map(|row| {
            let issue = row["ref"].as_str()?.rsplit_once('#')?.1.parse().ok()?;
            Some((issue, row["session"].as_str()?.to_owned()))
        })
        .collect()
}

/// The number of locked lease files below a folder.
fn held_leases(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return held_leases(&path);
            }
            let is_lease = path.extension().is_some_and(|ending| ending == "lease");
            let held = is_lease && std::fs::File::open(&path).is_ok_and(|file| file.try_lock().is_err());
            usize::from(held)
        })
        .sum()
}
