//! Explains what a session may do, class by class, and where each decision comes from.

use super::{Action, Policy, Rule, wildcard};
pub use kugetsu_api::permission::{Explained, Source};

/// The classes that opencode itself asks for (measured on 1.3.2 and 1.18.33; only 1.3.2 asks for `todoread`,
/// `codesearch` and `list`, only 1.18.33 for `workflow_tool_approval`).
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

/// The class for every tool that no class names: those of MCP servers and plugins.
pub const OTHER_TOOLS: &str = "*";

/// The rules of opencode's default agent (`build`) without any configuration, measured on 1.3.2 and 1.18.33. The paths
/// of opencode's own folders, which it allows, are left out.
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

/// Explains what a session with this policy may do. Each class gets the action for everything, then the patterns that
/// differ, in the order in which opencode evaluates them (the last match wins). Rules without effect are left out.
///
/// `agent_rules` are the effective rules of the agent, as `opencode debug agent` prints them. If absent, the rules of
/// opencode's default agent apply.
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

/// All rules in opencode's order of evaluation, each with its source.
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
                // The agent has each default rule once; a second equal rule comes from the configuration.
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
        // A wildcard class that only some rules name decides nothing of its own about all other inputs.
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
