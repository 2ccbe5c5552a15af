//! `$(NAME)` in commands, arguments and values: known names are replaced, unknown ones stay, `$$(NAME)` is `$(NAME)`.

pub fn expand<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(s: &str) -> String {
        expand(s, |n| match n {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            _ => None,
        })
    }

    #[test]
    fn follows_upstream() {
        for (input, output) in [
            ("$(A)", "1"),
            ("x-$(A)-$(A)", "x-1-1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(NOPE)", "$(NOPE)"),
            ("$(EMPTY)", ""),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("cost $5 $", "cost $5 $"),
        ] {
            assert_eq!(run(input), output, "{input}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollars_is_untouched(s in "[^$]*") {
            prop_assert_eq!(run(&s), s);
        }
    }
}
