//! Which task is handed out.

use super::*;

#[tokio::test]
async fn a_task_is_handed_out_once_and_ends() {
    let world = World::new();
    let task = world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    assert_eq!((claim.task.task, claim.resumed), (task, false));
    assert_eq!(
        (
            claim.task.state,
            claim.task.attempts,
            claim.task.turn,
            claim.task.started
        ),
        (TaskState::Running, 1, Some(claim.turn), Some(at(0)))
    );
    assert_eq!(world.queue.task(task).await.unwrap().unwrap(), claim.task);
    assert_eq!(world.claim().await, None);
    let ended = world.end(&claim).await;
    assert_eq!(
        (ended.state, ended.verdict),
        (TaskState::Ended, Some(Verdict::Completed))
    );
    assert_eq!((ended.ended, ended.cost_usd), (Some(at(1)), 0.25));
    assert_eq!(world.queue.task(task).await.unwrap(), Some(ended));
    assert_eq!(world.claim().await, None);
}

#[tokio::test]
async fn the_tasks_of_a_session_run_in_order_whatever_their_priority() {
    let world = World::new();
    let mut tasks = Vec::new();
    for priority in [-100, 100, 0] {
        let task = NewTask {
            priority,
            ..new_task("shop#1")
        };
        tasks.push(world.submit_task(task).await);
    }
    for task in tasks {
        let claim = world.claim().await.unwrap();
        assert_eq!(claim.task.task, task);
        assert_eq!(world.claim().await, None);
        world.end(&claim).await;
    }
}

#[tokio::test]
async fn the_order_of_a_session_is_that_of_arrival_even_if_the_clock_was_set_back() {
    let world = World::new();
    let (early, late) = (new_task("shop#1"), new_task("shop#1"));
    let late = world.submit_task(late).await;
    let early = world
        .submit_task(NewTask {
            submitted: at(-3600),
            ..early
        })
        .await;
    assert!(early < late);
    assert_eq!(world.claimed().await, Some(late));
}

#[tokio::test]
async fn repositories_take_turns() {
    let world = World::new();
    for issue in 1..=6 {
        world.submit(&format!("large#{issue}")).await;
    }
    world.submit("small#1").await;
    world.submit("tiny#1").await;
    let mut repos = Vec::new();
    while let Some(claim) = world.claim().await {
        repos.push(claim.task.repo().name().to_owned());
    }
    assert_eq!(repos[..3], ["large", "small", "tiny"]);
    assert_eq!(repos.len(), 8);
}

#[tokio::test]
async fn a_repository_has_as_many_turns_as_its_weight() {
    let world = World::new();
    let weight = |repo: &str, weight| (spec(&format!("{repo}#1")).address.repo().clone(), weight);
    let weights = HashMap::from([weight("large", 3), weight("small", 2)]);
    world.queue.set_weights(weights).await.unwrap();
    for issue in 1..=6 {
        for repo in ["large", "small", "tiny"] {
            world.submit(&format!("{repo}#{issue}")).await;
        }
    }
    let mut repos = Vec::new();
    for second in 0..12 {
        let claim = world.queue.claim(at(second)).await.unwrap().unwrap();
        repos.push(claim.task.repo().name().to_owned());
    }
    for (repo, turns) in [("large", 6), ("small", 4), ("tiny", 2)] {
        let had = repos.iter().filter(|had| *had == repo).count();
        assert_eq!(had, turns, "{repos:?}");
    }
}

#[tokio::test]
async fn a_higher_priority_is_first() {
    let world = World::new();
    world.submit("shop#1").await;
    let urgent = world
        .submit_task(NewTask {
            priority: 5,
            ..new_task("shop#2")
        })
        .await;
    let most_urgent = world
        .submit_task(NewTask {
            priority: 6,
            ..new_task("other#2")
        })
        .await;
    assert_eq!(world.claimed().await, Some(most_urgent));
    assert_eq!(world.claimed().await, Some(urgent));
}

#[tokio::test]
async fn a_task_waits_for_its_time() {
    let world = World::new();
    let not_before = Some(at(10) + SignedDuration::from_nanos(1));
    let task = world
        .submit_task(NewTask {
            not_before,
            ..new_task("shop#1")
        })
        .await;
    world.submit("shop#1").await;
    assert_eq!(world.claim().await, None);
    assert_eq!(world.queue.claim(at(10)).await.unwrap(), None);
    let due = world.queue.next_due().unwrap();
    assert!(due > at(10) && due < at(11));
    let claim = world.queue.claim(due).await.unwrap().unwrap();
    assert_eq!(claim.task.task, task);
    assert_eq!(world.queue.next_due(), None);
}

#[tokio::test]
async fn a_task_waits_for_the_end_of_others_however_they_end() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    let second = world.submit("shop#2").await;
    let third = world.submit("shop#3").await;
    let last = NewTask {
        after: vec![third, first, second, first],
        priority: 100,
        ..new_task("other#1")
    };
    let last = world.submit_task(last).await;
    let task = world.queue.task(last).await.unwrap().unwrap();
    assert_eq!(task.after, [third, first, second]);

    let claim = world.claim().await.unwrap();
    world
        .settle(
            &claim,
            Settlement::Parked {
                reason: "no such model".to_owned(),
            },
        )
        .await;
    world.queue.cancel(second, at(0)).await.unwrap();
    let claim = world.claim().await.unwrap();
    assert_eq!(claim.task.task, third);
    assert_eq!(world.claim().await, None);
    let world = world.reopened();
    assert_eq!(world.claim().await.map(|claim| claim.resumed), Some(true));
    assert_eq!(world.claim().await, None);
    let failed = Settlement::Ended {
        turn: Uuid::now_v7(),
        verdict: Verdict::Failed,
        reason: Some("the model gave up".to_owned()),
        cost_usd: 0.0,
    };
    world.settle(&claim, failed).await;
    assert_eq!(world.claimed().await, Some(last));
}

#[tokio::test]
async fn what_is_over_is_not_waited_for() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    world.end(&claim).await;
    let second = world
        .submit_task(NewTask {
            after: vec![first],
            ..new_task("shop#2")
        })
        .await;
    let world = world.reopened();
    assert_eq!(world.claimed().await, Some(second));
}

#[tokio::test]
async fn a_task_that_is_to_run_again_stays_before_those_behind_it() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let task = world.settle(&claim, again(30, true)).await;
    assert_eq!((task.state, task.not_before), (TaskState::Queued, Some(at(30))));
    assert_eq!(task.reason.as_deref(), Some("the provider is overloaded"));
    assert_eq!(world.claim().await, None);
    assert_eq!(world.queue.next_due(), Some(at(30)));
    let second = world.queue.claim(at(30)).await.unwrap().unwrap();
    assert_eq!(
        (second.task.task, second.task.attempts, second.task.reason),
        (first, 2, None)
    );
    assert_ne!(second.turn, claim.turn);
    assert!((second.task.cost_usd - 0.5).abs() < 1e-9);
}

#[tokio::test]
async fn changes_are_announced_after_all_that_may_free_a_task() {
    let world = World::new();
    let mut changes = world.queue.changes();
    world.submit("shop#1").await;
    soon(changes.changed()).await.unwrap();
    let behind = world.submit("shop#1").await;
    changes.mark_unchanged();
    let claim = world.claim().await.unwrap();
    assert!(!changes.has_changed().unwrap());
    world.end(&claim).await;
    soon(changes.changed()).await.unwrap();
    world.queue.cancel(behind, at(0)).await.unwrap();
    soon(changes.changed()).await.unwrap();
}
