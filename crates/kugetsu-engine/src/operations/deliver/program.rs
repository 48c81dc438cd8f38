//! Finds the program that a shell command begins with.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

use crate::environment::Environment;

/// Words before a program that run it or begin a list of commands.
const BEFORE: [&str; 7] = ["!", "{", "command", "env", "exec", "nohup", "time"];
/// What the variables of a hook begin with that kugetsu sets. Their values are not known before it runs.
const OF_HOOK: &str = "KUGETSU_";

/// The program that a hook's command begins with, if the command names it by a path. It need not exist: a turn can put
/// one there. `None` also if only the shell can tell the path, from a pattern or the output of a command for example.
pub(super) fn program_of(command: &str, directory: &Path, environment: &Environment) -> Option<PathBuf> {
    let mut words = Words {
        rest: command.chars().peekable(),
        environment,
    };
    let program = loop {
        let word = words.next()?;
        let is_before = BEFORE.iter().any(|before| word.value == *before)
            || word.value.as_encoded_bytes().starts_with(b"-");
        if word.is_assignment || (is_before && !word.is_quoted) {
            continue;
        }
        break word;
    };
    let path = directory.join(&program.value);
    let is_path = program.value.as_encoded_bytes().contains(&b'/');
    (is_path && !program.is_unknown && !path.is_dir()).then_some(path)
}

#[derive(Debug, Default)]
struct Word {
    value: OsString,
    is_quoted: bool,
    is_assignment: bool,
    /// Whether only the shell can tell the value.
    is_unknown: bool,
}

impl Word {
    fn push(&mut self, char: char) {
        self.value.push(char.encode_utf8(&mut [0; 4]));
    }

    /// Whether nothing of it is there yet.
    fn is_new(&self) -> bool {
        self.value.is_empty() && !self.is_quoted
    }
}

/// The words of the first command, without its redirections.
struct Words<'a> {
    rest: Peekable<Chars<'a>>,
    environment: &'a Environment,
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        let mut is_target = false;
        loop {
            self.skip_blanks();
            self.rest.peek()?;
            let word = self.word();
            let redirects = self.rest.next_if(|char| matches!(char, '<' | '>')).is_some();
            let is_number = || word.value.as_encoded_bytes().iter().all(u8::is_ascii_digit);
            if redirects {
                // `>>`, `>|`, `<>`, `>&`: the target follows.
                while self
                    .rest
                    .next_if(|char| matches!(char, '<' | '>' | '|' | '&'))
                    .is_some()
                {}
                if word.is_new() || (is_number() && !word.is_quoted) {
                    is_target = true;
                    continue;
                }
                // The word is not part of the redirection, which is behind it.
                return Some(word);
            }
            if !std::mem::take(&mut is_target) {
                return Some(word);
            }
        }
    }
}

impl Words<'_> {
    /// Skips blanks, comments, and what may stand between a beginning and its command.
    fn skip_blanks(&mut self) {
        while let Some(char) = self
            .rest
            .next_if(|char| char.is_ascii_whitespace() || matches!(char, '#' | ';' | '&' | '|' | '(' | ')'))
        {
            if char == '#' {
                while self.rest.next_if(|char| *char != '\n').is_some() {}
            }
        }
    }

    fn word(&mut self) -> Word {
        let mut word = Word::default();
        while let Some(char) = self
            .rest
            .next_if(|char| !char.is_ascii_whitespace() && !";&|()<>".contains(*char))
        {
            match char {
                '\\' => match self.rest.next() {
                    None | Some('\n') => {}
                    Some(escaped) => {
                        word.is_quoted = true;
                        word.push(escaped);
                    }
                },
                '\'' => {
                    word.is_quoted = true;
                    for quoted in self.rest.by_ref().take_while(|char| *char != '\'') {
                        word.push(quoted);
                    }
                }
                '"' => self.double_quoted(&mut word),
                '~' if word.is_new() && self.rest.peek() == Some(&'/') => {
                    word.value.push(self.home());
                }
                '$' => self.expand(&mut word, false),
                '=' => {
                    word.is_assignment |= !word.is_quoted && is_name(&word.value);
                    word.push(char);
                }
                _ => {
                    word.is_unknown |=
                        matches!(char, '`' | '*' | '?' | '[') || (char == '~' && word.is_new());
                    word.push(char);
                }
            }
        }
        word
    }

    fn double_quoted(&mut self, word: &mut Word) {
        word.is_quoted = true;
        while let Some(char) = self.rest.next() {
            match char {
                '"' => return,
                '\\' => match self.rest.next_if(|char| "$`\"\\\n".contains(*char)) {
                    Some('\n') => {}
                    Some(escaped) => word.push(escaped),
                    None => word.push(char),
                },
                '$' => self.expand(word, true),
                _ => {
                    word.is_unknown |= char == '`';
                    word.push(char);
                }
            }
        }
    }

    /// Adds the value of a variable, after its `$`.
    fn expand(&mut self, word: &mut Word, in_quotes: bool) {
        let in_braces = self.rest.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(char) = self
            .rest
            .next_if(|char| char.is_ascii_alphanumeric() || *char == '_')
        {
            name.push(char);
        }
        let is_whole = !in_braces || self.rest.next_if_eq(&'}').is_some();
        if !is_whole || !is_name(OsStr::new(&name)) || name.starts_with(OF_HOOK) {
            word.is_unknown = true;
            return;
        }
        let value = match name.as_str() {
            "HOME" => self.home(),
            name => self.environment.get(name).unwrap_or_default().to_owned(),
        };
        // The shell splits the value, and takes it for a pattern.
        let changes = |byte: &u8| byte.is_ascii_whitespace() || b"*?[".contains(byte);
        word.is_unknown |= !in_quotes && value.as_encoded_bytes().iter().any(changes);
        word.value.push(value);
    }

    fn home(&self) -> OsString {
        let home = self.environment.get("HOME");
        home.unwrap_or(self.environment.home().as_os_str()).to_owned()
    }
}

fn is_name(text: &OsStr) -> bool {
    let bytes = text.as_encoded_bytes();
    !bytes.first().is_none_or(u8::is_ascii_digit)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(command: &str) -> Option<String> {
        let variables = [
            ("HOME", "/home/me"),
            ("TOOLS", "/opt/tools"),
            ("SPACED", "/opt/my tools"),
        ];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let environment = Environment::new(variables, "/home/me".into(), "kugetsu".into());
        let path = program_of(command, Path::new("/work"), &environment)?;
        Some(path.into_os_string().into_string().unwrap())
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        for (command, path) in [
            ("/usr/lib/hook.sh now", "/usr/lib/hook.sh"),
            ("./hook.sh", "/work/./hook.sh"),
            ("bin/hook.sh", "/work/bin/hook.sh"),
            ("~/hook.sh", "/home/me/hook.sh"),
            ("$HOME/hook.sh;true", "/home/me/hook.sh"),
            (
                "\"${HOME}/my hooks/n.sh\" \"$KUGETSU_REF\"",
                "/home/me/my hooks/n.sh",
            ),
            ("'/home/me/my hooks/n.sh'", "/home/me/my hooks/n.sh"),
            ("/home/me/my\\ hooks/n.sh", "/home/me/my hooks/n.sh"),
            ("/home/me/'my hooks'/\"n.sh\" x", "/home/me/my hooks/n.sh"),
            ("'~/hook.sh'", "/work/~/hook.sh"),
            ("\"/a\\\"b/$TOOLS\"", "/a\"b//opt/tools"),
            ("X=1 ~/hook.sh", "/home/me/hook.sh"),
            ("X='a b' Y=\"$Z\" ~/hook.sh", "/home/me/hook.sh"),
            ("X=/bin/true; ~/hook.sh", "/home/me/hook.sh"),
            ("exec ~/hook.sh", "/home/me/hook.sh"),
            ("X=1 exec ~/hook.sh", "/home/me/hook.sh"),
            ("env -i X=1 ~/hook.sh", "/home/me/hook.sh"),
            ("! ~/hook.sh", "/home/me/hook.sh"),
            ("(~/hook.sh)", "/home/me/hook.sh"),
            ("{ ~/hook.sh; }", "/home/me/hook.sh"),
            ("\n# what it does\n~/hook.sh\n", "/home/me/hook.sh"),
            (">>/tmp/log 2>&1 ~/hook.sh", "/home/me/hook.sh"),
            ("~/hook.sh>/tmp/log", "/home/me/hook.sh"),
            ("~/hook.sh&", "/home/me/hook.sh"),
            ("$TOOLS/hook.sh", "/opt/tools/hook.sh"),
            ("\"$SPACED/hook.sh\"", "/opt/my tools/hook.sh"),
            ("$UNSET/hook.sh", "/hook.sh"),
        ] {
            assert_eq!(found(command).as_deref(), Some(path), "{command}");
        }
    }

    #[test]
    fn a_name_or_what_only_the_shell_can_tell_is_not_a_path() {
        for command in [
            "",
            "  ",
            "notify-send /tmp/x",
            "sh ./hook.sh",
            "X=/bin/true",
            "true >/tmp/log",
            "$(which hook)/x",
            "`pwd`/hook.sh",
            "./*.sh",
            "~other/hook.sh",
            "$SPACED/hook.sh",
            "${TOOLS:-/opt}/hook.sh",
            "$KUGETSU_WORKTREE_PATH/hook.sh",
            "/",
            "'unfinished",
        ] {
            assert_eq!(found(command), None, "{command}");
        }
    }
}
