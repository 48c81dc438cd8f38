//! The hermetic world works: the real opencode answers in it, on both versions, and nothing of it stays behind.

use std::time::Duration;

use kugetsu_testing::{Reply, Stdin, World, on_both_versions, usage};

on_both_versions! {
    fn explore(world: &World) {
        world.model.on("call it", vec![Reply::bash("echo hello"), Reply::chunks(["it ", "works"], Duration::from_millis(20))]);
        let prompt = "call it: \"quotes\" 'more' $(x) `y` \\ \n --lead\n\u{1f980} end";
        let output = world.finish(world.opencode_command(["run", "--format", "json"]), Stdin::text(prompt));
        eprintln!("{output}");
        let s = world.sessions().remove(0);
        let output2 = world.finish(world.opencode_command(["run", "--format", "json", "--fork", "--session", &s.id]), Stdin::text("and more"));
        eprintln!("{output2}");
        eprintln!("{:#?}", world.sessions());
        for q in ["select * from project", "select * from session", "select * from message", "select * from part"] {
            for row in world.sql(q) { eprintln!("{row:?}"); }
        }
        let e = world.finish(world.opencode_command(["export", &s.id]), Stdin::Null);
        eprintln!("{e}");
        for r in world.model.requests() { eprintln!("{} {:?} {:?} {:?}", r.is_title_request(), r.last_user_parts(), r.tool_results(), r.tool_names()); }
        eprintln!("{}", world.git(&world.repo(), ["status", "--short"]));
        eprintln!("{:?} {}", world.processes(), usage::COST);
        let f = world.finish({let mut c = world.command("find"); c.arg(world.root()).args(["-not", "-path", "*/.git/*"]); c}, Stdin::Null);
        eprintln!("{f}");
        panic!("see");
    }
}
