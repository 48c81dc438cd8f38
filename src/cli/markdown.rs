//! Renders the Markdown of an answer on a terminal, line by line while the answer arrives.

use termimad::crossterm::style::{Attribute, Color};
use termimad::{CompoundStyle, MadSkin};

use crate::terminal::{Stream, escape};

/// A renderer of one answer. Lines are rendered when they are complete, and a table when its last row is there.
#[derive(Debug)]
pub(super) struct Markdown {
    skin: MadSkin,
    /// The beginning of a line.
    line: String,
    /// The rows of a table.
    table: String,
    /// What ends the block of code that the text is in.
    fence: Option<String>,
}

impl Markdown {
    /// A renderer, with colours or with nothing but bold and italic text.
    pub(super) fn new(colour: bool) -> Self {
        let mut skin = MadSkin::no_style();
        skin.bold = CompoundStyle::with_attr(Attribute::Bold);
        skin.italic = CompoundStyle::with_attr(Attribute::Italic);
        for header in &mut skin.headers {
            header.compound_style = CompoundStyle::with_attr(Attribute::Bold);
            header.align = termimad::Alignment::Left;
        }
        if colour {
            skin.inline_code = CompoundStyle::with_fg(Color::Cyan);
            skin.code_block.compound_style = CompoundStyle::with_fg(Color::Cyan);
        }
        Self {
            skin,
            line: String::new(),
            table: String::new(),
            fence: None,
        }
    }

    /// Adds a piece of the answer. Returns what is complete, as text for the terminal, which ends with a line feed.
    pub(super) fn push(&mut self, piece: &str) -> String {
        let mut rendered = String::new();
        for part in piece.split_inclusive('\n') {
            self.line.push_str(part);
            if part.ends_with('\n') {
                let line = std::mem::take(&mut self.line);
                rendered.push_str(&self.complete(&escape(line.trim_end_matches(['\n', '\r']))));
            }
        }
        rendered
    }

    /// Ends the answer. Returns the rest of it.
    pub(super) fn finish(&mut self) -> String {
        let mut rendered = String::new();
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            rendered.push_str(&self.complete(&escape(&line)));
        }
        rendered.push_str(&self.end_table());
        self.fence = None;
        rendered
    }

    fn complete(&mut self, line: &str) -> String {
        if let Some(fence) = &self.fence {
            if line.trim() == fence {
                self.fence = None;
                return String::new();
            }
            return format!("{}\n", self.skin.code_block.compound_style.apply_to(line));
        }
        if line.trim_start().starts_with('|') {
            self.table.push_str(line);
            self.table.push('\n');
            return String::new();
        }
        let mut rendered = self.end_table();
        let trimmed = line.trim_start();
        let marks = ['`', '~'].map(|mark| trimmed.chars().take_while(|c| *c == mark).count());
        let [ticks, tildes] = marks;
        match trimmed {
            _ if ticks >= 3 => self.fence = Some("`".repeat(ticks)),
            _ if tildes >= 3 => self.fence = Some("~".repeat(tildes)),
            _ if trimmed.is_empty() => rendered.push('\n'),
            _ => rendered.push_str(&self.text(line)),
        }
        rendered
    }

    fn end_table(&mut self) -> String {
        match std::mem::take(&mut self.table) {
            table if table.is_empty() => table,
            table => self.text(&table),
        }
    }

    fn text(&self, markdown: &str) -> String {
        self.skin
            .text(markdown, Some(Stream::Stdout.columns().max(20)))
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(markdown: &str) -> String {
        let mut renderer = Markdown::new(false);
        renderer.push(markdown) + &renderer.finish()
    }

    /// The text without the styles of a renderer without colours.
    fn unstyled(text: &str) -> String {
        let styles = ["\u{1b}[1m", "\u{1b}[3m", "\u{1b}[0m"];
        styles
            .iter()
            .fold(text.to_owned(), |text, style| text.replace(style, ""))
    }

    #[test]
    fn marks_become_styles_and_code_stays_as_it_is() {
        let plain = |markdown: &str| unstyled(&rendered(markdown));
        assert_eq!(
            plain("# Title\n\nSome **bold** `code`"),
            "Title\n\nSome bold code\n"
        );
        assert_eq!(
            plain("```rust\nlet **x** = 1;\n\n```\nafter"),
            "let **x** = 1;\n\nafter\n"
        );
        assert_eq!(plain("````\n```\n````\n"), "```\n");
        assert!(
            plain("* one\n- two\n").contains("• one"),
            "{}",
            plain("* one\n- two\n")
        );
        let table = plain("| a | b |\n|---|---|\n| 1 | 2 |\nend");
        assert!(table.contains('│') && table.ends_with("end\n"), "{table}");
    }

    #[test]
    fn an_answer_is_rendered_as_it_arrives() {
        let mut renderer = Markdown::new(false);
        assert_eq!(renderer.push("one "), "");
        assert_eq!(renderer.push("line\nand"), "one line\n");
        assert_eq!(renderer.finish(), "and\n");
        assert_eq!(renderer.finish(), "");
    }

    proptest! {
        /// Nothing that a terminal obeys comes from the answer: what is left without the styles has no controls.
        #[test]
        fn no_control_of_the_answer_is_left(answer in "(\\PC|[\u{0}-\u{1f}\u{7f}-\u{9f}`*|# -]){0,80}") {
            let shown = rendered(&answer);
            let text = unstyled(&shown);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{shown:?}");
        }
    }
}
