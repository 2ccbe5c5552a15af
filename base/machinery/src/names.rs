//! What names may look like, with upstream's messages. Every check returns the messages of what is wrong, none
//! when the name is good.

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const UNDERSCORED_SUBDOMAIN: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
/// The suffix alphabet of `generateName`: no vowels, no look-alikes.
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name check: the name, and whether it is a `generateName` prefix.
pub type NameCheck = fn(&str, bool) -> Vec<String>;

pub fn max_len_message(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// The same of label keys and values, which upstream counts in bytes.
fn max_bytes_message(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

pub fn range_message(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// `msg (e.g. 'a',  or 'b', regex used for validation is '...')`, upstream's comma and all.
pub fn regex_message(message: &str, regex: &str, examples: &[&str]) -> String {
    let mut out = String::from(message);
    if examples.is_empty() {
        out.push_str(&format!(" (regex used for validation is '{regex}')"));
        return out;
    }
    out.push_str(" (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{regex}')"));
    out
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn matches_label(s: &[u8], first: fn(u8) -> bool) -> bool {
    match (s.first(), s.last()) {
        (Some(&a), Some(&z)) => first(a) && lower_alnum(z) && s.iter().all(|&b| lower_alnum(b) || b == b'-'),
        _ => false,
    }
}

fn matches_subdomain(s: &str) -> bool {
    s.as_bytes().split(|&b| b == b'.').all(|part| matches_label(part, lower_alnum))
}

fn matches_qualified(s: &str) -> bool {
    let s = s.as_bytes();
    match (s.first(), s.last()) {
        (Some(a), Some(z)) => {
            a.is_ascii_alphanumeric()
                && z.is_ascii_alphanumeric()
                && s.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 63 {
        out.push(max_len_message(63));
    }
    if !matches_label(value.as_bytes(), lower_alnum) {
        if matches_subdomain(value) {
            out.push("must not contain dots".into());
        } else {
            out.push(regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    out
}

pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 253 {
        out.push(max_len_message(253));
    }
    if !matches_subdomain(value) {
        out.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    out
}

/// As [`dns1123_subdomain`], with underscores: service records have them.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 253 {
        out.push(max_len_message(253));
    }
    // Each label may start with one underscore.
    let good = value.split('.').all(|part| {
        let part = part.strip_prefix('_').unwrap_or(part);
        !part.starts_with('_') && !part.ends_with('_') && matches_subdomain(&part.replace('_', "a"))
    });
    if !good {
        out.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            UNDERSCORED_SUBDOMAIN,
            &["example.com"],
        ));
    }
    out
}

pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 253 {
        out.push(max_len_message(253));
    }
    if !value.strip_prefix("*.").is_some_and(matches_subdomain) {
        out.push(regex_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{DNS1123_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    out
}

pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 63 {
        out.push(max_len_message(63));
    }
    if !matches_label(value.as_bytes(), |b| b.is_ascii_lowercase()) {
        out.push(regex_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            DNS1035_LABEL,
            &["my-name", "abc-123"],
        ));
    }
    out
}

/// A label or annotation key: an optional subdomain, a slash, and a name of at most 63 characters.
pub fn qualified_name(value: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut out = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            out.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_message(MESSAGE, QUALIFIED, EXAMPLES)
            ));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        out.push(format!("name part {}", max_bytes_message(63)));
    }
    if !matches_qualified(name) {
        out.push(format!("name part {}", regex_message(MESSAGE, QUALIFIED, EXAMPLES)));
    }
    out
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 63 {
        out.push(max_bytes_message(63));
    }
    if !value.is_empty() && !matches_qualified(value) {
        out.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            LABEL_VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// An IANA service name, as container ports are named.
pub fn port_name(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    let bytes = value.as_bytes();
    if bytes.len() > 15 {
        out.push(max_len_message(15));
    }
    if bytes.is_empty() || !bytes.iter().all(|&b| lower_alnum(b) || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        out.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        out.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        out.push("must not begin or end with a hyphen".into());
    }
    out
}

pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { vec![] } else { vec![range_message(1, 65535)] }
}

/// A name that is one segment of a URL path; RBAC names and most cluster objects of that kind.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|s| name.contains(**s)).map(|s| format!("may not contain '{s}'")).collect()
}

fn chdir_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        v if v.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 253 {
        out.push(max_len_message(253));
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(good) {
        out.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    out.extend(chdir_prefix(value));
    out
}

/// Environment variable names, in the relaxed form v1.34 and later accept.
pub fn env_name(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.is_empty() {
        out.push("environment variable name must be non-empty".into());
    }
    if value.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        out.push("a valid environment variable name must consist only of printable ASCII characters other than '='".into());
    }
    out
}

pub fn c_identifier(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let good = bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    if good {
        return vec![];
    }
    vec![regex_message(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return vec![];
    }
    vec![regex_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return vec![];
    }
    vec![regex_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// A prefix may end in a dash, for the suffix follows it.
fn masked(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    if prefix && name.len() > 1 && name.ends_with('-') {
        let mut cut = name.len() - 2;
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        return format!("{}a", &name[..cut]).into();
    }
    name.into()
}

/// The object name check of most kinds.
pub fn name_is_subdomain(name: &str, prefix: bool) -> Vec<String> {
    dns1123_subdomain(&masked(name, prefix))
}

pub fn name_is_label(name: &str, prefix: bool) -> Vec<String> {
    dns1123_label(&masked(name, prefix))
}

pub fn name_is_1035_label(name: &str, prefix: bool) -> Vec<String> {
    dns1035_label(&masked(name, prefix))
}

/// `generateName` plus five characters drawn from [`SUFFIX_ALPHABET`]; the prefix is cut so that the name keeps
/// within 63. `random` is the caller's entropy: one byte a character is enough.
pub fn generate_name(prefix: &str, random: [u8; 5]) -> String {
    let mut cut = prefix.len().min(58);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = String::with_capacity(cut + 5);
    name.push_str(&prefix[..cut]);
    for byte in random {
        name.push(SUFFIX_ALPHABET[byte as usize % SUFFIX_ALPHABET.len()] as char);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        assert_eq!(
            dns1123_label("Bad_Name"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist"));
        assert_eq!(qualified_name("").len(), 2);
        assert!(label_value("").is_empty());
        assert_eq!(path_segment("a/b%", false), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(path_segment("..", false), ["may not be '..'"]);
        assert!(name_is_subdomain("web-", true).is_empty());
        assert!(!name_is_subdomain("web-", false).is_empty());
        assert_eq!(
            port_name("1--"),
            [
                "must contain at least one letter (a-z)",
                "must not contain consecutive hyphens",
                "must not begin or end with a hyphen"
            ]
        );
        assert_eq!(config_key("..x"), ["must not start with '..'"]);
        assert!(
            wildcard_dns1123_subdomain("*.a.b").is_empty() && !wildcard_dns1123_subdomain("a.b").is_empty()
        );
    }

    proptest! {
        #[test]
        fn agree_with_the_regexes(s in "[a-zA-Z0-9._/-]{0,12}") {
            let is = |re: &str, s: &str| regex::Regex::new(&format!("^{re}$")).unwrap().is_match(s);
            prop_assert_eq!(is(DNS1123_SUBDOMAIN, &s), dns1123_subdomain(&s).is_empty());
            prop_assert_eq!(is(DNS1123_LABEL, &s), dns1123_label(&s).is_empty());
            prop_assert_eq!(is(DNS1035_LABEL, &s), dns1035_label(&s).is_empty());
            prop_assert_eq!(is(LABEL_VALUE, &s), label_value(&s).is_empty());
        }

        #[test]
        fn generated_names_are_names(prefix in "[a-z]{1,70}-", random: [u8; 5]) {
            let name = generate_name(&prefix, random);
            prop_assert!(dns1123_label(&name).is_empty() && name.len() <= 63);
        }
    }
}
