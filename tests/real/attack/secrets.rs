//! Where the secrets of an answers file and the password of a private server are, on the real opencode.

use crate::support::kit::{SOON, files_with};
use crate::support::witness::Witness;
use kugetsu_testing::{Reply, Stdin, on_both_versions};
use serde_json::json;

/// What the answers file gives to opencode.
const SECRET: &str = "canary-of-the-answers-77e2";
/// The variable of the server's password.
const PASSWORD: &str = "OPENCODE_SERVER_PASSWORD";

on_both_versions! {
    fn secrets_are_in_the_environment_of_opencode_alone(world: &World) {
        world.make_base();
        let witness = Witness::of(world);
        witness.git();
        let real = world.opencode_command([""; 0]);
        let opencode = witness.program(
            "opencode",
            &format!("test \"$1\" = serve && {}\nexec '{}' \"$@\"", witness.command("serve"), real.get_program().display()),
        );
        let hooks = ["hook_after_create", "hook_before_turn", "hook_after_turn", "notify"];
        let hooks = hooks.map(|hook| format!("{hook} = \"{}\"\n", witness.command("hook"))).concat();
        std::fs::write(world.kugetsu_home().join("config.toml"), hooks).unwrap();
        let answers = world.root().join("answers.json");
        std::fs::write(&answers, json!({"secrets": {"DEPLOY_KEY": SECRET}}).to_string()).unwrap();
        world.model.on("use it", vec![Reply::bash("$WITNESS tool; printenv DEPLOY_KEY"), Reply::text("used")]);
        let mut turn = world.kugetsu([
            "start", "1", "use it", "--worktree", "--transport", "serve", "--debug", "--answers",
            answers.to_str().unwrap(),
        ]);
        turn.env("PATH", witness.path())
            .env("KUGETSU_OPENCODE", opencode)
            .env("WITNESS", witness.note())
            // That of a server of the user's own.
            .env(PASSWORD, "canary-of-the-user-0c11");
        world.start(turn, Stdin::Null).wait(SOON).expect_status(0);

        let results = world.model.turn_requests_with("use it").last().unwrap().tool_results();
        assert!(results[0].contains(SECRET), "the tool did not get it: {results:?}");
        let [serve] = &*witness.environments("serve") else {
            panic!("one server was started");
        };
        let password = serve.lines().find_map(|line| line.strip_prefix(PASSWORD)?.strip_prefix('='));
        let password = password.expect("a password");
        assert!(password.len() >= 32 && !password.starts_with("canary"), "{password}");
        for secret in [SECRET, password] {
            // Each call of opencode notes as `opencode` as well, and opencode runs git itself.
            assert_eq!(witness.told(secret), ["git", "opencode", "serve", "tool"]);
            let own = |told: &&String| told.contains("GIT_NO_REPLACE_OBJECTS=1\n");
            let gits = witness.environments("git");
            let mut gits = gits.iter().filter(own).peekable();
            assert!(gits.peek().is_some(), "kugetsu ran no git");
            assert!(gits.all(|told| !told.contains(secret)));
            let with_it = witness.environments("opencode").iter().filter(|told| told.contains(secret)).count();
            assert_eq!(with_it, 1, "only the server has it");
            assert_eq!(files_with(&world.kugetsu_home(), &[secret]), Vec::<String>::new());
            assert!(witness.lists().iter().all(|list| !list.contains(secret)));
        }
        assert!(!witness.environments("hook").is_empty(), "no hook ran");
        world.wait_nothing_left(SOON);
    }
}
