//! Lists, pages and ids that are written in part.

use super::*;

async fn listed(world: &World, filter: TaskFilter) -> Vec<TaskId> {
    let tasks = world.queue.list(filter).await.unwrap();
    tasks.iter().map(|task| task.task).collect()
}

#[tokio::test]
async fn a_task_reads_back_as_it_was_submitted() {
    let world = World::new();
    let other = world.submit("other#1").await;
    let new = NewTask {
        priority: -7,
        after: vec![other],
        not_before: Some(at(10)),
        ..new_task("shop#1/review")
    };
    let task = world.queue.submit(new.clone()).await.unwrap().task;
    assert_eq!(
        (
            &task.spec,
            task.priority,
            &task.after,
            task.not_before,
            task.submitted
        ),
        (&new.spec, -7, &vec![other], Some(at(10)), at(0))
    );
    assert_eq!(world.queue.task(new.task).await.unwrap(), Some(task));
    assert_eq!(world.queue.task(TaskId(Uuid::now_v7())).await.unwrap(), None);
}

#[tokio::test]
async fn a_list_is_filtered() {
    let world = World::new();
    let first = world.submit("shop#1").await;
    let second = world.submit("shop#2").await;
    let third = world.submit("other#1").await;
    let fourth = world.submit("shop#2").await;
    let claim = world.claim().await.unwrap();
    world.end(&claim).await;
    assert_eq!(world.claimed().await, Some(third));
    let all = TaskFilter {
        limit: 10,
        ..TaskFilter::default()
    };
    assert_eq!(listed(&world, all.clone()).await, [fourth, third, second, first]);
    let states = vec![TaskState::Ended, TaskState::Running];
    assert_eq!(
        listed(
            &world,
            TaskFilter {
                states,
                ..all.clone()
            }
        )
        .await,
        [third, first]
    );
    let repo = Some(spec("shop#9").address.repo().clone());
    let of_repo = TaskFilter { repo, ..all.clone() };
    assert_eq!(listed(&world, of_repo.clone()).await, [fourth, second, first]);
    let address = Some("github.com/acme/shop#2".to_owned());
    assert_eq!(
        listed(
            &world,
            TaskFilter {
                address,
                ..of_repo.clone()
            }
        )
        .await,
        [fourth, second]
    );
    assert_eq!(
        listed(
            &world,
            TaskFilter {
                limit: 1,
                ..all.clone()
            }
        )
        .await,
        [fourth]
    );
    assert_eq!(listed(&world, TaskFilter { limit: 0, ..all }).await, []);
}

#[tokio::test]
async fn pages_continue_where_the_last_one_ended_even_if_it_was_forgotten() {
    let world = World::new();
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(world.submit("shop#1").await);
    }
    tasks.reverse();
    let mut read: Vec<TaskId> = Vec::new();
    loop {
        let filter = TaskFilter {
            before: read.last().copied(),
            limit: 3,
            ..TaskFilter::default()
        };
        let page = listed(&world, filter).await;
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, tasks);

    world.queue.cancel(tasks[4], at(0)).await.unwrap();
    world.queue.forget_ended(at(1)).await.unwrap();
    let filter = TaskFilter {
        before: Some(tasks[4]),
        limit: 3,
        ..TaskFilter::default()
    };
    assert_eq!(listed(&world, filter).await, tasks[5..8]);
}

#[tokio::test]
async fn ids_match_by_their_beginning_and_their_end_with_and_without_hyphens() {
    let world = World::new();
    let ids = [
        "01900000-aaaa-7000-8000-00000000beef",
        "01900000-bbbb-7000-8000-0000000cafe0",
    ];
    for id in ids {
        let task = NewTask {
            task: id.parse().unwrap(),
            ..new_task("shop#1")
        };
        world.submit_task(task).await;
    }
    let [first, second] = ids.map(|id| id.parse::<TaskId>().unwrap());
    for (text, expected) in [
        ("01900000", vec![second, first]),
        ("01900000-a", vec![first]),
        ("01900000A", vec![first]),
        ("01900000bbbb7", vec![second]),
        ("beef", vec![first]),
        ("-0000000cafe0", vec![second]),
        ("80000000000cafe0", vec![second]),
        (ids[0], vec![first]),
        (&ids[1].replace('-', ""), vec![second]),
        ("0190-0000", vec![]),
        ("bbbb", vec![]),
        ("' OR 1", vec![]),
        ("é", vec![]),
    ] {
        assert_eq!(
            world.queue.matching(text.to_owned()).await.unwrap(),
            expected,
            "{text}"
        );
    }
    for _ in 0..20 {
        world.submit("shop#1").await;
    }
    assert_eq!(world.queue.matching("0".to_owned()).await.unwrap().len(), 10);
}
