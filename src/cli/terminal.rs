//! Text that other programs, models and hosts wrote, made safe for a terminal.

use std::borrow::Cow;

/// Whether a terminal obeys the character, or shows the text around it in another order: C0 and C1 controls except line
/// feed and tab, and the bidirectional controls of Unicode.
fn is_obeyed(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{8}'
            | '\u{b}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// The text without characters that a terminal obeys. Lines stay lines.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    if text.contains(is_obeyed) {
        Cow::Owned(text.replace(is_obeyed, ""))
    } else {
        Cow::Borrowed(text)
    }
}

/// The text on one line.
pub(super) fn safe_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    safe(&words.join(" ")).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_lose_what_makes_a_terminal_obey_them() {
        for (text, expected) in [
            (
                "plain \u{e9} \u{1f980}\n\tindented",
                "plain \u{e9} \u{1f980}\n\tindented",
            ),
            ("\u{1b}[31mred\u{1b}[0m", "[31mred[0m"),
            (
                "\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{7}",
                "]8;;http://xlink]8;;",
            ),
            ("\u{1b}]52;c;ZXZpbA==\u{1b}\\", "]52;c;ZXZpbA==\\"),
            ("\u{9b}2Jgone\r\u{8}", "2Jgone"),
            ("a\u{202e}b\u{2066}c\u{200f}", "abc"),
        ] {
            assert_eq!(safe(text), expected, "{text:?}");
        }
        assert_eq!(safe_line(" two\n lines\u{1b}[1m "), "two lines[1m");
    }

    proptest! {
        #[test]
        fn nothing_obeyed_is_left(text in any::<String>()) {
            let is_obeyed = |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
            prop_assert!(!safe(&text).contains(is_obeyed));
            prop_assert!(!safe_line(&text).contains(char::is_control));
        }
    }
}
