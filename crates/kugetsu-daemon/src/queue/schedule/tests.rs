use std::collections::HashMap;

use kugetsu_api::TaskState;
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

use super::super::reference::{Reference, ReferenceTask};
use super::*;

const MINUTE: Micros = 60 * 1_000_000;

fn id(number: i64) -> TaskId {
    TaskId(Uuid::from_u128(number as u128))
}

fn address(repo: usize, issue: usize) -> Address {
    format!("github.com/acme/r{repo}#{}", issue + 1)
        .try_into()
        .unwrap()
}

fn entry(seq: i64, address: Address) -> Entry {
    Entry {
        seq,
        address,
        priority: 0,
        submitted: 0,
        not_before: None,
        after: BTreeSet::new(),
        running: false,
    }
}

fn repo_of(schedule: &Schedule, task: TaskId) -> String {
    schedule.tasks[&task].address.repo().as_str().to_owned()
}

#[test]
fn a_session_runs_one_task_at_a_time_in_order() {
    let mut schedule = Schedule::default();
    for (seq, priority) in [(1, -100), (2, 100), (3, 0)] {
        schedule.add(
            id(seq),
            Entry {
                priority,
                ..entry(seq, address(0, 0))
            },
        );
    }
    for seq in 1..=3 {
        assert_eq!(schedule.claim(0), Some(id(seq)));
        assert_eq!(schedule.claim(0), None);
        schedule.remove(id(seq));
    }
    assert_eq!(schedule.claim(0), None);
}

#[test]
fn a_task_that_waits_holds_back_its_session_only() {
    let mut schedule = Schedule::default();
    schedule.add(
        id(1),
        Entry {
            not_before: Some(MINUTE),
            ..entry(1, address(0, 0))
        },
    );
    schedule.add(id(2), entry(2, address(0, 0)));
    schedule.add(id(3), entry(3, address(0, 1)));
    assert_eq!(schedule.next_due(), Some(MINUTE));
    assert_eq!(schedule.claim(0), Some(id(3)));
    assert_eq!(schedule.claim(MINUTE - 1), None);
    assert_eq!(schedule.claim(MINUTE), Some(id(1)));
    assert_eq!(schedule.next_due(), None);
}

#[test]
fn a_task_waits_for_the_end_of_others() {
    let mut schedule = Schedule::default();
    schedule.add(id(1), entry(1, address(0, 0)));
    schedule.add(id(2), entry(2, address(0, 1)));
    let after = BTreeSet::from([id(1), id(2), id(99)]);
    schedule.add(
        id(3),
        Entry {
            after,
            priority: 100,
            ..entry(3, address(0, 2))
        },
    );
    assert_eq!(schedule.claim(0), Some(id(1)));
    assert_eq!(schedule.claim(0), Some(id(2)));
    schedule.remove(id(2));
    assert_eq!(schedule.claim(0), None);
    schedule.remove(id(1));
    assert_eq!(schedule.claim(0), Some(id(3)));
    schedule.remove(id(3));
    assert!(schedule.dependents.is_empty() && schedule.sessions.is_empty() && schedule.order.is_empty());
}

#[test]
fn a_large_repository_does_not_hold_up_a_small_one() {
    let mut schedule = Schedule::default();
    for seq in 1..=10_000 {
        schedule.add(id(seq), entry(seq, address(0, seq as usize)));
    }
    for minute in 0..600 {
        assert!(schedule.claim(minute * MINUTE).is_some());
    }
    let submitted = 600 * MINUTE;
    schedule.add(
        id(20_000),
        Entry {
            submitted,
            ..entry(20_000, address(1, 0))
        },
    );
    let next = [schedule.claim(submitted), schedule.claim(submitted)];
    assert!(next.contains(&Some(id(20_000))), "{next:?}");
}

#[test]
fn a_repository_that_returns_waits_for_its_turn() {
    let mut schedule = Schedule::default();
    schedule.add(id(1), entry(1, address(0, 0)));
    schedule.add(id(2), entry(2, address(1, 0)));
    assert_eq!(schedule.claim(0), Some(id(1)));
    schedule.remove(id(1));
    schedule.add(id(3), entry(3, address(0, 1)));
    assert_eq!(schedule.claim(0), Some(id(2)));
    assert_eq!(schedule.claim(0), Some(id(3)));
}

#[test]
fn the_lowest_priority_runs_beside_an_endless_stream_of_the_highest() {
    let mut schedule = Schedule::default();
    schedule.add(
        id(0),
        Entry {
            priority: -100,
            ..entry(0, address(0, 0))
        },
    );
    let most = 2 * 100 * AGEING / MINUTE + 2;
    let turn = (1..=most).find(|minute| {
        let submitted = minute * MINUTE;
        let urgent = Entry {
            priority: 100,
            submitted,
            ..entry(*minute, address(1, *minute as usize))
        };
        schedule.add(id(*minute), urgent);
        schedule.claim(submitted) == Some(id(0))
    });
    assert!(turn.is_some());
}

#[test]
fn a_higher_priority_is_first_among_and_within_repositories() {
    let mut schedule = Schedule::default();
    for (seq, repo, priority) in [(1, 0, 0), (2, 0, 5), (3, 1, 10), (4, 1, 3)] {
        schedule.add(
            id(seq),
            Entry {
                priority,
                ..entry(seq, address(repo, seq as usize))
            },
        );
    }
    let order: Vec<_> = std::iter::from_fn(|| schedule.claim(0)).collect();
    assert_eq!(order, [3, 2, 4, 1].map(id));
}

#[test]
fn a_clock_that_is_set_back_does_not_change_the_rotation() {
    let mut schedule = Schedule::default();
    for seq in 1..=20 {
        schedule.add(id(seq), entry(seq, address(seq as usize % 2, seq as usize)));
    }
    schedule.claim(600 * MINUTE);
    let order: Vec<_> = (0..4).filter_map(|_| schedule.claim(MINUTE)).collect();
    let repos: Vec<_> = order.iter().map(|task| repo_of(&schedule, *task)).collect();
    assert!(repos.windows(2).all(|pair| pair[0] != pair[1]), "{repos:?}");
}

#[test]
fn fifty_thousand_tasks_all_run() {
    let mut schedule = Schedule::default();
    for seq in 0..50_000 {
        schedule.add(
            id(seq),
            entry(seq, address(seq as usize % 7, seq as usize % 10_000)),
        );
    }
    schedule.keep();
    for _ in 0..50_000 {
        let task = schedule.claim(0).unwrap();
        schedule.remove(task);
        schedule.keep();
    }
    assert_eq!((schedule.claim(0), schedule.queued()), (None, 0));
}

/// Something that happens to a schedule.
#[derive(Clone, Debug)]
enum Step {
    Add {
        session: usize,
        priority: i32,
        age: i64,
        delay: Option<i64>,
        after: Vec<Index>,
    },
    Claim(i64),
    Finish(Index),
    Requeue(Index, i64),
    Cancel(Index),
    Weigh(usize, u32),
    Keep,
    Undo,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let add = (
        0..9_usize,
        prop_oneof![3 => Just(0), 1 => -100..=100],
        0..30_i64,
        proptest::option::weighted(0.2, -5..60_i64),
        proptest::collection::vec(any::<Index>(), 0..4),
    )
        .prop_map(|(session, priority, age, delay, after)| Step::Add {
            session,
            priority,
            age,
            delay,
            after,
        });
    let step = prop_oneof![
        6 => add,
        8 => (-10..30_i64).prop_map(Step::Claim),
        5 => any::<Index>().prop_map(Step::Finish),
        2 => (any::<Index>(), -5..60_i64).prop_map(|(which, delay)| Step::Requeue(which, delay)),
        1 => any::<Index>().prop_map(Step::Cancel),
        1 => (0..3_usize, 1..5_u32).prop_map(|(repo, weight)| Step::Weigh(repo, weight)),
        2 => Just(Step::Keep),
        1 => Just(Step::Undo),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The schedule and the reference side by side.
struct Pair {
    schedule: Schedule,
    reference: Reference,
    /// Both at the last `keep`.
    kept: (Schedule, Reference),
    clock: Micros,
    seq: i64,
}

impl Pair {
    fn new() -> Self {
        let kept = (Schedule::default(), Reference::new());
        Self {
            schedule: kept.0.clone(),
            reference: kept.1.clone(),
            kept,
            clock: 1000 * MINUTE,
            seq: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Add {
                session,
                priority,
                age,
                delay,
                after,
            } => {
                self.seq += 1;
                let after: Vec<TaskId> = match self.reference.tasks.as_slice() {
                    [] => Vec::new(),
                    tasks => after.iter().map(|which| which.get(tasks).task).collect(),
                };
                let task = ReferenceTask {
                    task: id(self.seq),
                    seq: self.seq,
                    address: address(session % 3, session),
                    priority,
                    submitted: self.clock - age * MINUTE,
                    not_before: delay.map(|delay| self.clock + delay * MINUTE),
                    after,
                    state: TaskState::Queued,
                };
                self.schedule.add(
                    task.task,
                    Entry {
                        seq: task.seq,
                        address: task.address.clone(),
                        priority,
                        submitted: task.submitted,
                        not_before: task.not_before,
                        after: task.after.iter().copied().collect(),
                        running: false,
                    },
                );
                self.reference.tasks.push(task);
            }
            Step::Claim(minutes) => {
                self.clock += minutes * MINUTE;
                assert_eq!(self.schedule.claim(self.clock), self.reference.claim(self.clock));
            }
            Step::Finish(which) => {
                if let Some(task) = self.pick(which, TaskState::Running) {
                    self.schedule.remove(task);
                    self.reference.get(task).state = TaskState::Ended;
                }
            }
            Step::Requeue(which, delay) => {
                if let Some(task) = self.pick(which, TaskState::Running) {
                    let time = self.clock + delay * MINUTE;
                    self.schedule.requeue(task, time);
                    self.reference.get(task).state = TaskState::Queued;
                    self.reference.get(task).not_before = Some(time);
                }
            }
            Step::Cancel(which) => {
                if let Some(task) = self.pick(which, TaskState::Queued) {
                    self.schedule.remove(task);
                    self.reference.get(task).state = TaskState::Cancelled;
                }
            }
            Step::Weigh(repo, weight) => {
                let repo = address(repo, 0).repo().clone();
                self.reference.weights.insert(repo, weight);
                self.schedule.set_weights(self.reference.weights.clone());
            }
            Step::Keep => {
                self.schedule.keep();
                self.kept = (self.schedule.clone(), self.reference.clone());
            }
            Step::Undo => self.undo(),
        }
        self.check();
    }

    fn pick(&self, which: Index, state: TaskState) -> Option<TaskId> {
        let tasks = self.reference.in_state(state);
        (!tasks.is_empty()).then(|| *which.get(&tasks))
    }

    /// Time and the number of turns go on, as they do in the schedule.
    fn undo(&mut self) {
        self.schedule.undo();
        let mut expected = self.kept.0.clone();
        expected.advance(self.schedule.now);
        expected.turns = self.schedule.turns;
        // They are a setting, which no failed write takes back.
        expected.weights.clone_from(&self.schedule.weights);
        let mut schedule = self.schedule.clone();
        for schedule in [&mut schedule, &mut expected] {
            schedule.served.retain(|_, served| *served != Served::NEVER);
        }
        assert_eq!(schedule, expected);
        let (now, weights) = (self.reference.now, self.reference.weights.clone());
        self.reference = self.kept.1.clone();
        (self.reference.now, self.reference.weights) = (now, weights);
    }

    fn check(&self) {
        let queued = self.reference.in_state(TaskState::Queued);
        assert_eq!(self.schedule.queued(), queued.len() as u64);
        assert_eq!(
            self.schedule.running(),
            self.reference.in_state(TaskState::Running).len() as u64
        );
        let due = self.schedule.next_due().filter(|time| *time > self.reference.now);
        assert_eq!(due, self.reference.next_due());
        let queued = self
            .reference
            .tasks
            .iter()
            .filter(|task| task.state == TaskState::Queued);
        assert_eq!(self.schedule.oldest(), queued.map(|task| task.submitted).min());
    }

    /// Whatever happened, all that is left runs once nothing is added.
    fn run_out(mut self) {
        self.clock += 100_000 * MINUTE;
        loop {
            let claimed = self.schedule.claim(self.clock);
            assert_eq!(claimed, self.reference.claim(self.clock));
            let running = self.reference.in_state(TaskState::Running);
            if claimed.is_none() && running.is_empty() {
                break;
            }
            for task in running {
                self.schedule.remove(task);
                self.reference.get(task).state = TaskState::Ended;
            }
        }
        assert_eq!(self.schedule.queued(), 0);
    }
}

proptest! {
    #[test]
    fn the_schedule_agrees_with_the_reference(steps in steps()) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
        }
        pair.run_out();
    }

    #[test]
    fn repositories_with_equal_priorities_share_as_their_weights_say(
        sizes in proptest::collection::vec((1..12_usize, 1..4_u32), 1..6),
        ages in proptest::collection::vec(0..600_i64, 72),
        pauses in proptest::collection::vec(0..30_i64, 72),
    ) {
        let mut schedule = Schedule::default();
        let mut left: HashMap<String, usize> = HashMap::new();
        let mut clock = 1000 * MINUTE;
        let mut seq = 0;
        let weights: HashMap<RepoRef, u32> = (0..)
            .zip(&sizes)
            .map(|(repo, (_, weight))| (address(repo, 0).repo().clone(), *weight))
            .collect();
        schedule.set_weights(weights.clone());
        let weights: HashMap<_, _> = weights
            .iter()
            .map(|(repo, weight)| (repo.as_str().to_owned(), i64::from(*weight)))
            .collect();
        for (repo, (size, _)) in sizes.iter().enumerate() {
            for _ in 0..*size {
                let submitted = clock - ages[seq as usize] * MINUTE;
                seq += 1;
                let entry = Entry { submitted, ..entry(seq, address(repo, seq as usize)) };
                *left.entry(entry.address.repo().as_str().to_owned()).or_default() += 1;
                schedule.add(id(seq), entry);
            }
        }
        let mut turns: HashMap<String, i64> = left.keys().map(|repo| (repo.clone(), 0)).collect();
        for pause in pauses {
            clock += pause * MINUTE;
            let Some(task) = schedule.claim(clock) else { break };
            let repo = repo_of(&schedule, task);
            // No repository is in a later rotation than another one that has tasks.
            let rotations = |repo: &String| turns[repo] / weights[repo];
            let least = left.iter().filter(|(_, left)| **left > 0).map(|(repo, _)| rotations(repo)).min();
            prop_assert_eq!(least, Some(rotations(&repo)));
            *turns.get_mut(&repo).unwrap() += 1;
            *left.get_mut(&repo).unwrap() -= 1;
        }
        prop_assert!(left.values().all(|left| *left == 0));
    }
}
