//! One recorded request of the chat-completions protocol.

use serde_json::Value;

/// A request as received.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole JSON body.
    pub body: Value,
}

impl Request {
    pub(crate) fn new(body: Value) -> Self {
        Self { body }
    }

    fn messages(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.body["messages"].as_array().into_iter().flatten()
    }

    fn with_role<'a>(&'a self, role: &'a str) -> impl DoubleEndedIterator<Item = &'a Value> {
        self.messages().filter(move |message| message["role"] == role)
    }

    /// Whether opencode asks for a session's title: such a request offers no tools.
    pub fn is_title_request(&self) -> bool {
        self.tool_names().is_empty()
    }

    /// The text of the last user message, its parts joined without a separator.
    pub fn last_user_text(&self) -> String {
        self.last_user_parts().concat()
    }

    /// The text parts of the last user message, one by one.
    pub fn last_user_parts(&self) -> Vec<String> {
        self.with_role("user").next_back().map(texts).unwrap_or_default()
    }

    /// The system prompt.
    pub fn system_text(&self) -> String {
        self.with_role("system").flat_map(texts).collect()
    }

    /// The text of every user message, oldest first.
    pub fn user_texts(&self) -> Vec<String> {
        self.with_role("user")
            .map(|message| texts(message).concat())
            .collect()
    }

    /// The text of every assistant message, oldest first.
    pub fn assistant_texts(&self) -> Vec<String> {
        self.with_role("assistant")
            .map(|message| texts(message).concat())
            .collect()
    }

    /// The names of the tools that the model may call.
    pub fn tool_names(&self) -> Vec<String> {
        let tools = self.body["tools"].as_array().into_iter().flatten();
        tools
            .filter_map(|tool| tool["function"]["name"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// The tool results in the request, oldest first.
    pub fn tool_results(&self) -> Vec<String> {
        self.with_role("tool")
            .map(|message| texts(message).concat())
            .collect()
    }
}

fn texts(message: &Value) -> Vec<String> {
    match &message["content"] {
        Value::String(text) => vec![text.clone()],
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}
