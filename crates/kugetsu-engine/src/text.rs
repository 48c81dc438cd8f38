//! Text for people.

/// The text on one line: each run of white space becomes a blank.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn white_space_is_one_blank() {
        assert_eq!(one_line(" two\r\n lines\t"), "two lines");
    }
}
