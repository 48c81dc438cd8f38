//! Submissions that are repeated or refused, tries, cancellation, and what is forgotten.

use super::*;

#[tokio::test]
async fn a_submission_can_be_repeated_with_its_key() {
    let world = World::new();
    let first = NewTask {
        idempotency_key: Some("delivery-1".to_owned()),
        not_before: Some(at(-5)),
        ..new_task("shop#1")
    };
    let repeated = |first: &NewTask| NewTask {
        task: TaskId(Uuid::now_v7()),
        submitted: at(99),
        ..first.clone()
    };
    let task = world.submit_task(first.clone()).await;
    let claim = world.claim().await.unwrap();
    world.settle(&claim, again(50, false)).await;
    let world = world.reopened();
    let submitted = world.queue.submit(repeated(&first)).await.unwrap();
    assert_eq!((submitted.is_new, submitted.task.task), (false, task));
    assert_eq!(submitted.task.attempts, 1);
    assert_eq!(world.all().await.len(), 1);

    let others = [
        NewTask {
            priority: 1,
            ..repeated(&first)
        },
        NewTask {
            after: vec![task],
            ..repeated(&first)
        },
        NewTask {
            not_before: None,
            ..repeated(&first)
        },
        NewTask {
            spec: spec("shop#2"),
            ..repeated(&first)
        },
    ];
    for other in others {
        let error = world.queue.submit(other).await.unwrap_err();
        assert!(
            matches!(error, QueueError::KeyReused { task: used } if used == task),
            "{error}"
        );
    }
    let other_key = NewTask {
        idempotency_key: Some("delivery-2".to_owned()),
        ..repeated(&first)
    };
    world.submit_task(other_key).await;
}

#[tokio::test]
async fn the_id_of_a_task_is_a_key() {
    let world = World::new();
    let task = new_task("shop#1");
    world.submit_task(task.clone()).await;
    assert!(!world.queue.submit(task.clone()).await.unwrap().is_new);
    let error = world
        .queue
        .submit(NewTask { priority: 1, ..task })
        .await
        .unwrap_err();
    assert!(matches!(error, QueueError::KeyReused { .. }), "{error}");
}

#[tokio::test]
async fn a_key_lives_as_long_as_its_task() {
    let world = World::new();
    let task = NewTask {
        idempotency_key: Some("delivery-1".to_owned()),
        ..new_task("shop#1")
    };
    world.submit_task(task.clone()).await;
    let claim = world.claim().await.unwrap();
    world.end(&claim).await;
    assert!(!world.queue.submit(task.clone()).await.unwrap().is_new);
    assert_eq!(world.queue.forget_ended(at(2)).await.unwrap(), 1);
    assert!(world.queue.submit(task).await.unwrap().is_new);
}

#[tokio::test]
async fn there_must_be_something_to_wait_for() {
    let world = World::new();
    let task = new_task("shop#1");
    let itself = NewTask {
        after: vec![task.task],
        ..task
    };
    let error = world.queue.submit(itself.clone()).await.unwrap_err();
    assert!(
        matches!(error, QueueError::NoSuchDependency(other) if other == itself.task),
        "{error}"
    );
    assert_eq!(world.all().await, []);
    assert_eq!(world.queue.counts(), QueueCounts::default());
}

#[tokio::test]
async fn a_full_queue_takes_no_task_until_one_begins() {
    let world = World::with(QueueOptions {
        max_queued: 2,
        ..OPTIONS
    });
    let first = NewTask {
        idempotency_key: Some("first".to_owned()),
        ..new_task("shop#1")
    };
    world.submit_task(first.clone()).await;
    world.submit("shop#2").await;
    let error = world.queue.submit(new_task("shop#3")).await.unwrap_err();
    assert!(matches!(error, QueueError::Full { most: 2 }), "{error}");
    assert!(!world.queue.submit(first).await.unwrap().is_new);
    world.claim().await.unwrap();
    world.submit("shop#3").await;
}

#[tokio::test]
async fn a_task_that_fails_too_often_is_parked() {
    let world = World::new();
    let task = world.submit("shop#1").await;
    for (counts, state) in [
        (true, TaskState::Queued),
        (false, TaskState::Queued),
        (true, TaskState::Queued),
        (true, TaskState::Parked),
    ] {
        let claim = world.claim().await.unwrap();
        assert_eq!(world.settle(&claim, again(0, counts)).await.state, state);
    }
    let world = world.reopened();
    let task = world.queue.task(task).await.unwrap().unwrap();
    assert_eq!((task.attempts, task.ended), (4, Some(at(1))));
    assert!((task.cost_usd - 2.0).abs() < 1e-9);
    let reason = task.reason.unwrap();
    assert!(
        reason.contains("3 times") && reason.contains("overloaded"),
        "{reason}"
    );
    assert_eq!((world.queue.counts().parked, world.claim().await), (1, None));
}

#[tokio::test]
async fn a_parked_task_that_is_tried_again_has_its_place_and_all_its_attempts() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    let behind = world.submit("shop#1").await;
    let mut waiting = new_task("shop#2");
    waiting.after = vec![first];
    let waiting = world.submit_task(waiting).await;
    let parked = world.claim().await.unwrap();
    let park = Settlement::Parked {
        reason: "no base".to_owned(),
    };
    world.settle(&parked, park).await;
    // What is behind it has begun when it comes back, and what waits for it waits again.
    let next = world.claim().await.unwrap();
    assert_eq!(next.task.task, behind);
    let again = world.queue.retry(first, at(0)).await.unwrap();
    assert_eq!((again.state, again.ended), (TaskState::Queued, None));
    assert_eq!(world.queue.retry(first, at(0)).await.unwrap(), again);
    assert_eq!((world.claimed().await, world.queue.counts().parked), (None, 0));
    let world = world.after_crash();
    let resumed = world.claim().await.unwrap();
    assert_eq!((resumed.task.task, resumed.resumed), (behind, true));
    assert_eq!(world.claimed().await, None);
    world.end(&resumed).await;
    let claim = world.claim().await.unwrap();
    assert_eq!((claim.task.task, claim.task.attempts), (first, 2));
    assert_ne!(claim.turn, parked.turn);
    assert_eq!(world.claimed().await, None, "the other one waits for its end");
    let ended = world.end(&claim).await;
    assert_eq!(world.claimed().await, Some(waiting));
    let error = world.queue.retry(ended.task, at(0)).await.unwrap_err();
    assert!(matches!(error, QueueError::NotParked { .. }), "{error}");
}

#[tokio::test]
async fn a_parked_task_can_be_given_up() {
    let world = World::new();
    let task = world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let park = Settlement::Parked {
        reason: "no base".to_owned(),
    };
    world.settle(&claim, park).await;
    let given_up = world.queue.cancel(task, at(2)).await.unwrap();
    assert!(matches!(given_up, Cancellation::Cancelled(_)), "{given_up:?}");
    assert_eq!(
        (world.state(task).await, world.queue.counts().parked),
        (TaskState::Cancelled, 0)
    );
}

#[tokio::test]
async fn settling_what_does_not_run_with_this_turn_does_nothing() {
    let world = World::new();
    let task = world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let other = Claim {
        turn: Uuid::now_v7(),
        ..claim.clone()
    };
    assert_eq!(world.end(&other).await, claim.task);
    let ended = world.end(&claim).await;
    assert_eq!(world.settle(&claim, again(5, true)).await, ended);
    assert_eq!(world.queue.task(task).await.unwrap(), Some(ended));
    let missing = TaskId(Uuid::now_v7());
    let error = world
        .queue
        .settle(missing, claim.turn, again(5, true), at(0))
        .await
        .unwrap_err();
    assert!(
        matches!(error, QueueError::NoSuchTask(task) if task == missing),
        "{error}"
    );
}

#[tokio::test]
async fn a_cost_that_is_no_number_changes_nothing() {
    let world = World::new();
    world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let end = Settlement::Cancelled { cost_usd: f64::NAN };
    let task = world.settle(&claim, end).await;
    assert_eq!((task.state, task.cost_usd), (TaskState::Cancelled, 0.0));
}

#[tokio::test]
async fn only_a_task_that_has_not_begun_is_cancelled() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    let second = world.submit("shop#1").await;
    let third = world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let cancelled = world.queue.cancel(first, at(1)).await.unwrap();
    assert_eq!(cancelled, Cancellation::Running(claim.task.clone()));
    let Cancellation::Cancelled(task) = world.queue.cancel(second, at(1)).await.unwrap() else {
        panic!("the task waited");
    };
    assert_eq!((task.state, task.ended), (TaskState::Cancelled, Some(at(1))));
    assert_eq!(
        world.queue.cancel(second, at(2)).await.unwrap(),
        Cancellation::Over(task)
    );
    let ended = world.end(&claim).await;
    assert_eq!(
        world.queue.cancel(first, at(1)).await.unwrap(),
        Cancellation::Over(ended)
    );
    assert_eq!(world.claimed().await, Some(third));
    let missing = TaskId(Uuid::now_v7());
    let error = world.queue.cancel(missing, at(1)).await.unwrap_err();
    assert!(
        matches!(error, QueueError::NoSuchTask(task) if task == missing),
        "{error}"
    );
}

#[tokio::test]
async fn what_ended_long_ago_is_forgotten_unless_a_task_waits_for_it() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    let second = world.submit("shop#2").await;
    let waits = NewTask {
        after: vec![first, second],
        ..new_task("shop#3")
    };
    let waits = world.submit_task(waits).await;
    let claim = world.claim().await.unwrap();
    world
        .settle(
            &claim,
            Settlement::Parked {
                reason: "no".to_owned(),
            },
        )
        .await;
    assert_eq!(world.queue.counts().parked, 1);
    assert_eq!(world.queue.forget_ended(at(100)).await.unwrap(), 0);
    world.queue.cancel(waits, at(50)).await.unwrap();
    assert_eq!(world.queue.forget_ended(at(1)).await.unwrap(), 0);
    assert_eq!(world.queue.forget_ended(at(50)).await.unwrap(), 1);
    assert_eq!(world.queue.counts().parked, 0);
    assert_eq!(world.queue.forget_ended(at(51)).await.unwrap(), 1);
    assert_eq!(world.queue.task(first).await.unwrap(), None);
    let left: Vec<_> = world.all().await.iter().map(|task| task.task).collect();
    assert_eq!(left, [second]);
}

#[tokio::test]
async fn counts_tell_what_waits_runs_and_is_parked() {
    let world = World::new();
    for (issue, submitted) in [(1, 30), (2, 10), (3, 20)] {
        let task = NewTask {
            submitted: at(submitted),
            ..new_task(&format!("shop#{issue}"))
        };
        world.submit_task(task).await;
    }
    let counts = QueueCounts {
        queued: 3,
        running: 0,
        parked: 0,
        oldest: Some(at(10)),
    };
    assert_eq!(world.queue.counts(), counts);
    let claim = world.claim().await.unwrap();
    world
        .settle(
            &claim,
            Settlement::Parked {
                reason: "no".to_owned(),
            },
        )
        .await;
    world.claim().await.unwrap();
    let counts = QueueCounts {
        queued: 1,
        running: 1,
        parked: 1,
        oldest: Some(at(30)),
    };
    assert_eq!(world.queue.counts(), counts);
    assert_eq!(world.reopened().queue.counts(), counts);
}
