//! Any texts and times in a row of `queue.db`: no panic, and a task that can be read is the same after it is sent to a
//! client and read there.
#![no_main]

use kugetsu_api::Task;
use kugetsu_daemon::task_of_row;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(10, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let texts = [(); 5].map(|()| next());
    let times = [(); 4].map(|()| next().parse().unwrap_or_default());
    let [id, state, turn, verdict, after] = texts;
    if let Ok(task) = task_of_row([id, state, turn, verdict, after, next()], times) {
        let text = serde_json::to_string(&task).expect("what was read can be written");
        assert_eq!(serde_json::from_str::<Task>(&text).ok(), Some(task));
    }
});
