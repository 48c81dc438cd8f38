//! Quotes arguments so that a shell reads them unchanged.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Quotes an argument so that a shell passes it on byte for byte. The form has the same meaning in every POSIX shell
/// and in fish: neither a quote nor a backslash is ever inside single quotes, where fish reads `\\` and `\'`
/// differently. A NUL, which no argument can hold, is left out.
pub fn quote(argument: &OsStr) -> OsString {
    let bytes = argument.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(|byte| is_plain(*byte)) {
        return argument.to_owned();
    }
    if bytes.is_empty() {
        return "''".into();
    }
    let mut quoted = Vec::with_capacity(bytes.len() + 2);
    let mut inside = false;
    for &byte in bytes {
        let special: &[u8] = match byte {
            0 => continue,
            b'\'' => b"\"'\"",
            b'\\' => b"\\\\",
            _ => b"",
        };
        if special.is_empty() != inside {
            quoted.push(b'\'');
            inside = !inside;
        }
        if special.is_empty() {
            quoted.push(byte);
        } else {
            quoted.extend_from_slice(special);
        }
    }
    if inside {
        quoted.push(b'\'');
    }
    OsString::from_vec(quoted)
}

/// [`quote`] for a path on another host, where a leading `~/` means the home folder there.
pub fn quote_path(path: &str) -> OsString {
    match path.strip_prefix("~/") {
        Some(rest) => {
            let mut quoted = OsString::from("\"$HOME\"/");
            quoted.push(if rest.is_empty() {
                OsString::new()
            } else {
                quote(OsStr::new(rest))
            });
            quoted
        }
        None => quote(OsStr::new(path)),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./:@,+".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// The arguments that a shell reads from the quoted text, each followed by a NUL.
    fn read_by(shell: &str, arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut script = OsString::from("printf '%s\\0'");
        for argument in arguments {
            script.push(" ");
            script.push(quote(OsStr::from_bytes(argument)));
        }
        let output = Command::new(shell).arg("-c").arg(script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut read: Vec<_> = output
            .stdout
            .split(|byte| *byte == 0)
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(read.pop(), Some(Vec::new()));
        read
    }

    fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let nasty = proptest::sample::select(b"'\"\\$`!~*?[]{}()<>|&;#%^= \t\n\r-ab\xc3\xa9\xff".to_vec());
        let byte = prop_oneof![3 => nasty, 1 => 1_u8..=255];
        proptest::collection::vec(proptest::collection::vec(byte, 0..24), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn shells_read_every_argument_byte_for_byte(arguments in arguments()) {
            for shell in ["sh", "bash"] {
                prop_assert_eq!(&read_by(shell, &arguments), &arguments, "{}", shell);
            }
        }

        #[test]
        fn nothing_that_fish_reads_otherwise_is_inside_single_quotes(argument in arguments()) {
            let quoted = quote(OsStr::from_bytes(&argument[0])).into_vec();
            let mut bytes = quoted.iter();
            let mut inside = false;
            while let Some(byte) = bytes.next() {
                match (byte, inside) {
                    (b'\'', _) => inside = !inside,
                    (b'"', false) => {
                        prop_assert_eq!(bytes.next(), Some(&b'\''));
                        prop_assert_eq!(bytes.next(), Some(&b'"'));
                    }
                    (b'\\', false) => prop_assert_eq!(bytes.next(), Some(&b'\\')),
                    (b'\\', true) => prop_assert!(false, "a backslash inside single quotes"),
                    (_, true) => {}
                    (other, false) => prop_assert!(is_plain(*other), "{other} outside of quotes"),
                }
            }
            prop_assert!(!inside);
        }
    }

    #[test]
    fn a_leading_tilde_is_the_home_of_the_other_host() {
        for (path, expected) in [
            ("~/.local/bin/kugetsu", "/h o/.local/bin/kugetsu"),
            ("~/a b'c", "/h o/a b'c"),
            ("~/", "/h o/"),
            ("~other", "~other"),
            ("/a/~/b", "/a/~/b"),
            ("kugetsu", "kugetsu"),
        ] {
            let mut script = OsString::from("printf %s ");
            script.push(quote_path(path));
            let output = Command::new("sh")
                .arg("-c")
                .arg(script)
                .env("HOME", "/h o")
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        }
    }
}
