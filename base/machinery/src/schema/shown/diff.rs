//! Two texts' difference in the unified format, as Go's port of Python's `difflib` finds it.

use std::collections::HashMap;
use std::ops::Range;

/// Lines around a change that are shown too.
const CONTEXT: usize = 3;
/// From so many lines on, lines that occur often are no landmarks.
const LONG: usize = 200;

/// JSON with a member or an item a line, indented by one space a level.
pub(super) fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
    };
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                quoted = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                if matches!(chars.peek(), Some('}' | ']')) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

/// A stretch of lines: the same in both, or replaced.
struct Piece {
    same: bool,
    a: Range<usize>,
    b: Range<usize>,
}

/// What became of `old`, each line ended.
pub(super) fn unified(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for group in groups(pieces(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let range = |start: usize, end: usize| match end - start {
            1 => format!("{}", start + 1),
            0 => format!("{start},0"),
            n => format!("{},{n}", start + 1),
        };
        let (was, is) = (range(first.a.start, last.a.end), range(first.b.start, last.b.end));
        out.push_str(&format!("@@ -{was} +{is} @@\n"));
        for piece in &group {
            if piece.same {
                a[piece.a.clone()].iter().for_each(|l| out.push_str(&format!(" {l}\n")));
            } else {
                a[piece.a.clone()].iter().for_each(|l| out.push_str(&format!("-{l}\n")));
                b[piece.b.clone()].iter().for_each(|l| out.push_str(&format!("+{l}\n")));
            }
        }
    }
    out
}

/// Changes with their context, those that are near one another together.
fn groups(mut pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    if let Some(first) = pieces.first_mut().filter(|p| p.same) {
        first.a.start = first.a.start.max(first.a.end.saturating_sub(CONTEXT));
        first.b.start = first.b.start.max(first.b.end.saturating_sub(CONTEXT));
    }
    if let Some(last) = pieces.last_mut().filter(|p| p.same) {
        last.a.end = last.a.end.min(last.a.start + CONTEXT);
        last.b.end = last.b.end.min(last.b.start + CONTEXT);
    }
    let mut out = vec![Vec::new()];
    for piece in pieces {
        if piece.same && piece.a.len() > 2 * CONTEXT {
            let head = Piece {
                same: true,
                a: piece.a.start..piece.a.start + CONTEXT,
                b: piece.b.start..piece.b.start + CONTEXT,
            };
            let tail = Piece {
                same: true,
                a: piece.a.end - CONTEXT..piece.a.end,
                b: piece.b.end - CONTEXT..piece.b.end,
            };
            out.last_mut().into_iter().for_each(|group| group.push(head.take()));
            out.push(vec![tail]);
        } else {
            out.last_mut().into_iter().for_each(|group| group.push(piece.take()));
        }
    }
    out.retain(|group| group.iter().any(|p| !p.same));
    out
}

impl Piece {
    fn take(&self) -> Self {
        Self { same: self.same, a: self.a.clone(), b: self.b.clone() }
    }
}

fn pieces(a: &[&str], b: &[&str]) -> Vec<Piece> {
    let mut lines: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, line) in b.iter().enumerate() {
        lines.entry(line).or_default().push(i);
    }
    if b.len() >= LONG {
        let often = b.len() / 100 + 1;
        lines.retain(|_, at| at.len() <= often);
    }
    let mut blocks = Vec::new();
    let mut left = vec![(0..a.len(), 0..b.len())];
    while let Some((ra, rb)) = left.pop() {
        let (i, j, n) = longest(a, b, &lines, ra.clone(), rb.clone());
        if n == 0 {
            continue;
        }
        blocks.push((i, j, n));
        left.push((ra.start..i, rb.start..j));
        left.push((i + n..ra.end, j + n..rb.end));
    }
    blocks.sort_unstable();
    blocks.push((a.len(), b.len(), 0));
    let mut out: Vec<Piece> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (at_a, at_b, n) in blocks {
        if i < at_a || j < at_b {
            out.push(Piece { same: false, a: i..at_a, b: j..at_b });
        }
        match out.last_mut().filter(|p| p.same && n > 0) {
            Some(last) => {
                last.a.end = at_a + n;
                last.b.end = at_b + n;
            }
            None if n > 0 => out.push(Piece { same: true, a: at_a..at_a + n, b: at_b..at_b + n }),
            None => {}
        }
        (i, j) = (at_a + n, at_b + n);
    }
    out
}

/// The longest stretch that both have, the first of several.
fn longest(
    a: &[&str],
    b: &[&str],
    lines: &HashMap<&str, Vec<usize>>,
    ra: Range<usize>,
    rb: Range<usize>,
) -> (usize, usize, usize) {
    let (mut i, mut j, mut n) = (ra.start, rb.start, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (at, line) in a.iter().enumerate().take(ra.end).skip(ra.start) {
        let mut next = HashMap::new();
        for &in_b in lines.get(line).into_iter().flatten().filter(|j| rb.contains(*j)) {
            let length =
                1 + in_b.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0);
            next.insert(in_b, length);
            if length > n {
                (i, j, n) = (at + 1 - length, in_b + 1 - length, length);
            }
        }
        lengths = next;
    }
    while i > ra.start && j > rb.start && a[i - 1] == b[j - 1] {
        (i, j, n) = (i - 1, j - 1, n + 1);
    }
    while i + n < ra.end && j + n < rb.end && a[i + n] == b[j + n] {
        n += 1;
    }
    (i, j, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_in_its_context() {
        let old = pretty(r#"{"A":1,"B":{"C":"x,{\"y"},"D":[],"E":[1,2],"F":null,"G":0}"#);
        assert_eq!(old.lines().nth(3), Some("  \"C\": \"x,{\\\"y\""));
        let new = old.replace("\"F\": null", "\"F\": true");
        assert_eq!(
            unified(&old, &new),
            "@@ -8,6 +8,6 @@\n   1,\n   2\n  ],\n- \"F\": null,\n+ \"F\": true,\n  \"G\": 0\n }\n"
        );
        assert_eq!(unified(&old, &old), "");
    }

    #[test]
    fn distant_changes_stand_apart() {
        let old: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let mut new = old.clone();
        new[2] = "x".into();
        new.remove(25);
        let shown = unified(&old.join("\n"), &new.join("\n"));
        assert!(shown.starts_with("@@ -1,6 +1,6 @@\n 0\n 1\n-2\n+x\n 3\n"), "{shown}");
        assert!(shown.contains("@@ -23,7 +23,6 @@\n 22\n 23\n 24\n-25\n 26\n"), "{shown}");
    }
}
