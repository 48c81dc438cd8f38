//! Makes visible what a terminal would obey or hide, so that text of models, tools, issues and other hosts is only text.
//!
//! Control characters are written as git and `cat -v` write them (`^[`), other characters by their number (`<U+202E>`),
//! and bytes that are not UTF-8 by their value (`<9B>`). In JSON they are written as JSON escapes, so the value stays the
//! same.

use std::borrow::Cow;

/// How a character that must not reach a terminal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    Text,
    Json,
}

/// The text as a terminal may get it. Line feeds and tabs stay, and a carriage return before a line feed is dropped.
/// Escaping a second time changes nothing.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    written(text, Notation::Text)
}

/// JSON as a terminal may get it. It has the same value.
pub(crate) fn escape_json(text: &str) -> Cow<'_, str> {
    written(text, Notation::Json)
}

/// The same as [`escape`] for text that may not be UTF-8.
pub(crate) fn escape_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return escape(text);
    }
    let mut escaped = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        escaped.push_str(&escape(chunk.valid()));
        for byte in chunk.invalid() {
            escaped.push_str(&format!("<{byte:02X}>"));
        }
    }
    Cow::Owned(escaped)
}

/// The same as [`escape`] for text that a library has styled: colours and attributes stay, and nothing else does.
/// The library must be given escaped text, because this cannot tell its styles from styles in the text.
pub(super) fn escape_all_but_styles(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let (before, sequence) = rest.split_at(at);
        escaped.push_str(&escape(before));
        let parameters = sequence[2..]
            .find(|character: char| !character.is_ascii_digit() && ![';', ':'].contains(&character))
            .filter(|end| sequence[2 + end..].starts_with('m'));
        let length = parameters.map_or(1, |end| 2 + end + 1);
        let (first, after) = sequence.split_at(length);
        match parameters {
            Some(_) => escaped.push_str(first),
            None => escaped.push_str(&escape(first)),
        }
        rest = after;
    }
    escaped.push_str(&escape(rest));
    escaped
}

fn written(text: &str, notation: Notation) -> Cow<'_, str> {
    let mut characters = text.char_indices().peekable();
    // The end of what is already in `escaped`.
    let (mut escaped, mut end) = (String::new(), 0);
    let mut before = None;
    while let Some((at, character)) = characters.next() {
        let ends_line = character == '\r' && characters.peek().is_some_and(|(_, next)| *next == '\n');
        if is_harmless(character, before) {
            before = Some(character);
            continue;
        }
        escaped.push_str(&text[end..at]);
        end = at + character.len_utf8();
        before = Some(' ');
        if !ends_line {
            push_visibly(&mut escaped, character, notation);
        }
    }
    if end == 0 {
        return Cow::Borrowed(text);
    }
    escaped.push_str(&text[end..]);
    Cow::Owned(escaped)
}

fn push_visibly(escaped: &mut String, character: char, notation: Notation) {
    if notation == Notation::Json {
        for unit in character.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    } else if character.is_ascii() {
        // `^@` to `^_`, and `^?` for DEL.
        escaped.push('^');
        escaped.push(char::from(character as u8 ^ 0x40));
    } else {
        escaped.push_str(&format!("<U+{:04X}>", u32::from(character)));
    }
}

/// Whether a terminal shows the character after this one, obeys nothing and hides nothing.
fn is_harmless(character: char, before: Option<char>) -> bool {
    match character {
        '\n' | '\t' | ' '..='~' => true,
        // A joiner or a selector of a variation is a part of the character before it: of an emoji, or of a letter of a
        // script that needs it. At the beginning, that character may be in another piece of the same text.
        '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' => before.is_none_or(|before| {
            let selects = ('\u{fe00}'..='\u{fe0f}').contains(&character);
            let keycap = character == '\u{fe0f}' && (before.is_ascii_digit() || ['#', '*'].contains(&before));
            // A selector may stand before a joiner, but no joiner and no second selector before a selector.
            let is_joiner = ['\u{200c}', '\u{200d}'].contains(&before);
            let is_selector = ('\u{fe00}'..='\u{fe0f}').contains(&before);
            keycap || !(before.is_ascii() || is_joiner || (selects && is_selector))
        }),
        _ => !(character.is_control() || is_hidden(character)),
    }
}

/// Characters that have no shape, or change the order of the text around them: bidirectional controls, separators of
/// lines, blanks without width, fillers, annotations, tags, and selectors of variations that no emoji needs.
fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What no terminal may get, said in another way than above.
    fn is_forbidden(character: char) -> bool {
        let number = u32::from(character);
        (number < 0x20 && ![0x9, 0xa].contains(&number))
            || (0x7f..=0x9f).contains(&number)
            || [0x61c, 0x200e, 0x200f, 0x2028, 0x2029, 0xfeff].contains(&number)
            || (0x202a..=0x202e).contains(&number)
            || (0x2066..=0x2069).contains(&number)
            || (0xfff9..=0xfffb).contains(&number)
            || (0xe0000..=0xe007f).contains(&number)
    }

    /// Text with many of the characters that matter.
    fn hostile() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            any::<char>(),
            prop::char::range('\0', '\u{9f}'),
            prop::char::range('\u{2000}', '\u{206f}'),
            prop::char::range('\u{e0000}', '\u{e007f}'),
            prop::sample::select(vec![
                '\u{1b}', '[', ']', 'm', '3', ';', '\r', '\n', '\u{200d}', '\u{fe0f}'
            ]),
        ];
        prop::collection::vec(character, 0..60).prop_map(String::from_iter)
    }

    #[test]
    fn what_a_terminal_obeys_or_hides_becomes_visible() {
        for (text, expected) in [
            (
                "plain \u{e9} \u{1f980}\n\tindented",
                "plain \u{e9} \u{1f980}\n\tindented",
            ),
            ("\u{1b}[31mred\u{1b}[0m", "^[[31mred^[[0m"),
            ("\u{1b}]52;c;ZXZpbA==\u{7}", "^[]52;c;ZXZpbA==^G"),
            ("\u{9b}2J\u{7f}\0\u{8}", "<U+009B>2J^?^@^H"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a<U+202E>b<U+2066>c<U+200F>"),
            ("one\u{2028}two\u{200b}\u{ad}", "one<U+2028>two<U+200B><U+00AD>"),
            ("two\r\nlines, done\rover", "two\nlines, done^Mover"),
            ("tag\u{e0041}", "tag<U+E0041>"),
            // Emoji: a family, a heart on fire, a keycap.
            (
                "\u{1f468}\u{200d}\u{1f469} \u{2764}\u{fe0f}\u{200d}\u{1f525} 1\u{fe0f}\u{20e3}",
                "\u{1f468}\u{200d}\u{1f469} \u{2764}\u{fe0f}\u{200d}\u{1f525} 1\u{fe0f}\u{20e3}",
            ),
            ("pass\u{200d}word a\u{fe01}", "pass<U+200D>word a<U+FE01>"),
            ("\u{1f468}\u{200d}\u{200d}", "\u{1f468}\u{200d}<U+200D>"),
            // The rest of an emoji that arrived in pieces.
            ("\u{200d}\u{1f469}", "\u{200d}\u{1f469}"),
        ] {
            assert_eq!(escape(text), expected, "{text:?}");
            assert_eq!(escape(expected), expected, "{text:?}");
        }
        assert_eq!(
            escape_bytes(b"a\x9b2J\xc3\xa9\xff\x1b\xe2\x80"),
            "a<9B>2J\u{e9}<FF>^[<E2><80>"
        );
    }

    #[test]
    fn only_styles_of_a_rendered_text_stay() {
        assert_eq!(
            escape_all_but_styles("\u{1b}[1;38;5;6mx\u{1b}[0m\u{1b}[2J\u{1b}]0;t\u{7}\u{1b}[\u{9b}31m"),
            "\u{1b}[1;38;5;6mx\u{1b}[0m^[[2J^[]0;t^G^[[<U+009B>31m"
        );
    }

    proptest! {
        #[test]
        fn nothing_forbidden_is_left(text in hostile(), bytes in any::<Vec<u8>>()) {
            prop_assert!(!escape(&text).contains(is_forbidden));
            let escaped = escape(&text);
            prop_assert_eq!(escape(&escaped), &*escaped);
            prop_assert!(!escape_bytes(&bytes).contains(is_forbidden));
            prop_assert!(!escape_bytes(&[&bytes, text.as_bytes()].concat()).contains(is_forbidden));
            let left = escape_all_but_styles(&text);
            for (at, _) in left.match_indices(is_forbidden) {
                let rest = left[at..].strip_prefix("\u{1b}[").expect("a style");
                let end = rest.trim_start_matches(|c: char| c.is_ascii_digit() || ";:".contains(c));
                prop_assert!(end.starts_with('m'), "{:?}", left);
            }
        }

        #[test]
        fn escaped_json_has_the_same_value(text in hostile()) {
            let json = serde_json::to_string(&text).unwrap();
            let escaped = escape_json(&json);
            prop_assert!(!escaped.contains(is_forbidden));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
