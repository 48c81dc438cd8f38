//! The hermetic world works: the real opencode answers in it, on both versions, and leaves nothing behind.

use std::time::Duration;

use kugetsu_testing::{Gate, Reply, Signal, Stdin, on_both_versions, usage};

const SOON: Duration = Duration::from_mins(1);

on_both_versions! {
    fn opencode_answers_and_the_prompt_arrives_byte_for_byte(world: &World) {
        world.model.on("call it", vec![
            Reply::bash("echo from the tool"),
            Reply::chunks(["it ", "works"], Duration::from_millis(20)),
        ]);
        let prompt = "--call it: \"double\" 'single' $(x) `y` \\ \n\n  -- tabs\t\u{1f980} end";
        let output = world.finish(world.opencode_command(["run", "--format", "json"]), Stdin::text(prompt));
        let events = output.expect_status(0).json_lines();
        let texts: Vec<_> = events.iter().filter_map(|event| event["part"]["text"].as_str()).collect();
        assert_eq!(texts, ["it works"], "{output}");
        let costs: Vec<_> = events.iter().filter_map(|event| event["part"]["cost"].as_f64()).collect();
        assert_eq!(costs, [usage::COST, usage::COST], "{output}");

        let requests = world.model.turn_requests();
        // 1.3.2 adds one line feed before stdin.
        let arrived = requests[0].last_user_text();
        assert_eq!(arrived.strip_prefix('\n').unwrap_or(&arrived), prompt);
        assert_eq!(requests[1].tool_results(), ["from the tool\n"]);
        assert!(requests[0].tool_names().iter().any(|name| name == "bash"));
        let titles = world.model.requests().len() - requests.len();
        assert_eq!(titles, 1);

        let [session] = &world.sessions()[..] else { panic!("one session\n{output}") };
        assert_eq!(events[0]["sessionID"], session.id.as_str());
        assert_eq!(session.directory, world.repo().to_str().unwrap());
        assert_eq!(world.git(&world.repo(), ["status", "--porcelain"]).stdout(), "");
        world.wait_nothing_left(SOON);
    }

    fn opencode_stops_at_a_gate_and_at_a_signal(world: &World) {
        let gate = Gate::new();
        world.model.on("wait", vec![Reply::text("never").behind(&gate)]);
        let running = world.start(world.opencode_command(["run", "--format", "json"]), Stdin::text("wait"));
        gate.wait_arrived(SOON);
        assert!(world.processes().iter().any(|process| process.pid == running.pid()));
        running.signal(Signal::Terminate);
        assert_eq!(running.wait(SOON).code(), 143);
        world.wait_nothing_left(SOON);
    }

    fn a_world_does_not_query_opencode_again(world: &World) {
        let known = || std::fs::read_to_string(world.kugetsu_home().join("run/opencode.json")).unwrap();
        let before = known();
        world.spawn(["doctor"]).wait(Duration::from_mins(1));
        assert_eq!(known(), before);
    }
}
