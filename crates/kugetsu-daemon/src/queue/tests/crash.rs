//! What is known after the end of a daemon, whether it had time to prepare for it or not.

use super::*;

type Restart = fn(World) -> World;

const RESTARTS: [Restart; 2] = [World::reopened, World::after_crash];

#[test]
fn what_runs_is_handed_out_once_more_with_the_same_turn() {
    for restart in RESTARTS {
        run(async {
            let world = World::new();
            for issue in 1..=3 {
                world.submit(&format!("shop#{issue}")).await;
            }
            let first = world.claim().await.unwrap();
            let second = world.claim().await.unwrap();
            let world = restart(world);
            assert_eq!(world.queue.counts().running, 2);
            for claim in [first, second] {
                assert_eq!(
                    world.claim().await,
                    Some(Claim {
                        resumed: true,
                        ..claim
                    })
                );
            }
            let third = world.claim().await.unwrap();
            assert!(!third.resumed);
            assert_eq!(world.claim().await, None);
        });
    }
}

#[test]
fn what_was_cancelled_while_it_ran_is_not_run_again() {
    for restart in RESTARTS {
        run(async {
            let world = World::new();
            let task = world.submit("shop#1").await;
            let claim = world.claim().await.unwrap();
            let cancelled = world.queue.cancel(task, at(0)).await.unwrap();
            assert_eq!(cancelled, Cancellation::Running(claim.task.clone()));
            let world = restart(world);
            let again_claimed = world.claim().await.unwrap();
            assert!(again_claimed.resumed && again_claimed.cancelled);
            let task = world.settle(&again_claimed, again(30, false)).await;
            assert_eq!(
                (task.state, task.attempts, task.ended),
                (TaskState::Cancelled, 1, Some(at(1)))
            );
            assert_eq!(world.claim().await, None);
        });
    }
}

#[test]
fn what_was_handed_out_again_is_handed_out_again_after_the_next_crash() {
    run(async {
        let world = World::new();
        world.submit("shop#1").await;
        let claim = world.claim().await.unwrap();
        let mut world = world;
        for restart in [RESTARTS, RESTARTS].concat() {
            world = restart(world);
            let resumed = world.claim().await.unwrap();
            assert_eq!((resumed.turn, resumed.task.attempts), (claim.turn, 1));
        }
        world.end(&claim).await;
        let world = world.after_crash();
        assert_eq!(world.claim().await, None);
        assert_eq!(world.state(claim.task.task).await, TaskState::Ended);
    });
}

#[test]
fn a_task_that_is_settled_before_it_is_handed_out_again_is_not() {
    run(async {
        let world = World::new();
        world.submit("shop#1").await;
        let behind = world.submit("shop#1").await;
        let claim = world.claim().await.unwrap();
        let world = world.reopened();
        assert!(matches!(
            world.queue.cancel(claim.task.task, at(0)).await.unwrap(),
            Cancellation::Running(_)
        ));
        world.end(&claim).await;
        let next = world.claim().await.unwrap();
        assert_eq!((next.task.task, next.resumed), (behind, false));
    });
}

#[test]
fn a_confirmed_submission_is_never_lost() {
    for restart in RESTARTS {
        run(async {
            let world = World::new();
            let mut tasks = Vec::new();
            for issue in 1..=20 {
                tasks.push(world.submit(&format!("shop#{}", issue % 3 + 1)).await);
            }
            let not_before = Some(at(100));
            let later = NewTask {
                not_before,
                after: vec![tasks[0]],
                ..new_task("other#1")
            };
            tasks.push(world.submit_task(later).await);
            let (before, counts) = (world.all().await, world.queue.counts());
            let world = restart(world);
            assert_eq!((world.all().await, world.queue.counts()), (before, counts));
            assert_eq!(world.queue.next_due(), None);
            while let Some(claim) = world.claim().await {
                world.end(&claim).await;
            }
            let world = restart(world);
            assert_eq!(world.queue.next_due(), not_before);
            let last = world.queue.claim(at(100)).await.unwrap().unwrap();
            assert_eq!(Some(&last.task.task), tasks.last());
        });
    }
}
