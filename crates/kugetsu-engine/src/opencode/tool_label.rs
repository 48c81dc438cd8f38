//! What a tool does, in a few words for people.

use serde_json::Value;

/// The arguments that say what a call of a tool is about, the most telling one first (the tools of both versions).
const TELLING: [&str; 7] = [
    "description",
    "command",
    "filePath",
    "path",
    "pattern",
    "url",
    "query",
];

/// How much of the title or the argument is kept, in characters.
const MAX_LABEL: usize = 200;

/// The tool with its title or else its most telling argument. A tool that is just beginning may have neither.
pub fn tool_label(tool: &str, title: &str, input: &Value) -> String {
    let argument = || TELLING.iter().find_map(|name| input[*name].as_str());
    let about = Some(title).filter(|title| !title.is_empty()).or_else(argument);
    match about {
        Some(about) => {
            let about: String = about.trim().chars().take(MAX_LABEL).collect();
            format!("{tool}: {about}")
        }
        None => tool.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_title_comes_before_the_arguments() {
        for (title, input, label) in [
            (
                "Run the tests",
                json!({"command": "cargo test"}),
                "bash: Run the tests",
            ),
            (
                "",
                json!({"command": "cargo test", "description": "Tests"}),
                "bash: Tests",
            ),
            ("", json!({"command": "cargo test"}), "bash: cargo test"),
            ("", json!({}), "bash"),
            ("", Value::Null, "bash"),
        ] {
            assert_eq!(tool_label("bash", title, &input), label);
        }
    }
}
