//! Random operations, commits that fail and crashes, beside a queue that is a list in memory.

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::reference::{Reference, ReferenceTask};
use super::super::sqlite::Work;
use super::super::time::{ceil, floor};
use super::writing::spoil_commit;
use super::*;

const LIMITS: QueueOptions = QueueOptions {
    max_queued: 8,
    max_tries: 2,
};

#[derive(Clone, Debug)]
enum Step {
    Submit {
        session: usize,
        priority: i32,
        delay: Option<i64>,
        after: Option<Index>,
        key: Option<u8>,
    },
    Claim,
    Settle(Index, End),
    Cancel(Index),
    Retry(Index),
    Weigh(usize, u32),
    Forget,
    Pass(i64),
    /// The commit of the next operation fails.
    Spoil,
    Reopen,
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Ended,
    Again { delay: i64, counts: bool },
    Parked,
    Cancelled,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let submit = (
        0..6_usize,
        prop_oneof![2 => Just(0), 1 => -100..=100],
        proptest::option::weighted(0.2, -100..4000_i64),
        proptest::option::weighted(0.3, any::<Index>()),
        proptest::option::weighted(0.2, 0..3_u8),
    )
        .prop_map(|(session, priority, delay, after, key)| Step::Submit {
            session,
            priority,
            delay,
            after,
            key,
        });
    let end = prop_oneof![
        2 => Just(End::Ended),
        2 => (-10..2000_i64, any::<bool>()).prop_map(|(delay, counts)| End::Again { delay, counts }),
        1 => Just(End::Parked),
        1 => Just(End::Cancelled),
    ];
    let step = prop_oneof![
        8 => submit,
        8 => Just(Step::Claim),
        6 => (any::<Index>(), end).prop_map(|(which, end)| Step::Settle(which, end)),
        2 => any::<Index>().prop_map(Step::Cancel),
        3 => any::<Index>().prop_map(Step::Retry),
        1 => (0..2_usize, 1..4_u32).prop_map(|(repo, weight)| Step::Weigh(repo, weight)),
        1 => Just(Step::Forget),
        4 => (-60..2000_i64).prop_map(Step::Pass),
        3 => Just(Step::Spoil),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the model knows of a task beside the task.
#[derive(Clone, Debug)]
struct Known {
    task: Task,
    tries: u32,
    requested: Option<Timestamp>,
    key: Option<String>,
    /// Whether it was cancelled while it ran.
    cancelled: bool,
}

/// The queue and the model.
struct Pair {
    world: World,
    known: Vec<Known>,
    reference: Reference,
    resumed: Vec<TaskId>,
    clock: i64,
    seq: i64,
    spoil: bool,
}

impl Pair {
    fn new() -> Self {
        Self {
            world: World::with(LIMITS),
            known: Vec::new(),
            reference: Reference::new(),
            resumed: Vec::new(),
            clock: 0,
            seq: 0,
            spoil: false,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Submit {
                session,
                priority,
                delay,
                after,
                key,
            } => {
                let after = after.and_then(|which| self.any_task(which));
                let new = NewTask {
                    priority,
                    not_before: delay.map(|delay| at(self.clock + delay)),
                    after: after.into_iter().collect(),
                    idempotency_key: key.map(|key| format!("key-{key}")),
                    submitted: at(self.clock),
                    ..new_task(&format!("r{}#{}", session % 2, session + 1))
                };
                self.submit(new).await;
            }
            Step::Claim => self.claim().await,
            Step::Settle(which, end) => {
                let running = self.reference.in_state(TaskState::Running);
                if !running.is_empty() {
                    self.settle(*which.get(&running), end).await;
                }
            }
            Step::Cancel(which) => {
                if let Some(task) = self.any_task(which) {
                    self.cancel(task).await;
                }
            }
            Step::Retry(which) => {
                if let Some(task) = self.any_task(which) {
                    self.retry(task).await;
                }
            }
            Step::Weigh(repo, weight) => self.weigh(repo, weight).await,
            Step::Forget => self.forget().await,
            Step::Pass(seconds) => self.clock += seconds,
            Step::Spoil => self.spoil = true,
            Step::Reopen | Step::Crash => self.restart(matches!(step, Step::Crash)),
        }
        self.check().await;
    }

    /// Does something with the queue. `None` if its commit failed, as it was to.
    async fn write<T: Send + std::fmt::Debug + 'static>(
        &mut self,
        operation: impl FnOnce(&mut Work<'_>) -> Result<T, sqlite::Problem> + Send + 'static,
    ) -> Option<Result<T, QueueError>> {
        let spoil = std::mem::take(&mut self.spoil);
        let result = self
            .world
            .queue
            .write(move |work| {
                let result = operation(work);
                if spoil {
                    spoil_commit(work.connection);
                }
                result
            })
            .await;
        if spoil {
            let error = result.unwrap_err();
            assert!(matches!(error, QueueError::Unavailable { .. }), "{error}");
            return None;
        }
        Some(result)
    }

    async fn submit(&mut self, new: NewTask) {
        let task = new.clone();
        let Some(result) = self.write(move |work| work.submit(task)).await else {
            return;
        };
        let first = self
            .known
            .iter()
            .find(|known| known.key.is_some() && known.key == new.idempotency_key);
        if let Some(first) = first {
            let equal = first.task.spec == new.spec
                && first.task.priority == new.priority
                && first.task.after == new.after
                && first.requested == new.not_before;
            match result {
                Ok(submitted) => {
                    assert!(equal && !submitted.is_new);
                    assert_eq!(submitted.task, first.task);
                }
                Err(QueueError::KeyReused { task }) => assert!(!equal && task == first.task.task),
                Err(error) => panic!("{error}"),
            }
            return;
        }
        if self.reference.in_state(TaskState::Queued).len() as u64 >= LIMITS.max_queued {
            assert!(matches!(result, Err(QueueError::Full { most: 8 })), "{result:?}");
            return;
        }
        let submitted = result.unwrap();
        assert!(submitted.is_new);
        let task = submitted.task;
        self.seq += 1;
        self.reference.tasks.push(ReferenceTask {
            task: task.task,
            seq: self.seq,
            address: task.spec.address.clone(),
            priority: new.priority,
            submitted: floor(new.submitted),
            not_before: new.not_before.map(ceil),
            after: new.after,
            state: TaskState::Queued,
        });
        self.known.push(Known {
            task,
            tries: 0,
            requested: new.not_before,
            key: new.idempotency_key,
            cancelled: false,
        });
    }

    async fn claim(&mut self) {
        let now = at(self.clock);
        let Some(result) = self.write(move |work| work.claim(now)).await else {
            // Time has passed, though nothing was claimed.
            if self.resumed.is_empty() {
                self.reference.now = self.reference.now.max(floor(now));
            }
            return;
        };
        let claim = result.unwrap();
        if !self.resumed.is_empty() {
            let task = self.resumed.remove(0);
            let known = self.known(task);
            let turn = known.task.turn.unwrap();
            assert_eq!(
                claim,
                Some(Claim {
                    task: known.task.clone(),
                    turn,
                    resumed: true,
                    cancelled: known.cancelled,
                })
            );
            return;
        }
        let expected = self.reference.claim(floor(now));
        assert_eq!(claim.as_ref().map(|claim| claim.task.task), expected);
        let Some(claim) = claim else { return };
        assert!(!claim.resumed && !claim.cancelled);
        assert!(self.known.iter().all(|known| known.task.turn != Some(claim.turn)));
        let known = self.known(claim.task.task);
        known.task.state = TaskState::Running;
        known.task.attempts += 1;
        known.task.started = Some(now);
        known.task.turn = Some(claim.turn);
        known.task.reason = None;
        assert_eq!(claim.task, known.task);
    }

    async fn settle(&mut self, task: TaskId, end: End) {
        let (now, clock) = (at(self.clock), self.clock);
        let turn = self.known(task).task.turn.unwrap();
        let settlement = match end {
            End::Ended => Settlement::Ended {
                turn,
                verdict: Verdict::Stalled,
                reason: Some("silence".to_owned()),
                cost_usd: 0.5,
            },
            End::Again { delay, counts } => again(clock + delay, counts),
            End::Parked => Settlement::Parked {
                reason: "no".to_owned(),
            },
            End::Cancelled => Settlement::Cancelled { cost_usd: 0.25 },
        };
        let Some(result) = self
            .write(move |work| work.settle(task, turn, settlement, now))
            .await
        else {
            return;
        };
        self.resumed.retain(|resumed| *resumed != task);
        let settled = result.unwrap();
        let known = self.known(task);
        let mut reason = None;
        match end {
            End::Ended => {
                known.task.state = TaskState::Ended;
                known.task.verdict = Some(Verdict::Stalled);
                known.task.cost_usd += 0.5;
                reason = Some("silence".to_owned());
            }
            End::Again { delay, counts } => {
                known.tries += u32::from(counts);
                known.task.cost_usd += 0.5;
                if known.cancelled {
                    known.tries -= u32::from(counts);
                    known.task.state = TaskState::Cancelled;
                } else if counts && known.tries == LIMITS.max_tries {
                    known.task.state = TaskState::Parked;
                    reason.clone_from(&settled.reason);
                    assert!(reason.as_ref().is_some_and(|reason| reason.contains("2 times")));
                } else {
                    known.task.state = TaskState::Queued;
                    known.task.not_before = Some(at(clock + delay));
                    reason = Some("the provider is overloaded".to_owned());
                }
            }
            End::Parked if known.cancelled => known.task.state = TaskState::Cancelled,
            End::Parked => {
                known.task.state = TaskState::Parked;
                reason = Some("no".to_owned());
            }
            End::Cancelled => {
                known.task.state = TaskState::Cancelled;
                known.task.cost_usd += 0.25;
            }
        }
        known.task.reason = reason;
        if known.task.state.is_final() {
            known.task.ended = Some(now);
        }
        assert_eq!(settled, known.task);
        let reference = self.reference.get(task);
        reference.state = settled.state;
        reference.not_before = settled.not_before.map(ceil);
    }

    async fn cancel(&mut self, task: TaskId) {
        let now = at(self.clock);
        let Some(result) = self.write(move |work| work.cancel(task, now)).await else {
            return;
        };
        let result = result.unwrap();
        let known = self.known(task);
        let expected = match known.task.state {
            TaskState::Queued | TaskState::Parked => {
                known.task.state = TaskState::Cancelled;
                known.task.ended = Some(now);
                Cancellation::Cancelled(known.task.clone())
            }
            TaskState::Running => {
                known.cancelled = true;
                Cancellation::Running(known.task.clone())
            }
            _ => Cancellation::Over(known.task.clone()),
        };
        self.reference.get(task).state = self.known(task).task.state;
        assert_eq!(result, expected);
    }

    async fn retry(&mut self, task: TaskId) {
        let now = at(self.clock);
        let Some(result) = self.write(move |work| work.retry(task, now)).await else {
            return;
        };
        let queued = self.reference.in_state(TaskState::Queued).len() as u64;
        let known = self.known(task);
        match known.task.state {
            TaskState::Parked if queued >= LIMITS.max_queued => {
                assert!(matches!(result, Err(QueueError::Full { most: 8 })), "{result:?}");
                return;
            }
            TaskState::Ended | TaskState::Cancelled => {
                assert!(matches!(result, Err(QueueError::NotParked { .. })), "{result:?}");
                return;
            }
            TaskState::Parked => {
                known.task.state = TaskState::Queued;
                known.task.not_before = Some(now);
                known.task.ended = None;
                known.tries = 0;
                known.cancelled = false;
            }
            TaskState::Queued | TaskState::Running => {}
        }
        let task = known.task.clone();
        assert_eq!(result.unwrap(), task);
        let reference = self.reference.get(task.task);
        reference.state = task.state;
        reference.not_before = task.not_before.map(ceil);
    }

    async fn weigh(&mut self, repo: usize, weight: u32) {
        let address = spec(&format!("r{repo}#1")).address;
        self.reference.weights.insert(address.repo().clone(), weight);
        let weights = self.reference.weights.clone();
        // They are a setting, which a failed commit does not take back.
        let result = self
            .write(move |work| {
                work.set_weights(weights);
                Ok(())
            })
            .await;
        assert!(result.is_none_or(|result| result.is_ok()));
    }

    async fn forget(&mut self) {
        let before = at(self.clock - 600);
        let Some(result) = self.write(move |work| work.forget_ended(before, 1000)).await else {
            return;
        };
        let wanted: Vec<TaskId> = self
            .known
            .iter()
            .filter(|known| !known.task.state.is_final())
            .flat_map(|known| known.task.after.clone())
            .collect();
        let number = self.known.len() as u64;
        self.known.retain(|known| {
            known.task.ended.is_none_or(|ended| ended >= before) || wanted.contains(&known.task.task)
        });
        assert_eq!(result.unwrap(), number - self.known.len() as u64);
        let known: Vec<_> = self.known.iter().map(|known| known.task.task).collect();
        self.reference.tasks.retain(|task| known.contains(&task.task));
    }

    fn restart(&mut self, crash: bool) {
        let path = self.world.path();
        let folder = if crash { copied(&path) } else { folder() };
        let old = std::mem::replace(&mut self.world, World::with(LIMITS));
        let World {
            folder: old_folder,
            queue,
        } = old;
        drop(queue);
        let folder = if crash { folder } else { old_folder };
        let queue = SqliteQueue::open(&folder.path().join("queue.db"), LIMITS).unwrap();
        self.world = World { folder, queue };
        self.reference.reopen();
        self.resumed = self.reference.in_state(TaskState::Running);
    }

    /// What the queue tells is what the model knows.
    async fn check(&mut self) {
        let mut expected: Vec<Task> = self.known.iter().map(|known| known.task.clone()).collect();
        expected.reverse();
        assert_eq!(self.world.all().await, expected);
        let number = |state| expected.iter().filter(|task| task.state == state).count() as u64;
        let oldest = expected.iter().filter(|task| task.state == TaskState::Queued);
        let counts = QueueCounts {
            queued: number(TaskState::Queued),
            running: number(TaskState::Running),
            parked: number(TaskState::Parked),
            oldest: oldest.map(|task| task.submitted).min(),
        };
        assert_eq!(self.world.queue.counts(), counts);
        let due = self.world.queue.next_due().map(ceil);
        let due = due.filter(|time| *time > self.reference.now);
        assert_eq!(due, self.reference.next_due());
    }

    fn known(&mut self, task: TaskId) -> &mut Known {
        self.known
            .iter_mut()
            .find(|known| known.task.task == task)
            .unwrap()
    }

    fn any_task(&self, which: Index) -> Option<TaskId> {
        (!self.known.is_empty()).then(|| which.get(&self.known).task.task)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_queue_agrees_with_the_model(steps in steps()) {
        run(async {
            let mut pair = Pair::new();
            for step in steps {
                pair.step(step).await;
            }
        });
    }
}
