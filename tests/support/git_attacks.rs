//! Ways to make git run a program that a repository names, as data: what a turn's tool plants, and a plain git command
//! that shows that it works.
//!
//! A planted program is `$EVIL NAME`, which leaves the file `ran/NAME`. With `pass` it copies its input, as a filter
//! must.

use std::path::{Path, PathBuf};
use std::process::Command;

use kugetsu_testing::{FakeScript, Output, Stdin, World};

use super::kit::SOON;

/// One way.
pub(crate) struct Attack {
    /// The name that the program leaves.
    pub(crate) name: &'static str,
    /// Plants it in a clone or worktree, as a script of a shell. `$COMMON` is the folder that all worktrees share.
    plant: &'static str,
    /// A script that makes plain git run the program.
    fire: &'static str,
}

const fn attack(name: &'static str, plant: &'static str, fire: &'static str) -> Attack {
    Attack { name, plant, fire }
}

/// Ways that work beside each other.
pub(crate) const ATTACKS: [Attack; 24] = [
    attack(
        "fsmonitor",
        r#"git config core.fsmonitor "$EVIL fsmonitor""#,
        "git status",
    ),
    attack(
        "clean",
        r#"git config filter.evil-clean.clean "$EVIL clean pass"; git config filter.evil-clean.required true"#,
        "git hash-object a.clean",
    ),
    attack(
        "smudge",
        r#"git config filter.evil-smudge.smudge "$EVIL smudge pass""#,
        "git cat-file --filters HEAD:a.smudge",
    ),
    attack(
        "process",
        r#"git config filter.evil-process.process "$EVIL process""#,
        "git hash-object a.process",
    ),
    attack(
        "a filter of the user that the clone names again",
        r#"git config filter.lfs.clean "$EVIL 'a filter of the user that the clone names again' pass"
           git config filter.lfs.smudge "$EVIL 'a filter of the user that the clone names again' pass""#,
        "git hash-object a.lfs",
    ),
    attack(
        "info/attributes",
        r#"git config filter.evil-info.clean "$EVIL info/attributes pass"
           mkdir -p "$COMMON/info"; echo '*.info filter=evil-info' > "$COMMON/info/attributes""#,
        "git hash-object a.info",
    ),
    attack(
        "attributesFile",
        r#"git config filter.evil=file.clean "$EVIL attributesFile pass"
           echo '*.file filter=evil=file' > "$COMMON/evil-attributes"
           git config core.attributesFile "$COMMON/evil-attributes""#,
        "git hash-object a.file",
    ),
    attack(
        "include",
        r#"git config include.path evil-include
           git config --file "$COMMON/evil-include" filter.evil-include.clean "$EVIL include pass""#,
        "git hash-object a.include",
    ),
    attack(
        "includeIf",
        r#"git config 'includeIf.gitdir:**/worktrees/**.path' evil-condition
           git config --file "$COMMON/evil-condition" filter.evil-condition.smudge "$EVIL includeIf pass""#,
        r#"cd "$TREE" && git cat-file --filters HEAD:a.condition"#,
    ),
    attack(
        "config.worktree",
        r#"git config extensions.worktreeConfig true
           git config --worktree filter.evil-worktree.clean "$EVIL config.worktree pass"
           git config --worktree filter.evil-worktree.smudge "$EVIL config.worktree pass""#,
        "git hash-object a.worktree",
    ),
    attack(
        "gpg.program",
        r#"git config commit.gpgSign true; git config gpg.program "$(wrap gpg.program)""#,
        "quiet commit --allow-empty --message signed",
    ),
    attack(
        "defaultKeyCommand",
        r#"git config gpg.ssh.defaultKeyCommand "$EVIL defaultKeyCommand""#,
        "quiet -c gpg.format=ssh commit --allow-empty --message signed",
    ),
    attack(
        "diff.external",
        r#"git config diff.external "$EVIL diff.external""#,
        "quiet diff HEAD^ HEAD --ext-diff",
    ),
    attack(
        "diff.command",
        r#"git config diff.evil-command.command "$EVIL diff.command""#,
        "echo more >> a.command; quiet diff -- a.command",
    ),
    attack(
        "textconv",
        r#"git config diff.evil-textconv.textconv "$EVIL textconv pass <""#,
        "echo more >> a.textconv; quiet diff --no-ext-diff -- a.textconv",
    ),
    attack(
        "merge driver",
        r#"git config merge.evil.driver "$EVIL 'merge driver'""#,
        r#"side() {
              sed "$1" a.merge > side; quiet update-index --cacheinfo 100644,$(git hash-object -w side),a.merge
              git commit-tree -p HEAD -m side $(quiet write-tree)
          }
          git merge-tree --write-tree $(side '1s/.*/one/') $(side '$s/.*/two/')"#,
    ),
    attack(
        "editor",
        r#"git config core.editor "$EVIL editor"; git config sequence.editor "$EVIL editor""#,
        "quiet -c commit.gpgSign=false commit --allow-empty",
    ),
    attack(
        "sshCommand",
        r#"git config core.sshCommand "$EVIL sshCommand""#,
        "git ls-remote ssh://127.0.0.1:9/x",
    ),
    attack(
        "gitProxy",
        r#"git config core.gitProxy "$(wrap gitProxy)""#,
        "git ls-remote git://127.0.0.1:9/x",
    ),
    attack(
        "credential.helper",
        r#"git config credential.helper "!$EVIL credential.helper""#,
        r"printf 'protocol=https\nhost=h\n\n' | git credential fill",
    ),
    attack(
        "alternateRefsCommand",
        r#"git config core.alternateRefsCommand "$EVIL alternateRefsCommand"
           test -e "$COMMON/../../alternate" || git clone --quiet --bare "$COMMON" "$COMMON/../../alternate"
           echo "$COMMON/../../alternate/objects" > "$COMMON/objects/info/alternates""#,
        "git rev-list --alternate-refs --max-count=1",
    ),
    attack(
        "ext",
        r#"git config protocol.ext.allow always; git config "url.ext::$EVIL ext .insteadOf" evil:"#,
        "git ls-remote evil:x",
    ),
    attack(
        "recentObjectsHook",
        r#"git config gc.auto 1; git config gc.autoDetach false; git config maintenance.auto true
           git config gc.recentObjectsHook "$EVIL recentObjectsHook""#,
        "git gc --quiet --prune=now",
    ),
    attack(
        "askPass",
        r#"git config core.askPass "$(wrap askPass)""#,
        r"printf 'protocol=https\nhost=i\n\n' | git -c credential.helper= credential fill",
    ),
];

/// The hooks of a clone. The last one leaves a process that holds git's output.
pub(crate) const HOOKS: Attack = attack(
    "hooks",
    r#"mkdir -p "$COMMON/hooks"
       for hook in applypatch-msg commit-msg fsmonitor-watchman post-applypatch post-commit post-index-change post-merge \
           post-rewrite pre-applypatch pre-auto-gc pre-commit pre-merge-commit pre-push pre-rebase prepare-commit-msg \
           reference-transaction sendemail-validate; do
           printf '#!/bin/sh\nexec "%s" hooks\n' "$EVIL" > "$COMMON/hooks/$hook"
       done
       printf '#!/bin/sh\nsetsid sleep 100000 &\nexec "%s" hooks\n' "$EVIL" > "$COMMON/hooks/post-checkout"
       chmod +x "$COMMON"/hooks/*"#,
    "git branch evil-branch",
);

/// A folder of hooks that the configuration names.
pub(crate) const HOOKS_PATH: Attack = attack(
    "hooksPath",
    r#"mkdir -p "$COMMON/evil-hooks"
       for hook in post-checkout post-index-change pre-rebase reference-transaction; do
           printf '#!/bin/sh\nexec "%s" hooksPath\n' "$EVIL" > "$COMMON/evil-hooks/$hook"
       done
       chmod +x "$COMMON"/evil-hooks/*; git config core.hooksPath "$COMMON/evil-hooks""#,
    "git branch evil-branch",
);

/// git with which a test can commit although everything is planted.
pub(crate) const PLAIN: &str = "git -c commit.gpgSign=false -c filter.evil-process.process=";

/// Which files the filters and drivers are for.
const ATTRIBUTES: &str = "\
*.clean filter=evil-clean
*.smudge filter=evil-smudge
*.process filter=evil-process
*.lfs filter=lfs
*.include filter=evil-include
*.condition filter=evil-condition
*.worktree filter=evil-worktree
*.merge merge=evil
*.textconv diff=evil-textconv
*.command diff=evil-command
";

/// One file for each filter and driver, above.
pub(crate) const FILES: [&str; 12] = [
    "a.clean",
    "a.smudge",
    "a.process",
    "a.lfs",
    "a.info",
    "a.file",
    "a.include",
    "a.condition",
    "a.worktree",
    "a.merge",
    "a.textconv",
    "a.command",
];

/// The user's own filter: what is `stored` in git is `worked` on in files.
const USERS_CONFIG: &str = "\
[filter \"lfs\"]
clean = sed s/worked/stored/
smudge = sed s/stored/worked/
required = true
";

/// A world for attacks, whose user has a filter.
pub(crate) struct Ground<'a> {
    pub(crate) world: &'a World,
    attacks: Vec<&'static Attack>,
}

impl<'a> Ground<'a> {
    /// Commits the files in the world's repository.
    pub(crate) fn new(world: &'a World, attacks: Vec<&'static Attack>) -> Self {
        let ground = Self { world, attacks };
        std::fs::create_dir(ground.evil_folder()).unwrap();
        std::fs::create_dir(ground.ran_folder()).unwrap();
        let evil = "#!/bin/sh\nname=$(echo \"$1\" | tr / -)\n: > \"${0%/*}/ran/$name\"\nif [ \"$2\" = pass ]; then cat; fi\n";
        std::fs::write(ground.evil(), evil).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(ground.evil(), executable).unwrap();
        ground.configure_user(USERS_CONFIG);
        let repo = world.repo();
        std::fs::write(repo.join(".gitattributes"), ATTRIBUTES).unwrap();
        for file in FILES {
            let lines = "first\n2\n3\n4\nworked\n6\n7\n8\nlast\n";
            std::fs::write(repo.join(file), lines).unwrap();
        }
        ground.commit(&repo, "files");
        ground
    }

    fn evil_folder(&self) -> PathBuf {
        self.world.root().join("evil")
    }

    fn ran_folder(&self) -> PathBuf {
        self.evil_folder().join("ran")
    }

    /// The planted program.
    pub(crate) fn evil(&self) -> PathBuf {
        self.evil_folder().join("evil")
    }

    /// Writes the user's own configuration of git.
    pub(crate) fn configure_user(&self, text: &str) {
        std::fs::write(self.users_config(), text).unwrap();
    }

    fn users_config(&self) -> PathBuf {
        self.world.root().join("gitconfig")
    }

    /// `kugetsu` with the user's own configuration of git.
    pub(crate) fn kugetsu(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.kugetsu(arguments);
        command.env("GIT_CONFIG_GLOBAL", self.users_config());
        command
    }

    /// Runs `kugetsu` to its end, and fails if a planted program ran.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.turn(arguments);
        assert_eq!(self.ran(), Vec::<String>::new(), "{output}");
        output
    }

    /// Runs `kugetsu` to its end, with a turn whose tools may run what is planted.
    #[track_caller]
    pub(crate) fn turn(&self, arguments: &[&str]) -> Output {
        self.world.start(self.kugetsu(arguments), Stdin::Null).wait(SOON)
    }

    /// Runs a script of a shell in a folder, with plain git.
    pub(crate) fn shell(&self, folder: &Path, script: &str) -> Output {
        let mut command = self.world.command("/bin/sh");
        command.args(["-c", script]).current_dir(folder);
        command.env("GIT_CONFIG_GLOBAL", self.users_config());
        self.world.start(command, Stdin::Null).wait(SOON)
    }

    /// Commits everything in a folder with plain git, and forgets what that ran.
    #[track_caller]
    pub(crate) fn commit(&self, folder: &Path, message: &str) {
        let commit =
            format!("git add --all && git -c commit.gpgSign=false commit --quiet --message '{message}'");
        self.shell(folder, &commit).expect_status(0);
        self.forget();
    }

    /// The script with which a tool plants all attacks in the folder that it works in.
    pub(crate) fn planting(&self) -> String {
        // Some programs get no arguments.
        let head = format!(
            "EVIL='{}'; COMMON=$(git rev-parse --path-format=absolute --git-common-dir)
             wrap() {{
                 printf '#!/bin/sh\nexec \"%s\" %s\n' \"$EVIL\" \"$1\" > \"$COMMON/evil-$1\"
                 chmod +x \"$COMMON/evil-$1\"; echo \"$COMMON/evil-$1\"
             }}",
            self.evil().display()
        );
        let plants = self.attacks.iter().map(|attack| attack.plant);
        let lines = [head.as_str()].into_iter().chain(plants);
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The names of the planted programs that ran.
    pub(crate) fn ran(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.ran_folder()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Forgets which planted programs ran.
    pub(crate) fn forget(&self) {
        for name in self.ran() {
            std::fs::remove_file(self.ran_folder().join(name)).unwrap();
        }
    }

    /// Fails unless plain git runs each planted program in this clone or worktree.
    #[track_caller]
    pub(crate) fn fire(&self, folder: &Path, tree: &Path) {
        for attack in &self.attacks {
            self.forget();
            // A filter that is no real one ends git, before it comes to other programs.
            let quiet = r#"quiet() { git -c filter.evil-process.process= "$@"; }"#;
            let script = format!("TREE='{}'\n{quiet}\n{}", tree.display(), attack.fire);
            let output = self.shell(folder, &script);
            let name = attack.name.replace('/', "-");
            assert!(self.ran().contains(&name), "{name} does not work\n{output}");
        }
        self.forget();
    }
}

/// The script of a fake opencode whose tool runs these scripts of a shell when the prompt has these words.
pub(crate) fn tool(runs: &[(&str, &str)]) -> FakeScript {
    let mut script = FakeScript::serving();
    for (needle, shell) in runs {
        let steps = [
            kugetsu_testing::Step::Shell((*shell).to_owned()),
            kugetsu_testing::Step::Answer("done".to_owned()),
        ];
        script = script.on(*needle, steps);
    }
    script
}
