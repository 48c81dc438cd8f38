//! opencode's wildcard match, identical on 1.3.2 and 1.18.33. The pattern becomes the regular expression `^...$` with
//! `*` as `.*` and `?` as `.`, where `.` is any one UTF-16 unit. A pattern that ends with ` *` ends with `( .*)?`
//! instead. On both sides, `\` is read as `/`.

/// Whether the pattern matches the whole input.
pub(crate) fn matches(input: &str, pattern: &str) -> bool {
    with_optional_tail(input, pattern, |input, pattern| glob(input, pattern, |_| true))
}

/// Whether `outer` matches everything that `inner` matches. Returns `false` if that is uncertain.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    let star = u16::from(b'*');
    let one = |outer: &str, inner: &str| {
        with_optional_tail(inner, outer, |input, pattern| {
            glob(input, pattern, |unit| unit != star)
        })
    };
    one(outer, inner) && inner.strip_suffix(" *").is_none_or(|stem| one(outer, stem))
}

/// Tries the pattern as it is and, if it ends with ` *`, without that ending.
fn with_optional_tail(input: &str, pattern: &str, test: impl Fn(&[u16], &[u16]) -> bool) -> bool {
    let input = units(input);
    let pattern = units(pattern);
    let tail = [u16::from(b' '), u16::from(b'*')];
    pattern
        .strip_suffix(&tail[..])
        .is_some_and(|stem| test(&input, stem))
        || test(&input, &pattern)
}

fn units(text: &str) -> Vec<u16> {
    text.encode_utf16()
        .map(|unit| {
            if unit == u16::from(b'\\') {
                u16::from(b'/')
            } else {
                unit
            }
        })
        .collect()
}

/// Greedy matching that backtracks to the last star: linear in practice, never exponential. `single` decides which
/// units `?` may match.
fn glob(input: &[u16], pattern: &[u16], single: impl Fn(u16) -> bool) -> bool {
    let (star, question) = (u16::from(b'*'), u16::from(b'?'));
    let (mut i, mut p) = (0, 0);
    let mut last_star = None;
    while i < input.len() {
        let fits = pattern.get(p).is_some_and(|&unit| {
            unit != star && (unit == input[i] || (unit == question && single(input[i])))
        });
        if fits {
            i += 1;
            p += 1;
        } else if pattern.get(p) == Some(&star) {
            last_star = Some((p, i));
            p += 1;
        } else if let Some((at, start)) = last_star {
            last_star = Some((at, start + 1));
            p = at + 1;
            i = start + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&unit| unit == star)
}

#[cfg(test)]
mod tests {
    use super::{covers, matches};

    #[test]
    fn covering_is_never_claimed_wrongly() {
        assert!(covers("*", "*.env"));
        assert!(covers("*", "git *"));
        assert!(covers("git *", "git *"));
        assert!(covers("git*", "git *"));
        assert!(covers("*.env.*", "*.env.local"));
        // `?` is one unit; `*` is any number of units, including none.
        assert!(!covers("a?", "a*"));
        assert!(!covers("git ?*", "git *"));
        // `a *` also matches `a`; `a **` does not.
        assert!(matches("a", "a *") && !matches("a", "a **"));
        assert!(!covers("a **", "a *"));
        assert!(!covers("*.env.example", "*.env.*"));
    }
}
