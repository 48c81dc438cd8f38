//! What a tool plants for git runs in none of kugetsu's later commands. `fast/attack/git.rs` has more commands.

use std::fs;

use crate::support::git_attacks::{ATTACKS, Ground, HOOKS_PATH};
use crate::support::kit::worktree_of;
use kugetsu_testing::{Reply, on_both_versions};

on_both_versions! {
    fn what_a_tool_plants_for_git_does_not_run(world: &World) {
        let ground = Ground::new(world, ATTACKS.iter().chain([&HOOKS_PATH]).collect());
        world.make_base();
        let script = world.root().join("plant.sh");
        fs::write(&script, ground.planting()).unwrap();
        let plant = Reply::bash(format!("sh {}", script.display()));
        world.model.on("plant", vec![plant, Reply::text("planted")]);
        let change = Reply::bash("for file in a.*; do echo more >> $file; done".to_owned());
        world.model.on("change", vec![change, Reply::text("changed")]);

        ground.run(&["start", "14", "--worktree", "--transport", "serve", "plant"]).expect_status(0);
        let tree = worktree_of(world, "14");
        // opencode's own git runs within the turn, where tools can run anything.
        let changed = ground.turn(&["continue", "14", "--transport", "run", "--output", "json", "change"]);
        assert!(changed.expect_status(0).json()["changes"]["file_count"].as_u64() >= Some(1), "{changed}");
        ground.forget();
        for words in [
            &["init", "--force"][..],
            &["show", "14"],
            &["diff", "14"],
            &["doctor", "--fix"],
            &["destroy", "14", "-y", "--force"],
            &["restore", "14"],
        ] {
            ground.run(words);
        }
        let read = fs::read_to_string(tree.join("a.lfs")).unwrap();
        assert!(read.contains("worked") && read.ends_with("more\n"), "{read}");
        ground.shell(&tree, &ground.planting());
        ground.fire(&tree, &tree);
    }
}
