//! `${NAME}` in a value stands for an environment variable; `$${` for the two characters `${`.

/// The value with every variable put in, or what is wrong with it.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((name, after)) = after.split_once('}') else {
                return Err("has a `${` without its `}`; write `$${` for the characters themselves".to_owned());
            };
            if !is_name(name) {
                // The text may be a secret: it is not shown.
                return Err("has a `${...}` that does not name an environment variable; write `$${` for the characters themselves".to_owned());
            }
            let Some(value) = env(name) else {
                return Err(format!("the environment variable {name} is not set"));
            };
            out.push_str(&value);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_variables_in_and_leaves_the_rest() {
        let env = |name: &str| (name == "PW").then(|| "${PW}se$ret".to_owned());
        let cases = [
            ("", ""),
            ("plain", "plain"),
            ("${PW}", "${PW}se$ret"),
            ("a${PW}b${PW}", "a${PW}se$retb${PW}se$ret"),
            ("pa$$word$", "pa$$word$"),
            ("$${PW}", "${PW}"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
        for text in ["${GONE}", "${PW", "${}", "${P W}", "${1}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }
}
