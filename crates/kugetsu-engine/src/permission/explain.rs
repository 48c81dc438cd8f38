//! What a session may do, class by class, and where each answer comes from.

use super::{Action, Policy, Rule, wildcard};
pub use kugetsu_api::permission::{Explained, Source};

/// The classes that opencode itself asks about (measured on 1.3.2 and 1.18.33; `todoread`, `codesearch` and `list`
/// are asked for by 1.3.2 only, `workflow_tool_approval` by 1.18.33 only).
pub const CLASSES: [&str; 20] = [
    "bash",
    "edit",
    "read",
    "glob",
    "grep",
    "list",
    "lsp",
    "task",
    "skill",
    "webfetch",
    "websearch",
    "codesearch",
    "todowrite",
    "todoread",
    "question",
    "plan_enter",
    "plan_exit",
    "external_directory",
    "doom_loop",
    "workflow_tool_approval",
];

/// The class that stands for every tool that no class names: those of MCP servers and plugins.
pub const OTHER_TOOLS: &str = "*";

/// The rules of opencode's default agent (`build`) without any configuration, measured on 1.3.2 and 1.18.33
/// (without the paths of opencode's own folders, which it allows).
const DEFAULT_AGENT: &[(&str, &str, Action)] = &[
    ("*", "*", Action::Allow),
    ("doom_loop", "*", Action::Ask),
    ("external_directory", "*", Action::Ask),
    ("question", "*", Action::Deny),
    ("plan_enter", "*", Action::Deny),
    ("plan_exit", "*", Action::Deny),
    ("read", "*", Action::Allow),
    ("read", "*.env", Action::Ask),
    ("read", "*.env.*", Action::Ask),
    ("read", "*.env.example", Action::Allow),
    ("question", "*", Action::Allow),
    ("plan_enter", "*", Action::Allow),
];

/// What a session with this policy may do: for each class the action for everything, then the patterns that
/// differ, in the order in which opencode looks at them (the last match wins). Rules that later ones make
/// ineffective are left out.
///
/// `agent_rules` are the effective rules of the agent (what `opencode debug agent` prints); without them
/// those of opencode's default agent are taken.
pub fn explain(policy: &Policy, agent_rules: Option<&[Rule]>) -> Vec<Explained> {
    let rules = sourced_rules(policy, agent_rules);
    let mut classes: Vec<&str> = CLASSES.to_vec();
    for (rule, _) in &rules {
        let class = rule.permission.as_str();
        if class != OTHER_TOOLS && !classes.contains(&class) {
            classes.push(class);
        }
    }
    classes.push(OTHER_TOOLS);
    classes
        .into_iter()
        .flat_map(|class| explain_class(class, &rules))
        .collect()
}

/// All rules in the order in which opencode looks at them, each with its source.
fn sourced_rules(policy: &Policy, agent_rules: Option<&[Rule]>) -> Vec<(Rule, Source)> {
    let defaults = DEFAULT_AGENT.iter().map(|&(permission, pattern, action)| Rule {
        permission: permission.to_owned(),
        pattern: pattern.to_owned(),
        action,
    });
    let mut rules: Vec<(Rule, Source)> = match agent_rules {
        None => defaults.map(|rule| (rule, Source::Default)).collect(),
        Some(agent) => {
            let mut defaults: Vec<Rule> = defaults.collect();
            let of_opencode = |rule: &Rule| {
                // Each default is one rule of the agent; a second equal one comes from the configuration.
                let at = defaults.iter().position(|default| default == rule)?;
                defaults.remove(at);
                Some(Source::Default)
            };
            let mut of_opencode = of_opencode;
            agent
                .iter()
                .map(|rule| (rule.clone(), of_opencode(rule).unwrap_or(Source::Agent)))
                .collect()
        }
    };
    rules.extend(
        policy
            .preset
            .rules()
            .into_iter()
            .map(|rule| (rule, Source::Session(policy.preset))),
    );
    rules.extend(
        policy
            .rules
            .iter()
            .cloned()
            .map(|rule| (rule, Source::SessionRule)),
    );
    rules
}

fn explain_class(class: &str, rules: &[(Rule, Source)]) -> Vec<Explained> {
    let of_class: Vec<&(Rule, Source)> = rules
        .iter()
        .filter(|(rule, _)| wildcard::covers(&rule.permission, class))
        .collect();
    let effective = of_class.iter().enumerate().filter(|(at, (rule, _))| {
        of_class[at + 1..]
            .iter()
            .all(|(later, _)| !wildcard::covers(&later.pattern, &rule.pattern))
    });
    let mut lines: Vec<Explained> = effective
        .map(|(_, (rule, source))| Explained {
            permission: class.to_owned(),
            pattern: rule.pattern.clone(),
            action: rule.action,
            source: *source,
            could_ask: rule.action == Action::Ask,
        })
        .collect();
    if lines
        .first()
        .is_none_or(|first| !wildcard::covers(&first.pattern, "*"))
    {
        let unanswered = Explained {
            permission: class.to_owned(),
            pattern: "*".to_owned(),
            action: Action::Ask,
            source: Source::Default,
            could_ask: true,
        };
        // A wildcard class that only some rules name says nothing of its own about everything else.
        lines.insert(0, unanswered);
    }
    let base = lines[0].action;
    let mut differs = false;
    let mut first = true;
    lines.retain(|line| {
        differs |= line.action != base;
        std::mem::take(&mut first) || differs
    });
    lines
}
